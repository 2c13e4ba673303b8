"""Scores of anybody's own task: one structure, no challenge's rule."""

from collections.abc import Sequence

import numpy as np

from raunet_jax.geometry import bounding_box
from raunet_jax.scores.overlap import count, overlap_scores
from raunet_jax.scores.surface import surface_scores

NAMES = ("dice", "jaccard", "sensitivity", "specificity", "rvd", "assd", "msd", "hausdorff95")


def score_custom_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, dict]:
    """Score one case: {"foreground": {dice, jaccard, ..., hausdorff95}}.

    Both masks empty: Dice 1; one empty: Dice 0. What is undefined, as a distance to nothing is, is None.

    Args:
        prediction, reference: (z, y, x) of one shape; every label above 0 is foreground.
        spacing_mm: distance of neighbouring voxel centres along (z, y, x).
    """
    masks = prediction > 0, reference > 0
    box = bounding_box(masks[0] | masks[1])
    slices = (slice(0, 0),) * 3 if box is None else box.slices
    masks = tuple(mask[slices] for mask in masks)
    return {"foreground": overlap_scores(count(*masks, prediction.size)) | surface_scores(*masks, spacing_mm)}


def summarise_custom(cases: Sequence[dict]) -> dict:
    """Return the scores.json of `cases`, each a `score_custom_case` with its name under "case": means over cases.

    `dice_std` is the standard deviation over cases. A value that is None is left out of its mean.
    """
    means = {}
    for name in NAMES:
        values = [case["foreground"][name] for case in cases if case["foreground"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    means["dice_std"] = float(np.std([case["foreground"]["dice"] for case in cases]))
    return {"foreground": means, "cases": list(cases), "rule": "custom"}
