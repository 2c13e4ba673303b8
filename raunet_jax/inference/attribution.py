"""Which stage of the cascade lost a tumor: the localization's box, the liver mask, or the tumor network."""

from collections.abc import Mapping, Sequence

import cc3d
import numpy as np

from raunet_jax.imaging.geometry import whole
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference.cascade import Segmentation, segment
from raunet_jax.inference.models import StageModel
from raunet_jax.scores.overlap import count, dice

# Where a reference tumor voxel may end, in the order of the stages that may lose it.
OUTCOMES = ("lost_to_box", "lost_to_liver_mask", "lost_to_tumor_network", "found")


def attribute(volume: Volume, reference: np.ndarray, found: Segmentation, models: Mapping[str, StageModel]) -> dict:
    """Say of one case what became of its tumors, and what stages 2 and 3 do when the stage before them is perfect.

    A reference tumor voxel is lost to the box when the VOI does not hold it, else to the liver mask when that leaves it
    out, else to the tumor network when that does not label it. A lesion (26-neighborhood) is found when any voxel of
    it is; otherwise the stage that lost most of its voxels lost it.

    Args:
        reference: (z, y, x) labels: 1 liver, 2 tumor.
        found: what the whole cascade made of `volume`.
        models: of all three stages; 2 and 3 are run once more each, in the reference liver's box and inside the reference
        liver.

    Returns:
        {"tumor_voxels": {end: count of voxels}, "lesions": {end: count}, "liver_voxels_outside_box": n,
        "given_reference": {"liver_dice", "tumor_dice"}}; the Dice are None where the reference has no liver.
    """
    ends = tumor_ends(reference, found)
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
        "tumor_voxels": {name: int((ends == index).sum()) for index, name in enumerate(OUTCOMES)},
        "lesions": _lesion_ends(reference, ends),
        "liver_voxels_outside_box": int(outside.sum()),
        "given_reference": given,
    }


def tumor_ends(reference: np.ndarray, found: Segmentation) -> np.ndarray:
    """(z, y, x) int8: for every reference tumor voxel the index in OUTCOMES of what became of it, elsewhere -1."""
    ends = np.full(reference.shape, -1, np.int8)
    ends[reference == 2] = OUTCOMES.index("lost_to_box")
    box = (found.box or whole(reference.shape)).slices
    inside, tumor, labels = ends[box], reference[box] == 2, found.labels[box]  # `inside` is a view: it fills `ends`
    inside[tumor] = OUTCOMES.index("lost_to_liver_mask")
    inside[tumor & (labels != 0)] = OUTCOMES.index("lost_to_tumor_network")
    inside[tumor & (labels == 2)] = OUTCOMES.index("found")
    return ends


def _lesion_ends(reference: np.ndarray, ends: np.ndarray) -> dict[str, int]:
    lesions = cc3d.connected_components(reference == 2, connectivity=26)
    inside = lesions > 0
    votes = np.zeros((int(lesions.max()) + 1, len(OUTCOMES)), np.int64)
    np.add.at(votes, (lesions[inside], ends[inside]), 1)
    votes = votes[1:]
    end = np.where(votes[:, -1] > 0, len(OUTCOMES) - 1, votes.argmax(axis=1))
    return {name: int((end == index).sum()) for index, name in enumerate(OUTCOMES)}


def summarize(cases: Sequence[dict]) -> dict | None:
    """Sums over the cases' `attribute`, and the mean Dice given the reference; None where no case has one."""
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
