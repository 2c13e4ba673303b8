"""All voxel and surface scores of one structure, before any challenge's rule for empty masks."""

import numpy as np

from raunet_jax.errors import UserError
from raunet_jax.imaging.geometry import bounding_box
from raunet_jax.scores.overlap import count, overlap_scores
from raunet_jax.scores.surface import surface_scores


def structure_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float | None]:
    """`overlap_scores` and `surface_scores` of every label above 0; what is undefined is None.

    Args:
        prediction, reference: (z, y, x) of one shape.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise UserError(
            f"prediction has shape {prediction.shape} and reference {reference.shape}; both must be the same (z, y, x)"
        )
    masks = prediction > 0, reference > 0
    box = bounding_box(masks[0] | masks[1])
    slices = (slice(0, 0),) * 3 if box is None else box.slices
    masks = tuple(mask[slices] for mask in masks)
    return overlap_scores(count(*masks, prediction.size)) | surface_scores(*masks, spacing_mm)
