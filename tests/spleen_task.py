"""A task that the product does not have, as anybody would add it: one more row of `tasks.TASKS`."""

import dataclasses

from raunet_jax import tasks


def add(monkeypatch, **changes) -> None:
    """Add task "spleen" with a stage of that name: a copy of the rows of "custom", but for `changes` of the task."""
    custom = tasks.TASKS["custom"]
    stage = dataclasses.replace(custom.stages["custom"], title="spleen", structure="spleen")
    row = {"structures": {"spleen": tasks.Structure(1, "#a060c0")}, "stages": {"spleen": stage}} | changes
    monkeypatch.setitem(tasks.TASKS, "spleen", dataclasses.replace(custom, **row))
