"""Shows what a recipe's networks are made of, what a run has learned so far, or how two runs differ."""

import json
import pathlib

from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.commands import inspection_tables
from raunet_jax.commands.request import Request
from raunet_jax.errors import UserError


def run(request: Request) -> int:
    config = None if request.workdir or not request.config else request.planned_recipe()
    return main(config, request.workdir, request.compare or None, request.json, request.cost)


def main(
    config: ConfigDict | None,
    workdir: pathlib.Path | None = None,
    other: pathlib.Path | None = None,
    as_json: bool = False,
    cost: bool = False,
) -> int:
    """Print, as tables or as JSON, what a run holds, or what differs from `other`, or without a run, the recipe.

    With `cost` the recipe's programs are compiled for this machine and what they consist of is shown too.

    Returns the exit status: 1 where a checkpoint cannot be read or holds a value that is not finite, otherwise 0.
    """
    if workdir is None and other is not None:
        raise UserError("--compare is given but no run to compare with it; name one with --workdir")
    if workdir is None and config is None:
        raise UserError("nothing to inspect; name a recipe, such as --config=configs/liver.py, or a run with --workdir")
    if workdir is not None and cost:
        raise UserError("--cost is of a recipe, compiled here; name one with --config and leave out --workdir")
    if workdir is None:
        from raunet_jax.commands.network_facts import inspect_recipe  # each needs libraries that the other does not

        facts, show = inspect_recipe(config), inspection_tables.show_recipe
        if cost:
            from raunet_jax.commands.program_cost import recipe_cost

            of_stages = facts.get("stages", {facts.get("stage"): facts})
            for stage, part in recipe.stages_of(config).items():
                of_stages[stage]["cost"] = recipe_cost(part)
    else:
        from raunet_jax.commands.run_facts import compare, inspect_run

        if other is None:
            facts, show = inspect_run(workdir), inspection_tables.show_run
        else:
            facts, show = compare(workdir, other), inspection_tables.show_comparison
    if as_json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        show(facts)
    return 1 if any(fold["error"] or fold.get("non_finite") for fold in facts.get("folds", {}).values()) else 0
