"""Where the cascade loses tumors, counted: the localization's box, the liver mask, or the tumor network."""

from collections.abc import Sequence

import numpy as np

from raunet_jax.imaging.components import label_components
from raunet_jax.imaging.geometry import Box, whole

# The fate of a reference tumor voxel, in the order of the stages that may lose it.
OUTCOMES = ("lost_to_box", "lost_to_liver_mask", "lost_to_tumor_network", "found")


def voxel_outcomes(reference: np.ndarray, labels: np.ndarray, box: Box | None) -> np.ndarray:
    """(z, y, x) int8: for every reference tumor voxel the index in OUTCOMES of what became of it, elsewhere -1.

    It is lost to the box when that does not hold it, else to the liver mask when that leaves it out, else to the tumor
    network when that does not label it.

    Args:
        reference: (z, y, x) labels: 0 background, 1 liver, 2 tumor.
        labels: what the cascade made of them, of the same shape.
        box: the volume of interest in which stages 2 and 3 worked; None: the whole volume.
    """
    outcomes = np.full(reference.shape, -1, np.int8)
    outcomes[reference == 2] = OUTCOMES.index("lost_to_box")
    slices = (box or whole(reference.shape)).slices
    inside, tumor, found = outcomes[slices], reference[slices] == 2, labels[slices]  # `inside` is a view of `outcomes`
    inside[tumor] = OUTCOMES.index("lost_to_liver_mask")
    inside[tumor & (found != 0)] = OUTCOMES.index("lost_to_tumor_network")
    inside[tumor & (found == 2)] = OUTCOMES.index("found")
    return outcomes


def voxel_counts(outcomes: np.ndarray) -> dict[str, int]:
    """How many voxels have each outcome, of the array that `voxel_outcomes` returns."""
    return {name: int((outcomes == index).sum()) for index, name in enumerate(OUTCOMES)}


def lesion_outcomes(reference: np.ndarray, outcomes: np.ndarray) -> dict[str, int]:
    """How many reference lesions (26-neighborhood) have each outcome.

    A lesion is found when any voxel of it is; otherwise the stage that lost most of its voxels lost it.

    Args:
        reference: (z, y, x) labels, 2 tumor.
        outcomes: what `voxel_outcomes` returns for it.
    """
    lesions, total = label_components(reference == 2)
    inside = lesions > 0
    votes = np.zeros((total + 1, len(OUTCOMES)), np.int64)
    np.add.at(votes, (lesions[inside], outcomes[inside]), 1)
    votes = votes[1:]
    outcome = np.where(votes[:, -1] > 0, len(OUTCOMES) - 1, votes.argmax(axis=1))
    return {name: int((outcome == index).sum()) for index, name in enumerate(OUTCOMES)}


def summarize(cases: Sequence[dict]) -> dict | None:
    """Sums over the "attribution" of the cases that have one, and the means of their Dice given the reference.

    Returns:
        {"tumor_voxels": {outcome: sum}, "lesions": {outcome: sum}, "liver_voxels_outside_box": sum,
        "given_reference": {"liver_dice", "tumor_dice"}}, a Dice None where no case has it; None where no case has an
        attribution.
    """
    records = [case["attribution"] for case in cases if case.get("attribution")]
    if not records:
        return None
    summary = {
        part: {name: sum(record[part][name] for record in records) for name in OUTCOMES}
        for part in ("tumor_voxels", "lesions")
    }
    summary["liver_voxels_outside_box"] = sum(record["liver_voxels_outside_box"] for record in records)
    summary["given_reference"] = {}
    for name in ("liver_dice", "tumor_dice"):
        values = [value for record in records if (value := record["given_reference"][name]) is not None]
        summary["given_reference"][name] = float(np.mean(values)) if values else None
    return summary
