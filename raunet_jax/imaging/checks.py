"""The one check of a volume: whether its intensities can be what the recipe reads them as, and its shape a scan's.

Verify, prepare, predict and evaluate ask it and say the same words. `config.data.check` is what is made of a volume
that cannot be: refuse it, or warn.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from raunet_jax.errors import UserError
from raunet_jax.imaging.grid import Path, Volume, VolumeError
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.tasks import task_of

UNUSABLE, WARNING = "unusable", "warning"
CHECKS = ("refuse", "warn")  # what `config.data.check` can be
PADDING_HU = -1500  # air is -1000; scanners mark what they did not measure by -2048 or -3024
FAT_HU = -30  # everything but the brain has fat around it or air beside it
BLOOD_HU = 30
TISSUE_HU = -300  # above it fat, organs, bone; below it lung and air
SOFT_HU = (-200, 300)  # fat and organs, with contrast agent too
DENSE_HU = 600  # cortical bone, metal; soft tissue of values that are 1024 too high
LEAST_TISSUE = 0.01  # of what was measured: less is no patient
MOST_DENSE = 0.25  # of the tissue: a tight crop of a head has 0.1
MOST_DENSE_AIRLESS = 0.1
LEAST_SOFT = 0.4  # of the tissue
MOST_PADDING_VALUES = 3  # a scanner's mark, and another program's
CLIPPED = 0.02  # of the voxels at the very lowest value, which is no air: they were clipped there
FEW = 0.0005  # of the voxels: noise, and what resampling made
JUMP_HU = 300  # between neighboring slices
GAIN = 1.6
ALIKE = 0.7  # correlation of neighboring slices of one scan, whatever was done to their values
SAMPLES = 64  # pixels a side that a slice is compared by
ANISOTROPY = 10  # the longest side of a voxel over its shortest: LiTS has 0.6 x 0.6 x 5 mm
TINY = 8  # voxels: a scan of fewer along an axis is a localizer, a thumbnail or a crop
_RESCALE = "export the scan again with its rescale slope and intercept"


class Doubt(NamedTuple):
    """What is wrong with a volume."""

    check: str  # the name of the question: "intensity", "anisotropy", "tiny"
    problem: str
    remedy: str
    level: str = WARNING  # UNUSABLE: nothing that is made of it can be trusted
    channel: int = 0


def admit(volume: Volume, images: Sequence[Path], config: ConfigDict) -> Volume:
    """`volume`, its repairs and doubts among its warnings.

    Args:
        images: what it was read from, one for all channels or one a channel.
        config: as `find_doubts` takes it.

    Raises:
        VolumeError: it is unusable, and `config.data.check` does not say to go on.
    """
    doubts = find_doubts(volume, config)
    for doubt in doubts:
        if doubt.level == UNUSABLE:
            raise VolumeError(file_of(doubt, images), doubt.problem, doubt.remedy)
    said = [f"repaired on reading: {repair.done}" for repair in volume.repairs]
    said += [f"{doubt.problem}; {doubt.remedy}" for doubt in doubts]
    return dataclasses.replace(volume, warnings=(*volume.warnings, *said))


def file_of(doubt: Doubt, images: Sequence[Path]) -> Path:
    """The one of a volume's files that is doubted."""
    return images[doubt.channel if len(images) > 1 else 0]


