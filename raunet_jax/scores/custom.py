"""Scores of anybody's own task: one structure, no challenge's rule."""

from collections.abc import Sequence

import numpy as np

from raunet_jax.scores.structure import structure_scores

NAMES = ("dice", "jaccard", "sensitivity", "specificity", "rvd", "assd", "msd", "hausdorff95")


def score_custom_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, dict]:
    """Score one case: {"foreground": {dice, jaccard, ..., hausdorff95}}.

    Both masks empty: Dice 1; one empty: Dice 0. What is undefined, as a distance to nothing is, is None.

    Args:
        prediction, reference: (z, y, x) of one shape; every label above 0 is foreground.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).

    Raises:
        ValueError: the shapes differ.
    """
    return {"foreground": structure_scores(prediction, reference, spacing_mm)}


def summarize_custom(cases: Sequence[dict]) -> dict:
    """Return the scores.json of `cases`, each a `score_custom_case` with its name under "case": means over cases.

    `dice_std` is the standard deviation over cases. A value that is None is left out of its mean.
    """
    means = {}
    for name in NAMES:
        values = [case["foreground"][name] for case in cases if case["foreground"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    means["dice_std"] = float(np.std([case["foreground"]["dice"] for case in cases]))
    return {"foreground": means, "cases": list(cases), "rule": "custom"}
