"""One checkpoint as it lies on the disk: its items are read, once their files are known to be what was written.

The items are `weights` and `state` (what prediction needs of a training state, and what only training does), `loop`
(JSON: the loader's position and the like), `recipe` (JSON), and `metrics` (JSON) of one that was validated. A SHA-256
of every file lies beside them. Versions before it wrote none, and what they saved is read without.
"""

import contextlib
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl.logging import get_absl_logger
from ml_collections import ConfigDict

from raunet_jax import digests, recipe
from raunet_jax.digests import Damaged, Unreadable
from raunet_jax.errors import FileError, NotFound, UserError
from raunet_jax.failures import is_users
from raunet_jax.files import read_json

METRIC = "validation_dice"
WEIGHTS = ("params", "batch_stats")  # parts of a training state that make up a trained network
REMEDY = "copy the run again from where it is whole, or delete this checkpoint's folder"
LONGEST = 200  # letters of what Orbax or TensorStore says
LATE_S = 1.0  # by then threads of TensorStore have ended that would else speak while Python ends, when nobody listens
JSON_FILES = {"loop": "metadata", "recipe": "metadata", "metrics": "metrics"}  # of the items of JSON

log = logging.getLogger("raunet_jax")


class SavedCheckpoint:
    """The checkpoint in the folder `path`. Whatever reads it raises Damaged for a file that is not what was written."""

    def __init__(self, path: pathlib.Path):
        self.path = path.absolute()
        self._checked: set[str] = set()  # items found to be as written; "" for all

    def check(self, items: Sequence[str] | None = None) -> None:
        """Raise Damaged for a file, of these items or of all, that is not as written; of earlier versions' none is."""
        wanted = set([""] if items is None else items)
        if "" in self._checked or wanted <= self._checked:
            return
        known = self._digests()
        if known is not None:
            digests.check(self.path, known, items, REMEDY)
        self._checked |= wanted

    def damaged(self, problem: str) -> Damaged:
        """To be raised for what no version can have written."""
        return Damaged(self.path, problem, REMEDY)

    def state_parts(self) -> set[str]:
        """The names of the parts of the state that was saved, none of whose arrays is read."""
        names = set()
        for item in self._items():
            with self._reading(item), _reader() as reader:
                names |= set(reader.metadata(self.path / item).item_metadata.tree)
        return names

    def restore(self, state_like: Any) -> tuple[dict, dict]:
        """The parts of the state as numpy arrays, in the structures of those of `state_like`, and the loop position."""
        parts = parts_of(state_like)
        likes = {"state": parts}
        if "weights" in self._items():
            likes = {"weights": {name: parts.pop(name) for name in WEIGHTS if name in parts}} | likes
        state = {}
        for item, like in likes.items():
            with self._reading(item), _reader() as reader:
                state |= reader.restore(self.path / item, args=ocp.args.StandardRestore(like))
        return state, self._json("loop")

    def restore_tree(self) -> dict:
        """The state as nested dictionaries of numpy arrays, with no need to know the network."""
        return self._trees(self._items())

    def restore_weights(self) -> dict:
        """Of the state the parts WEIGHTS alone, as `restore_tree` gives it."""
        parts = self._trees(self._items()[:1])
        missing = [name for name in WEIGHTS if name not in parts]
        if missing:
            raise self.damaged(f"holds no {' and no '.join(missing)}")
        return {name: parts[name] for name in WEIGHTS}

    def recipe(self) -> ConfigDict:
        """Raises FileError for a recipe of a version that this one does not know."""
        path = self._file("recipe")
        try:
            return recipe.from_json(self._json("recipe").get("json"), path)
        except UserError as error:
            if self._digests() is not None or not isinstance(error, FileError):
                raise
            raise Damaged(path, error.problem, REMEDY) from None

    def dice(self) -> float | None:
        """Of its validation; None for a checkpoint between two of them."""
        path, known = self._file("metrics"), self._digests()
        validated = path.parent.exists() if known is None else any(name.startswith("metrics/") for name in known)
        if not validated:
            return None
        dice = self._json("metrics").get(METRIC)
        if not isinstance(dice, int | float):
            raise Damaged(path, f"holds no {METRIC}", REMEDY)
        return dice if math.isfinite(dice) else None

    def _trees(self, items: Sequence[str]) -> dict:
        parts = {}
        for item in items:
            with self._reading(item), ocp.PyTreeCheckpointer() as reader:  # asks no metadata first: 5 times as fast
                parts |= reader.restore(self.path / item)
        return parts

    def _json(self, item: str) -> dict:
        path = self._file(item)
        self.check([item])
        try:
            return read_json(path, REMEDY)
        except NotFound:
            raise Damaged(path, "is missing", REMEDY) from None
        except FileError as error:
            raise digests.damaged(error) from None

    def _items(self) -> tuple[str, ...]:
        """Where the state lies; until November 2026 all of it lay in one item."""
        known = self._digests()
        separate = (self.path / "weights").is_dir() if known is None else any(n.startswith("weights/") for n in known)
        return ("weights", "state") if separate else ("state",)

    @contextlib.contextmanager
    def _reading(self, item: str) -> Iterator[None]:
        """Check an item before it is read within; of an earlier version's, Damaged for whatever reading raises.

        What a damaged file makes Orbax and TensorStore raise is no fixed set. Where the files are as written, an error
        says nothing about them.
        """
        self.check([item])
        try:
            yield
        except Exception as error:
            if self._digests() is not None or isinstance(error, MemoryError):
                raise
            path, why = self.path / item, f"{type(error).__name__}: {error}".split(" [tensorstore_spec")[0]
            there = path.is_dir()
            kind = Unreadable if there and is_users(error) and not isinstance(error, FileNotFoundError) else Damaged
            raise kind(path, f"cannot be read ({why[:LONGEST]})" if there else "is missing", REMEDY) from error

    def _digests(self) -> dict[str, str] | None:
        """The SHA-256 of each file; None for a checkpoint of a version that wrote none."""
        known, saved_with = digests.read(self.path, REMEDY), b""
        if known is None:
            with contextlib.suppress(OSError):
                saved_with = self._file("recipe").read_bytes()
        if b'"digests"' in saved_with:
            raise Damaged(self.path / digests.NAME, "is missing", REMEDY)
        return known

    def _file(self, item: str) -> pathlib.Path:
        return self.path / item / JSON_FILES[item]


