import numpy as np
import pytest

import lits_rules
from raunet_jax.scores import score_brain_case, summarize_brain

UNIT = (1.0, 1.0, 1.0)


def masks(shape=(4, 5, 6)):
    return np.zeros((2, *shape), np.uint8)


def test_labels_merge_to_the_whole_tumor():
    prediction, reference = masks()
    prediction[1, 1, 1:4] = 1
    reference[1, 1, 1:4] = (1, 2, 4)
    assert score_brain_case(prediction, reference, UNIT)["whole_tumor"]["dice"] == 1


def test_scores_of_a_case_counted_by_hand():
    prediction, reference = masks()
    prediction[0, 0, 0:2] = 1
    reference[0, 0, 1:5] = 4
    scores = score_brain_case(prediction, reference, (1.0, 1.0, 2.0))["whole_tumor"]
    assert scores["dice"] == pytest.approx(2 / 6)
    assert scores["sensitivity"] == pytest.approx(1 / 4)
    assert scores["specificity"] == pytest.approx(115 / 116)
    # prediction: 2, 0 mm; reference: 0, 2, 4, 6 mm
    assert scores["hausdorff95"] == pytest.approx(np.percentile([2, 0, 0, 2, 4, 6], 95))


@pytest.mark.parametrize("seed", range(10))
def test_random_masks_agree_with_sets_of_voxels(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = np.where(rng.random((2, 5, 6, 7)) < 0.2, rng.choice([1, 2, 4], (2, 5, 6, 7)), 0)
    spacing_mm = tuple(rng.uniform(0.5, 4.0, 3))
    ours, theirs = (set(map(tuple, np.argwhere(mask))) for mask in (prediction, reference))
    scores = score_brain_case(prediction, reference, spacing_mm)["whole_tumor"]
    assert scores["dice"] == pytest.approx(2 * len(ours & theirs) / (len(ours) + len(theirs)))
    assert scores["sensitivity"] == pytest.approx(len(ours & theirs) / len(theirs))
    assert scores["specificity"] == pytest.approx((210 - len(ours | theirs)) / (210 - len(theirs)))
    distances = lits_rules.surface_distances(prediction > 0, reference > 0, spacing_mm)
    assert scores["hausdorff95"] == pytest.approx(np.percentile(distances, 95), abs=1e-5)


def test_empty_masks_score_as_the_challenge_says():
    empty, tumor = masks()
    tumor[1, 1, 1] = 1
    both = score_brain_case(empty, empty, UNIT)["whole_tumor"]
    assert (both["dice"], both["hausdorff95"], both["sensitivity"]) == (1, 0, None)
    for pair in ((empty, tumor), (tumor, empty)):
        scores = score_brain_case(*pair, UNIT)["whole_tumor"]
        assert (scores["dice"], scores["hausdorff95"]) == (0, 373.13)


def test_means_leave_undefined_values_out():
    empty, tumor = masks()
    tumor[1, 1, 1] = 1
    cases = [{"case": "a"} | score_brain_case(empty, empty, UNIT), {"case": "b"} | score_brain_case(empty, tumor, UNIT)]
    summary = summarize_brain(cases)
    assert summary["rule"] == "brats" and [case["case"] for case in summary["cases"]] == ["a", "b"]
    assert summary["whole_tumor"] == {
        "dice": 0.5, "sensitivity": 0, "specificity": 1, "hausdorff95": pytest.approx(373.13 / 2)
    }  # fmt: skip


def test_no_case_leaves_everything_undefined():
    assert set(summarize_brain([])["whole_tumor"].values()) == {None}


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 5, 6\).*\(4, 5, 7\)"):
        score_brain_case(np.zeros((4, 5, 6)), np.zeros((4, 5, 7)), UNIT)
