import numpy as np
import pytest

from raunet_jax.scores.overlap import Counts, count, overlap_scores, rvd


def test_scores_of_masks_counted_by_hand():
    prediction = np.array([[[1, 1, 1, 0, 0, 0, 0, 0]]], bool)
    reference = np.array([[[0, 1, 1, 1, 1, 1, 0, 0]]], bool)
    counts = count(prediction, reference)
    assert counts == Counts(prediction=3, reference=5, intersection=2, volume=8)
    scores = overlap_scores(counts)
    assert scores["dice"] == pytest.approx(4 / 8)
    assert scores["jaccard"] == pytest.approx(2 / 6)
    assert scores["voe"] == pytest.approx(4 / 6)
    assert scores["rvd"] == pytest.approx(2 / 3)
    assert scores["sensitivity"] == pytest.approx(2 / 5)
    assert scores["specificity"] == pytest.approx(2 / 3)


def test_rvd_is_positive_for_under_segmentation_and_relative_to_the_prediction():
    assert rvd(Counts(10, 20, 10, 100)) == 1.0
    assert rvd(Counts(20, 10, 10, 100)) == -0.5


def test_two_empty_masks_agree():
    scores = overlap_scores(Counts(0, 0, 0, 8))
    assert scores == {"dice": 1, "jaccard": 1, "voe": 0, "rvd": None, "sensitivity": None, "specificity": 1}


def test_one_empty_mask_scores_nothing():
    assert overlap_scores(Counts(0, 4, 0, 8)) == {
        "dice": 0, "jaccard": 0, "voe": 1, "rvd": None, "sensitivity": 0, "specificity": 1
    }  # fmt: skip
    assert overlap_scores(Counts(4, 0, 0, 8)) == {
        "dice": 0, "jaccard": 0, "voe": 1, "rvd": -1, "sensitivity": None, "specificity": 0.5
    }  # fmt: skip


def test_a_reference_that_fills_the_volume_has_no_specificity():
    assert overlap_scores(Counts(4, 8, 4, 8))["specificity"] is None


def test_the_background_outside_a_crop_counts():
    mask = np.ones((1, 2, 2), bool)
    assert overlap_scores(count(mask, mask, volume=100))["specificity"] == 1
    assert count(mask, mask, volume=100).volume == 100
