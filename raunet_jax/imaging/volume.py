"""Scans and masks in (NIfTI, DICOM series) and masks and maps out (NIfTI, on the grid of the file they belong to)."""

import dataclasses
import gzip
import io
import logging
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from raunet_jax.files import replacing
from raunet_jax.imaging.dicom import is_dicom_folder, read_dicom_series
from raunet_jax.imaging.grid import RAS, Grid, Volume, VolumeError, check_affine, check_same_grid
from raunet_jax.names import common_name, stem

log = logging.getLogger("raunet_jax")

__all__ = [
    "Grid",
    "Volume",
    "VolumeError",
    "check_same_grid",
    "is_dicom_folder",
    "read_dicom_series",
    "read_mask",
    "read_modalities",
    "read_nifti",
    "read_scan",
    "write_map",
    "write_mask",
    "write_nifti",
]

Path = str | os.PathLike
_SLAB = 16  # slices turned into float64 at once, so that a long CT never lies in memory as float64
_PREDICTED = b"segmented by raunet_jax"  # tells our masks from a user's own
_GEOMETRY = (
    "pixdim xyzt_units qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z "
    "srow_x srow_y srow_z"
).split()


def read_scan(images: Sequence[Path], kind: str, channels: Sequence[int] = (), repair: bool = False) -> Volume:
    """Read the files of one scan, whatever they are: NIfTI, a file a modality, one file of several, a DICOM series.

    Args:
      images: one path (a NIfTI file, or the folder of a DICOM series), or a NIfTI file a modality.
      kind: "ct" gives int16 HU, "mr" float32.
      channels: which of the volumes that a single file holds become the channels.
      repair: take NaN and infinite voxels as the lowest value, and say so, instead of raising.

    Raises VolumeError as the reader of that kind of file does.
    """
    (first, *others) = images
    if others:
        return read_modalities(images, kind, repair)
    if pathlib.Path(first).is_dir():
        return read_dicom_series(first)
    return read_nifti(first, kind, channels, repair)


def read_nifti(path: Path, kind: str = "ct", channels: Sequence[int] = (), repair: bool = False) -> Volume:
    """Read a NIfTI scan: kind "ct" as int16 HU (rounded, clipped to int16), kind "mr" as float32.

    `channels` are the volumes of a file that holds several, in the order wanted; without them it must hold one.
    `repair` as in `read_scan`. Raises VolumeError when the file is not NIfTI, is damaged or ends early, holds several
    volumes or no voxel, has NaN or infinite intensities or a singular affine.
    """
    if kind not in ("ct", "mr"):
        raise ValueError(f'kind is "{kind}"; it can be "ct" or "mr"')
    image, grid = _open(path, several=bool(channels))
    there = math.prod(image.shape[3:])
    if max(channels, default=0) >= there:
        raise VolumeError(
            f"{path}: holds {there} channels (shape {image.shape}) where channel {max(channels) + 1} is wanted; "
            "dataset.json and the file must agree."
        )
    voxels = []
    for channel in channels or (0,):
        values = np.empty(grid.shape_xyz, np.int16 if kind == "ct" else np.float32, order="F")
        for where, slab in _slabs(image, grid, path, channel, repair):
            if kind == "ct" and not np.can_cast(slab.dtype, np.int16):
                slab = np.clip(np.rint(slab.astype(np.float64)), -32768, 32767)
            elif kind == "mr" and np.abs(slab).max() > np.finfo(np.float32).max:
                raise VolumeError(
                    f"{path}: intensity {np.abs(slab).max():.3g} does not fit float32; rescale the image."
                )
            values[where] = slab
        voxels.append(grid.to_canonical(values)[..., None])
    joined = voxels[0] if len(voxels) == 1 else np.concatenate(voxels, axis=-1)
    return Volume(joined, grid.canonical_affine, grid, stem(path))


def read_modalities(paths: Sequence[Path], kind: str = "mr", repair: bool = False) -> Volume:
    """Read single-channel files of one case as the channels of one volume, in the order given.

    The volume's grid is the first file's; raises VolumeError when another file's grid differs from it (with `repair`,
    when its shape does).
    """
    if not paths:
        raise ValueError("read_modalities was given no path")
    first = read_nifti(paths[0], kind, repair=repair)
    voxels = np.empty((*first.shape, len(paths)), first.voxels.dtype)
    voxels[..., :1] = first.voxels
    for channel, path in enumerate(paths[1:], 1):
        volume = read_nifti(path, kind, repair=repair)
        grid = _on_grid_of(volume.grid, path, first.grid, paths[0], repair)
        if grid is not volume.grid:  # back to the file's order, and forth as the first file's axes lie
            volume = dataclasses.replace(
                volume, voxels=grid.to_canonical(volume.grid.from_canonical(volume.voxels[..., 0]))[..., None]
            )
        voxels[..., channel : channel + 1] = volume.voxels
    return Volume(voxels, first.affine, first.grid, common_name(stem(path) for path in paths))


