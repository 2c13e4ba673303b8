import json

import numpy as np
import pytest

from raunet_jax.scores import score_liver_case, summarise_liver

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
    summary = summarise_liver([case("a", volume(tumor=(0, 9)), reference), case("b", reference, reference)])
    assert summary["liver"]["dice_global"] == pytest.approx(2 * 10 / 30)
    assert summary["liver"]["assd"] == pytest.approx(9001 / 2)
    assert summary["tumor_burden"]["max"] == 0
    assert summary["tumor_burden_without_habits"]["max"] == pytest.approx(9001 - 0.2)


def test_dice_per_case_and_global_weigh_cases_differently():
    cases = [
        case("small", volume(liver=(0, 39), tumor=(0, 0)), volume(liver=(0, 39), tumor=(1, 1))),
        case("large", volume(liver=(0, 39), tumor=(0, 19)), volume(liver=(0, 39), tumor=(0, 19))),
        case("none", volume(liver=(0, 39)), volume(liver=(0, 39))),
    ]
    tumor = summarise_liver(cases)["tumor"]
    assert tumor["dice_per_case"] == pytest.approx((0 + 1 + 1) / 3)
    assert tumor["dice_global"] == pytest.approx(40 / 42)


def test_tumor_scores_are_means_over_detected_lesions_not_over_cases():
    labels = volume(liver=(0, 39), tumor=(0, 3))
    labels[..., 10:20] = 2
    off = volume(liver=(0, 39), tumor=(0, 3))
    off[..., 10:18] = 2
    missed = volume(liver=(0, 39), tumor=(0, 3))
    missed[..., 10:20] = 2
    summary = summarise_liver([case("two", off, labels), case("missed", volume(liver=(0, 39)), missed)])
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
    summary = summarise_liver(cases)
    assert summary["tumor_burden"] == pytest.approx({"rmse": np.sqrt((0.4**2 + 0.2**2) / 2), "max": 0.2})
    assert summary["tumor_burden_without_habits"]["max"] == pytest.approx(0.4)


def test_the_program_ignores_the_lesions_of_a_case_whose_count_failures_cancelled():
    # one lesion found (+1), one bridge of two failed (+1 - 2)
    reference = volume(liver=(0, 39), tumor=(0, 3))
    reference[..., [10, 30]] = 2
    prediction = volume(liver=(0, 39), tumor=(0, 3))
    prediction[..., 10:31] = 2
    summary = summarise_liver([case("a", prediction, reference)])
    assert summary["cases"][0]["lesions"]["detected"] == 0
    assert (summary["tumor"]["jaccard"], summary["tumor"]["msd"]) == (0, 9001)
    assert summary["tumor_without_habits"]["jaccard"] == 1
    assert summary["detection_without_habits"]["recall"] == pytest.approx(1 / 3)
    assert summary["detection_without_habits"]["precision"] == pytest.approx(1 / 2)


def test_undefined_values_are_none_and_the_rest_is_strict_json():
    empty = volume()
    summary = summarise_liver([case("empty", empty, empty)])
    assert summary["liver"]["dice_global"] is None and summary["tumor"]["dice_global"] is None
    assert summary["tumor"]["dice_per_case"] == 1
    assert summary["tumor_burden"] == {"rmse": None, "max": None}
    assert summary["tumor_without_habits"]["assd"] is None
    assert summary["detection_without_habits"]["recall"] is None
    assert summary["rule"] == "lits2017"
    json.dumps(summary, allow_nan=False)


def test_no_case_leaves_everything_undefined():
    summary = summarise_liver([])
    for group in ("liver", "tumor", "tumor_without_habits", "detection", "tumor_burden"):
        assert set(summary[group].values()) == {None}, group


def test_a_summary_can_be_made_from_cases_that_went_through_json():
    cases = [case("a", volume(liver=(0, 9), tumor=(2, 4)), volume(liver=(1, 9), tumor=(3, 4)), (2.5, 0.7, 0.7))]
    assert summarise_liver(json.loads(json.dumps(cases))) == summarise_liver(cases)


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
