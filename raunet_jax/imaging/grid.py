"""A scan in memory (`Volume`), the voxel grid of the file it came from (`Grid`), and the exact way between the two.

In memory all scans lie the same way: index x grows toward the patient's right, y toward the front, z toward the
head (NIfTI's RAS+, each axis being the file axis closest to it), and arrays are (z, y, x). Nothing is resampled, so
going there and back only permutes and flips axes.
"""

import dataclasses
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from raunet_jax.errors import FileError, Path

GRID_TOLERANCE_MM = 0.5  # by how much the corners of two grids may lie apart before they count as different
_FAR = 1e9  # from the scanner's center, in any unit: beyond it distances are no numbers any more
RAS = axcodes2ornt(("R", "A", "S"))
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # the low bits of NIfTI's xyzt_units: m, micron; all else means mm


class VolumeError(FileError):
    """A file cannot be used as a scan or mask."""


class Repair(NamedTuple):
    """A fault of a file that was read as it was meant all the same."""

    path: Path
    problem: str  # these three as in the VolumeError that is raised where nothing may be repaired
    remedy: str
    done: str  # what was read in its place

    def __str__(self) -> str:
        return f"{self.path}: repaired on reading: {self.done}"


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid as a file stores it."""

    shape_xyz: tuple[int, int, int]  # the file's own shape, in its own axis order
    affine: np.ndarray  # (4, 4) the file's own: (i, j, k, 1) -> scanner coordinates (RAS+) in the file's unit
    header: nib.Nifti1Header | None  # None for DICOM
    scanned: tuple[float, ...] = ()  # where slices resampled to this grid were scanned: their places on its third axis
    warnings: tuple[str, ...] = ()  # as `Volume.warnings`, of the file's header

    @property
    def mm_per_unit(self) -> float:
        return 1.0 if self.header is None else MM_PER_UNIT.get(int(self.header["xyzt_units"]) % 8, 1.0)

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the scan in memory."""
        axes = io_orientation(self.affine)[:, 0].astype(int)
        shape = [0, 0, 0]
        for file_axis, axis in enumerate(axes):
            shape[2 - axis] = self.shape_xyz[file_axis]
        return tuple(shape)

    @property
    def canonical_affine(self) -> np.ndarray:
        """(4, 4): canonical index (x, y, z, 1) -> scanner coordinates in mm, RAS+."""
        affine = self.affine @ inv_ornt_aff(io_orientation(self.affine), self.shape_xyz)
        affine[:3] *= self.mm_per_unit
        return affine

    def to_canonical(self, values: np.ndarray) -> np.ndarray:
        """Turn an array of the file's shape into a contiguous (z, y, x) one of canonical orientation."""
        return np.ascontiguousarray(apply_orientation(values, io_orientation(self.affine)).transpose(2, 1, 0))

    def from_canonical(self, values: np.ndarray) -> np.ndarray:
        """Undo `to_canonical` exactly: (z, y, x) -> the file's own shape and axis order.

        Raises:
            ValueError: the array is of another shape than the scan.
        """
        if values.shape != self.canonical_shape:
            raise ValueError(f"an array of shape {values.shape} (z, y, x) is not of a scan of {self.canonical_shape}")
        return apply_orientation(values.transpose(2, 1, 0), ornt_transform(RAS, io_orientation(self.affine)))

    def on_scanned_slices(self, values: np.ndarray) -> np.ndarray:
        """(z, y, x) -> (column, row, slice) on the `scanned` slices: of each the nearest of the grid."""
        return self.from_canonical(values)[:, :, np.rint(self.scanned).astype(int)]

    def from_scanned_slices(self, values: np.ndarray) -> np.ndarray:
        """(column, row, slice) on the `scanned` slices -> (z, y, x) labels: of each of the grid the nearest scanned."""
        if self.scanned:
            places = np.arange(self.shape_xyz[2])[:, None]
            values = values[:, :, np.abs(places - np.array(self.scanned)).argmin(axis=1)]
        return self.to_canonical(values)


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A scan in canonical orientation."""

    voxels: np.ndarray  # (z, y, x, channel) int16 HU (CT) or float32 (MR)
    affine: np.ndarray  # (4, 4): canonical index (x, y, z, 1) -> scanner coordinates in mm, RAS+
    grid: Grid  # of the file, for the way back
    name: str
    repairs: tuple[Repair, ...] = ()  # what was read otherwise than it is stored
    warnings: tuple[str, ...] = ()  # what is doubtful about its place, size or intensities; what to do about it

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x), without the channels."""
        return self.voxels.shape[:3]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighboring voxel centers along (z, y, x)."""
        return tuple(float(spacing) for spacing in nib.affines.voxel_sizes(self.affine)[::-1])


def check_affine(affine: np.ndarray, name: Path) -> None:
    """Raise VolumeError unless `affine` (4, 4) of file `name` maps voxels to three independent directions."""
    finite = np.isfinite(affine).all() and np.abs(affine).max() < _FAR
    sizes = np.linalg.norm(affine[:3, :3], axis=0) if finite else np.zeros(3)
    if sizes.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise VolumeError(
            name,
            f"its affine is singular, so the voxels have no place in space:\n{_text(affine)}",
            "repair the header's qform/sform (for example from the original DICOM series with dcm2niix)",
        )


def check_same_grid(grid: Grid, name: Path, like: Grid, like_name: Path) -> None:
    """Raise VolumeError unless both grids hold the same voxels in space; another storage order is the same grid."""
    if grid.canonical_shape != like.canonical_shape:
        raise VolumeError(
            name,
            f"its shape {grid.shape_xyz} does not match the shape {like.shape_xyz} of {like_name}: the two are not of "
            "the same scan, or one was cropped or resampled",
            "pair or resample them again",
        )
    apart = np.linalg.norm(_corners(grid) - _corners(like), axis=1).max()
    if apart <= GRID_TOLERANCE_MM:
        return
    raise VolumeError(
        name,
        f"its affine puts the voxels up to {apart:.1f} mm away from those of {like_name} (tolerance "
        f"{GRID_TOLERANCE_MM} mm){_difference(grid, like)}\naffine of {name}:\n{_text(grid.affine)}\n"
        f"affine of {like_name}:\n{_text(like.affine)}",
        "look at both in a viewer, find out which header is wrong, and give that file the other's affine, or, where "
        "voxels lie alike in both files, have them read so (--config.data.repair=True)",
    )


def _corners(grid: Grid) -> np.ndarray:
    """(8, 3) mm: the centers of the outermost voxels."""
    last_zyx = np.array(grid.canonical_shape) - 1
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * last_zyx[::-1]
    return nib.affines.apply_affine(grid.canonical_affine, corners)


def _difference(grid: Grid, like: Grid) -> str:
    ours, theirs = grid.affine[:3, :3], like.affine[:3, :3]
    if grid.shape_xyz == like.shape_xyz and np.allclose(ours, theirs, atol=1e-3):
        return f": only the origins differ, by {_text(grid.affine[:3, 3] - like.affine[:3, 3])}."
    sign = np.sign((ours * theirs).sum(axis=0))
    if grid.shape_xyz == like.shape_xyz and np.allclose(ours, theirs * sign, atol=1e-3):
        axes = ", ".join(name for name, one in zip("ijk", sign, strict=True) if one < 0)
        return f": the affines differ only in the sign of axis {axes} (an orientation mix-up: one header is flipped)."
    if np.allclose(np.sort(np.abs(ours).ravel()), np.sort(np.abs(theirs).ravel()), atol=1e-3):
        return ": the affines differ only in the order and sign of the axes (an orientation mix-up)."
    return "."


def _text(values: np.ndarray) -> str:
    return np.array2string(np.asarray(values), precision=3, suppress_small=True)
