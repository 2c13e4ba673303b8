"""What is wrong with one case: whether its files can be read, its values be true, and the recipe make use of it."""

import gzip
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
from ml_collections import ConfigDict

from data_prep.cases import load_image, load_labels
from data_prep.layouts import Case, no_mask
from raunet_jax.errors import UserError
from raunet_jax.failures import explain
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Repair, Volume, VolumeError
from raunet_jax.tasks import stage_of, task_of

UNUSABLE, REPAIRED, WARNING = "unusable", "repaired", "warning"
FAT_HU = -30  # everything but the brain has fat around it or air beside it
BLOOD_HU = 30
PADDING_HU = -1500  # air is -1000; scanners mark what they did not measure by -2048 or -3024
ANISOTROPY = 10  # the longest side of a voxel over its shortest: LiTS has 0.6 x 0.6 x 5 mm
TINY = 8  # voxels: a scan of fewer along an axis is a localizer, a thumbnail or a crop


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

    Of `config`, a stage's recipe, `stage`, `patch_size` and `data.modalities` are read.
    """
    if kind_of(config.data.modalities) == "ct":
        findings = _check_hu(case, volume, WARNING if task_of(config.stage).planned else UNUSABLE)
    else:
        findings = _check_channels(case, volume, config)
    path, spacing = case.images[0], volume.spacing_mm[::-1]
    sides = dict(zip("xyz", volume.shape[::-1], strict=True))
    shape, mm = " x ".join(map(str, sides.values())), " x ".join(f"{side:.3g}" for side in spacing)
    if max(spacing) > ANISOTROPY * min(spacing):
        value = f"{path}: voxels of {mm} mm (x, y, z), {max(spacing) / min(spacing):.0f} times as long as they are wide"
        remedy = "compare with the slice spacing of the scanner; where it is false, mm and mL are wrong until corrected"
        findings.append(Finding(case.name, "anisotropy", value, remedy))
    if min(sides.values()) < TINY:
        value = f"{path}: {shape} voxels (x, y, z), fewer than {TINY} along an axis"
        findings.append(Finding(case.name, "tiny", value, "move it away if it is a localizer, a thumbnail or a crop"))
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
    stored = None if case.mask.is_dir() else stored_type(case.mask)
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


def stored_type(path: pathlib.Path) -> np.dtype:
    """The type of the voxels in a NIfTI file, gzipped or not whatever its name, from its header alone."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        header = (gzip.open(file) if start == b"\x1f\x8b" else file).read(nib.Nifti2Header.template_dtype.itemsize)
    kind = nib.Nifti2Header if header[4:8] == b"n+2\0" else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    return kind(header[:size], check=False).get_data_dtype()


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


def _check_hu(case: Case, volume: Volume, level: str) -> list[Finding]:
    """`level` of intensities that cannot be HU: a custom task may be of anything, and of crops without air or fat."""
    path, voxels, findings = case.images[0], volume.voxels, []
    measured = voxels >= PADDING_HU
    low, high = int(voxels.min(where=measured, initial=np.iinfo(voxels.dtype).max)), int(voxels.max())
    padding = measured.size - int(np.count_nonzero(measured))
    if low > FAT_HU or high < BLOOD_HU:
        beside = f", {padding} voxels of padding aside," if padding else ""
        value = f"{path}: values from {min(low, high)} to {high}{beside} are not HU (air is -1000, blood 40)"
        remedy = "export the scan again with its rescale slope and intercept"
        findings.append(Finding(case.name, "intensity", value, remedy, level))
    elif padding:
        value = f"{path}: {padding} voxels of padding, the lowest {voxels.min()} HU"
        findings.append(Finding(case.name, "padding", value, "nothing: config.window_hu cuts it off"))
    if volume.grid.header is not None and np.array_equal(np.abs(volume.grid.affine), np.eye(4)):
        value = f"{path}: identity affine, 1 x 1 x 1 mm, as LiTS's volumes 28 to 47 have it"
        remedy = (
            "restore the true spacing, such as from the Decathlon's Task03_Liver, 3DIRCADb or the DICOM series: until "
            "then mm and mL are wrong"
        )
        findings.append(Finding(case.name, "spacing", value, remedy))
    return findings


def _check_channels(case: Case, volume: Volume, config: ConfigDict) -> list[Finding]:
    findings = []
    for channel, modality in enumerate(config.data.modalities):
        least, most = volume.voxels[..., channel].min(), volume.voxels[..., channel].max()
        if least == most:
            path = case.images[channel if len(case.images) > 1 else 0]
            value = f"{path}: {modality} is {least:g} everywhere"
            findings.append(Finding(case.name, "intensity", value, "download or export the case again", UNUSABLE))
    return findings
