"""Which tumor lesions were found, by the rules of the LiTS challenge's program (PatrickChrist/lits-challenge-scoring).

Lesions are 6-connected components, numbered as the program meets them: in raster order of the (x, y, z) array.
Reference lesions bridged by one predicted lesion are merged, each reference lesion going to the prediction that
overlaps it most; each prediction then goes to the (merged) reference it overlaps most, and predictions that share a
reference are merged. A matched pair counts as detected when intersection / union exceeds the minimum overlap.

The program has quirks that the leaderboard inherits, so rule "lits2017" reproduces them (`detected`); the values
without them stand beside (`detected_corrected`, `true_...`):
  * it takes the union from the prediction image after matched lesions were relabeled with their reference's number,
    but selects the voxels by the prediction's own old number, which then belongs to another lesion or to none;
  * it counts detected lesions downwards: from the number of matched pairs, less the number of reference lesions in
    every pair that fails. A found bridge of two counts once, a failed one counts minus one.
"""

from typing import NamedTuple

import numpy as np

from raunet_jax.imaging.components import label_components
from raunet_jax.imaging.geometry import bounding_box
from raunet_jax.scores.overlap import Counts, dice, jaccard, rvd, voe
from raunet_jax.scores.surface import surface_scores

MINIMUM_OVERLAP = 0.5


class _Lesions(NamedTuple):
    """The lesions of one mask, numbered from 1."""

    numbers: np.ndarray  # (z, y, x), 0 in the background
    voxels: np.ndarray  # by number; 0, the background, is not used
    boxes: list[tuple[slice, slice, slice]]  # by number - 1


class _Match(NamedTuple):
    """Numbers of reference and predicted lesions that were joined, each ascending; the first names the group."""

    references: np.ndarray
    predictions: np.ndarray


class _Overlaps(NamedTuple):
    """Voxels of the lesions and of their intersections."""

    predictions: np.ndarray  # by lesion number; 0, the background, is not used
    references: np.ndarray
    hit: np.ndarray  # numbers of the predictions that touch a reference: the rows of `voxels`, ascending
    voxels: np.ndarray  # columns: reference number - 1

    def counts(self, match: _Match) -> Counts:
        return Counts(
            int(self.predictions[match.predictions].sum()),
            int(self.references[match.references].sum()),
            self.between(match.predictions, match.references),
            0,
        )

    def between(self, predictions: np.ndarray, references: np.ndarray) -> int:
        rows = np.searchsorted(self.hit, predictions)
        return int(self.voxels[np.ix_(rows, references - 1)].sum())


def score_lesions(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, int | list]:
    """Match the lesions of two boolean (z, y, x) tumor masks of one case.

    Args:
        prediction, reference: boolean (z, y, x) of one shape.
        spacing_mm: distance of neighboring voxel centers along (z, y, x).

    Returns:
        `reference`, `prediction`: lesions there are; `detected`, `detected_greater_zero`: lesions found at overlap 0.5
        and 0 as the program counts them (may be negative); `true_references`, `true_predictions`: lesions in pairs that
        are detected without the program's quirks, `..._greater_zero` at overlap 0; `matches`: a record a pair.
    """
    box = bounding_box(prediction | reference)
    if box is None:
        return _summary(0, 0, [], [])
    prediction, reference = prediction[box.slices], reference[box.slices]
    predicted, referenced = _number(prediction), _number(reference)
    overlaps = _overlaps(predicted, referenced, prediction & reference)
    matches = _match(overlaps)
    official = _detected_lits2017(matches, overlaps)
    records = []
    for match, detected in zip(matches, official, strict=True):
        counts = overlaps.counts(match)
        record = {
            "reference_lesions": match.references.tolist(),
            "predicted_lesions": match.predictions.tolist(),
            "reference_voxels": counts.reference,
            "predicted_voxels": counts.prediction,
            "detected": detected,
            "detected_corrected": jaccard(counts) > MINIMUM_OVERLAP,
            "dice": dice(counts),
            "jaccard": jaccard(counts),
            "voe": voe(counts),
            "rvd": rvd(counts),
            "assd": None,
            "rmsd": None,
            "msd": None,
        }
        if record["detected"] or record["detected_corrected"]:
            crop = _around(predicted, referenced, match)
            distances = surface_scores(
                np.isin(predicted.numbers[crop], match.predictions),
                np.isin(referenced.numbers[crop], match.references),
                spacing_mm,
            )
            record |= {name: distances[name] for name in ("assd", "rmsd", "msd")}
        records.append(record)
    return _summary(referenced.voxels.size - 1, predicted.voxels.size - 1, matches, records)