class Writer:
    """Writes checkpoints; to be closed. With several processes each has one, and all write together."""

    def __init__(self):
        get_absl_logger().addFilter(_worth_showing)
        if not isinstance(sys.unraisablehook, _UnraisableHook):
            sys.unraisablehook = _UnraisableHook(sys.unraisablehook)
        self._orbax = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                weights=ocp.StandardCheckpointHandler(),
                state=ocp.StandardCheckpointHandler(),
                **{item: ocp.JsonCheckpointHandler(filename=name) for item, name in JSON_FILES.items()},
            )
        )

    def write(self, path: pathlib.Path, state: Any, loop: Mapping, config: ConfigDict, dice: float | None) -> None:
        """Write a checkpoint and the SHA-256 of each of its files; a kill meanwhile may leave anything in `path`."""
        parts = parts_of(jax.device_get(state))
        weights = {name: parts.pop(name) for name in WEIGHTS if name in parts}
        items = {"weights": ocp.args.StandardSave(weights)} if weights else {}
        items |= {
            "state": ocp.args.StandardSave(parts),
            "loop": ocp.args.JsonSave(dict(loop)),
            "recipe": ocp.args.JsonSave({"json": recipe.to_json(config), "digests": digests.NAME}),
        }
        items |= {} if dice is None else {"metrics": ocp.args.JsonSave({METRIC: dice})}
        try:
            self._orbax.save(path.absolute(), args=ocp.args.Composite(**items), force=True)
        except (OSError, ValueError):
            time.sleep(LATE_S)
            raise
        if jax.process_index() == 0:
            digests.write(path)

    def close(self) -> None:
        self._orbax.close()


def _worth_showing(record: logging.LogRecord) -> bool:
    """What ends a thread of Orbax, such as a full disk, it raises and, now or later, logs with a traceback too."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname or log.isEnabledFor(logging.DEBUG)


class _UnraisableHook:
    """Shows what `before` shows, but for debugging alone that an event loop is closed.

    Threads of TensorStore say so through it, once Orbax has given up a checkpoint that they still write.
    """

    def __init__(self, before: Callable):
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed" or log.isEnabledFor(logging.DEBUG):
            self.before(unraisable)


def parts_of(state: Any) -> dict:
    """The parts of a state, a mapping or a dataclass, by name."""
    return dict(state if isinstance(state, Mapping) else vars(state))


def not_finite(tree: Any) -> dict[str, int]:
    """Path of each array that holds values that are not finite -> how many."""
    counts = {}
    for name, leaf in leaves_by_path(tree).items():
        # The plateau's best loss is infinite, by rights, until the first epoch's end.
        bad = np.isnan(leaf) if name.endswith("/best_value") else ~np.isfinite(leaf)
        counts[name] = int(np.count_nonzero(bad))
    return {name: count for name, count in counts.items() if count}


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Each leaf by the names on the way to it, joined by "/"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _reader() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())
