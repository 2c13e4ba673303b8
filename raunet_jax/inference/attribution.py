"""Which stage of the cascade lost a tumor, and what each stage does when the one before it is perfect."""

from collections.abc import Mapping

import numpy as np

from raunet_jax.imaging.geometry import whole
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference.cascade import Segmentation, segment
from raunet_jax.inference.models import StageModel
from raunet_jax.scores.attribution import lesion_outcomes, voxel_counts, voxel_outcomes
from raunet_jax.scores.overlap import count, dice


def attribute(volume: Volume, reference: np.ndarray, found: Segmentation, models: Mapping[str, StageModel]) -> dict:
    """Say of one case what became of its tumors, and what stages 2 and 3 do when the stage before them is perfect.

    Args:
        reference: (z, y, x) labels: 1 liver, 2 tumor.
        found: what the whole cascade made of `volume`.
        models: of all three stages; 2 and 3 are run once more each, in the reference liver's box and inside the
            reference liver.

    Returns:
        {"tumor_voxels": {outcome: count of voxels}, "lesions": {outcome: count}, "liver_voxels_outside_box": n,
        "given_reference": {"liver_dice", "tumor_dice"}}, see `scores.attribution`; the Dice are None where the
        reference has no liver.
    """
    outcomes = voxel_outcomes(reference, found.labels, found.box)
    liver = reference >= 1
    outside = liver.copy()
    box = found.box or whole(liver.shape)
    outside[box.slices] = False
    given = {"liver_dice": None, "tumor_dice": None}
    if liver.any():
        stage_2 = segment(volume, {"voi": models["voi"]}, liver).labels >= 1
        stage_3 = segment(volume, {"tumor": models["tumor"]}, liver).labels == 2
        given = {"liver_dice": dice(count(stage_2, liver)), "tumor_dice": dice(count(stage_3, reference == 2))}
    return {
        "tumor_voxels": voxel_counts(outcomes),
        "lesions": lesion_outcomes(reference, outcomes),
        "liver_voxels_outside_box": int(outside.sum()),
        "given_reference": given,
    }
