"""Checkpoints of a fold's training: state, loop position and recipe, whole or not there at all."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from raunet_jax import recipe

METRIC = "validation_dice"


class Checkpoints:
    """The newest and the best checkpoint of one fold, in `folder`.

    Orbax writes each under a temporary name and renames it, so that a kill leaves the one before. A checkpoint holds
    three items: `state` (a pytree), `loop` (JSON: the loader's position and the like) and `recipe` (JSON).
    """

    def __init__(self, folder: pathlib.Path):
        best = preservation_policy.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
        )
        newest = preservation_policy.LatestN(1)
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "loop": ocp.JsonCheckpointHandler(),
                "recipe": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics[METRIC],
                preservation_policy=preservation_policy.AnyPreservationPolicy([newest, best]),
                enable_async_checkpointing=False,
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def newest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the highest validation Dice; the newest where none was validated."""
        best = self._manager.best_step()
        return self.newest_step() if best is None else best

    def save(self, step: int, state: Any, loop: Mapping, config: ConfigDict, dice: float | None) -> None:
        """Write a checkpoint of `step`; `dice` None marks one between validations, which is never the best."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.device_get(state)),
            loop=ocp.args.JsonSave(dict(loop)),
            recipe=ocp.args.JsonSave({"json": recipe.to_json(config)}),
        )
        self._manager.save(step, args=items, metrics=None if dice is None else {METRIC: dice}, force=True)

    def state_fields(self, step: int) -> set[str]:
        """The names on the top level of the state that was saved, none of whose arrays is read."""
        return set(self._manager.item_metadata(step)["state"].tree)

    def restore(self, step: int, state_like: Any) -> tuple[Any, dict]:
        """State as numpy arrays, in the structure of `state_like`, and the loop position saved with it."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(state_like), loop=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        return restored["state"], restored["loop"]

    def restore_tree(self, step: int) -> dict:
        """The state as nested dictionaries of numpy arrays, with no need to know the network."""
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]

    def recipe(self, step: int) -> ConfigDict:
        restored = self._manager.restore(step, args=ocp.args.Composite(recipe=ocp.args.JsonRestore()))
        return recipe.from_json(restored["recipe"]["json"])
