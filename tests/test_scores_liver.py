import json

import numpy as np
import pytest
from scipy import ndimage

import lits_rules
from raunet_jax.scores import score_liver_case, summarize_liver

UNIT = (1.0, 1.0, 1.0)


def volume(**spans):
    """(1, 1, 40) labels; liver=(first, last) and tumor=(first, last), tumor on top."""
    labels = np.zeros((1, 1, 40), np.uint8)
    for organ, label in (("liver", 1), ("tumor", 2)):
        if organ in spans:
            first, last = spans[organ]
            labels[..., first : last + 1] = label
    return labels


def case(name, prediction, reference, spacing_mm=UNIT):
    return {"case": name} | score_liver_case(prediction, reference, spacing_mm)


def drawn(seed):
    """Labels of a small case whose lesions are bridged, split or missed, an uneven spacing; some cases lack something.

    Of every six cases, one has no tumor in the reference, one none in the prediction, one in neither, and one no voxel
    of label 1 in the prediction.
    """
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(6, 12, 3))
    organ, tumor, noise = (ndimage.gaussian_filter(rng.standard_normal(shape), 1.0) for _ in range(3))
    labels = []
    for error in (0.6 * noise, 0.0):
        organ_guess, tumor_guess = organ + 0.3 * error, tumor + error
        mask = (organ_guess > np.quantile(organ_guess, 0.3)).astype(np.uint8)
        mask[(mask == 1) & (tumor_guess > np.quantile(tumor_guess, 0.7))] = 2
        labels.append(mask)
    prediction, reference = labels
    if seed % 6 in (0, 2):
        reference[reference == 2] = 1
    if seed % 6 in (1, 2):
        prediction[prediction == 2] = 1
    if seed % 6 == 3:
        prediction[prediction == 1] = 0
    return prediction, reference, tuple(rng.uniform(0.5, 5.0, 3))


def test_liver_includes_its_tumors():
    scores = score_liver_case(volume(liver=(0, 9)), volume(liver=(0, 9), tumor=(4, 5)), UNIT)
    assert scores["liver"]["dice"] == 1 and scores["liver"]["msd"] == 0
    assert scores["tumor"]["dice"] == 0 and scores["tumor"]["msd"] is None
    assert scores["voxels"]["liver_prediction"] == 10 and scores["voxels"]["tumor_reference"] == 2


def test_a_case_without_predicted_liver_label_gets_the_challenges_penalty():
    reference = volume(liver=(0, 9), tumor=(4, 5))
    for prediction in (volume(), volume(tumor=(0, 9))):
        scores = score_liver_case(prediction, reference, UNIT)
        assert {name: scores["liver"][name] for name in ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")} == {
            "dice": 0, "jaccard": 0, "voe": 1, "rvd": 9001, "assd": 9001, "rmsd": 9001, "msd": 9001
        }  # fmt: skip
        assert scores["tumor_burden"]["prediction"] == 9001
    summary = summarize_liver([case("a", volume(tumor=(0, 9)), reference), case("b", reference, reference)])
    assert summary["liver"]["dice_global"] == pytest.approx(2 * 10 / 30)
    assert summary["liver"]["assd"] == pytest.approx(9001 / 2)
    assert summary["tumor_burden"]["max"] == 0
    assert summary["tumor_burden_corrected"]["max"] == pytest.approx(9001 - 0.2)


def test_dice_per_case_and_global_weigh_cases_differently():
    cases = [
        case("small", volume(liver=(0, 39), tumor=(0, 0)), volume(liver=(0, 39), tumor=(1, 1))),
        case("large", volume(liver=(0, 39), tumor=(0, 19)), volume(liver=(0, 39), tumor=(0, 19))),
        case("none", volume(liver=(0, 39)), volume(liver=(0, 39))),
    ]
    tumor = summarize_liver(cases)["tumor"]
    assert tumor["dice_per_case"] == pytest.approx((0 + 1 + 1) / 3)
    assert tumor["dice_global"] == pytest.approx(40 / 42)


def test_tumor_scores_are_means_over_detected_lesions_not_over_cases():
    labels = volume(liver=(0, 39), tumor=(0, 3))
    labels[..., 10:20] = 2
    off = volume(liver=(0, 39), tumor=(0, 3))
    off[..., 10:18] = 2
    missed = volume(liver=(0, 39), tumor=(0, 3))
    missed[..., 10:20] = 2
    summary = summarize_liver([case("two", off, labels), case("missed", volume(liver=(0, 39)), missed)])
    assert summary["tumor"]["jaccard"] == pytest.approx((1 + 8 / 10) / 2)
    assert summary["tumor"]["rvd"] == pytest.approx((0 + 2 / 8) / 2)
    assert summary["tumor"]["msd"] == pytest.approx(1)
    assert summary["detection"] == {
        "precision": 1, "recall": 0.5, "precision_greater_zero": 1, "recall_greater_zero": 0.5
    }  # fmt: skip


