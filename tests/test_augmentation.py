"""Augmentation: what may happen to a patch, that its mask goes along, and what the draws depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from configs import brats, common, demo, liver, liver_tumor
from raunet_jax import recipe
from raunet_jax.training.augmentation import OFF, Augmentation, augment, from_recipe, sample_keys

ALL = Augmentation(("x", "y", "z"), True, 15.0, 0.15, 0.1, seed=3)
AXES = {"x": 3, "y": 2, "z": 1}  # of a batch (b, z, y, x, channel)
SAMPLES = 64


def changed(image, mask, settings):
    """Augmented image and mask as NumPy arrays."""
    apply = jax.jit(lambda *arrays: augment(*arrays, sample_keys(settings.seed, 0, 0, len(image)), settings))
    return tuple(np.asarray(array) for array in apply(jnp.asarray(image), jnp.asarray(mask)))


def noise(*shape):
    image = np.random.default_rng(0).random((SAMPLES, *shape, 2), np.float32)
    return image, (image[..., :1] > 0.7).astype(np.float32)


def which(image, mask, changed_image, changed_mask, candidates):
    """For each sample the one candidate by which both its image and its mask were changed; they are exact."""
    found = []
    for number in range(len(image)):
        fits = [
            name
            for name, change in candidates.items()
            if np.array_equal(change(image[number]), changed_image[number])
            and np.array_equal(change(mask[number]), changed_mask[number])
        ]
        assert len(fits) == 1
        found.append(fits[0])
    return found


def test_each_axis_is_mirrored_in_half_of_the_samples_whatever_the_others_do():
    image, mask = noise(3, 4, 5)
    subsets = [tuple(a for a, on in zip("xyz", bits, strict=True) if on) for bits in np.ndindex(2, 2, 2)]
    candidates = {axes: lambda a, axes=axes: np.flip(a, [AXES[axis] - 1 for axis in axes]) for axes in subsets}
    found = which(image, mask, *changed(image, mask, OFF._replace(flip=("x", "y", "z"))), candidates)
    assert set(found) == set(subsets)
    for axis in "xyz":
        assert 0.25 < np.mean([axis in axes for axes in found]) < 0.75  # 4 standard deviations of 64 draws


def test_axes_that_are_not_named_are_not_mirrored_and_two_dimensions_have_none():
    image, mask = noise(4, 5)
    candidates = {"none": lambda a: a, "x": lambda a: a[:, ::-1]}
    assert set(which(image, mask, *changed(image, mask, OFF._replace(flip=("x",))), candidates)) == {"none", "x"}


def test_quarter_turns_are_all_four_and_in_plane():
    image, mask = noise(3, 4, 4)
    candidates = {turns: lambda a, turns=turns: np.rot90(a, turns, (1, 2)) for turns in range(4)}
    found = which(image, mask, *changed(image, mask, OFF._replace(quarter_turns=True)), candidates)
    assert all(4 <= found.count(turns) <= 30 for turns in range(4))  # 16 of 64 expected


@pytest.mark.parametrize(("rotation", "scale"), [(15.0, 0.0), (0.0, 0.2), (15.0, 0.2)])
def test_planes_are_turned_and_zoomed_about_their_middle_by_up_to_what_the_recipe_says(rotation, scale):
    # Linear interpolation of ramps is exact: where nothing is outside, the image says which (y, x) a voxel came from.
    height, width = 24, 32
    ramps = np.stack(np.indices((height, width)), axis=-1).astype(np.float32)
    image = np.broadcast_to(ramps, (SAMPLES, 2, height, width, 2))
    mask = (np.random.default_rng(0).random((SAMPLES, 2, height, width, 1)) > 0.5).astype(np.float32)
    came_from, moved = changed(image, mask, OFF._replace(rotation=rotation, scale=scale))
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    inner = (slice(8, 16), slice(10, 22))
    there = (ramps[inner] - middle).reshape(-1, 2)
    angles, zooms = [], []
    for sample, before, after in zip(came_from, mask, moved, strict=True):
        np.testing.assert_allclose(sample[0], sample[1], atol=1e-4)  # every slice moves alike
        source = sample[0][inner].reshape(-1, 2)
        matrix = np.linalg.lstsq(there, source - middle, rcond=None)[0]
        np.testing.assert_allclose(there @ matrix + middle, source, atol=1e-3)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2) * np.linalg.det(matrix), atol=1e-3)  # shapes stay
        angles.append(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))
        zooms.append(1 / np.sqrt(np.linalg.det(matrix)))
        y, x = np.rint(source).astype(int).T
        certain = (np.abs(source % 1 - 0.5) > 1e-3).all(axis=1)  # else either neighbor is the nearest
        np.testing.assert_array_equal(after[:, *inner].reshape(2, -1)[:, certain], before[:, y, x, 0][:, certain])
    for found, expected in ((np.array(angles), rotation), (np.array(zooms) - 1, scale)):
        assert np.abs(found).max() <= expected + 1e-3
        assert found.min() <= -0.8 * expected + 1e-3 and found.max() >= 0.8 * expected - 1e-3


@pytest.mark.parametrize("shape", [(4, 32, 32), (32, 32)])
def test_image_and_mask_move_together(shape):
    settings = (ALL if len(shape) == 3 else ALL._replace(flip=("x", "y")))._replace(intensity=0.0)
    rng = np.random.default_rng(1)
    mask = np.zeros((SAMPLES, *shape, 1), np.float32)
    for number in range(SAMPLES):
        blobs = ndimage.gaussian_filter(rng.normal(size=shape), 3)
        mask[number, ..., 0] = blobs > np.quantile(blobs, 0.7)
    image, moved = changed(mask, mask, settings)
    assert set(np.unique(moved)) == {0, 1} and not np.array_equal(moved, mask)
    image, moved = image[..., 0] > 0.5, moved[..., 0] > 0
    for ours, theirs in zip(image.reshape(-1, 32, 32), moved.reshape(-1, 32, 32), strict=True):
        assert (ours <= ndimage.binary_dilation(theirs)).all()
        assert (ours >= ndimage.binary_erosion(theirs)).all()
    assert (image == moved).mean() > 0.97


def test_beyond_the_patch_lie_the_lowest_intensity_and_background():
    ones = np.ones((SAMPLES, 2, 33, 33, 1), np.float32)
    image, mask = changed(ones, ones, OFF._replace(rotation=45.0))
    turned = mask[:, 0, 0, 0, 0] == 0  # the corner, but in a sample that is hardly turned
    assert turned.mean() > 0.9 and (image[turned, 0, 0, 0] < 0.5).all()
    assert (image[:, :, 12:21, 12:21] == pytest.approx(1)) and (mask[:, :, 12:21, 12:21] == 1).all()


def test_intensities_change_by_a_line_of_each_modality_within_bounds_and_the_mask_stays():
    image, mask = noise(2, 8, 8)
    share = 0.2
    ours, untouched = changed(image, mask, OFF._replace(intensity=share))
    np.testing.assert_array_equal(untouched, mask)
    assert ours.shape == image.shape
    assert ours.min() == 0 and ours.max() == 1  # clipped
    lines = []
    for sample, before in zip(ours, image, strict=True):
        for channel in range(2):
            inside = (sample[..., channel] > 0) & (sample[..., channel] < 1)
            slope, at_middle = np.polyfit(before[..., channel][inside] - 0.5, sample[..., channel][inside], 1)
            predicted = np.clip(slope * (before[..., channel] - 0.5) + at_middle, 0, 1)
            np.testing.assert_allclose(sample[..., channel], predicted, atol=1e-5)
            lines.append((slope - 1, at_middle - 0.5))
    lines = np.array(lines)
    assert np.abs(lines).max() <= share + 1e-5
    assert (lines.min(axis=0) < -0.8 * share).all() and (lines.max(axis=0) > 0.8 * share).all()
    assert np.abs(np.corrcoef(lines.T)[0, 1]) < 0.4  # contrast and brightness are drawn apart
    assert np.median(np.abs(lines[::2] - lines[1::2])) > 0.02  # and so are the modalities


def test_draws_follow_from_seed_step_and_place_alone():
    image, mask = (np.repeat(array[:1], 8, axis=0) for array in noise(2, 16, 16))

    @jax.jit
    def draw(seed, step):
        return augment(jnp.asarray(image), jnp.asarray(mask), sample_keys(seed, step, 0, len(image)), ALL)

    (first, first_mask), (again, _) = draw(ALL.seed, 0), draw(ALL.seed, 0)
    np.testing.assert_array_equal(again, first)
    images = np.concatenate([first, draw(ALL.seed, 1)[0], draw(ALL.seed + 1, 0)[0]])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)

    @jax.jit
    def on_device(start):
        own = (jax.lax.dynamic_slice_in_dim(jnp.asarray(array), start, 2) for array in (image, mask))
        return augment(*own, sample_keys(ALL.seed, 0, start, 2), ALL)

    for start in (0, 2, 6):  # two samples of a device, from the place of its first in the global batch
        for ours, whole in zip(on_device(start), (first, first_mask), strict=True):
            np.testing.assert_allclose(ours, whole[start : start + 2], atol=1e-6)


def test_off_returns_its_input():
    image, mask = noise(2, 8, 8)
    for ours, given in zip(changed(image, mask, OFF), (image, mask), strict=True):
        np.testing.assert_array_equal(ours, given)


def test_the_papers_recipes_and_another_seed_are_off():
    for module in (brats, demo, liver, liver_tumor):
        config = module.get_config()
        config.seed = 5
        for stage in recipe.stages_of(config).values():
            assert from_recipe(stage) == OFF


def test_a_recipes_augmentation_is_its_fields_and_seed():
    config = brats.get_config("strong")
    config.seed = 5
    assert from_recipe(config) == Augmentation(("x", "y", "z"), True, 15.0, 0.15, 0.1, 5)
    assert hash(from_recipe(config)) == hash(from_recipe(recipe.from_json(recipe.to_json(config))))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flip", ("x", "w"), "augment.flip has 'w'.*axes x, y$"),
        ("flip", ("z",), r"augment.flip has 'z'.*patch_size \(64, 32, 1\)"),
        ("quarter_turns", True, r"augment.quarter_turns.*patch_size is \(64, 32, 1\).*make x and y equal"),
        ("rotation", 181.0, "augment.rotation is 181.0.*0 and 180"),
        ("scale", -0.1, "augment.scale is -0.1.*0 and 0.5"),
        ("intensity", float("nan"), "augment.intensity is nan"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_field_and_value(field, value, message):
    config = common.get_config()
    config.patch_size = (64, 32, 1)
    config.augment[field] = value
    with pytest.raises(ValueError, match=message):
        from_recipe(config)
