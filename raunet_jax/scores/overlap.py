"""Scores that follow from voxel counts alone: Dice, Jaccard, VOE, RVD, sensitivity, specificity.

What a division by zero leaves undefined is None, but for two empty masks, which agree: Dice and Jaccard 1, VOE 0.
"""

from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    """Voxels of a prediction A, of a reference B, of both at once, and of the whole volume."""

    prediction: int
    reference: int
    intersection: int
    volume: int


def count(prediction: np.ndarray, reference: np.ndarray, volume: int | None = None) -> Counts:
    """Count two boolean masks of one shape; `volume` is the voxels of the uncropped scan (default: the masks')."""
    return Counts(
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(reference)),
        int(np.count_nonzero(prediction & reference)),
        prediction.size if volume is None else volume,
    )


def dice(counts: Counts) -> float:
    """2 |A and B| / (|A| + |B|)."""
    total = counts.prediction + counts.reference
    return 2 * counts.intersection / total if total else 1.0


def jaccard(counts: Counts) -> float:
    """|A and B| / |A or B|."""
    union = counts.prediction + counts.reference - counts.intersection
    return counts.intersection / union if union else 1.0


def voe(counts: Counts) -> float:
    """Volumetric overlap error, 1 - Jaccard."""
    return 1.0 - jaccard(counts)


def rvd(counts: Counts) -> float | None:
    """Relative volume difference (|B| - |A|) / |A|, signed: positive is under-segmented.

    The LiTS program divides by the prediction, not by the reference as most papers write it.
    """
    return (counts.reference - counts.prediction) / counts.prediction if counts.prediction else None


def sensitivity(counts: Counts) -> float | None:
    """|A and B| / |B|: the share of the reference that was found."""
    return counts.intersection / counts.reference if counts.reference else None


def specificity(counts: Counts) -> float | None:
    """|neither A nor B| / |not B|: the share of the background that was left alone."""
    background = counts.volume - counts.reference
    outside_both = background - counts.prediction + counts.intersection
    return outside_both / background if background else None


def overlap_scores(counts: Counts) -> dict[str, float | None]:
    """All of this module's scores by name."""
    functions = (dice, jaccard, voe, rvd, sensitivity, specificity)
    return {function.__name__: function(counts) for function in functions}
