import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from data_prep import sampling
from raunet_jax import tasks


def origins(stage, labels, patch_shape, count, foreground_fraction=0.5, seed=0, voxels=None):
    voxels = np.zeros((*labels.shape, 1), np.int16) if voxels is None else voxels
    return sampling.patch_origins(
        stage, voxels, labels, patch_shape, count, foreground_fraction, np.random.default_rng(seed)
    )


def windows(labels, starts, patch_shape):
    return [labels[tuple(slice(o, o + n) for o, n in zip(start, patch_shape, strict=True))] for start in starts]


@pytest.mark.parametrize("stage, cases, total", [("voi", 130, 5096), ("tumor", 118, 17_700), ("brain", 285, 114_000)])
def test_the_papers_totals_come_out_exactly(stage, cases, total):
    mean = sampling.mean_patches(stage, "lits", 0.0)
    counts = [sampling.case_patches(index, mean) for index in range(cases)]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


def test_a_fractional_mean_is_spread_over_the_cases():
    mean = sampling.mean_patches("voi", "lits", 0.4)
    assert [sampling.case_patches(index, mean) for index in range(5)] == [0, 0, 1, 0, 1]


def test_the_recipes_count_goes_before_the_papers_and_phantoms_have_one():
    assert sampling.mean_patches("tumor", "lits", 7.0) == 7
    assert sampling.mean_patches("tumor", "phantom", 0.0) == 1
    assert sampling.mean_patches("coarse", "lits", 0.0) is None is sampling.mean_patches("coarse", "phantom", 0.0)
    assert sampling.case_patches(3, None) is None
    assert sampling.mean_patches("voi", "lits", 0.0) == Fraction(392, 10)
    with pytest.raises(ValueError, match="patches_per_case is -1"):
        sampling.mean_patches("tumor", "lits", -1)


def test_coarse_keeps_every_slice_with_liver_and_a_third_of_the_others():
    labels = np.zeros((40, 8, 8), np.uint8)
    labels[10:20, 3, 3] = 1
    labels[20, 4, 4] = 2
    kept = origins("coarse", labels, (1, 8, 8), None)
    slices = kept[:, 0].tolist()
    assert set(range(10, 21)) <= set(slices)
    assert len(slices) == len(set(slices)) == 11 + round(29 / 3)
    assert not kept[:, 1:].any()
    assert slices != origins("coarse", labels, (1, 8, 8), None, seed=1)[:, 0].tolist()


def test_coarse_is_capped_by_a_random_choice_of_what_it_keeps():
    labels = np.zeros((40, 8, 8), np.uint8)
    labels[10:20] = 1
    assert len(origins("coarse", labels, (1, 8, 8), 5)) == 5
    assert len(origins("coarse", labels, (1, 8, 8), 500)) == 10 + 10


def test_voi_draws_every_run_of_slices_before_it_repeats_one():
    labels = np.ones((12, 8, 8), np.uint8)
    starts = origins("voi", labels, (8, 8, 8), 12)[:, 0]
    assert sorted(starts[:5]) == sorted(starts[5:10]) == list(range(5))
    assert set(starts) == set(range(5)) and len(starts) == 12
    assert origins("voi", labels, (12, 8, 8), 3).tolist() == [[0, 0, 0]] * 3
    assert origins("voi", labels, (8, 8, 8), 0).shape == (0, 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_tumor_share_of_patches_holds_tumor_and_all_lie_in_the_view(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((20, 30, 25)) < 0.3).astype(np.uint8)
    labels[0, 0, 0] = labels[19, 29, 24] = 2
    patch_shape = (8, 16, 12)
    starts = origins("tumor", labels, patch_shape, 21, foreground_fraction=0.7, seed=seed)
    assert starts.dtype == np.int32 and starts.shape == (21, 3)
    assert (starts >= 0).all() and (starts + patch_shape <= labels.shape).all()
    has_tumor = [(window == 2).any() for window in windows(labels, starts, patch_shape)]
    assert all(has_tumor[: math.floor(21 * 0.7 + 0.5)])


def test_tumor_is_off_center_and_healthy_patches_are_centered_on_liver():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10, 10, 10], labels[28, 28, 28] = 2, 1
    starts = origins("tumor", labels, (16, 16, 16), 200)
    offsets = 10 - starts[:100]
    assert offsets.min() >= 4 and offsets.max() <= 12 and len(np.unique(offsets)) > 6
    assert (starts[100:] == 20).all()


