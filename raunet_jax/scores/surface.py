"""Distances between the surfaces of two masks, in mm.

A surface voxel is one that an erosion by the 18-neighborhood removes, with background outside the array; distances run
between voxel centers to the nearest surface voxel of the other mask, and both directions are pooled (Heimann et al.,
Comparison and evaluation of methods for liver segmentation from CT datasets, IEEE TMI 28(8), 2009).
"""

import math

import edt
import numpy as np

from raunet_jax.imaging.geometry import bounding_box

NAMES = ("assd", "rmsd", "msd", "hausdorff95")
_SLICES = 16  # z slices whose surface is sought at once: they stay in the processor's cache
# Which of two exact ways to the distances is quicker, as measured; see `_distances`.
_VOXELS_PER_POINT = 32  # transformed in the time that the search for a near point takes
_NEAR_VOXELS = 10
_PAIRS_PER_VOXEL = 16  # pairs of far points, which a search may all have to look at, for a voxel to transform


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the surface voxels of a boolean (z, y, x) mask."""
    found = np.zeros(mask.shape, bool)
    for first in range(0, mask.shape[0], _SLICES):
        before = max(0, first - 1)
        slab = mask[before : first + _SLICES + 1]
        box = bounding_box(slab)
        if box is not None:
            edge = np.zeros(slab.shape, bool)
            part = slab[box.slices]
            edge[box.slices] = part & ~_eroded(part)
            # The slices before and after only tell what their neighbors border on.
            found[first : first + _SLICES] = edge[first - before :][:_SLICES]
    return found


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray | None:
    """Return the distances of every surface voxel of either mask to the other's surface: (n,) in mm, unordered.

    Args:
        prediction, reference: boolean (z, y, x).
        spacing_mm: distance of neighboring voxel centers along (z, y, x).

    Returns:
        None when either mask is empty: then there is no distance.
    """
    box = bounding_box(prediction | reference)
    if box is None:
        return None
    ours, theirs = surface(prediction[box.slices]), surface(reference[box.slices])
    if not (ours.any() and theirs.any()):
        return None
    return np.concatenate([_distances(ours, theirs, spacing_mm), _distances(theirs, ours, spacing_mm)])


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float | None]:
    """Mean (assd), root mean square (rmsd), maximum (msd) and 95th percentile (hausdorff95) of the surface distances.

    In mm; all None when either mask is empty. Arguments as of `surface_distances`.
    """
    distances = surface_distances(prediction, reference, spacing_mm)
    if distances is None:
        return dict.fromkeys(NAMES)
    distances = distances.astype(np.float64)
    values = (
        distances.mean(),
        np.sqrt(np.square(distances).mean()),
        distances.max(),
        np.percentile(distances, 95),
    )
    return {name: float(value) for name, value in zip(NAMES, values, strict=True)}


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Erode by the 18-neighborhood, which is the three 3 x 3 squares across the axes."""
    along_x, along_y = _eroded_along(mask, 2), _eroded_along(mask, 1)
    return _eroded_along(along_x, 1) & _eroded_along(along_x, 0) & _eroded_along(along_y, 0)


def _eroded_along(mask: np.ndarray, axis: int) -> np.ndarray:
    out = np.zeros_like(mask)
    moved, inner = np.moveaxis(mask, axis, 0), np.moveaxis(out, axis, 0)[1:-1]
    np.logical_and(moved[:-2], moved[1:-1], out=inner)
    np.logical_and(inner, moved[2:], out=inner)
    return out


def _distances(start: np.ndarray, goal: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the distance of every voxel of `start` to the nearest voxel of `goal`: (n,) in mm, in raster order.

    The search among points and the distance transform are both exact. The search does not mind how large the box is,
    as a few stray voxels make it, but is slow where there are many points or they are far; the transform minds neither.
    """
    if (np.count_nonzero(start) + np.count_nonzero(goal)) * _VOXELS_PER_POINT < start.size:
        found = _searched(start, goal, spacing_mm)
        if found is not None:
            return found
    anisotropy = tuple(float(step) for step in spacing_mm)
    return edt.edt(~goal, anisotropy=anisotropy, black_border=False, parallel=1)[start]


def _searched(start: np.ndarray, goal: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray | None:
    """Return the distances, or None where so many are long that a search for them would take too long."""
    from scipy import spatial  # slow to import

    tree = spatial.KDTree(_points(goal, spacing_mm), leafsize=32, balanced_tree=False)
    points = _points(start, spacing_mm)
    distances, _ = tree.query(points, distance_upper_bound=_NEAR_VOXELS * math.prod(spacing_mm) ** (1 / 3))
    far = np.isinf(distances)
    if np.count_nonzero(far) * tree.n > _PAIRS_PER_VOXEL * goal.size:
        return None
    distances[far], _ = tree.query(points[far])
    return distances


def _points(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1) * np.asarray(spacing_mm, np.float64)
