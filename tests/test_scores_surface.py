import numpy as np
import pytest
from scipy import ndimage

from raunet_jax.scores.surface import surface, surface_distances, surface_scores


def blob(seed, shape=(11, 12, 13)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 0.6)


def oracle(prediction, reference, spacing_mm):
    """All pairs of surface voxels, on the whole uncropped array."""
    points = []
    for mask in (prediction, reference):
        eroded = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2), border_value=0)
        points.append(np.argwhere(mask & ~eroded) * spacing_mm)
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return np.concatenate([pairs.min(axis=1), pairs.min(axis=0)])


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (0.5, 2.0, 3.5)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_agree_with_all_pairs(seed, spacing_mm):
    prediction, reference = blob(seed), blob(seed + 100)
    expected = oracle(prediction, reference, spacing_mm)
    distances = surface_distances(prediction, reference, spacing_mm)
    np.testing.assert_allclose(np.sort(distances), np.sort(expected), atol=1e-5)
    scores = surface_scores(prediction, reference, spacing_mm)
    assert scores["assd"] == pytest.approx(expected.mean(), abs=1e-5)
    assert scores["rmsd"] == pytest.approx(np.sqrt((expected**2).mean()), abs=1e-5)
    assert scores["msd"] == pytest.approx(expected.max(), abs=1e-5)
    assert scores["hausdorff95"] == pytest.approx(np.percentile(expected, 95), abs=1e-5)


def test_two_voxels_are_as_far_apart_as_their_centres():
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
