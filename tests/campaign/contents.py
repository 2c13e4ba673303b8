"""What lies in a folder, so that two runs of one command can be compared: times and places are left out."""

import csv
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping

import nibabel as nib
import numpy as np

TIMES = {"seconds", "patches_per_second", "stages", "time", "when"}  # fields that no two runs share
STEP = re.compile(r"checkpoints/\d+/.")  # Orbax names the files of a checkpoint anew each time
EVENTS = re.compile(r"events\.out\.tfevents.*")
PROGRESS = re.compile(r"\d+/\d+ .* s left$|the first step took")
_TOTAL = re.compile(r"^\d+ segmented, \d+ failed")
_NUMBER = re.compile(r"[\d.]+")
TOOK = re.compile(r", [\d.]+ s\b")
NAMES_ONLY = (".png", ".html", ".lock")  # pictures hold fonts and times; that they are there is compared


def contents(place: pathlib.Path, folders: Iterable[str]) -> dict[str, str]:
    """{path below `place`: digest of what it holds} of all files in `folders`, hidden ones too.

    The files of a checkpoint are left out but for the name of its folder: `parameters` tells what they hold.
    """
    found = {}
    for folder in folders:
        root = place / folder
        for path in sorted(root.rglob("*")) if root.is_dir() else [root] * root.exists():
            name = path.relative_to(place).as_posix()
            if STEP.search(name + "/" * path.is_dir()):
                found[name[: STEP.search(name + "/").end() - 2]] = "checkpoint"
            elif path.is_file():
                found[EVENTS.sub("events", name)] = _digest(path, place)
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A sentence, or "" where both are the same."""
    gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    other = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    told = {"missing": gone, "left over": new, "other content": other}
    return "; ".join(f"{what}: {', '.join(names[:4])}" for what, names in told.items() if names)


def digest_of_files(place: pathlib.Path, folders: Iterable[str]) -> dict[str, str]:
    """{path below `place`: SHA-256 of its bytes}: what a command may not change."""
    paths = (path for folder in folders for path in sorted((place / folder).rglob("*")) if path.is_file())
    return {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def said_beside(said: str, usual: str = "") -> str:
    """What a command said in lines of its own, without those of its progress and of `usual`, whatever their numbers."""
    known = {_NUMBER.sub("", line) for line in usual.splitlines()}
    lines = (line for line in said.splitlines() if not (PROGRESS.search(line) or _TOTAL.search(line)))
    return "\n".join(line for line in lines if _NUMBER.sub("", line) not in known)


def without_times(said: str) -> str:
    """What a command printed, less the lines of its progress and what tells how long something took."""
    lines = [line for line in said.splitlines() if not PROGRESS.search(line)]
    return TOOK.sub(", … s", "\n".join(lines))


def read_mask(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(voxels as they are stored, affine)."""
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def _digest(path: pathlib.Path, place: pathlib.Path) -> str:
    if path.name.startswith(".") and path.name != ".lock":
        return "temporary"
    if path.suffix in NAMES_ONLY or path.name == ".lock" or EVENTS.fullmatch(path.name):
        return "there"
    try:
        return _digest_of(path, place)
    except Exception as error:  # whatever is wrong with it, it is none of what the uninterrupted run leaves
        return f"unreadable: {type(error).__name__}"


def _digest_of(path: pathlib.Path, place: pathlib.Path) -> str:
    if path.name.endswith((".nii.gz", ".nii")):
        voxels, affine = read_mask(path)
        described = repr((voxels.shape, str(voxels.dtype), affine.round(5).tolist()))
        return hashlib.sha256(voxels.tobytes() + described.encode()).hexdigest()
    text = path.read_bytes()
    if path.suffix in (".json", ".jsonl", ".csv"):
        text = text.decode().replace(str(place), "@")
        lines = [text] if path.suffix == ".json" else text.splitlines()
        if path.name == "fingerprints.json":  # its keys are of paths and times of the scans
            parsed = sorted(map(repr, json.loads(text).values()))
        elif path.suffix == ".csv":
            parsed = [_without_times(row) for row in csv.DictReader(lines)]
        else:
            parsed = [_without_times(json.loads(line)) for line in lines]
        text = repr(parsed).encode()
    return hashlib.sha256(text).hexdigest()


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