def test_a_volume_without_tumor_gives_no_tumor_patches_but_brain_patches():
    labels = np.zeros((8, 8, 8), np.uint8)
    assert origins("tumor", labels + np.uint8(1), (4, 4, 4), 10).shape == (0, 3)
    voxels = np.zeros((8, 8, 8, 4), np.int16)
    voxels[6, 6, 6, 2] = 9
    assert origins("brain", labels, (4, 4, 4), 3, voxels=voxels).tolist() == [[4, 4, 4]] * 3
    assert origins("brain", labels, (4, 4, 4), 3).shape == (3, 3)


def test_brain_patches_around_tumor_hold_tumor():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[11, 0, 5] = 1
    for window in windows(labels, origins("brain", labels, (4, 4, 4), 9, foreground_fraction=1.0), (4, 4, 4)):
        assert window.any()


def test_the_same_generator_draws_the_same_patches():
    labels = np.random.default_rng(0).integers(0, 3, (12, 12, 12), np.uint8)
    np.testing.assert_array_equal(*[origins("tumor", labels, (4, 4, 4), 9, seed=3) for _ in range(2)])


def test_a_stage_is_sampled_by_its_row_alone(monkeypatch):
    """Label 2 is the foreground of this stage of whole volumes; label 1 and what is above the minimum is healthy."""
    row = tasks.Stage("spleen", "spleen", 2, "volume", False, "centered", Fraction(7, 2))
    spleen = tasks.Task({"spleen": tasks.Structure(2, "#fff")}, None, "custom", {"spleen": row}, merged=True)
    monkeypatch.setitem(tasks.TASKS, "spleen", spleen)
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2, 2, 2], labels[4, 4, 4], labels[6, 6, 6] = 2, 1, 1
    voxels = np.where(labels == 1, 50, -10).astype(np.int16)[..., None]
    assert origins("spleen", labels, (1, 1, 1), 3, foreground_fraction=1.0, voxels=voxels).tolist() == [[2, 2, 2]] * 3
    healthy = origins("spleen", labels, (1, 1, 1), 20, foreground_fraction=0.0, voxels=voxels)
    assert {tuple(origin) for origin in healthy.tolist()} == {(4, 4, 4), (6, 6, 6)}
    assert sampling.mean_patches("spleen", "lits", 0.0) == Fraction(7, 2)

    monkeypatch.setitem(spleen.stages, "spleen", dataclasses.replace(row, sampler="slices"))
    kept = origins("spleen", labels, (1, 9, 9), None)[:, 0].tolist()
    assert 2 in kept and len(kept) == 1 + round(8 / 3)


def test_every_stage_names_a_sampler_that_there_is():
    assert {tasks.stage_of(name).sampler for name in tasks.stage_names()} == set(sampling.SAMPLERS)


def test_what_cannot_be_sampled_is_said_in_words():
    labels = np.zeros((4, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"view of \(4, 8, 8\) voxels is smaller than a patch of \(8, 8, 8\)"):
        origins("voi", labels, (8, 8, 8), 1)
    with pytest.raises(ValueError, match="single slices"):
        origins("coarse", labels, (2, 8, 8), 1)
    with pytest.raises(ValueError, match="foreground_fraction is 1.5"):
        origins("tumor", labels, (4, 8, 8), 1, foreground_fraction=1.5)
