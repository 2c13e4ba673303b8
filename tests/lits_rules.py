"""The rules of scoring acted out on whole images, slowly and in plain numpy and scipy, to hold the scores against.

Masks are boolean (z, y, x), labels integer (z, y, x), spacings (z, y, x) in mm.
"""

import numpy as np
from scipy import ndimage

PENALTY = 9001.0


def surface_distances(prediction, reference, spacing_mm):
    """Distances of all surface voxels of either mask to the other's, by all pairs on the uncropped arrays."""
    points = []
    for mask in (prediction, reference):
        eroded = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2), border_value=0)
        points.append(np.argwhere(mask & ~eroded) * spacing_mm)
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return np.concatenate([pairs.min(axis=1), pairs.min(axis=0)])


def segmentation(prediction, reference, spacing_mm):
    """Scores of two masks, neither of them empty."""
    intersection, union = (prediction & reference).sum(), (prediction | reference).sum()
    distances = surface_distances(prediction, reference, spacing_mm)
    return {
        "dice": 2 * intersection / (prediction.sum() + reference.sum()),
        "jaccard": intersection / union,
        "voe": 1 - intersection / union,
        "rvd": (reference.sum() - prediction.sum()) / prediction.sum(),
        "assd": distances.mean(),
        "rmsd": np.sqrt((distances**2).mean()),
        "msd": distances.max(),
    }


def lesions(prediction, reference, minimum_overlap):
    """Lesions matched by the challenge's rules.

    Returns the groups, {numbers of the merged reference lesions: (numbers of the merged predictions, their mask, the
    reference's mask, found by the program)}, the program's count of found lesions, and the lesions of either mask.
    """
    predicted, prediction_total = ndimage.label(prediction.transpose(2, 1, 0))
    referenced, reference_total = ndimage.label(reference.transpose(2, 1, 0))

    def overlap(ours, theirs):
        return int(((predicted == ours) & (referenced == theirs)).sum())

    numbers = range(1, prediction_total + 1)
    owners = {}
    for theirs in range(1, reference_total + 1):
        best = max(numbers, key=lambda ours: (overlap(ours, theirs), -ours), default=None)
        if best is not None and overlap(best, theirs):
            owners.setdefault(best, []).append(theirs)
    merged, members = referenced.copy(), {}
    for group in owners.values():
        merged[np.isin(referenced, group)] = group[0]
        members[group[0]] = group
    relabeled, partners = np.zeros_like(predicted), {}
    for ours in numbers:
        shared = np.bincount(merged[(predicted == ours) & (merged > 0)])
        if shared.size:
            relabeled[predicted == ours] = shared.argmax()
            partners.setdefault(int(shared.argmax()), []).append(ours)
    groups, total = {}, len(partners)
    for theirs, group in sorted(partners.items(), key=lambda item: item[1][0]):
        intersection = (np.isin(predicted, group) & (merged == theirs)).sum()
        union = ((relabeled == group[0]) | (merged == theirs)).sum()
        found = bool(intersection / union > minimum_overlap)
        if not found:
            relabeled[relabeled == theirs] = 0
            total -= len(members[theirs])
        masks = (image.transpose(2, 1, 0) for image in (np.isin(predicted, group), merged == theirs))
        groups[tuple(members[theirs])] = (tuple(group), *masks, found)
    return groups, total, (prediction_total, reference_total)


def summary(cases):
    """What the challenge's table says of cases, each (prediction labels, reference labels, spacing)."""
    lists = {
        organ: {name: [] for name in ("jaccard", "voe", "rvd", "assd", "rmsd", "msd")} for organ in ("liver", "tumor")
    }
    per_case, global_sums, errors = {"liver": [], "tumor": []}, {"liver": np.zeros(2), "tumor": np.zeros(2)}, []
    found, there = np.zeros(2), np.zeros(2)  # found at overlap 0.5 and 0; predicted and reference lesions
    for prediction, reference, spacing_mm in cases:
        tumors, livers = (prediction == 2, reference == 2), (prediction >= 1, reference >= 1)
        liver_predicted = (prediction == 1).any()
        groups, total, lesion_totals = lesions(*tumors, 0.5)
        found += total, lesions(*tumors, 0)[1]
        there += lesion_totals
        if total > 0:
            for _, ours, theirs, detected in groups.values():
                if detected:
                    scores = segmentation(ours, theirs, spacing_mm)
                    for name, values in lists["tumor"].items():
                        values.append(scores[name])
        worst = {"dice": 0.0, "jaccard": 0.0, "voe": 1.0} | dict.fromkeys(("rvd", "assd", "rmsd", "msd"), PENALTY)
        scores = segmentation(*livers, spacing_mm) if liver_predicted else worst
        for name, values in lists["liver"].items():
            values.append(scores[name])
        sizes = sum(int(mask.sum()) for mask in tumors)
        per_case["liver"].append(scores["dice"])
        per_case["tumor"].append(2 * (tumors[0] & tumors[1]).sum() / sizes if sizes else 1.0)
        global_sums["tumor"] += (tumors[0] & tumors[1]).sum(), sizes
        if liver_predicted:
            global_sums["liver"] += (livers[0] & livers[1]).sum(), livers[0].sum()
        global_sums["liver"] += 0, livers[1].sum()
        burden = tumors[0].sum() / livers[0].sum() if liver_predicted else PENALTY
        errors.append(tumors[1].sum() / livers[1].sum() - burden)
    return {
        organ: {"dice_per_case": np.mean(per_case[organ]), "dice_global": 2 * sums[0] / sums[1]}
        | {name: np.mean(values) for name, values in lists[organ].items()}
        for organ, sums in global_sums.items()
    } | {
        "detection": {
            "precision": found[0] / there[0],
            "recall": found[0] / there[1],
            "precision_greater_zero": found[1] / there[0],
            "recall_greater_zero": found[1] / there[1],
        },
        "tumor_burden": {"rmse": np.sqrt(np.mean(np.square(errors))), "max": max(errors)},
    }
