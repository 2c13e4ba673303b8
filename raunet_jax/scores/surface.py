"""Distances between the surfaces of two masks, in mm.

A surface voxel is one that an erosion by the 18-neighbourhood removes, with background outside the array; distances run
between voxel centres to the nearest surface voxel of the other mask, and both directions are pooled (Heimann et al.,
Comparison and evaluation of methods for liver segmentation from CT datasets, IEEE TMI 28(8), 2009).
"""

import edt
import numpy as np
from scipy import ndimage

from raunet_jax.geometry import bounding_box

NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
NAMES = ("assd", "rmsd", "msd", "hausdorff95")


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the surface voxels of a boolean (z, y, x) mask."""
    return mask & ~ndimage.binary_erosion(mask, NEIGHBOURS_18)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray | None:
    """Return the distances of every surface voxel of either mask to the other's surface: (n,) in mm, unordered.

    Args:
        prediction, reference: boolean (z, y, x).
        spacing_mm: distance of neighbouring voxel centres along (z, y, x).

    Returns:
        None when either mask is empty: then there is no distance.
    """
    box = bounding_box(prediction | reference)
    if box is None:
        return None
    prediction, reference = (np.ascontiguousarray(mask[box.slices]) for mask in (prediction, reference))
    if not (prediction.any() and reference.any()):
        return None
    ours, theirs = surface(prediction), surface(reference)
    return np.concatenate([_distance_to(theirs, spacing_mm)[ours], _distance_to(ours, spacing_mm)[theirs]])


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float | None]:
    """Mean (assd), root mean square (rmsd), maximum (msd) and 95th percentile (hausdorff95) of the surface distances.

    All None when either mask is empty.
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


def _distance_to(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    return edt.edt(~mask, anisotropy=tuple(float(step) for step in spacing_mm), black_border=False, parallel=1)
