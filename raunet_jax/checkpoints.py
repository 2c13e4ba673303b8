"""Checkpoints of a fold's training: which are kept, which is used, and which is passed over because it is damaged."""

import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from raunet_jax.digests import Damaged, Unreadable
from raunet_jax.errors import FileError
from raunet_jax.saved_checkpoint import LONGEST, SavedCheckpoint, Writer

NEWEST = 2  # kept, so that there is one before where the newest is damaged
_WRITING, _DELETED = ".writing", ".deleted"  # beginnings of names of what is not yet, or no longer, a checkpoint
_OF_THE_DISK = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "[OS error", "No space left")  # as TensorStore says it
_OF_ORBAX = ".orbax-checkpoint-tmp"  # in names of what earlier versions were writing

log = logging.getLogger("raunet_jax")
Read = TypeVar("Read")


class Checkpoints:
    """The two newest checkpoints of one fold and the best, in `folder`, which the first that is saved makes.

    Each lies in a folder named by its step, see `saved_checkpoint`, that appears by one rename when all of it is
    written, its hashes too, and goes by one rename: a kill leaves those that were there before.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._writer: Writer | None = None
        self._opened: dict[int, SavedCheckpoint] = {}
        self._damaged: dict[int, Damaged] = {}  # by step: what was found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer:
            self._writer.close()

    def steps(self) -> list[int]:
        """Of all checkpoints that are there, damaged ones too."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name) and (self.folder / name).is_dir())

    def newest_step(self) -> int | None:
        """The last of those that nothing is known against."""
        return next(iter(self._newest_first()), None)

    def best_step(self) -> int | None:
        """The step with the highest validation Dice; the newest where none was validated."""
        return next(iter(self._best_first()), None)

    def read_newest(self, read: Callable[[int], Read]) -> tuple[int, Read] | None:
        """The newest step all of whose files are as written and that `read` can read, and what it read.

        None without checkpoints. `read` raises Damaged for one that is to be passed over, which is said.

        Raises:
            Damaged: there are checkpoints, and none that can be used.
        """

        def checked(step: int) -> Read:
            self.check(step)
            return read(step)

        return self._first(self._newest_first, checked)

    def read_best(self, read: Callable[[int], Read]) -> tuple[int, Read] | None:
        """As `read_newest`, of the best one, or the best of those left; only what is read need be as written."""
        return self._first(self._best_first, read)

    def passed_over(self) -> list[Damaged]:
        """What is wrong with each checkpoint that was found damaged so far."""
        return [self._damaged[step] for step in sorted(self._damaged)]

    def save(self, step: int, state: Any, loop: Mapping, config: ConfigDict, dice: float | None) -> None:
        """Write a checkpoint of `step`; `dice` None marks one between validations, which is never the best.

        Args:
            state: a mapping, or a dataclass, of pytrees; its parts WEIGHTS are what prediction needs.

        Raises:
            FileError: the disk is full, or cannot be written.
        """
        self._writer = self._writer or Writer()
        writing, alone = self.folder / f"{_WRITING}.{step}", jax.process_index() == 0
        if alone:
            self.clear()
        try:
            self._writer.write(writing, state, loop, config, dice)
        except (OSError, ValueError) as error:
            if alone:
                self.clear()
            if not isinstance(error, OSError) and not any(said in str(error) for said in _OF_THE_DISK):
                raise
            why = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise FileError(
                self.folder,
                f"the checkpoint of step {step} cannot be written ({why[:LONGEST]}); those before are kept",
                "free some space, or see to it that the folder can be written, and give the same command again",
            ) from error
        if alone:
            self._remove(step)
            os.rename(writing, self._place(step))
            self._prune()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} of {self.folder}")

    def check(self, step: int) -> None:
        """Raise Damaged unless every file of the checkpoint is as written."""
        self._open(step).check()

    def damaged(self, step: int, problem: str) -> Damaged:
        return self._open(step).damaged(problem)

    def state_parts(self, step: int) -> set[str]:
        return self._open(step).state_parts()

    def restore(self, step: int, state_like: Any) -> tuple[dict, dict]:
        return self._open(step).restore(state_like)

    def restore_tree(self, step: int) -> dict:
        return self._open(step).restore_tree()

    def restore_weights(self, step: int) -> dict:
        return self._open(step).restore_weights()

    def recipe(self, step: int) -> ConfigDict:
        return self._open(step).recipe()

    def _open(self, step: int) -> SavedCheckpoint:
        return self._opened.setdefault(step, SavedCheckpoint(self._place(step)))

    def _place(self, step: int) -> pathlib.Path:
        return self.folder / str(step)

    def _first(self, order: Callable[[], Sequence[int]], read: Callable[[int], Read]) -> tuple[int, Read] | None:
        """The first step of `order`, which is asked anew after each that fails, that can be read, and what was read."""
        found = None
        while not found and (steps := order()):
            try:
                found = steps[0], read(steps[0])
            except Damaged as error:
                if self._place(steps[0]).is_dir():  # else a training that goes on has deleted it meanwhile
                    self._damaged[steps[0]] = error
        for error in self.passed_over():
            instead = f"the checkpoint of step {found[0]} is used instead" if found else error.remedy
            log.warning(f"warning: {error.path}: {error.problem}; {instead}")
        if not found and self._damaged:
            newest = self._damaged[max(self._damaged)]
            raise Damaged(
                newest.path,
                f"{newest.problem}, and no other checkpoint in {self.folder} can be used",
                f"copy the run again from where it is whole, or delete {self.folder} and train this fold anew",
            )
        return found

    def _newest_first(self) -> list[int]:
        return [step for step in reversed(self.steps()) if step not in self._damaged]

    def _best_first(self) -> list[int]:
        """By Dice from the highest, then those without from the newest; damaged ones left out."""
        dice = {}
        for step in self._newest_first():
            try:
                dice[step] = self._open(step).dice()
            except Damaged as error:
                if self._place(step).is_dir():
                    self._damaged[step] = error
        return sorted(dice, key=lambda step: (dice[step] is not None, dice[step] or 0.0, step), reverse=True)

    def _prune(self) -> None:
        """Delete what is neither among the newest nor the best of those that are as written."""
        for step in self._newest_first():
            try:
                self.check(step)
            except Damaged as error:
                self._damaged[step] = error
                log.warning(f"warning: {error.path}: {error.problem}; this checkpoint is no longer counted on")
        kept = {*self._newest_first()[:NEWEST], *self._best_first()[:1]}
        kept |= {step for step, error in self._damaged.items() if isinstance(error, Unreadable)}
        for step in self.steps():
            if step not in kept:
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Delete a checkpoint so that a kill leaves none that is half there."""
        self._opened.pop(step, None)
        self._damaged.pop(step, None)
        if self._place(step).is_dir():
            gone = self.folder / f"{_DELETED}.{step}"
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(self._place(step), gone)
            shutil.rmtree(gone, ignore_errors=True)

    def clear(self) -> None:
        """Delete what a kill has left half written or half deleted; nobody else may be writing here."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.startswith((_WRITING, _DELETED)) or _OF_ORBAX in path.name:
                shutil.rmtree(path, ignore_errors=True)
