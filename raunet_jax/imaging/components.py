"""Connected components of 3D masks."""

import cc3d
import numpy as np

from raunet_jax.imaging.geometry import bounding_box


def component_sizes(mask: np.ndarray, connectivity: int = 26) -> np.ndarray:
    """Return the voxel counts of the mask's components, largest first.

    Args:
        mask: (z, y, x), non-zero where the object is.
        connectivity: 6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros(0, np.int64)
    return np.sort(_counts(_components(mask[box.slices], connectivity))[1:])[::-1]


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
    components = _components(mask[box.slices], connectivity)
    sizes = _counts(components)
    sizes[0] = 0
    largest[box.slices] = components == sizes.argmax()
    return largest, np.sort(sizes[1:])[::-1]


def _components(mask: np.ndarray, connectivity: int) -> np.ndarray:
    return cc3d.connected_components(np.ascontiguousarray(mask != 0), connectivity=connectivity, binary_image=True)


def _counts(components: np.ndarray) -> np.ndarray:
    return cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