def find_doubts(volume: Volume, config: ConfigDict) -> list[Doubt]:
    """What in a scan that can be read cannot be true.

    Of `config`, a stage's recipe, `stage`, `data.modalities` and `data.check` are read. A custom task may be of
    anything, and of crops without air or fat: its intensities are warned of.

    Raises:
        UserError: a `config.data.check` that there is none of.
    """
    if config.data.check not in CHECKS:
        raise UserError(f"config.data.check is {config.data.check!r}; choose {' or '.join(CHECKS)}")
    planned = task_of(config.stage).planned
    if kind_of(config.data.modalities) == "ct":
        found = _check_hu(volume)
        found = [doubt._replace(level=WARNING) for doubt in found] if planned else found
    else:
        found = _check_channels(volume, tuple(config.data.modalities))
    if config.data.check == "warn":
        found = [doubt._replace(level=WARNING) for doubt in found]
    else:
        found = [
            doubt._replace(
                remedy=f"{doubt.remedy}, or, if you know better, go on all the same (--config.data.check=warn)"
            )
            if doubt.level == UNUSABLE
            else doubt
            for doubt in found
        ]
    return found + _check_shape(volume)


def count_padding(voxels: np.ndarray) -> int:
    """How many voxels of a CT lie where no HU does."""
    return sum(int(np.count_nonzero(plane < PADDING_HU)) for plane in voxels)


def _check_shape(volume: Volume) -> list[Doubt]:
    spacing, doubts = volume.spacing_mm[::-1], []
    shape, mm = (" x ".join(f"{side:.3g}" for side in sides) for sides in (volume.shape[::-1], spacing))
    if max(spacing) > ANISOTROPY * min(spacing):
        problem = f"voxels of {mm} mm (x, y, z), {max(spacing) / min(spacing):.0f} times as long as they are wide"
        remedy = "compare with the slice spacing of the scanner; where it is false, mm and mL are wrong until corrected"
        doubts.append(Doubt("anisotropy", problem, remedy))
    if min(volume.shape) < TINY:
        problem = f"{shape} voxels (x, y, z), fewer than {TINY} along an axis"
        doubts.append(Doubt("tiny", problem, "move it away if it is a localizer, a thumbnail or a crop"))
    return doubts


def _check_channels(volume: Volume, modalities: tuple[str, ...]) -> list[Doubt]:
    """Channels of one value, which tell nothing, and of the same voxels, which may be one file given for two."""
    doubts = []
    channels = [volume.voxels[..., channel] for channel in range(volume.voxels.shape[-1])]
    extremes = [(channel.min(), channel.max()) for channel in channels]
    for number, (least, most) in enumerate(extremes):
        if least == most:
            problem = f"{modalities[number]} is {least:g} everywhere"
            doubts.append(Doubt("intensity", problem, "download or export the case again", UNUSABLE, number))
    for second, modality in enumerate(modalities):
        for first in range(second):
            least, most = extremes[second]
            if extremes[first] == (least, most) and least < most and np.array_equal(channels[first], channels[second]):
                problem = f"{modalities[first]} and {modality} are the same image, voxel by voxel"
                remedy = "give each modality its own, unless this is meant"
                doubts.append(Doubt("intensity", problem, remedy, channel=second))
                break
    return doubts


def _check_hu(volume: Volume) -> list[Doubt]:
    """Intensities of a CT that cannot be HU, by how often each occurs; and such that were cut off."""
    voxels = volume.voxels[..., 0]
    counts = _histogram(voxels)
    measured = counts[PADDING_HU + 32768 :]
    values = np.flatnonzero(counts) - 32768
    low, high = int(values[0]), int(values[-1])
    if low == high:
        return [Doubt("intensity", f"is {low} everywhere", "export or download the scan again", UNUSABLE)]
    jump = _find_jump(voxels)
    if jump:
        return [Doubt("intensity", jump, f"{_RESCALE}, the same for all slices", UNUSABLE)]
    reason = _not_hu(counts)
    if reason is None:
        return _check_clipping(measured)
    padding = int(counts.sum() - measured.sum())
    beside = f", {padding} voxels of padding aside," if padding else ""
    if padding and measured.any():
        low = int(np.flatnonzero(measured)[0]) + PADDING_HU
    problem = f"values from {low} to {high}{beside} are not HU (air is -1000, blood 40){reason}"
    return [Doubt("intensity", problem, _RESCALE, UNUSABLE)]


