"""Scores masks that any program wrote against references; no network is needed.

A recipe says by which rule, and with data.foreground which labels of the masks are the one structure to be scored.
"""

import logging
import pathlib

from ml_collections import ConfigDict
from rich.console import Console

from raunet_jax import recipe, scores
from raunet_jax.commands.request import Request
from raunet_jax.commands.score_tables import print_tables
from raunet_jax.disk import check_writable
from raunet_jax.tasks import TASKS, stage_of, task_of

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    output = request.needed("output")
    check_writable(pathlib.Path(output).parent, "--output")
    folders = request.needed("prediction"), request.needed("reference")
    summary, problems = scores.score_folders(*folders, output, **_how(request.config))
    print_tables(summary, Console())
    print(f"scores: {output}")
    for problem in problems:
        log.warning(f"not scored: {problem}")
    return 1 if problems else 0


def _how(config: ConfigDict | None) -> dict:
    """The rule of the recipe's task, by default of the liver's; of a task of one structure also its name and labels.

    Reads `stage` and `data.foreground` of the recipe's last stage.
    """
    if config is None:
        return {"rule": TASKS["liver"].rule}
    last = recipe.last_stage(config)
    task = task_of(last.stage)
    how = {"rule": task.rule, "structure": stage_of(last.stage).structure}
    return how | ({"foreground": tuple(last.data.foreground)} if task.merged else {})