def read_mask(path: Path, like: Volume, labels: Sequence[int] = (0, 1, 2), repair: bool = False) -> np.ndarray:
    """Read a label mask as (z, y, x) uint8 on the canonical grid of `like`.

    A mask stored as float, or in another orientation of the same grid, is fine. Raises VolumeError when a value is
    none of `labels` or when the grid is not that of `like`; `repair` trusts the order of the voxels instead where only
    the affine differs, and says so.
    """
    image, grid = _open(path)
    grid = _on_grid_of(grid, path, like.grid, like.name, repair)
    mask = np.empty(grid.shape_xyz, np.uint8, order="F")
    wrong: set[float] = set()
    for where, slab in _slabs(image, grid, path):
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
            f"{path}: holds the values {shown} where a mask of labels {tuple(labels)} is expected: "
            "is it an image, a probability map, or a mask of other labels; map its labels first."
        )
    return grid.to_canonical(mask)


def _on_grid_of(grid: Grid, path: Path, like: Grid, like_name, repair: bool) -> Grid:
    """`grid` if it is that of `like`; if it is not and may be repaired, one of the same voxels that is."""
    try:
        check_same_grid(grid, path, like, like_name)
    except VolumeError:
        if not repair or grid.shape_xyz != like.shape_xyz:
            raise
        log.warning(
            f"{path}: repaired on reading: its affine is not that of {like_name}, whose affine is taken instead"
        )
        return dataclasses.replace(grid, affine=like.affine, header=like.header)
    return grid


def write_mask(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Write `mask` (z, y, x), whole numbers 0-255, as uint8 NIfTI on the grid of the file that `like` came from."""
    if mask.dtype.kind not in "bui" or (mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= 255):
        raise VolumeError(f"{path}: a mask of dtype {mask.dtype} was to be written; it must hold whole numbers 0-255")
    _write_like(path, mask.astype(np.uint8, copy=False), like.grid, description=_PREDICTED)


def is_prediction(path: Path) -> bool:
    """Whether `write_mask` made this file; False for anything else, also what cannot be read."""
    try:
        return _open(path)[0].header["descrip"].tobytes().startswith(_PREDICTED)
    except VolumeError:
        return False


def write_map(path: Path, values: np.ndarray, like: Volume) -> None:
    """Write `values` (z, y, x), such as probabilities, as float32 NIfTI on the grid of the file `like` came from."""
    _write_like(path, np.asarray(values, np.float32), like.grid)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, orientation: Sequence[str] = "RAS") -> None:
    """Write canonical `voxels` (z, y, x) with `affine` (4, 4) (x, y, z, 1) -> mm, RAS+; dtype as it is.

    `orientation` names the directions in which the file's axes grow, such as "LPS"; the scan stays where it is.
    """
    voxels_xyz = voxels.transpose(2, 1, 0)
    turn = ornt_transform(RAS, axcodes2ornt(tuple(orientation)))
    stored = apply_orientation(voxels_xyz, turn)
    _write_like(path, stored, Grid(stored.shape, affine @ inv_ornt_aff(turn, voxels_xyz.shape), None), as_stored=True)


def _open(path: Path, several: bool = False) -> tuple[nib.Nifti1Image, Grid]:
    """Read all bytes of the file, so that a gzip's checksum is verified too, and parse the header."""
    try:
        content = pathlib.Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except EOFError:
        raise VolumeError(f"{path}: the gzip ends early; copy or download the file again.") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(f"{path}: the gzip is damaged ({error}); copy or download the file again.") from None
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be read ({error.strerror}); copy it there, and see that you may read it."
        ) from error

    if content[344:348] == b"n+1\0":
        kind = nib.Nifti1Image
    elif content[4:8] == b"n+2\0":
        kind = nib.Nifti2Image
    else:
        raise VolumeError(
            f"{path}: not a NIfTI file (it begins with {content[:8]!r}, {len(content)} bytes); "
            "convert the scan to .nii or .nii.gz, or give the folder of its DICOM series."
        )
    try:
        image = kind.from_stream(io.BytesIO(content))
        shape, offset = image.shape, image.dataobj.offset
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError, OSError) as error:
        raise VolumeError(f"{path}: the NIfTI header is damaged ({error}); convert the scan again.") from error

    if len(shape) < 3 or min(shape) <= 0:
        raise VolumeError(f"{path}: its shape is {shape}, so it holds no 3D scan; convert the scan again.")
    if not several and any(size > 1 for size in shape[3:]):
        raise VolumeError(
            f"{path}: holds several volumes (shape {shape}) where one is expected; save each of them to its own file."
        )
    if image.get_data_dtype().kind not in "iuf":
        raise VolumeError(f"{path}: its voxels are of type {image.get_data_dtype()}; save it with one number a voxel.")
    expected = offset + int(np.prod(shape, dtype=object)) * image.get_data_dtype().itemsize
    if len(content) < expected:
        raise VolumeError(
            f"{path}: ends early: {len(content)} of the {expected} bytes of a {shape} image are there; "
            "copy or download the file again."
        )
    check_affine(image.affine, path)
    return image, Grid(tuple(int(size) for size in shape[:3]), image.affine, image.header)


