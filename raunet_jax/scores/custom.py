"""Scores of anybody's own task: one structure, no challenge's rule."""

from collections.abc import Sequence

import numpy as np

from raunet_jax.scores.structure import structure_scores

FOREGROUND = "foreground"
NAMES = ("dice", "jaccard", "sensitivity", "specificity", "rvd", "assd", "msd", "hausdorff95")


def score_custom_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float, float],
    structure: str = FOREGROUND,
) -> dict[str, dict]:
    """Score one case: {structure: {dice, jaccard, ..., hausdorff95}}.

    Both masks empty: Dice 1; one empty: Dice 0. What is undefined, as a distance to nothing is, is None.

    Args:
        prediction, reference: (z, y, x) of one shape; every label above 0 is foreground.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).
        structure: name of the group of scores.

    Raises:
        ValueError: the shapes differ.
    """
    return {structure: structure_scores(prediction, reference, spacing_mm)}


def summarize_custom(cases: Sequence[dict], structure: str = FOREGROUND) -> dict:
    """Return the scores.json of `cases`, each a `score_custom_case` with its name under "case": means over cases.

    `dice_std` is the standard deviation over cases. A value that is None is left out of its mean.
    """
    means = {}
    for name in NAMES:
        values = [case[structure][name] for case in cases if case[structure][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    means["dice_std"] = float(np.std([case[structure]["dice"] for case in cases]))
    return {structure: means, "cases": list(cases), "rule": "custom", "structure": structure}
