"""What is wrong with one case: whether its files can be read, its values be true, and the recipe make use of it."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep.cases import load_image, load_labels
from data_prep.layouts import Case, no_mask
from raunet_jax.errors import UserError
from raunet_jax.failures import explain
from raunet_jax.imaging.checks import UNUSABLE, WARNING, count_padding, file_of, find_doubts
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.nifti_reader import open_header
from raunet_jax.imaging.volume import Repair, Volume, VolumeError
from raunet_jax.tasks import stage_of, task_of

REPAIRED = "repaired"


class Finding(NamedTuple):
    case: str
    check: str
    value: str  # what was found, and in which file
    remedy: str
    level: str = WARNING  # UNUSABLE: not to be trained on; REPAIRED: read otherwise than it is stored

    @property
    def fatal(self) -> bool:
        return self.level == UNUSABLE


def check_case(case: Case, recipe: dict) -> list[Finding]:
    """What is wrong with `case` for the stage `recipe` (a recipe's `to_dict`). Whatever its files hold, this returns.

    A fault that can be repaired does not end the search for others, whether `config.data.repair` allows it or not.
    """
    config = ConfigDict(recipe)
    findings: list[Finding] = []
    check, path = "image", case.images[0]
    try:
        volume = load_image(case, config, repair=True)
        findings += _check_repairs(case, check, volume.repairs, config)
        findings += check_image(case, volume, config)
        if case.mask is None:
            _, reason, remedy = no_mask(case)
            return findings + [Finding(case.name, "mask", reason, remedy, UNUSABLE)]
        check, path = "mask", case.mask
        mask, repairs = load_labels(case, volume, config, repair=True)
        findings += _check_repairs(case, check, repairs, config)
        findings += check_mask(case, mask, config)
    except Exception as error:  # of whatever kind: it is this case's, and the others go on
        findings.append(Finding(case.name, check, *_describe_error(error, path), UNUSABLE))
    return findings


def check_image(case: Case, volume: Volume, config: ConfigDict) -> list[Finding]:
    """What in a scan that can be read cannot be true, or does not suit the recipe.

    Of `config`, a stage's recipe, `patch_size` and what `find_doubts` takes are read.
    """
    path, name = case.images[0], case.name
    findings = [
        Finding(name, doubt.check, f"{file_of(doubt, case.images)}: {doubt.problem}", doubt.remedy, doubt.level)
        for doubt in find_doubts(volume, config)
    ]
    for warning in volume.warnings:
        problem, _, remedy = warning.partition("; ")
        findings.append(Finding(name, "geometry", f"{path}: {problem}", remedy or "look at it before it is trusted"))
    padding = count_padding(volume.voxels) if kind_of(config.data.modalities) == "ct" else 0
    if padding and not any(finding.check == "intensity" for finding in findings):
        value = f"{path}: {padding} voxels of padding, the lowest {volume.voxels.min()} HU"
        findings.append(Finding(name, "padding", value, "nothing: config.window_hu cuts it off"))
    sides = dict(zip("xyz", volume.shape[::-1], strict=True))
    patch = dict(zip("xyz", config.patch_size, strict=True))
    patched = _patched_sides(config.stage)
    small = [f"{side} {sides[side]} < {patch[side]}" for side in patched if sides[side] < patch[side]]
    if small:
        value = f"{path}: smaller than config.patch_size ({', '.join(small)} voxels)"
        findings.append(Finding(case.name, "size", value, "nothing: it is padded with its minimum"))
    return findings


def check_mask(case: Case, mask: np.ndarray, config: ConfigDict) -> list[Finding]:
    """What is odd about a mask that can be read: `mask` is (z, y, x), 0 where there is nothing to be found.

    Of `config`, a stage's recipe, `stage` and `data.foreground` are read.
    """
    findings = []
    stored = None if case.mask.is_dir() else open_header(case.mask)[0].get_data_dtype()
    if stored is not None and stored.kind == "f":
        value = f"{case.mask}: stored as {stored}, all its values are whole"
        findings.append(Finding(case.name, "mask type", value, "nothing: it is read as whole numbers"))
    if not mask.any():
        foreground = tuple(config.data.foreground)
        labels = f" with one of config.data.foreground={foreground}" if foreground else ""
        value = f"{case.mask}: no voxel is labeled{labels}"
        task = task_of(config.stage)
        if task.merged:
            remedy = "nothing if there is none of it in the scan; else label the case, or move it away"
            findings.append(Finding(case.name, "mask", value, remedy))
        else:
            remedy = f"label the {next(iter(task.structures))}, or move the case away"
            findings.append(Finding(case.name, "mask", value, remedy, UNUSABLE))
    return findings


def _check_repairs(case: Case, check: str, repairs: Sequence[Repair], config: ConfigDict) -> list[Finding]:
    """The first of the faults that were repaired on reading the image or the mask, and all that was done."""
    if not repairs:
        return []
    fault, done = repairs[0], "; ".join(repair.done for repair in repairs)
    value, remedy = _on_one_line(fault)
    if config.data.repair:
        return [Finding(case.name, check, value, f"nothing: {done} (config.data.repair)", REPAIRED)]
    return [Finding(case.name, check, value, f"{remedy}. The repair: {done}", UNUSABLE)]


def _describe_error(error: Exception, path: pathlib.Path) -> tuple[str, str]:
    """What to say of an error on reading `path`, and what to do."""
    if isinstance(error, VolumeError):
        return _on_one_line(error)
    if isinstance(error, MemoryError):
        return f"{path}: too large for the memory", "read fewer at a time (--config.data.workers=1), or crop it"
    if isinstance(error, OSError):
        return f"{path}: cannot be read ({error})", "copy it again, and see that you may read it"
    if isinstance(error, UserError):
        return " ".join(str(error).split()), "correct this, and verify again"
    return f"{path}: {' '.join(explain(error).split())}", "leave the case out until it is mended"


def _on_one_line(fault: VolumeError | Repair) -> tuple[str, str]:
    return " ".join(f"{fault.path}: {fault.problem}".split()), " ".join(fault.remedy.split())


def _patched_sides(stage: str) -> str:
    """Along which axes a patch is cut from the volume itself: not from its single slices, nor from a part resized."""
    row = stage_of(stage)
    if row.sampler == "slices":
        return ""
    return "z" if row.resized else "xyz"