def _histogram(voxels: np.ndarray) -> np.ndarray:
    """How often each int16 occurs, the lowest first."""
    counts = np.zeros(65536, np.int64)
    for plane in voxels:
        counts += np.bincount(np.ascontiguousarray(plane).view(np.uint16).ravel(), minlength=65536)
    return np.roll(counts, 32768)


def _not_hu(counts: np.ndarray) -> str | None:
    """Why values that occur so often cannot be HU, "" where that is plain to see; None where they may be."""
    start = PADDING_HU + 32768
    measured, padding = counts[start:], counts[:start]
    total = measured.sum()
    if padding.sum() - np.sort(padding)[-MOST_PADDING_VALUES:].sum() > CLIPPED * counts.sum():
        return f": many lie below {PADDING_HU}, and are no padding, as they differ"
    if not total:
        return ""
    below = np.cumsum(measured) / total
    low, high = (int(np.searchsorted(below, share)) + PADDING_HU for share in (FEW, 1 - FEW))
    if low > FAT_HU or high < BLOOD_HU:
        return ""

    def between(first: int, last: int = 32768) -> int:
        return int(measured[first - PADDING_HU : last - PADDING_HU].sum())

    tissue = between(TISSUE_HU)
    if tissue < LEAST_TISSUE * total:
        return f": {tissue / total:.1%} are as dense as a body or denser"
    dense, airless = between(DENSE_HU) / tissue, total - tissue < FEW * total
    if dense > (MOST_DENSE_AIRLESS if airless else MOST_DENSE):
        return f": {dense:.0%} of all that is no air would be as dense as bone"
    soft = between(*SOFT_HU) / tissue
    if soft < LEAST_SOFT:
        return f": {soft:.0%} of all that is no air would be fat, an organ or blood"
    return None


def _check_clipping(measured: np.ndarray) -> list[Doubt]:
    """Whether many voxels share the lowest value, and it is no air: a window was cut out of the scan."""
    low, high = (int(end) + PADDING_HU for end in np.flatnonzero(measured)[[0, -1]])
    if low < TISSUE_HU or measured[low - PADDING_HU] < CLIPPED * measured.sum():
        return []
    problem = f"its intensities were cut off: none lies below {low}, where many lie, or above {high}"
    return [
        Doubt("intensity", problem, "see that they are HU still, and that the recipe's config.window_hu lies within")
    ]


def _find_jump(voxels: np.ndarray) -> str:
    """The first slice whose values are shifted or scaled against those of the slice below; "" if there is none.

    Neighboring slices show nearly the same, so that most of their pixels differ little; where nearly all differ by
    much, and yet the slices look alike, another rescale was applied to them.
    """
    strides = tuple(max(1, size // SAMPLES) for size in voxels.shape[1:])
    below = None
    for number, plane in enumerate(voxels[:, :: strides[0], :: strides[1]]):
        plane = plane.astype(np.float32)
        if below is not None:
            seen = (plane > PADDING_HU) & (below > PADDING_HU)
            jump = _jump(below[seen], plane[seen])
            if jump:
                place = f"slice {number + 1} of {len(voxels)}, counted from the feet,"
                return f"{place} is {jump} the one below it, though they look alike"
        below = plane
    return ""


def _jump(below: np.ndarray, above: np.ndarray) -> str:
    if below.size < SAMPLES or min(below.std(), above.std()) < 1:
        return ""
    alike = np.corrcoef(below, above)[0, 1]
    if alike < ALIKE:
        return ""
    quartiles = np.quantile(above - below, (0.25, 0.5, 0.75))
    if np.abs(quartiles).min() > JUMP_HU and abs(np.sign(quartiles).sum()) == 3:
        return f"shifted by {quartiles[1]:+.0f} against"
    gain = above.std() / below.std()
    if alike > 0.9 and not 1 / GAIN < gain < GAIN:
        return f"scaled by {gain:.2g} against"
    return ""
