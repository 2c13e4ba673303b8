"""Odd inputs, as hospitals, converters and public data sets leave them: each has the outcome that is wanted of it.

The inputs are written by programs: those of shared/cases beside the checkout, where it is there, and of `writers`.
`input_rows.ROWS` says by which command each is tried, what of it must be segmented as the plain scan is, and what must
be named in what is said (standard error, summary and its warnings).
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import nibabel as nib
import numpy as np

from tests.campaign import writers
from tests.campaign.contents import read_mask, said_beside
from tests.campaign.input_rows import OF_VALUES, ROWS, Row
from tests.campaign.outcome import Outcome
from tests.campaign.processes import REPOSITORY, Done, command
from tests.campaign.world import World

SHARED = REPOSITORY.parent / "shared" / "cases"
FULL = len(ROWS)


def attempt(world: World, number: int, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """Trial `number` of a campaign: a row."""
    return try_row(world, ROWS[number % len(ROWS)], scratch)


def try_row(world: World, row: Row, scratch: pathlib.Path) -> Outcome:
    """Write the row's input, run its command, and judge."""
    what = f"{row.writer}: {' '.join(row.arguments)}"
    case = scratch / "case"
    if not _write(row.writer, case):
        return Outcome(what, count=0, note="not there")
    done = None
    for arguments in (*row.before, row.arguments):
        done = _run(world, row, arguments, scratch)
        if done.broken:
            return Outcome(what, done.broken)
    return Outcome(what, _judge(row, done, scratch, _reference(world, scratch) if row.masks or row.either else None))


def _judge(row: Row, done: Done, scratch: pathlib.Path, reference) -> str:
    """What is not as wanted, or ""."""
    if row.status is not None and (done.status != 0) != (row.status != 0):
        return f"exit status {done.status} where {row.status} is wanted: {done.tail}"
    cases = _cases(scratch)
    warned = "\n".join([said_beside(done.said), *(warning for found in cases for warning in found["warnings"])])
    faults = [f"nothing is said of {what}" for what in row.named if not re.search(what, warned)]
    for name in (*row.masks, *row.either):
        found = [one for one in cases if pathlib.PurePath(one["input"]).match(name)]
        fault = _other(found[0], reference) if found else f"{name} is not segmented"
        if fault and not (name in row.either and _leaf(name) in warned):
            faults.append(fault)
    for name in row.silent:
        found = [str(one["warnings"]) for one in cases if pathlib.PurePath(one["input"]).match(name)]
        if any(not re.search(OF_VALUES, warnings) for warnings in found):
            faults.append(f"{name} is segmented without a warning of its values")
    if row.count is not None and len({one["mask"] for one in cases}) != row.count:
        faults.append(f"{len(cases)} scans are segmented where {row.count} are wanted: {[c['case'] for c in cases]}")
    if row.scored is not None and (told := _scored(scratch, done)) != row.scored:
        faults.append(f"{told} cases are scored or named where there are {row.scored}")
    return "; ".join(faults[:4]) + (f"; said: {done.tail}" if faults else "")


def _leaf(name: str) -> str:
    return pathlib.PurePath(name).name.removesuffix(".gz").removesuffix(".nii")


def _other(found: dict, reference: np.ndarray) -> str:
    """Whether a mask differs from the plain scan's, both turned upright."""
    image = nib.as_closest_canonical(nib.load(found["mask"]))
    voxels = np.squeeze(np.asarray(image.dataobj))
    if voxels.shape != reference.shape:
        return f"{found['case']} has a mask of {voxels.shape} where the plain scan's is {reference.shape}"
    differ = np.count_nonzero(voxels != reference)
    return f"{found['case']}: {differ} voxels of the mask are not those of the plain scan" if differ else ""


def _cases(scratch: pathlib.Path) -> list[dict]:
    try:
        return json.loads((scratch / "masks" / "summary.json").read_text())["cases"]
    except (OSError, ValueError, KeyError):
        return []


def _scored(scratch: pathlib.Path, done: Done) -> int:
    """How many cases are in scores.json or named as not scored."""
    not_scored = len(re.findall("^not scored: ", done.said, re.MULTILINE))
    try:
        return len(json.loads((scratch / "scores.json").read_text())["cases"]) + not_scored
    except (OSError, ValueError, KeyError):
        return not_scored


def _run(world: World, row: Row, arguments, scratch: pathlib.Path) -> Done:
    """In the folder of the trial, where the case lies in case/; by a child that obeys permissions where that counts."""
    if row.locked or row.stand_in not in ("liver", "brain"):
        return command(arguments, scratch, stand_in=row.stand_in, locked=row.locked)
    return world.warm.command(arguments, scratch, row.stand_in)


def _write(name: str, case: pathlib.Path) -> bool:
    """Write the input called `name`; False where there is no such program."""
    if name in writers.ODD:
        hu, affine = writers.abdomen()
        writers.ODD[name](case, hu, affine)
        return True
    programs = sorted(SHARED.glob(f"{name}*.py")) if SHARED.is_dir() else []
    if not programs:
        return False
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, programs[0], case], check=True, capture_output=True, env=environment)
    return True


def _reference(world: World, scratch: pathlib.Path) -> np.ndarray:
    """The mask of the plain scan, upright: liver is what the rules find of it."""
    place = scratch / "plain"
    hu, affine = writers.abdomen()
    writers.save(place / "plain.nii.gz", hu, affine)
    arguments = ("--mode=predict", "--workdir=none", "--input=plain.nii.gz", "--output=masks")
    done = world.warm.command(arguments, place, "liver")
    if done.status or done.broken:
        raise RuntimeError(f"the plain scan cannot be segmented: {done.said}")
    return read_mask(place / "masks" / "plain_seg.nii.gz")[0]
