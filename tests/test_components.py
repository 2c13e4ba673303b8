import numpy as np
import pytest
from scipy import ndimage

from raunet_jax.imaging.components import component_sizes, largest_component

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
    assert component_sizes(mask).tolist() == []
    assert not largest_component(mask).any() and largest_component(mask).shape == (3, 4, 5)


def test_of_equal_components_the_first_is_kept():
    mask = np.array([[[1, 1, 0, 1, 1]]])
    assert largest_component(mask).tolist() == [[[1, 1, 0, 0, 0]]]
