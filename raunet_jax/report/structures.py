"""Which structures a scores.json scores: the page of a task, old or new, takes their names from there."""

from collections.abc import Iterable

from raunet_jax.tasks import TASKS


def scored_structures(cases: Iterable[dict]) -> list[str]:
    """Names of the groups of scores, each with a Dice, that any of the cases of a scores.json has.

    Those that the tasks know come first, in the order of their stages, then the others as they come.
    """
    there = [
        name
        for case in cases
        for name, values in case.items()
        if isinstance(values, dict) and values.get("dice") is not None
    ]
    known = [stage.structure for task in TASKS.values() for stage in task.stages.values() if stage.structure in there]
    return list(dict.fromkeys([*known, *there]))


def shown_name(structure: str) -> str:
    """A group's name as it is written on a page."""
    return structure.replace("_", " ")
