"""NIfTI files read as scans and label masks, each checked before a voxel of it is trusted."""

import dataclasses
import io
import logging
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np

from raunet_jax.imaging.grid import Grid, Path, Repair, Volume, VolumeError, check_affine, check_same_grid
from raunet_jax.imaging.nifti_bytes import read_bytes, read_first_bytes
from raunet_jax.imaging.nifti_header import check_length, check_place, read_header
from raunet_jax.names import common_name, stem

_SLAB = 16  # slices turned into float64 at once, so that a long CT never lies in memory as float64
_MISSING_REMEDY = (
    "replace them or convert the scan again, or have them read as the lowest value (--config.data.repair=True)"
)

nib.imageglobals.logger.setLevel(logging.CRITICAL)  # what it mends in a header, `nifti_header` says

Repairs = tuple[Repair, ...]


def read_nifti(path: Path, kind: str = "ct", channels: Sequence[int] = (), repair: bool = False) -> Volume:
    """Read a NIfTI scan.

    Args:
        path: a .nii or .nii.gz file.
        kind: "ct" gives int16 HU (rounded, clipped to int16), "mr" float32.
        channels: the volumes of a file that holds several, in the order wanted; without them it must hold one.
        repair: take NaN and infinite voxels as the lowest value, one of the volume's `repairs`, instead of raising.

    Raises:
        VolumeError: the file is not NIfTI, is damaged or ends early, holds several volumes or no voxel, has NaN or
            infinite intensities or a singular affine.
    """
    if kind not in ("ct", "mr"):
        raise ValueError(f'kind is "{kind}"; it can be "ct" or "mr"')
    image, grid = open_nifti(path, several=bool(channels))
    there = math.prod(image.shape[3:])
    if max(channels, default=0) >= there:
        raise VolumeError(
            path,
            f"holds {there} channels (shape {image.shape}) where channel {max(channels) + 1} is wanted",
            "make dataset.json and the file agree",
        )
    voxels, repairs = [], []
    for channel in channels or (0,):
        values, repaired = _read_channel(image, grid, path, kind, channel, repair)
        voxels.append(grid.to_canonical(values)[..., None])
        repairs += repaired
    joined = voxels[0] if len(voxels) == 1 else np.concatenate(voxels, axis=-1)
    return Volume(joined, grid.canonical_affine, grid, stem(path), tuple(repairs), grid.warnings)


def read_modalities(paths: Sequence[Path], kind: str = "mr", repair: bool = False) -> Volume:
    """Read single-channel files of one case as the channels of one volume, in the order given.

    Args:
        paths: a NIfTI file a channel; the volume's grid is the first one's.
        kind: as in `read_nifti`.
        repair: as in `read_nifti`; and where only the affine of a file differs from the first one's, trust the order
            of its voxels.

    Raises:
        VolumeError: as in `read_nifti`, and when the grid of a file differs from the first one's.
    """
    if not paths:
        raise ValueError("read_modalities was given no path")
    first = read_nifti(paths[0], kind, repair=repair)
    repairs, warnings = first.repairs, _named(first, paths[0])
    voxels = np.empty((*first.shape, len(paths)), first.voxels.dtype)
    voxels[..., :1] = first.voxels
    for channel, path in enumerate(paths[1:], 1):
        volume = read_nifti(path, kind, repair=repair)
        grid, moved = _matching_grid(volume.grid, path, first.grid, paths[0], repair)
        if moved:  # back to the file's order, and forth as the first file's axes lie
            as_stored = volume.grid.from_canonical(volume.voxels[..., 0])
            volume = dataclasses.replace(volume, voxels=grid.to_canonical(as_stored)[..., None])
        voxels[..., channel : channel + 1] = volume.voxels
        repairs += volume.repairs + moved
        warnings += _named(volume, path)
    return Volume(voxels, first.affine, first.grid, common_name(stem(path) for path in paths), repairs, warnings)


def _named(volume: Volume, path: Path) -> tuple[str, ...]:
    """The warnings of one of several files, each with its name."""
    return tuple(f"{pathlib.Path(path).name}: {warning}" for warning in volume.warnings)


