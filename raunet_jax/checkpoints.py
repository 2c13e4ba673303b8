"""Checkpoints of a fold's training: state, loop position and recipe, whole or not there at all."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from raunet_jax import recipe

METRIC = "validation_dice"
WEIGHTS = ("params", "batch_stats")  # parts of a training state that make up a trained network


class Checkpoints:
    """The newest and the best checkpoint of one fold, in `folder`.

    Orbax writes each under a temporary name and renames it, so that a kill leaves the one before. A checkpoint holds
    four items: `weights` and `state` (what prediction needs, and what only training does), `loop` (JSON: the loader's
    position and the like) and `recipe` (JSON).
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
                "weights": ocp.StandardCheckpointHandler(),
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
        """Write a checkpoint of `step`; `dice` None marks one between validations, which is never the best.

        Args:
            state: a mapping, or a dataclass, of pytrees; its parts WEIGHTS are what prediction needs.
        """
        parts = _parts(jax.device_get(state))
        weights = {name: parts.pop(name) for name in WEIGHTS if name in parts}
        items = {"weights": ocp.args.StandardSave(weights)} if weights else {}
        items |= {
            "state": ocp.args.StandardSave(parts),
            "loop": ocp.args.JsonSave(dict(loop)),
            "recipe": ocp.args.JsonSave({"json": recipe.to_json(config)}),
        }
        metrics = None if dice is None else {METRIC: dice}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def state_parts(self, step: int) -> set[str]:
        """The names of the parts of the state that was saved, none of whose arrays is read."""
        metadata = self._manager.item_metadata(step)
        return {name for item in self._items(step) for name in metadata[item].tree}

    def restore(self, step: int, state_like: Any) -> tuple[dict, dict]:
        """The parts of the state as numpy arrays, in the structures of those of `state_like`, and the loop position."""
        parts = _parts(state_like)
        items = self._items(step)
        likes = {"state": parts}
        if "weights" in items:
            likes = {"weights": {name: parts.pop(name) for name in WEIGHTS if name in parts}} | likes
        arguments = {name: ocp.args.StandardRestore(like) for name, like in likes.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments, loop=ocp.args.JsonRestore()))
        return {name: part for item in items for name, part in restored[item].items()}, restored["loop"]

    def restore_tree(self, step: int) -> dict:
        """The state as nested dictionaries of numpy arrays, with no need to know the network."""
        return self._read(step, self._items(step))

    def restore_weights(self, step: int) -> dict:
        """Of the state the parts WEIGHTS alone, as `restore_tree` gives it: five times as fast."""
        with ocp.PyTreeCheckpointer() as reader:  # asks no metadata before it reads, as the manager's handler does
            parts = reader.restore(self.folder.absolute() / str(step) / self._items(step)[0])
        return {name: parts[name] for name in WEIGHTS}

    def _items(self, step: int) -> tuple[str, ...]:
        """Where the state of a checkpoint lies; until November 2026 all of it lay in one item."""
        separate = (self.folder / str(step) / "weights").is_dir()
        return ("weights", "state") if separate else ("state",)

    def _read(self, step: int, items: Sequence[str]) -> dict:
        arguments = ocp.args.Composite(**{item: ocp.args.StandardRestore() for item in items})
        restored = self._manager.restore(step, args=arguments)
        return {name: part for item in items for name, part in restored[item].items()}

    def recipe(self, step: int) -> ConfigDict:
        restored = self._manager.restore(step, args=ocp.args.Composite(recipe=ocp.args.JsonRestore()))
        return recipe.from_json(restored["recipe"]["json"])


def _parts(state: Any) -> dict:
    """The parts of a state by name."""
    return dict(state if isinstance(state, Mapping) else vars(state))
