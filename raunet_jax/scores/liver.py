"""Liver and tumor scores as the LiTS challenge's own program defines them (rule "lits2017"), a case and a set of cases.

Liver is label >= 1, tumor label 2. Where the program sets a penalty in place of what is undefined, so does the summary:
a case whose prediction has no voxel of label 1 gets Dice 0, VOE 1 and 9001 for RVD and the distances. All else that
is undefined is None.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from raunet_jax.errors import UserError
from raunet_jax.imaging.geometry import bounding_box
from raunet_jax.scores.lesions import score_lesions
from raunet_jax.scores.overlap import count, overlap_scores
from raunet_jax.scores.surface import surface_scores

PENALTY = 9001.0
WORST = {"dice": 0.0, "jaccard": 0.0, "voe": 1.0, "rvd": PENALTY, "assd": PENALTY, "rmsd": PENALTY, "msd": PENALTY}
MEANS = tuple(name for name in WORST if name != "dice")


def score_liver_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, dict]:
    """Score the labels (0 background, 1 liver, 2 tumor) of one case.

    The program numbers lesions in the raster order of the array as it lies in the file, and its ties and quirks depend
    on the numbers; give arrays in the file's own axis order (`raunet_jax.scores.as_stored`) to reproduce it exactly.

    Args:
        prediction, reference: integer (z, y, x) of one shape.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).

    Returns:
        `liver` and `tumor`: dice, jaccard, voe, rvd, sensitivity, specificity, assd, rmsd, msd, hausdorff95 of the
        whole masks; `voxels`, `tumor_burden` and `lesions` (see `score_lesions`), which `summarize_liver` needs.

    Raises:
        ValueError: shapes differ, labels are not whole numbers from 0 to 2, or the spacing is not positive.
    """
    _check(prediction, reference, spacing_mm)
    volume = prediction.size
    box = bounding_box(np.logical_or(prediction, reference))
    slices = (slice(0, 0),) * 3 if box is None else box.slices
    prediction, reference = prediction[slices], reference[slices]
    tumors = prediction == 2, reference == 2
    livers = prediction >= 1, reference >= 1
    tumor, liver = count(*tumors, volume), count(*livers, volume)
    liver_found = liver.prediction > tumor.prediction

    scores = {
        "liver": overlap_scores(liver) | surface_scores(*livers, spacing_mm),
        "tumor": overlap_scores(tumor) | surface_scores(*tumors, spacing_mm),
        "voxels": {
            f"{organ}_{of}": getattr(counts, of)
            for organ, counts in (("liver", liver), ("tumor", tumor))
            for of in ("prediction", "reference", "intersection")
        },
        "tumor_burden": {
            "prediction": tumor.prediction / liver.prediction if liver_found else PENALTY,
            "reference": tumor.reference / liver.reference if liver.reference else None,
        },
        "lesions": score_lesions(*tumors, spacing_mm),
    }
    if not liver_found or not liver.reference:
        scores["liver"] |= WORST
    return scores


def summarize_liver(cases: Sequence[dict]) -> dict:
    """Return the scores.json of `cases`, each a `score_liver_case` with its name under "case".

    `tumor`: Dice per case and global; jaccard, voe, rvd, assd, rmsd, msd and dice_per_lesion are means over the
    detected lesions of all cases. Groups named so are the official ones, as the challenge's program counts; the same
    names with `_corrected` leave out what `lesions` lists as quirks of the program, and its penalties for finding no
    lesion at all (None instead); the maximum burden error is then the largest by size, where the program's is the
    largest signed difference (reference - prediction).
    """
    found = [
        match
        for case in cases
        # The program looks at a case's lesions only when their count, which may be lowered by failures, is positive.
        if case["lesions"]["detected"] > 0
        for match in case["lesions"]["matches"]
        if match["detected"]
    ]
    found_corrected = [match for case in cases for match in case["lesions"]["matches"] if match["detected_corrected"]]
    tumor_dice = {
        "dice_per_case": _mean(case["tumor"]["dice"] for case in cases),
        "dice_global": _global_dice(cases, "tumor"),
    }
    errors = [
        case["tumor_burden"]["reference"] - case["tumor_burden"]["prediction"]
        for case in cases
        if case["tumor_burden"]["reference"] is not None
    ]
    burden_rmse = math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else None
    return {
        "liver": {
            "dice_per_case": _mean(case["liver"]["dice"] for case in cases),
            "dice_global": _global_dice(cases, "liver"),
            **{name: _mean(case["liver"][name] for case in cases) for name in MEANS},
        },
        "tumor": tumor_dice | _lesion_means(found, WORST if cases else {}),
        "tumor_corrected": tumor_dice | _lesion_means(found_corrected, {}),
        "detection": _detection_lits2017(cases),
        "detection_corrected": _detection_corrected(cases),
        "tumor_burden": {"rmse": burden_rmse, "max": max(errors, default=None)},
        "tumor_burden_corrected": {"rmse": burden_rmse, "max": max(map(abs, errors), default=None)},
        "cases": list(cases),
        "rule": "lits2017",
    }


def _check(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise UserError(
            f"prediction has shape {prediction.shape} and reference {reference.shape}; both must be the same (z, y, x)"
        )
    if not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise UserError(f"spacing_mm is {tuple(spacing_mm)}; every step must be a positive number of mm")
    for name, labels in (("prediction", prediction), ("reference", reference)):
        if labels.dtype.kind not in "iu":
            raise UserError(f"{name} holds {labels.dtype}, not whole-number labels; threshold or round it first")
        if labels.size and (labels.min() < 0 or labels.max() > 2):
            raise UserError(
                f"{name} holds labels {labels.min()} to {labels.max()}; liver masks hold 0 background, 1 liver, 2 tumor"
            )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _global_dice(cases: Sequence[dict], organ: str) -> float | None:
    intersection = total = 0
    for case in cases:
        voxels = case["voxels"]
        total += voxels[f"{organ}_reference"]
        if organ == "tumor" or voxels["liver_prediction"] > voxels["tumor_prediction"]:
            total += voxels[f"{organ}_prediction"]
            intersection += voxels[f"{organ}_intersection"]
    return 2 * intersection / total if total else None


def _lesion_means(matches: Sequence[dict], otherwise: dict[str, float]) -> dict[str, float | None]:
    names = {"dice_per_lesion": "dice"} | {name: name for name in MEANS}
    return {
        shown: _mean(match[name] for match in matches) if matches else otherwise.get(name)
        for shown, name in names.items()
    }


def _detection_lits2017(cases: Sequence[dict]) -> dict[str, float | None]:
    total = {
        name: sum(case["lesions"][name] for case in cases)
        for name in ("prediction", "reference", "detected", "detected_greater_zero")
    }
    scores = {}
    for suffix in ("", "_greater_zero"):
        for name, of in (("precision", "prediction"), ("recall", "reference")):
            scores[name + suffix] = total["detected" + suffix] / total[of] if total[of] else 0.0
    return scores if cases else dict.fromkeys(scores)


def _detection_corrected(cases: Sequence[dict]) -> dict[str, float | None]:
    scores = {}
    for suffix in ("", "_greater_zero"):
        for name, of in (("precision", "prediction"), ("recall", "reference")):
            there = sum(case["lesions"][of] for case in cases)
            found = sum(case["lesions"][f"true_{of}s{suffix}"] for case in cases)
            scores[name + suffix] = found / there if there else None
    return scores
