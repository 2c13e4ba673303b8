import numpy as np
import pytest
from scipy import ndimage

import lits_rules
from raunet_jax.scores.lesions import score_lesions

UNIT = (1.0, 1.0, 1.0)
LENGTH = 40


def line(*spans):
    """A (1, 1, x) mask with the voxels first..last of every span."""
    mask = np.zeros((1, 1, LENGTH), bool)
    for first, last in spans:
        mask[..., first : last + 1] = True
    return mask


def drawn(seed):
    """Two tumor masks whose lesions are bridged, split, missed and made up, and an uneven spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 11, 3))
    truth, noise = (ndimage.gaussian_filter(rng.standard_normal(shape), 1.0) for _ in range(2))
    guess = truth + 0.8 * noise
    spacing_mm = tuple(rng.uniform(0.5, 5.0, 3))
    return guess > np.quantile(guess, rng.uniform(0.5, 0.9)), truth > np.quantile(truth, 0.75), spacing_mm


def test_overlap_must_exceed_the_minimum():
    reference = line((0, 3))
    exactly = score_lesions(line((0, 1)), reference, UNIT)
    more = score_lesions(line((0, 2)), reference, UNIT)
    assert (exactly["detected"], exactly["true_references"], exactly["detected_greater_zero"]) == (0, 0, 1)
    assert (more["detected"], more["true_references"]) == (1, 1)


def test_scores_of_a_detected_lesion_counted_by_hand():
    lesions = score_lesions(line((1, 6)), line((0, 4)), (1.0, 1.0, 2.0))
    (match,) = lesions["matches"]
    assert (match["reference_voxels"], match["predicted_voxels"]) == (5, 6)
    assert match["jaccard"] == pytest.approx(4 / 7) and match["dice"] == pytest.approx(8 / 11)
    assert match["rvd"] == pytest.approx(-1 / 6)
    # on a line every voxel is surface; the ends are 1 and 2 voxels of 2 mm outside
    assert match["assd"] == pytest.approx((2 + 2 + 4) / 11)
    assert match["msd"] == pytest.approx(4)


def test_reference_lesions_bridged_by_one_prediction_are_merged():
    lesions = score_lesions(line((0, 10)), line((0, 4), (6, 10)), UNIT)
    (match,) = lesions["matches"]
    assert match["reference_lesions"] == [1, 2] and match["predicted_lesions"] == [1]
    assert match["jaccard"] == pytest.approx(10 / 11)
    assert (lesions["reference"], lesions["prediction"]) == (2, 1)
    assert lesions["detected"] == 1  # the program counts the pair
    assert (lesions["true_references"], lesions["true_predictions"]) == (2, 1)


def test_the_program_counts_a_failed_bridge_downwards():
    lesions = score_lesions(line((0, 20)), line((0, 1), (19, 20)), UNIT)
    assert lesions["detected"] == -1
    assert lesions["detected_greater_zero"] == 1
    assert (lesions["true_references"], lesions["true_predictions"]) == (0, 0)


def test_predictions_that_split_one_reference_are_merged():
    lesions = score_lesions(line((0, 3), (5, 9)), line((0, 9)), UNIT)
    (match,) = lesions["matches"]
    assert match["reference_lesions"] == [1] and match["predicted_lesions"] == [1, 2]
    assert match["jaccard"] == pytest.approx(9 / 10)
    assert (lesions["detected"], lesions["true_references"], lesions["true_predictions"]) == (1, 1, 2)


def test_a_bridge_merges_only_what_it_overlaps_most():
    # the first prediction touches both references, the second covers more of the right one
    reference = line((0, 9), (11, 20))
    prediction = line((0, 12), (14, 20))
    matches = score_lesions(prediction, reference, UNIT)["matches"]
    assert [(match["reference_lesions"], match["predicted_lesions"]) for match in matches] == [([1], [1]), ([2], [2])]


def test_each_prediction_goes_to_the_reference_it_overlaps_most():
    # the prediction owns both lesions' ends, but reference 2 is owned by prediction 2
    reference = line((0, 2), (4, 20))
    prediction = line((2, 8), (10, 20))
    matches = score_lesions(prediction, reference, UNIT)["matches"]
    assert [(match["reference_lesions"], match["predicted_lesions"]) for match in matches] == [([2], [1, 2])]


def test_a_reference_overlapped_equally_by_two_predictions_goes_to_the_first():
    matches = score_lesions(line((0, 3), (5, 8)), line((2, 6)), UNIT)["matches"]
    assert [(match["reference_lesions"], match["predicted_lesions"]) for match in matches] == [([1], [1, 2])]


def test_the_programs_union_misses_a_prediction_whose_number_no_reference_took():
    # prediction 1 belongs to reference 2; nothing is relabeled "1", so its own 8 voxels are missing in the union
    lesions = score_lesions(line((5, 12)), line((0, 1), (10, 13)), UNIT)
    (match,) = lesions["matches"]
    assert match["jaccard"] == pytest.approx(3 / 9)
    assert match["detected"] and not match["detected_corrected"]
    assert match["msd"] is not None
    assert (lesions["detected"], lesions["true_references"]) == (1, 0)


def test_lesions_are_numbered_along_x_first():
    reference = np.zeros((8, 8, 8), bool)
    reference[7, 0, 0] = reference[0, 0, 7] = True
    prediction = reference.copy()
    prediction[0, 0, 7] = False
    (match,) = score_lesions(prediction, reference, UNIT)["matches"]
    assert match["reference_lesions"] == [1]


def test_lesions_that_touch_at_an_edge_are_two():
    mask = np.zeros((1, 2, 2), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True
    assert score_lesions(mask, mask, UNIT)["reference"] == 2


def test_spacing_follows_the_axes():
    prediction, reference = np.zeros((2, 4, 4, 4), bool)
    reference[0:4, 0, 0] = True
    prediction[0:3, 0, 0] = True
    assert score_lesions(prediction, reference, (5.0, 1.0, 1.0))["matches"][0]["msd"] == pytest.approx(5)


@pytest.mark.parametrize("which", ["both", "prediction", "reference"])
def test_empty_masks_have_nothing_to_match(which):
    empty, full = line(), line((0, 3), (6, 7))
    prediction = empty if which in ("both", "prediction") else full
    reference = empty if which in ("both", "reference") else full
    lesions = score_lesions(prediction, reference, UNIT)
    assert lesions["matches"] == [] and lesions["detected"] == lesions["detected_greater_zero"] == 0
    assert lesions["prediction"] == (2 if which == "reference" else 0)
    assert lesions["reference"] == (2 if which == "prediction" else 0)


@pytest.mark.parametrize("seed", range(40))
def test_random_masks_agree_with_the_rules_acted_out_voxel_by_voxel(seed):
    prediction, reference, spacing_mm = drawn(seed)
    lesions = score_lesions(prediction, reference, spacing_mm)
    groups, total, there = lits_rules.lesions(prediction, reference, 0.5)
    assert (lesions["prediction"], lesions["reference"]) == there
    assert lesions["detected"] == total
    assert lesions["detected_greater_zero"] == lits_rules.lesions(prediction, reference, 0)[1]
    matches = {tuple(match["reference_lesions"]): match for match in lesions["matches"]}
    assert list(matches) == list(groups)
    for numbers, (predicted_numbers, ours, theirs, found) in groups.items():
        match, expected = matches[numbers], lits_rules.segmentation(ours, theirs, spacing_mm)
        assert (tuple(match["predicted_lesions"]), match["detected"]) == (predicted_numbers, found)
        assert (match["predicted_voxels"], match["reference_voxels"]) == (ours.sum(), theirs.sum())
        assert match["detected_corrected"] == (expected["jaccard"] > 0.5)
        if not (match["detected"] or match["detected_corrected"]):
            expected |= dict.fromkeys(("assd", "rmsd", "msd"))
        assert {name: match[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_the_random_masks_hold_every_situation():
    merged_references = merged_predictions = missed = quirks = 0
    for seed in range(40):
        prediction, reference, _ = drawn(seed)
        groups, _, there = lits_rules.lesions(prediction, reference, 0.5)
        merged_references += any(len(numbers) > 1 for numbers in groups)
        merged_predictions += any(len(group[0]) > 1 for group in groups.values())
        missed += there[1] > sum(map(len, groups))
        quirks += any(
            found != ((ours & theirs).sum() / (ours | theirs).sum() > 0.5) for _, ours, theirs, found in groups.values()
        )
    assert min(merged_references, merged_predictions, missed, quirks) >= 5
