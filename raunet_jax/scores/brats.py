"""Whole-tumor scores of BraTS: labels 1, 2 and 4 merged, voxel spacing in mm."""

from collections.abc import Sequence

import numpy as np

from raunet_jax.scores.structure import structure_scores

WHOLE_TUMOR = "whole_tumor"
ONE_EMPTY_HAUSDORFF95 = 373.13  # the challenge's: the diagonal of its 240 x 240 x 155 mm grid, rounded
NAMES = ("dice", "sensitivity", "specificity", "hausdorff95")


def score_brain_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float, float],
    structure: str = WHOLE_TUMOR,
) -> dict[str, dict]:
    """Score one case: {structure: {dice, sensitivity, specificity, hausdorff95, jaccard, ...}}.

    The 95th percentile is taken over the surface distances of both directions together. Both masks empty: Dice 1 and
    hausdorff95 0; one empty: Dice 0 and hausdorff95 373.13 (the challenge's convention). All else undefined is None.

    Args:
        prediction, reference: (z, y, x) of one shape; every label above 0 is tumor.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).
        structure: name of the group of scores.

    Raises:
        ValueError: the shapes differ.
    """
    scores = structure_scores(prediction, reference, spacing_mm)
    if scores["hausdorff95"] is None:  # a mask is empty: both are where the Dice is 1
        scores["hausdorff95"] = 0.0 if scores["dice"] == 1 else ONE_EMPTY_HAUSDORFF95
    return {structure: scores}


def summarize_brain(cases: Sequence[dict], structure: str = WHOLE_TUMOR) -> dict:
    """Return the scores.json of `cases`, each a `score_brain_case` with its name under "case": means over cases.

    A case whose value is None (sensitivity without any tumor in the reference) is left out of that mean.
    """
    means = {}
    for name in NAMES:
        values = [case[structure][name] for case in cases if case[structure][name] is not None]
        means[name] = sum(values) / len(values) if values else None
    return {structure: means, "cases": list(cases), "rule": "brats", "structure": structure}
