"""Masks, maps and scans written as NIfTI; results on the grid of the file that they belong to."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from raunet_jax.files import replacing
from raunet_jax.imaging.grid import RAS, Grid, Path, Volume, VolumeError
from raunet_jax.imaging.nifti_reader import open_header

_PREDICTED = b"segmented by raunet_jax"  # tells our masks and maps from a user's own files
_GEOMETRY = (
    "pixdim xyzt_units qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z "
    "srow_x srow_y srow_z"
).split()


def write_mask(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Write `mask` (z, y, x), whole numbers 0-255, as uint8 on the grid of the file that `like` came from.

    Raises:
        VolumeError: other values, another shape than that of `like`, or a name that does not end in .nii or .nii.gz.
    """
    if mask.dtype.kind not in "bui" or (mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= 255):
        raise VolumeError(path, f"a mask of dtype {mask.dtype} was to be written", "it must hold whole numbers 0-255")
    _write_like(path, mask.astype(np.uint8, copy=False), like.grid, _PREDICTED)


def write_scanned_mask(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Write `mask` (z, y, x) on the slices that were scanned, where `like` was resampled from uneven ones.

    The file's axes are (column, row, slice), a slice a scanned one, in the order of their positions. NIfTI cannot hold
    uneven places, so it has no affine (form codes 0); the third voxel size is the mean step.
    """
    grid = like.grid
    image = nib.Nifti1Image(grid.on_scanned_slices(mask.astype(np.uint8, copy=False)), None)
    columns, rows, step = nib.affines.voxel_sizes(grid.affine)
    image.header.set_zooms((columns, rows, step * (grid.shape_xyz[2] - 1) / (len(grid.scanned) - 1)))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _PREDICTED
    with replacing(path) as temporary:
        nib.save(image, temporary)


def is_prediction(path: Path) -> bool:
    """Whether this program wrote the file, a scan's mask or map; False for anything else, also what cannot be read."""
    try:
        return open_header(path)[0]["descrip"].tobytes().startswith(_PREDICTED)
    except VolumeError:
        return False


def write_map(path: Path, values: np.ndarray, like: Volume) -> None:
    """Write `values` (z, y, x), such as probabilities, as float32 on the grid of the file that `like` came from.

    Raises:
        VolumeError: another shape than that of `like`, or a name that does not end in .nii or .nii.gz.
    """
    _write_like(path, np.asarray(values, np.float32), like.grid, _PREDICTED)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, orientation: Sequence[str] = "RAS") -> None:
    """Write canonical `voxels` (z, y, x) with `affine` (4, 4) (x, y, z, 1) -> mm, RAS+; dtype as it is.

    `orientation` names the directions in which the file's axes grow, such as "LPS"; the scan stays where it is.
    """
    voxels_xyz = voxels.transpose(2, 1, 0)
    turn = ornt_transform(RAS, axcodes2ornt(tuple(orientation)))
    stored = apply_orientation(voxels_xyz, turn)
    _save(path, stored, Grid(stored.shape, affine @ inv_ornt_aff(turn, voxels_xyz.shape), None))


def _write_like(path: Path, values: np.ndarray, grid: Grid, description: bytes) -> None:
    if values.shape != grid.canonical_shape:
        raise VolumeError(
            path,
            f"an array of shape {values.shape} (z, y, x) is not of a scan of shape {grid.canonical_shape}",
            "write results with the volume that they were computed from",
        )
    _save(path, grid.from_canonical(values), grid, description)


def _save(path: Path, stored: np.ndarray, grid: Grid, description: bytes = b"") -> None:
    """Write `stored`, which is of the file's own shape, on `grid`."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise VolumeError(path, "not the name of a NIfTI file", "it must end in .nii or .nii.gz")
    if grid.header is None:
        image = nib.Nifti1Image(stored, grid.affine)
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
        header.set_data_dtype(stored.dtype)
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = image_class(stored, grid.affine, header)
    image.header["descrip"] = description
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _is_orthogonal(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)