def read_mask(path: Path, like: Volume, labels: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Read a label mask as (z, y, x) uint8 on the canonical grid of `like`; `load_mask` without any repair."""
    return load_mask(path, like, labels)[0]


def load_mask(
    path: Path, like: Volume, labels: Sequence[int] = (0, 1, 2), repair: bool = False
) -> tuple[np.ndarray, Repairs]:
    """Read a label mask, and what was repaired in it.

    A mask stored as float, or in another orientation of the same grid, is fine.

    Args:
        path: a NIfTI file.
        like: the scan that the mask is of.
        labels: the values that it may hold.
        repair: where only the affine differs from that of `like`, trust the order of the voxels.

    Returns:
        (z, y, x) uint8 on the canonical grid of `like`; the repairs, none without `repair`.

    Raises:
        VolumeError: a value is none of `labels`, the grid is not that of `like`, or the file cannot be read.
    """
    image, grid = open_nifti(path)
    grid, repairs = _matching_grid(grid, path, like.grid, like.name, repair)
    mask = np.empty(grid.shape_xyz, np.uint8, order="F")
    wrong: set[float] = set()
    for where, slab in _slabs(image, grid):
        if _has_missing(slab):
            raise VolumeError(path, _find_missing(image, grid).problem, "replace them or convert the scan again")
        # labels stored as uint8 with a slope of 2/255 come back as 0.996
        whole = np.rint(slab) if slab.dtype.kind == "f" else slab
        good = np.isin(whole, labels)
        if slab.dtype.kind == "f":
            good &= np.abs(slab - whole) < 0.01
        if good.all():
            mask[where] = whole
        else:
            wrong.update(np.unique(slab[~good])[:6].tolist())
    if wrong:
        shown = ", ".join(f"{value:g}" for value in sorted(wrong)[:6]) + (", …" if len(wrong) > 6 else "")
        raise VolumeError(
            path,
            f"holds the values {shown} where a mask of labels {tuple(labels)} is expected: is it an image, a "
            "probability map, or a mask of other labels",
            "map its labels first",
        )
    return grid.to_canonical(mask), repairs


def open_nifti(path: Path, several: bool = False) -> tuple[nib.Nifti1Image, Grid]:
    """The image, none of its voxels rescaled yet, and its grid; `several`: whether it may hold more than one volume.

    All bytes are read, so that a gzip's checksum is verified too. Raises VolumeError as `read_nifti` does.
    """
    content = read_bytes(path)
    stored = read_header(content, path)
    kind = nib.Nifti2Image if isinstance(stored, nib.Nifti2Header) else nib.Nifti1Image
    try:
        dtype = stored.get_data_dtype()
        doubts = check_length(stored, content, path)
        with np.errstate(all="ignore"):
            image = kind.from_stream(io.BytesIO(content))
        shape, offset, affine = image.shape, image.dataobj.offset, np.array(image.affine, np.float64)
    except VolumeError:
        raise
    except Exception as error:  # a header may hold anything, and nibabel trips over each kind in its own way
        problem = f"the NIfTI header is damaged ({' '.join(str(error).split()) or type(error).__name__})"
        raise VolumeError(path, problem, "convert the scan again") from error

    if not several and any(size > 1 for size in shape[3:]):
        problem = f"holds several volumes (shape {shape}) where one is expected"
        raise VolumeError(path, problem, "save each of them to its own file")
    if dtype.kind not in "iuf":
        what = f"{len(dtype.names)} numbers each ({', '.join(dtype.names)})" if dtype.names else f"of type {dtype}"
        raise VolumeError(path, f"its voxels are {what}", "save it with one number a voxel")
    if shape != tuple(stored["dim"][1 : len(shape) + 1]) or offset != stored["vox_offset"]:
        problem = f"the NIfTI header is damaged (nibabel reads shape {shape} at byte {offset})"
        raise VolumeError(path, problem, "convert the scan again")
    check_affine(affine, path)
    doubts += check_place(stored, affine, path)
    return image, Grid(tuple(int(size) for size in shape[:3]), affine, image.header, warnings=doubts)


def _matching_grid(grid: Grid, path: Path, like: Grid, like_name: Path, repair: bool) -> tuple[Grid, Repairs]:
    """`grid` if it matches `like`; with `repair`, the same voxels on the grid of `like`; else raise VolumeError."""
    try:
        check_same_grid(grid, path, like, like_name)
    except VolumeError as fault:
        if not repair or grid.shape_xyz != like.shape_xyz:
            raise
        done = f"its affine is not that of {like_name}, whose affine is taken instead"
        repaired = Repair(path, fault.problem, fault.remedy, done)
        return dataclasses.replace(grid, affine=like.affine, header=like.header), (repaired,)
    return grid, ()


def _read_channel(
    image: nib.Nifti1Image, grid: Grid, path: Path, kind: str, channel: int, repair: bool
) -> tuple[np.ndarray, Repairs]:
    """One volume of the file, of its own shape (x, y, z): int16 of kind "ct", else float32; and what was repaired."""
    values = np.empty(grid.shape_xyz, np.int16 if kind == "ct" else np.float32, order="F")
    missing = None
    for where, slab in _slabs(image, grid, channel):
        if _has_missing(slab):
            missing = missing or _find_missing(image, grid, channel)
            if not repair or not np.isfinite(missing.lowest):
                raise VolumeError(path, missing.problem, _MISSING_REMEDY)
            slab = np.where(np.isfinite(slab), slab, missing.lowest)
        if kind == "ct" and not np.can_cast(slab.dtype, np.int16):
            slab = np.clip(np.rint(slab.astype(np.float64)), -32768, 32767)
        elif kind == "mr" and np.abs(slab).max() > np.finfo(np.float32).max:
            raise VolumeError(path, f"intensity {np.abs(slab).max():.3g} does not fit float32", "rescale the image")
        values[where] = slab
    if missing is None:
        return values, ()
    return values, (Repair(path, missing.problem, _MISSING_REMEDY, missing.done),)


class _Missing(NamedTuple):
    """The NaN and infinite voxels of a volume."""

    count: int
    slices: str
    lowest: float  # of the other voxels; infinite where there are none

    @property
    def problem(self) -> str:
        return f"voxel values are NaN or infinite ({self.count} in {self.slices})"

    @property
    def done(self) -> str:
        return f"{self.count} NaN or infinite voxels in {self.slices} are taken as {self.lowest:g}"


def _find_missing(image: nib.Nifti1Image, grid: Grid, channel: int = 0) -> _Missing:
    lowest, counts = np.inf, np.zeros(grid.shape_xyz[2], int)
    for where, slab in _slabs(image, grid, channel):
        finite = np.isfinite(slab)
        lowest = float(slab.min(where=finite, initial=lowest))
        counts[where[2]] = np.count_nonzero(~finite, axis=(0, 1))
    touched = np.flatnonzero(counts)
    return _Missing(int(counts.sum()), f"slices {touched[0]}-{touched[-1]}", lowest)


def _has_missing(slab: np.ndarray) -> bool:
    return slab.dtype.kind == "f" and not np.isfinite(slab).all()


def _slabs(image: nib.Nifti1Image, grid: Grid, channel: int = 0) -> Iterator[tuple[tuple, np.ndarray]]:
    """Yield (index, values) of a few slices at a time: stored integers as they are, all else rescaled as float64."""
    stored = image.dataobj.get_unscaled().reshape((*grid.shape_xyz, -1), order="F")[..., channel]
    slope, intercept = np.float64(image.dataobj.slope), np.float64(image.dataobj.inter)
    for first in range(0, grid.shape_xyz[2], _SLAB):
        where = np.s_[:, :, first : first + _SLAB]
        slab = stored[where]
        slab = slab.astype(slab.dtype.newbyteorder("="), copy=False)
        if slab.dtype.kind == "f" or (slope, intercept) != (1, 0):
            slab = slab * slope + intercept
        yield where, slab


def open_header(path: Path) -> tuple[nib.Nifti1Header, Grid]:
    """The header and the grid that `open_nifti` gives, from the first bytes of the file alone.

    Raises:
        VolumeError: as `open_nifti` does, but for what only the other bytes tell.
    """
    content = read_first_bytes(path, nib.Nifti2Header.template_dtype.itemsize)
    stored = read_header(content, path)
    try:
        with np.errstate(all="ignore"):
            header = type(stored)(content[: stored.template_dtype.itemsize])
            shape, affine = header.get_data_shape(), np.array(header.get_best_affine(), np.float64)
        header.get_data_dtype()
    except Exception as error:  # as in `open_nifti`
        problem = f"the NIfTI header is damaged ({' '.join(str(error).split()) or type(error).__name__})"
        raise VolumeError(path, problem, "convert the scan again") from error
    check_affine(affine, path)
    shape_xyz = tuple(int(size) for size in shape[:3])
    return header, Grid(shape_xyz, affine, header, warnings=check_place(stored, affine, path))
