"""Damage to every kind of file that a mode reads: the same result, or a sentence that names the file.

Held: the result of the undamaged file; another one, or none and an exit status that is not 0, with the file, its case
or its folder named. Not held: an error of ours, a hang, a result that differs in silence, a user's file changed.
A file without a checksum cannot tell that a bit was flipped or another file put in its place: such a result is counted
as held, and as unseen, and the mask of a scan has to lie on the grid that nibabel reads from the damaged file.
"""

import dataclasses
import pathlib

import nibabel as nib
import numpy as np

from tests.campaign import contents
from tests.campaign.outcome import Outcome
from tests.campaign.processes import Done
from tests.campaign.world import MODES, Mode, Undisturbed, World, left

FULL = 640


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        files: pattern below the world's folder.
        modes: that read them.
        sealed: whether what they hold is protected by a checksum, ours or the format's.
        unseen: damages after which a file without one is as good as any.
    """

    files: str
    modes: tuple[str, ...]
    sealed: bool = False
    unseen: tuple[str, ...] = ("flip", "swap", "truncate")  # lines of JSON may be cut between lines


KINDS = {
    "scan .nii.gz": Kind("exact.nii.gz", ("predict .nii.gz",), sealed=True),
    "scan .nii": Kind("exact.nii", ("predict .nii",)),
    "slice": Kind("series/IM000[2-9].dcm", ("predict a series",)),
    "training scan": Kind("lits/volume-0.nii.gz", ("verify", "prepare"), sealed=True),
    "training mask": Kind("lits/segmentation-0.nii.gz", ("verify", "prepare"), sealed=True),
    "mask to score": Kind("masks/segmentation-0.nii.gz", ("score",), sealed=True),
    "reference": Kind("references/segmentation-0.nii.gz", ("score",), sealed=True),
    "dataset.json": Kind("custom/dataset.json", ("verify custom", "prepare custom")),
    "image of a custom task": Kind("custom/images/c1.nii.gz", ("verify custom", "prepare custom"), sealed=True),
    "small checkpoint": Kind("small/fold_0/checkpoints/**/*", ("inspect small", "train on"), sealed=True),
    "config.json": Kind("small/**/config.json", ("inspect small", "report small", "train on")),
    "split.json": Kind("small/split.json", ("train on", "report small")),
    "metrics.jsonl": Kind(
        "small/fold_0/metrics.jsonl",
        ("inspect small", "report small", "train on"),
        unseen=("flip", "swap", "truncate", "empty", "delete"),
    ),
    "summary.json": Kind("before/summary.json", ("predict again",)),
    "shard": Kind("prepared/*/*/*/*.array_record*", ("verify", "prepare again", "train"), sealed=True),
    "description of a patch set": Kind("prepared/*/*/*/*.json*", ("verify", "prepare again", "train")),
    "fingerprints": Kind("prepared/fingerprints.json", ("prepare again", "verify")),
    "checkpoint": Kind("run/fold_0/checkpoints/**/*", ("predict", "evaluate", "inspect"), sealed=True),
    "config.json of a run": Kind("run/**/config.json", ("predict", "evaluate", "report")),
    "split.json of a run": Kind("run/split.json", ("evaluate", "report")),
    "scores.json": Kind("run/scores.json", ("report",)),
    "record of a case": Kind("run/evaluation/*.json", ("report",)),
    "evaluated mask": Kind("run/evaluation/*_seg.nii.gz", ("report",), sealed=True),
}
DAMAGES = "flip", "truncate", "empty", "delete", "swap", "random", "[]", "null", "{}"
OTHERS = {".json": b'{"0": {"a": 1}}', ".jsonl": b'{"step": 1}\n', ".dcm": None, ".gz": None, ".nii": None}


def attempt(world: World, number: int, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """Trial `number` of a campaign: each kind in turn, by a mode and a damage that are drawn."""
    name = list(KINDS)[number % len(KINDS)]
    return damage(world, name, str(rng.choice(KINDS[name].modes)), str(rng.choice(DAMAGES)), rng, scratch)


def damage(
    world: World, name: str, mode_name: str, how: str, rng: np.random.Generator, scratch: pathlib.Path
) -> Outcome:
    """Damage a file of the kind `name` and let a mode read it."""
    kind, mode = KINDS[name], MODES[mode_name]
    expected = world.undisturbed(mode_name, scratch)
    world.begin(mode, scratch)
    files = sorted(path for path in scratch.glob(kind.files) if path.is_file())
    path = files[rng.integers(len(files))]
    whole = path.read_bytes()
    told = _spoil(path, how, files, rng)
    what = f"{mode_name}: {path.relative_to(scratch)}: {told}"
    if path.exists() and path.read_bytes() == whole:
        return Outcome(what, count=0, note="nothing of it was changed")
    before = contents.digest_of_files(scratch, mode.keeps)
    done = world.warm.command(mode.arguments, scratch, mode.stand_in)
    changed = contents.differences(before, contents.digest_of_files(scratch, mode.keeps))
    if done.broken or changed:
        return Outcome(what, done.broken or f"input changed: {changed}")
    return _judge(what, kind, mode, how, path, done, expected, scratch)


def _judge(
    what: str,
    kind: Kind,
    mode: Mode,
    how: str,
    path: pathlib.Path,
    done: Done,
    expected: Undisturbed,
    place: pathlib.Path,
) -> Outcome:
    named = _names(contents.said_beside(done.said, expected.said), path, place)
    if done.status:
        return Outcome(what, "" if named else f"exit status {done.status}, and no word of the file: {done.tail}")
    apart = contents.differences(
        *(_beside(path, mode, place, found) for found in (expected.left, left(mode, place, done)))
    )
    if not apart or named:
        return Outcome(what)
    if kind.sealed or how not in kind.unseen:
        return Outcome(what, f"another result without a word: {apart}")
    if path.suffix == ".nii":
        apart = _off_the_grid(path, place / mode.compares[0] / f"{path.stem}_seg.nii.gz")
        return Outcome(what, apart, note="unseen")
    return Outcome(what, note="unseen")


def _beside(path: pathlib.Path, mode: Mode, place: pathlib.Path, found: dict[str, str]) -> dict[str, str]:
    """What a mode left, without the damaged file itself and what that alone holds; a training writes both anew."""
    if "--mode=train" in mode.arguments or not any(one.startswith("--mode") for one in mode.arguments):
        return found
    own = path.relative_to(place).as_posix()
    return {name: digest for name, digest in found.items() if name != own and not name.startswith("weights")}


def _names(said: str, path: pathlib.Path, place: pathlib.Path) -> bool:
    """Whether what was said names the file, its case, or a folder that it lies in (not all of the world)."""
    parts = path.relative_to(place).parts
    folders = ["/".join(parts[:length]) for length in range(2, len(parts))]
    case = path.name.removesuffix(".gz").removesuffix(".nii")
    number = case.rpartition("-")[2]
    named = [path.name, case, *folders, f"not scored: {number}:"]
    if parts[0] in ("series", "before", "custom"):
        named.append(parts[0])
    # a wrapped line of a table or a sentence may break a name
    joined = said.replace("\n", "")
    return any(name in said or name in joined for name in named)


def _spoil(path: pathlib.Path, how: str, files: list[pathlib.Path], rng: np.random.Generator) -> str:
    """Damage a file, and tell how."""
    whole = path.read_bytes()
    at = int(rng.integers(len(whole))) if whole else 0
    if how == "delete":
        path.unlink()
        return "deleted"
    if how == "flip" and whole:
        bit = int(rng.integers(8))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        return f"bit {bit} of byte {at} of {len(whole)} flipped"
    if how == "truncate":
        path.write_bytes(whole[:at])
        return f"cut after {at} of {len(whole)} bytes"
    if how == "swap":
        others = [other.read_bytes() for other in files if other != path]
        path.write_bytes(others[rng.integers(len(others))] if others else OTHERS.get(path.suffix) or b"other")
        return "another file's content"
    if how == "random":
        path.write_bytes(rng.bytes(max(16, len(whole))))
        return "random bytes"
    path.write_bytes(b"" if how in ("empty", "flip") else how.encode())
    return f"holds {how}"


def _off_the_grid(scan: pathlib.Path, mask: pathlib.Path) -> str:
    """A sentence where a mask does not lie where nibabel has the scan, or ""."""
    theirs, ours = nib.load(scan), nib.load(mask)
    if theirs.shape[:3] == ours.shape and np.allclose(theirs.affine, ours.affine, atol=1e-4, equal_nan=True):
        return ""
    return f"the mask lies on {ours.shape} {ours.affine.tolist()}, the scan on {theirs.shape} {theirs.affine.tolist()}"
