"""Connected components of 3D masks."""

from collections.abc import Iterator
from typing import NamedTuple

import cc3d
import numpy as np

from raunet_jax.imaging.geometry import bounding_box


class Component(NamedTuple):
    """One connected component of a mask (z, y, x)."""

    slices: tuple[slice, slice, slice]  # of the smallest box around it, in the whole mask
    mask: np.ndarray  # (z, y, x) bool of that box
    voxels: int
    centroid: np.ndarray  # (3,) float64: mean index (z, y, x) of its voxels


def components(mask: np.ndarray, connectivity: int = 26) -> Iterator[Component]:
    """Yield the components of `mask` (z, y, x), non-zero where the object is: the largest first, of equal ones the
    first in the order of `label_components`.

    Args:
        connectivity: 6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).
    """
    box = bounding_box(mask)
    if box is None:
        return
    numbers, total = label_components(mask[box.slices], connectivity)
    measured = cc3d.statistics(numbers)
    voxels = measured["voxel_counts"].astype(np.int64)
    for number in sorted(range(1, total + 1), key=lambda number: -voxels[number]):
        crop = measured["bounding_boxes"][number]
        slices = tuple(slice(part.start + at, part.stop + at) for part, at in zip(crop, box.start, strict=True))
        centroid = measured["centroids"][number] + box.start
        yield Component(slices, numbers[crop] == number, int(voxels[number]), centroid)


def label_components(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Number the components of `mask` (z, y, x), non-zero where the object is, from 1.

    Returns:
        (z, y, x) unsigned, 0 outside of the object; and how many components there are.
    """
    # With an empty slice behind: cc3d reserves too few numbers for some masks of a single row, such as 1 0 1.
    foreground = np.zeros((len(mask) + 1, *mask.shape[1:]), bool)
    foreground[:-1] = mask
    numbers, total = cc3d.connected_components(foreground, connectivity=connectivity, binary_image=True, return_N=True)
    return numbers[:-1], total


def component_sizes(mask: np.ndarray, connectivity: int = 26) -> np.ndarray:
    """Return the voxel counts of the components of `mask` (z, y, x), largest first."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros(0, np.int64)
    numbers, _ = label_components(mask[box.slices], connectivity)
    return np.sort(_count(numbers)[1:])[::-1]


def largest_component(mask: np.ndarray, connectivity: int = 26) -> np.ndarray:
    """Return the mask of its largest component alone: (z, y, x) uint8, all zero for an empty mask.

    Of two components of the same size the one met first wins, so that the answer never depends on chance.
    """
    return largest_and_sizes(mask, connectivity)[0]


def largest_and_sizes(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, np.ndarray]:
    """Return what `largest_component` and `component_sizes` do, the components being looked for once."""
    largest = np.zeros(mask.shape, np.uint8)
    box = bounding_box(mask)
    if box is None:
        return largest, np.zeros(0, np.int64)
    numbers, _ = label_components(mask[box.slices], connectivity)
    sizes = _count(numbers)
    sizes[0] = 0
    largest[box.slices] = numbers == sizes.argmax()
    return largest, np.sort(sizes[1:])[::-1]


def _count(numbers: np.ndarray) -> np.ndarray:
    return cc3d.statistics(numbers, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
