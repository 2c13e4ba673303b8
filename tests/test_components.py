import numpy as np
import pytest
from scipy import ndimage

from raunet_jax.imaging.components import component_sizes, components, label_components, largest_component

STRUCTURES = {6: 1, 18: 2, 26: 3}


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scipy_labeling(seed, connectivity):
    mask = np.random.default_rng(seed).random((9, 10, 11)) < 0.2
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    sizes = np.bincount(labels.ravel())[1:]
    assert component_sizes(mask, connectivity).tolist() == sorted(sizes, reverse=True)
    largest = largest_component(mask, connectivity)
    assert largest.dtype == np.uint8
    kept = np.unique(labels[largest > 0])
    assert kept.size == 1 and largest.sum() == sizes.max() == sizes[kept[0] - 1]


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_components_are_scipys_but_for_their_order(seed, connectivity):
    mask = np.random.default_rng(seed).random((9, 10, 11)) < 0.2
    expected, total = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    numbers, found = label_components(mask.astype(np.uint8) * 3, connectivity)
    assert found == total == numbers.max()
    pairs = np.unique(np.stack([expected.ravel(), numbers.ravel()]), axis=1)
    assert pairs.shape[1] == total + 1 and pairs[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("seed", range(3))
def test_each_component_comes_with_its_box_voxels_and_centroid(seed, connectivity):
    mask = np.zeros((14, 15, 16), bool)
    mask[3:12, 4:14, 2:13] = np.random.default_rng(seed).random((9, 10, 11)) < 0.2
    labels, total = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    found = list(components(mask, connectivity))
    sizes = [component.voxels for component in found]
    assert len(found) == total and sizes == sorted(sizes, reverse=True)
    seen = np.zeros(mask.shape, int)
    for component in found:
        (z, y, x), *_ = np.argwhere(component.mask)
        inside = labels == labels[component.slices][z, y, x]
        assert component.slices == ndimage.find_objects(inside.astype(int))[0]
        np.testing.assert_array_equal(component.mask, inside[component.slices])
        assert component.voxels == inside.sum()
        np.testing.assert_allclose(component.centroid, ndimage.center_of_mass(inside))
        seen[component.slices] += component.mask
    np.testing.assert_array_equal(seen, mask)


def test_voxels_that_share_a_corner_are_one_component_by_default():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    mask[3, 3, 3] = 1
    assert component_sizes(mask).tolist() == [2, 1]
    assert component_sizes(mask, connectivity=6).tolist() == [1, 1, 1]
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_different_labels_of_a_mask_belong_to_one_object():
    mask = np.array([[[1, 2, 0, 1]]])
    assert largest_component(mask).tolist() == [[[1, 1, 0, 0]]]


def test_an_empty_mask_has_no_component():
    mask = np.zeros((3, 4, 5), np.uint8)
    assert component_sizes(mask).tolist() == [] == list(components(mask))
    assert label_components(mask)[1] == 0 and not label_components(mask)[0].any()
    assert not largest_component(mask).any() and largest_component(mask).shape == (3, 4, 5)


def test_of_equal_components_the_first_is_kept():
    mask = np.array([[[1, 1, 0, 1, 1]]])
    assert largest_component(mask).tolist() == [[[1, 1, 0, 0, 0]]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_voxels_one_apart_in_a_single_row_are_two_components(axis):
    """Of [1, 0, 1] and the like cc3d alone says "maximum length exception"."""
    mask = np.moveaxis(np.array([[[1, 0, 1]]]), 2, axis)
    assert component_sizes(mask).tolist() == [1, 1]
    assert label_components(mask)[0].ravel().tolist() == [1, 0, 2]
