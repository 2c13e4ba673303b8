"""Scores masks that any program wrote against references; no network is needed."""

import logging

from rich.console import Console

from raunet_jax import scores
from raunet_jax.commands.request import Request

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    stage = request.config.get("stage") if request.config is not None else None
    rule = stage if stage in ("brain", "custom") else "liver"
    output = request.needed("output")
    folders = request.needed("prediction"), request.needed("reference")
    summary, problems = scores.score_folders(*folders, output, rule)
    scores.print_tables(summary, Console())
    print(f"scores: {output}")
    for problem in problems:
        log.warning(f"not scored: {problem}")
    return 1 if problems else 0
