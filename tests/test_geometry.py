import numpy as np
import pytest
from scipy import ndimage

from raunet_jax.imaging.geometry import Box, View, bounding_box, expand, pad_to, resize_in_plane, whole


def test_bounding_box_is_tight():
    mask = np.zeros((5, 8, 9), np.uint8)
    mask[1, 2, 7] = 1
    mask[3, 5, 4] = 2
    box = bounding_box(mask)
    assert box == Box((1, 2, 4), (4, 6, 8)) and box.shape == (3, 4, 4)
    rest = mask.copy()
    rest[box.slices] = 0
    assert not rest.any()


def test_bounding_box_of_nothing_and_of_everything():
    assert bounding_box(np.zeros((3, 4, 5), np.uint8)) is None
    assert bounding_box(np.ones((3, 4, 5), np.uint8)) == whole((3, 4, 5))


def test_a_box_grows_up_to_the_volumes_edge():
    assert expand(Box((1, 12, 20), (4, 16, 25)), 10, (6, 40, 30)) == Box((0, 2, 10), (6, 26, 30))


@pytest.mark.parametrize("size", [(5, 9), (12, 3), (1, 1), (7, 22), (6, 11), (24, 6)])
def test_resizing_samples_linearly_at_half_pixel_centers(size):
    image = np.random.default_rng(0).normal(size=(2, 6, 11)).astype(np.float32)
    rows = (np.arange(size[0]) + 0.5) * 6 / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * 11 / size[1] - 0.5
    at = np.meshgrid(rows, columns, indexing="ij")
    for ours, plane in zip(resize_in_plane(image, size), image, strict=True):
        np.testing.assert_allclose(ours, ndimage.map_coordinates(plane, at, order=1, mode="nearest"), atol=1e-5)


def test_halving_averages_pairs_and_channels_stay_apart():
    image = np.arange(2 * 4 * 6 * 3, dtype=np.int16).reshape(2, 4, 6, 3)
    expected = image.reshape(2, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize_in_plane(image, (2, 3)), expected)


def test_the_same_size_and_a_constant_stay_exact():
    image = np.random.default_rng(1).normal(size=(2, 5, 7)).astype(np.float32)
    same = resize_in_plane(image, (5, 7))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)
    np.testing.assert_array_equal(resize_in_plane(np.full((2, 5, 7), 0.1, np.float32), (9, 4)), np.float32(0.1))


def test_resizing_in_chunks_is_resizing_at_once(monkeypatch):
    image = np.random.default_rng(2).normal(size=(7, 8, 8)).astype(np.float32)
    at_once = resize_in_plane(image, (5, 12))
    monkeypatch.setattr("raunet_jax.imaging.geometry._CHUNK_BYTES", 2 * 4 * 64)
    np.testing.assert_array_equal(resize_in_plane(image, (5, 12)), at_once)


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="cannot resize to 0 x 4"):
        resize_in_plane(np.zeros((1, 4, 4), np.float32), (0, 4))


def test_a_view_at_original_resolution_is_a_crop_and_back_is_a_paste():
    voxels = np.random.default_rng(3).integers(-1000, 1000, (4, 6, 8, 2)).astype(np.int16)
    view = View(Box((1, 2, 3), (3, 6, 7)), None)
    assert view.shape == (2, 4, 4)
    np.testing.assert_array_equal(view.image(voxels), voxels[1:3, 2:6, 3:7])
    np.testing.assert_array_equal(view.mask((voxels[..., 0] > 0).astype(np.uint8)), voxels[1:3, 2:6, 3:7, 0] > 0)
    back = view.back(np.ones(view.shape, np.float32), (4, 6, 8))
    assert back.dtype == np.float32 and back.sum() == 2 * 4 * 4 and back[1:3, 2:6, 3:7].all()


def test_a_resized_view_rounds_intensities_and_covers_the_box():
    voxels = np.zeros((3, 10, 10, 1), np.int16)
    voxels[:, 2:6, 2:6] = 101
    voxels[:, 2, :] = -1000
    view = View(Box((0, 3, 2), (3, 5, 6)), (4, 8))
    image = view.image(voxels)
    assert image.dtype == np.int16 and image.shape == (3, 4, 8, 1)
    np.testing.assert_array_equal(image, 101)


def test_no_label_is_interpolated_into_another():
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[:, :, 4:] = 2
    seen = View(whole(mask.shape), (6, 6)).mask(mask)
    assert set(np.unique(seen)) == {0, 2}, "a liver rim of label 1 would appear between background and tumor"


@pytest.mark.parametrize("size", [(24, 24), (9, 30), (13, 11)])
def test_each_label_set_is_resized_and_cut_at_a_half(size):
    mask = np.zeros((2, 16, 20), np.uint8)
    mask[:, 2:14, 3:17] = 1
    mask[0, 5:9, 6:12] = 2
    seen = View(whole(mask.shape), size).mask(mask)
    for label in (1, 2):
        expected = resize_in_plane((mask >= label).astype(np.float32), size) >= 0.5
        np.testing.assert_array_equal(seen >= label, expected)
    assert seen.dtype == np.uint8


def test_a_mask_survives_the_way_there_and_back():
    z, y, x = np.indices((4, 60, 70))
    disc = ((y - 30) ** 2 + (x - 33) ** 2 < 20**2).astype(np.uint8)
    view = View(expand(bounding_box(disc), 3, disc.shape), (64, 64))
    back = view.back(view.mask(disc).astype(np.float32), disc.shape) >= 0.5
    overlap = 2 * (back & (disc > 0)).sum() / (back.sum() + disc.sum())
    assert overlap > 0.98
    center = [np.mean(np.nonzero(one)[1:], axis=1) for one in (back, disc)]
    np.testing.assert_allclose(*center, atol=0.1)


def test_back_refuses_another_views_probabilities():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\); this view's shape is \(1, 4, 4\)"):
        View(whole((1, 8, 8)), (4, 4)).back(np.zeros((1, 2, 2), np.float32), (1, 8, 8))


def test_padding_goes_to_the_end_and_is_undone_by_the_slices():
    voxels = np.random.default_rng(4).integers(0, 9, (2, 5, 3, 2)).astype(np.int16)
    padded, inner = pad_to(voxels, (4, 4, 4), np.array([-7, -9]))
    assert padded.shape == (4, 5, 4, 2) and padded.dtype == np.int16
    np.testing.assert_array_equal(padded[inner], voxels)
    assert (padded[2:] == [-7, -9]).all() and (padded[:, :, 3] == [-7, -9]).all()


def test_padding_without_need_copies_nothing():
    voxels = np.zeros((4, 4, 4), np.float32)
    padded, inner = pad_to(voxels, (2, 4, 3), 1.0)
    assert padded is voxels and padded[inner].shape == voxels.shape