def _number(mask: np.ndarray) -> _Lesions:
    """Number the 6-connected components of a (z, y, x) mask from 1, as the raster order of (x, y, z) meets them."""
    from scipy import ndimage  # slow to import

    numbers, total = label_components(mask, connectivity=6)
    inside = np.flatnonzero(mask)
    z, y, x = np.unravel_index(inside, mask.shape)
    lesion_of = numbers.ravel()[inside]
    first = np.full(total + 1, mask.size)
    first[0] = -1
    np.minimum.at(first, lesion_of, (x * mask.shape[1] + y) * mask.shape[0] + z)
    rank = np.empty(total + 1, numbers.dtype)
    rank[np.argsort(first)] = np.arange(total + 1)
    numbers.ravel()[inside] = lesion_of = rank[lesion_of]
    return _Lesions(numbers, np.bincount(lesion_of, minlength=total + 1), ndimage.find_objects(numbers))


def _overlaps(predicted: _Lesions, referenced: _Lesions, both: np.ndarray) -> _Overlaps:
    hit, rows = np.unique(predicted.numbers[both], return_inverse=True)
    total = referenced.voxels.size - 1
    pairs = np.bincount(rows * total + referenced.numbers[both] - 1, minlength=hit.size * total)
    return _Overlaps(predicted.voxels, referenced.voxels, hit, pairs.reshape(hit.size, total))


def _match(overlaps: _Overlaps) -> list[_Match]:
    """Return the pairs in the order of their first prediction's number."""
    if overlaps.hit.size == 0:
        return []
    touched = np.flatnonzero(overlaps.voxels.any(axis=0))
    owner = overlaps.voxels[:, touched].argmax(axis=0)
    merged = sorted((touched[owner == row] for row in np.unique(owner)), key=lambda columns: columns[0])
    merged_voxels = np.stack([overlaps.voxels[:, columns].sum(axis=1) for columns in merged], axis=1)
    choice = merged_voxels.argmax(axis=1)
    matches = [
        _Match(columns + 1, overlaps.hit[choice == index])
        for index, columns in enumerate(merged)
        if (choice == index).any()
    ]
    return sorted(matches, key=lambda match: match.predictions[0])


def _detected_lits2017(matches: list[_Match], overlaps: _Overlaps) -> list[bool]:
    """Whether each pair counts as detected, with the program's quirk of the union."""
    relabeled = {int(match.references[0]): match.predictions for match in matches}
    nothing = np.zeros(0, np.int64)
    detected = []
    for match in matches:
        selected = relabeled.get(int(match.predictions[0]), nothing)
        counts = overlaps.counts(_Match(match.references, selected))
        union = counts.prediction + counts.reference - counts.intersection
        found = overlaps.between(match.predictions, match.references) / union > MINIMUM_OVERLAP
        if not found:
            # The program erases a failed lesion at once, so later pairs no longer see it.
            del relabeled[int(match.references[0])]
        detected.append(found)
    return detected


def _around(predicted: _Lesions, referenced: _Lesions, match: _Match) -> tuple[slice, ...]:
    boxes = [predicted.boxes[number - 1] for number in match.predictions]
    boxes += [referenced.boxes[number - 1] for number in match.references]
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)
    )


def _summary(reference_total: int, prediction_total: int, matches: list[_Match], records: list[dict]) -> dict:
    failed = [match for match, record in zip(matches, records, strict=True) if not record["detected"]]
    true = [match for match, record in zip(matches, records, strict=True) if record["detected_corrected"]]
    return {
        "reference": reference_total,
        "prediction": prediction_total,
        "detected": len(matches) - sum(match.references.size for match in failed),
        "detected_greater_zero": len(matches),
        "true_references": sum(match.references.size for match in true),
        "true_predictions": sum(match.predictions.size for match in true),
        "true_references_greater_zero": sum(match.references.size for match in matches),
        "true_predictions_greater_zero": sum(match.predictions.size for match in matches),
        "matches": records,
    }