def _slabs(
    image: nib.Nifti1Image, grid: Grid, path: Path, channel: int = 0, repair: bool | None = None
) -> Iterator[tuple[tuple, np.ndarray]]:
    """Yield (index, values) of a few slices at a time: stored integers as they are, all else rescaled as float64.

    `repair` None: what is no number has no lowest value to be taken for it.
    """
    stored = image.dataobj.get_unscaled().reshape((*grid.shape_xyz, -1), order="F")[..., channel]
    slope, intercept = np.float64(image.dataobj.slope), np.float64(image.dataobj.inter)
    lowest = None
    for first in range(0, grid.shape_xyz[2], _SLAB):
        where = np.s_[:, :, first : first + _SLAB]
        slab = stored[where]
        slab = slab.astype(slab.dtype.newbyteorder("="), copy=False)
        if slab.dtype.kind == "f" or (slope, intercept) != (1, 0):
            slab = slab * slope + intercept
            finite = np.isfinite(slab)
            if not finite.all():
                if lowest is None:
                    lowest = _lowest_for_missing(stored, slope, intercept, path, repair)
                slab = np.where(finite, slab, lowest)
        yield where, slab


def _lowest_for_missing(stored: np.ndarray, slope: float, intercept: float, path: Path, repair: bool | None) -> float:
    """The lowest value of a volume in which some are NaN or infinite, and say so; VolumeError unless `repair`."""
    lowest, missing = np.inf, {}
    for index in range(stored.shape[2]):
        values = stored[..., index] * slope + intercept
        finite = np.isfinite(values)
        lowest = float(values.min(where=finite, initial=lowest))
        if not finite.all():
            missing[index] = finite.size - int(finite.sum())
    count, slices = sum(missing.values()), f"slices {min(missing)}-{max(missing)}"
    if not repair or not np.isfinite(lowest):
        otherwise = "." if repair is None else ", or have them read as the lowest value (--config.data.repair=True)."
        raise VolumeError(
            f"{path}: voxel values are NaN or infinite ({count} in {slices}); replace them or convert the scan "
            f"again{otherwise}"
        )
    log.warning(f"{path}: repaired on reading: {count} NaN or infinite voxels in {slices} are taken as {lowest:g}")
    return lowest


def _write_like(path: Path, values: np.ndarray, grid: Grid, as_stored: bool = False, description: bytes = b"") -> None:
    if not str(path).endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: the name of a NIfTI file must end in .nii or .nii.gz")
    if not as_stored:
        values = grid.from_canonical(values)
    if grid.header is None:
        image = nib.Nifti1Image(values, grid.affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(grid.affine, code="scanner")
        # a quaternion cannot hold the shear of a tilted gantry
        if _is_orthogonal(grid.affine):
            image.set_qform(grid.affine, code="scanner")
    else:
        # only the geometry is taken over: descriptions and extensions of the input can hold a patient's name
        header = type(grid.header)()
        for field in _GEOMETRY:
            header[field] = grid.header[field]
        header.set_data_dtype(values.dtype)
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = image_class(values, grid.affine, header)
    image.header["descrip"] = description
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _is_orthogonal(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)