def test_tumor_burden_errors_are_signed():
    cases = [
        case("over", volume(liver=(0, 9), tumor=(0, 4)), volume(liver=(0, 9), tumor=(0, 0))),
        case("under", volume(liver=(0, 9)), volume(liver=(0, 9), tumor=(0, 1))),
    ]
    summary = summarize_liver(cases)
    assert summary["tumor_burden"] == pytest.approx({"rmse": np.sqrt((0.4**2 + 0.2**2) / 2), "max": 0.2})
    assert summary["tumor_burden_corrected"]["max"] == pytest.approx(0.4)


def test_the_program_ignores_the_lesions_of_a_case_whose_count_failures_canceled():
    # one lesion found (+1), one bridge of two failed (+1 - 2)
    reference = volume(liver=(0, 39), tumor=(0, 3))
    reference[..., [10, 30]] = 2
    prediction = volume(liver=(0, 39), tumor=(0, 3))
    prediction[..., 10:31] = 2
    summary = summarize_liver([case("a", prediction, reference)])
    assert summary["cases"][0]["lesions"]["detected"] == 0
    assert (summary["tumor"]["jaccard"], summary["tumor"]["msd"]) == (0, 9001)
    assert summary["tumor_corrected"]["jaccard"] == 1
    assert summary["detection_corrected"]["recall"] == pytest.approx(1 / 3)
    assert summary["detection_corrected"]["precision"] == pytest.approx(1 / 2)


def test_random_cases_agree_with_the_rules_acted_out_voxel_by_voxel():
    drawings = [drawn(seed) for seed in range(36)]
    summary = summarize_liver([case(str(seed), *drawing) for seed, drawing in enumerate(drawings)])
    expected = lits_rules.summary(drawings)
    for group, values in expected.items():
        found = {name: summary[group][name] for name in values}
        assert found == pytest.approx(values, abs=1e-6), group


@pytest.mark.parametrize("seed", range(6))
def test_the_masks_of_a_random_case_are_scored_whole(seed):
    prediction, reference, spacing_mm = drawn(seed)
    scores = score_liver_case(prediction, reference, spacing_mm)
    for organ, label in (("liver", 1), ("tumor", 2)):
        masks = prediction >= label, reference >= label
        if masks[0].any() and masks[1].any() and not (organ == "liver" and seed == 3):
            expected = lits_rules.segmentation(*masks, spacing_mm)
            assert {name: scores[organ][name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_kind_and_order_of_the_array_do_not_matter():
    prediction, reference, spacing_mm = drawn(4)
    scores = score_liver_case(prediction, reference, spacing_mm)
    others = np.asfortranarray(prediction, np.int64), reference.astype(np.int16)[::-1].copy()[::-1]
    assert score_liver_case(*others, spacing_mm) == scores


def test_undefined_values_are_none_and_the_rest_is_strict_json():
    empty = volume()
    summary = summarize_liver([case("empty", empty, empty)])
    assert summary["liver"]["dice_global"] is None and summary["tumor"]["dice_global"] is None
    assert summary["tumor"]["dice_per_case"] == 1
    assert summary["tumor_burden"] == {"rmse": None, "max": None}
    assert summary["tumor_corrected"]["assd"] is None
    assert summary["detection_corrected"]["recall"] is None
    assert summary["rule"] == "lits2017"
    json.dumps(summary, allow_nan=False)


def test_no_case_leaves_everything_undefined():
    summary = summarize_liver([])
    for group in ("liver", "tumor", "tumor_corrected", "detection", "tumor_burden"):
        assert set(summary[group].values()) == {None}, group


def test_a_summary_can_be_made_from_cases_that_went_through_json():
    cases = [case("a", volume(liver=(0, 9), tumor=(2, 4)), volume(liver=(1, 9), tumor=(3, 4)), (2.5, 0.7, 0.7))]
    assert summarize_liver(json.loads(json.dumps(cases))) == summarize_liver(cases)


@pytest.mark.parametrize(
    ("prediction", "spacing_mm", "message"),
    [
        (np.zeros((1, 1, 41), np.uint8), UNIT, r"\(1, 1, 41\).*\(1, 1, 40\)"),
        (np.zeros((1, 1, 40), np.float32), UNIT, "float32.*round"),
        (np.full((1, 1, 40), 3, np.uint8), UNIT, "labels 3 to 3.*2 tumor"),
        (np.full((1, 1, 40), -1, np.int16), UNIT, "labels -1 to -1"),
        (np.zeros((1, 1, 40), np.uint8), (1.0, 0.0, 1.0), "spacing_mm"),
    ],
)
def test_what_cannot_be_scored_is_refused(prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        score_liver_case(prediction, volume(liver=(0, 3)), spacing_mm)
