"""The entropy of the folds' mean probability, against its formula, and where nothing was predicted."""

import numpy as np
import pytest
from scipy import stats

import exact_models
from exact_models import TUMOR, VOI, model, models, rule
from raunet_jax.imaging.volume import Grid, Volume
from raunet_jax.inference.cascade import Segmentation, segment
from raunet_jax.inference.uncertainty import entropy_bits, uncertainty_map


def exact_volume(hu):
    return Volume(hu[..., None], exact_models.affine(), Grid(hu.shape[::-1], exact_models.affine(), None), "case")


def bits(p):
    """-p log2 p - (1 - p) log2(1 - p) of one probability strictly between 0 and 1."""
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def test_entropy_is_that_of_the_formula():
    p = np.random.default_rng(0).random((4, 5, 6))
    entropy = entropy_bits(p.astype(np.float32))
    assert entropy.dtype == np.float32 and entropy.shape == p.shape
    np.testing.assert_allclose(entropy, bits(p), rtol=1e-5)
    np.testing.assert_allclose(entropy, stats.entropy([p, 1 - p], base=2), rtol=1e-5)


def test_a_sure_voxel_has_none_and_an_undecided_one_a_bit():
    p = np.float32([[[0, 1, 0.5, np.nextafter(np.float32(1), np.float32(2))]]])
    assert entropy_bits(p).tolist() == [[[0, 0, 1, 0]]]


@pytest.mark.parametrize("probabilities", [(0.9, 0.4, 0.2), (0.7,)])
def test_the_map_is_of_the_mean_over_the_last_stages_folds(monkeypatch, probabilities):
    exact_models.use_rules(monkeypatch)
    hu, _ = exact_models.abdomen()
    tumor = model("tumor", *[rule((TUMOR, TUMOR), p, 0.0) for p in probabilities])
    found = segment(exact_volume(hu), models("coarse", "voi") | {"tumor": tumor})
    entropy = uncertainty_map(found, "tumor")
    assert entropy.dtype == np.float32
    np.testing.assert_allclose(entropy[hu == TUMOR], bits(np.mean(probabilities)), rtol=1e-5)
    assert (entropy[hu != TUMOR] == 0).all()


def test_outside_the_box_and_without_a_liver_it_is_0(monkeypatch):
    exact_models.use_rules(monkeypatch)
    hu, _ = exact_models.abdomen()
    undecided = {"tumor": model("tumor", rule((-2000, 2000), 0.5))}
    entropy = uncertainty_map(segment(exact_volume(hu), models("coarse", "voi") | undecided), "tumor")
    expected = np.zeros(hu.shape)
    expected[VOI.slices] = 1
    np.testing.assert_array_equal(entropy, expected)
    blind = segment(exact_volume(np.full_like(hu, exact_models.BODY)), models("coarse", "voi") | undecided)
    np.testing.assert_array_equal(uncertainty_map(blind, "tumor"), np.zeros(hu.shape, np.float32))


@pytest.mark.parametrize("stage, name", [("voi", "liver"), ("brain", "brain"), ("custom", "foreground")])
def test_each_stage_has_its_own_map(stage, name):
    half = np.full((2, 3, 4), 0.5, np.float32)
    other = {"liver": np.zeros_like(half)} if name != "liver" else {}
    found = Segmentation(np.zeros(half.shape, np.uint8), other | {name: half}, None)
    assert (uncertainty_map(found, stage) == 1).all()
