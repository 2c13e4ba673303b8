"""The small world in which the program is tried: scans, and what the program makes of them, each made when needed."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_prep.phantom import write_phantoms
from raunet_jax.imaging.volume import write_nifti
from tests import exact_models
from tests.campaign import contents, writers
from tests.campaign.processes import REPOSITORY, Done, Warm, command

CASES = 3
# The network of tests/pipeline/test_command_line_stop.py, which is compiled once for both.
RECIPE = (
    f"--config={REPOSITORY}/configs/liver_coarse.py",
    *("--config.data.source=lits", "--config.data.root=lits", "--config.data.prepared=prepared"),
    *("--config.data.workers=1", "--config.data.patches_per_case=6", "--config.epochs=4"),
    *("--config.patch_size=(32,32,1)", "--config.batch_size=4", "--config.network.width=4"),
    *("--config.network.stem_width=4", "--config.network.bottom_width=4", "--config.network.momentum=0.8"),
)
CUSTOM = (
    f"--config={REPOSITORY}/configs/custom.py",
    *("--config.data.root=custom", "--config.data.prepared=prepared", "--config.data.workers=1"),
    *("--config.data.folds=3", "--config.patch_size=(32,32,32)", "--config.data.patches_per_case=2"),
)


@dataclasses.dataclass(frozen=True)
class Mode:
    """A command of the world.

    Attributes:
        arguments: of run.py, in the world's folder.
        needs: what of the world must be there before.
        makes: what it writes, all of which is removed before.
        compares: what is the same whenever it ends well; with none, what it prints.
        keeps: what is the user's: it may not change by a byte.
        stand_in: see `entry.stand_ins`.
        waits: name, below `makes`, of what is there while something is written; of `train`, a checkpoint, or deleted.
    """

    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...] = ()
    compares: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    stand_in: str = ""
    waits: str = ".*"


def _predict(*arguments: str, scans: str, run: str = "run", output: str = "predicted", stand_in: str = "") -> Mode:
    arguments = ("--mode=predict", f"--workdir={run}", f"--input={scans}", f"--output={output}", *arguments)
    needs = (scans,) if stand_in else (scans, run)
    return Mode(arguments, needs, (output,), (output,), (scans,), stand_in)


def _of_run(mode: str, run: str, *arguments: str, **fields) -> Mode:
    return Mode((f"--mode={mode}", f"--workdir={run}", *arguments), **{"needs": ("lits", run)} | fields)


SCORED = tuple(f"run/{name}" for name in ("evaluation", "scores.json", "scores.csv", "tables.csv", "report"))
SMALL = (*RECIPE, "--workdir=small")
MODES = {  # what is tried of the program; `sweep` is to be one more row
    "prepare": Mode((*RECIPE, "--mode=prepare"), ("lits",), ("prepared",), ("prepared",), ("lits",)),
    "train": Mode(SMALL, ("lits", "prepared"), ("small",), ("small",), ("lits",), "small", ".[wd]*"),
    "evaluate": _of_run("evaluate", "run", needs=("lits", "prepared", "run"), makes=SCORED, compares=("run",)),
    "predict": _predict(scans="scans"),
    "score": Mode(
        ("--mode=score", "--prediction=masks", "--reference=references", "--output=scored/scores.json"),
        ("masks", "references"),
        ("scored",),
        ("scored",),
        ("masks", "references"),
    ),
    "report": _of_run("report", "run", makes=("run/report",), compares=("run",)),
    "inspect": _of_run("inspect", "run", "--json", keeps=("run",)),
    "verify": Mode((*RECIPE, "--mode=verify"), ("lits", "prepared"), keeps=("lits",)),
    # without a trained run, in which rules or two layers stand for the networks
    "predict by rules": _predict("--probabilities", scans="scans", stand_in="liver"),
    "predict .nii.gz": _predict(scans="exact.nii.gz", stand_in="liver"),
    "predict .nii": _predict(scans="exact.nii", stand_in="liver"),
    "predict a series": _predict(scans="series", stand_in="liver"),
    "predict again": Mode(
        ("--mode=predict", "--workdir=none", "--input=exact.nii.gz", "--output=before"),
        ("exact.nii.gz", "before"),
        compares=("before/exact_seg.nii.gz",),
        stand_in="liver",
    ),
    "prepare again": Mode((*RECIPE, "--mode=prepare"), ("lits", "prepared"), keeps=("lits",)),
    "train on": Mode((*SMALL, "--config.epochs=6"), ("lits", "prepared", "small"), (), ("small",), stand_in="small"),
    "inspect small": _of_run("inspect", "small", "--json", needs=("small",)),
    "report small": _of_run("report", "small", compares=("small",)),
    "verify custom": Mode((*CUSTOM, "--mode=verify"), ("custom",), keeps=("custom",)),
    "prepare custom": Mode((*CUSTOM, "--mode=prepare"), ("custom",), ("prepared",), ("prepared",), ("custom",)),
}
MADE_BY = {  # what of the world is not drawn: which commands make it
    "prepared": (MODES["prepare"],),
    "small": (MODES["train"],),
    "run": (Mode((*RECIPE, "--workdir=run"), ("lits", "prepared")), MODES["evaluate"]),
    "before": (dataclasses.replace(MODES["predict again"], needs=("exact.nii.gz",)),),
}


class Undisturbed(NamedTuple):
    """What a command leaves when nothing disturbs it, the seconds it takes, and what it says."""

    left: dict[str, str]
    seconds: float
    said: str


class World:
    """Scans and what the program makes of them, in `folder`; a trial works on a copy of a part of it."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._known: dict[str, Undisturbed] = {}
        self._lock = threading.RLock()
        self._of_thread = threading.local()
        self._warm: list[Warm] = []
        draw(folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for warm in self._warm:
            warm.end()

    @property
    def warm(self) -> Warm:
        """A process of this thread that runs command after command."""
        if not hasattr(self._of_thread, "warm"):
            self._of_thread.warm = Warm()
            self._warm.append(self._of_thread.warm)
        return self._of_thread.warm

    def copy(self, place: pathlib.Path, *names: str) -> pathlib.Path:
        """Copies of what is drawn or, when it is needed first, made by the program."""
        for name in names:
            self._make(name)
            if (self.folder / name).is_dir():
                shutil.copytree(self.folder / name, place / name, dirs_exist_ok=True)
            else:
                shutil.copy2(self.folder / name, place / name)
        return place

    def _make(self, name: str) -> None:
        with self._lock:
            if (self.folder / name).exists():
                return
            for mode in MADE_BY[name]:
                for need in mode.needs:
                    if need != name:
                        self._make(need)
                _must(command(mode.arguments, self.folder, stand_in=mode.stand_in), name)

    def begin(self, mode: Mode, place: pathlib.Path) -> None:
        """The beginning of a command in `place`: what it needs is there, nothing of what it makes."""
        self.copy(place, *mode.needs)
        for made in mode.makes:
            with contextlib.suppress(FileNotFoundError):
                (shutil.rmtree if (place / made).is_dir() else pathlib.Path.unlink)(place / made)

    def undisturbed(self, name: str, scratch: pathlib.Path) -> Undisturbed:
        """The command `name` when nothing disturbs it."""
        with self._lock:
            if name not in self._known:
                mode, place = MODES[name], scratch / "undisturbed"
                place.mkdir()
                self.begin(mode, place)
                begin = time.monotonic()
                done = command(mode.arguments, place, stand_in=mode.stand_in)
                seconds = time.monotonic() - begin
                _must(done, name)
                self._known[name] = Undisturbed(left(mode, place, done), seconds, done.said)
                shutil.rmtree(place)
            return self._known[name]


def _must(done: Done, name: str) -> None:
    if done.status or done.broken:
        raise RuntimeError(f"{name} fails with nothing to disturb it: {done.status}: {done.said}")


def left(mode: Mode, place: pathlib.Path, done: Done) -> dict[str, str]:
    """What a command that has ended has left: files, weights, and what it printed if it writes nothing."""
    found = contents.contents(place, mode.compares)
    if not mode.compares:
        found["printed"] = contents.without_times(done.said.replace(str(place), "@"))
    for run in ("run", "small"):
        if run in mode.compares:
            found |= parameters(place, run)
    return found


def parameters(place: pathlib.Path, run: str) -> dict[str, str]:
    """SHA-256 of the weights of each fold of the run in `place`, by the program's own account."""
    told = command(("--mode=inspect", f"--workdir={run}", "--json"), place)
    try:
        facts = json.loads(told.said[told.said.index("{") :])
        return {f"weights of {fold}": digest for fold, digest in facts["parameters_sha256"].items()}
    except (ValueError, KeyError):
        return {"weights": f"cannot be inspected: {told.tail}"}


@contextlib.contextmanager
def scratch_folder(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """A folder of one trial, removed after it."""
    place = root / name
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def draw(folder: pathlib.Path) -> None:
    """Write scans of every kind that is read, and masks to be scored."""
    write_phantoms(folder / "lits", "abdomen", CASES, size_xyz=(64, 64, 32))
    for number in range(2):
        for kind, place in (("volume", "scans"), ("segmentation", "references"), ("segmentation", "masks")):
            (folder / place).mkdir(exist_ok=True)
            shutil.copy2(folder / "lits" / f"{kind}-{number}.nii.gz", folder / place)
    hu, labels = exact_models.abdomen()
    write_nifti(folder / "exact.nii.gz", hu, exact_models.affine())
    write_nifti(folder / "exact.nii", hu, exact_models.affine())
    writers.write_series(folder / "series", hu.transpose(2, 1, 0), exact_models.affine())
    for number in range(CASES):
        write_nifti(folder / f"custom/images/c{number}.nii.gz", hu + np.int16(number), exact_models.affine())
        write_nifti(folder / f"custom/labels/c{number}.nii.gz", np.minimum(labels, 1), exact_models.affine())
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}
    (folder / "custom" / "dataset.json").write_text(json.dumps(described))
