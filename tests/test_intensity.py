import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.imaging.intensity import clip_hu, encode, min_max, normalize, zero_mean

WINDOW = (-100.0, 200.0)


@pytest.mark.parametrize("low,high", [(-1024, 1500), (-60, 120), (-1024, 50), (150, 900)])
def test_normalizing_is_the_papers_three_steps(low, high):
    scan = np.random.default_rng(0).integers(low, high, (5, 6, 7, 1)).astype(np.int16)
    ours = normalize(*encode(scan, "ct", WINDOW))
    np.testing.assert_allclose(ours, min_max(zero_mean(clip_hu(scan, WINDOW))), atol=3e-6)
    assert ours.dtype == np.float32 and ours.min() == 0 and ours.max() == 1


def test_ct_is_stored_as_scanned_with_the_extremes_of_the_window():
    scan = np.array([-3024, -50, 40, 3000], np.int16).reshape(1, 1, 4, 1)
    encoded = encode(scan, "ct", WINDOW)
    np.testing.assert_array_equal(encoded.voxels, scan)
    assert (encoded.low.item(), encoded.high.item()) == (-100, 200)
    np.testing.assert_allclose(normalize(*encoded).ravel(), [0, 50 / 300, 140 / 300, 1], rtol=1e-6)


def test_a_patch_is_normalized_by_the_whole_volumes_extremes():
    scan = np.arange(0, 100, dtype=np.int16).reshape(4, 5, 5, 1)
    encoded = encode(scan, "ct", WINDOW)
    np.testing.assert_array_equal(normalize(encoded.voxels[1:2], encoded.low, encoded.high), normalize(*encoded)[1:2])


def test_each_modality_is_stretched_on_its_own():
    rng = np.random.default_rng(1)
    scan = np.stack([rng.uniform(0, 1, (3, 4, 5)), rng.uniform(-5, 4000, (3, 4, 5)), np.full((3, 4, 5), 7)], -1)
    encoded = encode(scan.astype(np.float32), "mr")
    assert encoded.voxels.dtype == np.int16
    seen = normalize(*encoded)
    for channel in (0, 1):
        values = scan[..., channel]
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(seen[..., channel], expected, atol=0.5 / 32767 + 1e-6)
    np.testing.assert_array_equal(seen[..., 2], 0)


@pytest.mark.parametrize("value", [-500, 30, 800])
def test_a_constant_scan_becomes_zero(value):
    scan = np.full((2, 3, 4, 1), value, np.int16)
    np.testing.assert_array_equal(normalize(*encode(scan, "ct", WINDOW)), 0)
    np.testing.assert_array_equal(min_max(zero_mean(clip_hu(scan, WINDOW))), 0)


def test_numpy_and_jitted_jax_agree_on_a_batch_of_2d_and_3d_patches():
    rng = np.random.default_rng(2)
    for space in ((6, 7), (3, 6, 7)):
        voxels = rng.integers(-1024, 1024, (2, *space, 3)).astype(np.int16)
        low = rng.uniform(-200, 0, (2, 3)).astype(np.float32)
        high = low + np.array([[300, 1, 0], [0, 50, 700]], np.float32)
        ours = normalize(voxels, low, high)
        assert ours.shape == voxels.shape and np.isfinite(ours).all()
        for sample in range(2):
            np.testing.assert_array_equal(ours[sample], normalize(voxels[sample], low[sample], high[sample]))
        with jax.numpy_dtype_promotion("strict"):
            on_device = jax.jit(normalize)(jnp.asarray(voxels), jnp.asarray(low), jnp.asarray(high))
        assert on_device.dtype == jnp.float32
        np.testing.assert_allclose(on_device, ours, atol=1e-6)


def test_wrong_window_and_kind_are_refused():
    scan = np.zeros((1, 2, 2, 1), np.int16)
    with pytest.raises(ValueError, match=r"window_hu is \(200.0, -100.0\) HU"):
        encode(scan, "ct", (200.0, -100.0))
    with pytest.raises(ValueError, match='kind is "pet"'):
        encode(scan, "pet")
