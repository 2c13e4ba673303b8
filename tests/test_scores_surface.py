import numpy as np
import pytest
from scipy import ndimage

import lits_rules
from raunet_jax.scores.surface import surface, surface_distances, surface_scores


def blob(seed, shape=(11, 12, 13)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 0.6)


@pytest.fixture(params=["chosen", "search", "abandoned search", "transform"])
def way(request, monkeypatch):
    """The ways to the distances, which ours chooses by their cost; all must give the same."""
    costs = {"search": (0, 10**9), "abandoned search": (0, -1), "transform": (10**9, 0)}
    if request.param in costs:
        for name, cost in zip(("_VOXELS_PER_POINT", "_PAIRS_PER_VOXEL"), costs[request.param], strict=True):
            monkeypatch.setattr(f"raunet_jax.scores.surface.{name}", cost)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (0.5, 2.0, 3.5)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_agree_with_all_pairs(seed, spacing_mm, way):
    prediction, reference = blob(seed), blob(seed + 100)
    expected = lits_rules.surface_distances(prediction, reference, spacing_mm)
    distances = surface_distances(prediction, reference, spacing_mm)
    np.testing.assert_allclose(np.sort(distances), np.sort(expected), atol=1e-5)
    scores = surface_scores(prediction, reference, spacing_mm)
    assert scores["assd"] == pytest.approx(expected.mean(), abs=1e-5)
    assert scores["rmsd"] == pytest.approx(np.sqrt((expected**2).mean()), abs=1e-5)
    assert scores["msd"] == pytest.approx(expected.max(), abs=1e-5)
    assert scores["hausdorff95"] == pytest.approx(np.percentile(expected, 95), abs=1e-5)


def test_stray_voxels_in_the_corners_are_far_away(way):
    prediction, reference = np.zeros((2, 50, 60, 70), bool)
    prediction[20:30, 20:30, 20:30] = reference[21:31, 20:30, 20:30] = True
    prediction[0, 0, 0] = prediction[-1, -1, -1] = reference[-1, 0, 0] = True
    spacing_mm = (2.5, 0.7, 0.9)
    expected = lits_rules.surface_distances(prediction, reference, spacing_mm)
    distances = surface_distances(prediction, reference, spacing_mm)
    np.testing.assert_allclose(np.sort(distances), np.sort(expected), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_surfaces_of_many_slices_agree_with_a_voxels_eighteen_neighbors(seed):
    mask = np.random.default_rng(seed).random((53, 7, 8)) < 0.97
    mask[20:24] = False
    mask[:, :, 6] &= mask[:, :, 5]
    around = np.pad(mask, 1)
    steps = [step for step in np.ndindex(3, 3, 3) if 0 < np.abs(np.subtract(step, 1)).sum() < 3]
    neighbors = [around[z : z + 53, y : y + 7, x : x + 8] for z, y, x in steps]
    assert len(neighbors) == 18
    np.testing.assert_array_equal(surface(mask), mask & ~np.all(neighbors, axis=0))


def test_the_arrays_memory_order_does_not_matter():
    prediction, reference = blob(0), blob(1)
    scores = surface_scores(prediction, reference, (3.0, 2.0, 1.0))
    assert surface_scores(np.asfortranarray(prediction), reference[:, ::-1].copy()[:, ::-1], (3.0, 2.0, 1.0)) == scores


def test_two_voxels_are_as_far_apart_as_their_centers():
    prediction, reference = np.zeros((2, 3, 5, 5), bool)
    prediction[0, 0, 0] = True
    reference[2, 0, 4] = True
    scores = surface_scores(prediction, reference, (2.0, 9.0, 0.75))
    assert scores == pytest.approx(dict.fromkeys(("assd", "rmsd", "msd", "hausdorff95"), 5.0))


def test_a_surface_voxel_is_one_with_background_across_a_face_or_an_edge_but_not_a_corner():
    mask = np.ones((5, 5, 5), bool)
    mask[0, 0, 0] = False
    assert not surface(mask)[1, 1, 1]
    mask[0, 0, 1] = False
    assert surface(mask)[1, 1, 1]


def test_outside_of_the_array_is_background():
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26


def test_a_mask_that_fills_the_array_has_its_surface_at_the_border():
    prediction, reference = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    reference[1, 1, 1] = True
    # 6 faces, 12 edges and 8 corners around the one voxel, which is 1 mm from the nearest of them
    scores = surface_scores(prediction, reference, (1.0, 1.0, 1.0))
    assert scores["assd"] == pytest.approx((6 + 12 * 2**0.5 + 8 * 3**0.5 + 1) / 27)
    assert scores["msd"] == pytest.approx(3**0.5)


def test_equal_masks_are_at_distance_zero():
    mask = blob(5)
    assert surface_scores(mask, mask, (3.0, 1.0, 1.0)) == dict.fromkeys(("assd", "rmsd", "msd", "hausdorff95"), 0.0)


def test_both_directions_are_pooled_over_voxels():
    prediction, reference = np.zeros((2, 1, 1, 9), bool)
    prediction[..., 0] = True
    reference[..., [0, 2, 4, 8]] = True
    # prediction to reference: 0; reference to prediction: 0, 2, 4, 8
    scores = surface_scores(prediction, reference, (1.0, 1.0, 1.0))
    assert scores["assd"] == pytest.approx(14 / 5)
    assert scores["rmsd"] == pytest.approx(np.sqrt(84 / 5))
    assert scores["hausdorff95"] == pytest.approx(4 + 4 * 0.8)


def test_empty_masks_have_no_distance():
    empty, mask = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    for pair in ((empty, empty), (empty, mask), (mask, empty)):
        assert surface_scores(*pair, (1.0, 1.0, 1.0)) == dict.fromkeys(("assd", "rmsd", "msd", "hausdorff95"))
