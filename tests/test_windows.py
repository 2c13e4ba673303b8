"""Windows over a volume: they cover it, they are merged as a plain loop merges them, and no voxel counts twice."""

import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.windows import predict_windows, window_origins

PATCH, STEP = (2, 4, 3), (1, 3, 2)
SHAPE = (5, 9, 8)


def volume(shape=SHAPE, channels=1, seed=0):
    return np.random.default_rng(seed).integers(-500, 500, (*shape, channels)).astype(np.int16)


def uneven(windows):
    """Probabilities that depend on the place in the window too, so that overlapping windows disagree."""
    place = np.linspace(0, 1, np.prod(PATCH), dtype=np.float32).reshape(PATCH)
    return windows[..., 0] / 1000 + jnp.asarray(place)


def merge_by_loop(voxels, patch, step):
    total, count = np.zeros(voxels.shape[:3]), np.zeros(voxels.shape[:3])
    for z, y, x in window_origins(voxels.shape[:3], patch, step):
        where = np.s_[z : z + patch[0], y : y + patch[1], x : x + patch[2]]
        total[where] += np.asarray(uneven(voxels[where][None])[0], np.float64)
        count[where] += 1
    return total / count


@pytest.mark.parametrize("seed", range(8))
def test_every_voxel_lies_in_a_window_and_every_window_in_the_volume(seed):
    rng = np.random.default_rng(seed)
    patch = rng.integers(1, 6, 3)
    shape = patch + rng.integers(0, 12, 3)
    step = rng.integers(1, patch + 1)
    seen = np.zeros(shape, int)
    origins = window_origins(shape.tolist(), patch.tolist(), step.tolist())
    for origin in origins:
        part = seen[tuple(slice(first, first + size) for first, size in zip(origin, patch, strict=True))]
        assert part.shape == tuple(patch)
        part += 1
    assert seen.min() >= 1
    assert len(np.unique(origins, axis=0)) == len(origins)


def test_windows_are_a_step_apart_and_the_last_ends_with_the_volume():
    np.testing.assert_array_equal(window_origins((70, 8, 8), (32, 8, 8), (20, 4, 4))[:, 0], [0, 20, 38])
    np.testing.assert_array_equal(window_origins((72, 8, 8), (32, 8, 8), (20, 4, 4))[:, 0], [0, 20, 40])
    np.testing.assert_array_equal(window_origins((32, 8, 8), (32, 8, 8), (20, 4, 4)), [[0, 0, 0]])
    both = window_origins((4, 6, 2), (2, 4, 2), (2, 2, 1))
    np.testing.assert_array_equal(both, [[0, 0, 0], [0, 2, 0], [2, 0, 0], [2, 2, 0]])


@pytest.mark.parametrize("step", [5, 0, -1])
def test_a_step_that_leaves_gaps_is_refused(step):
    with pytest.raises(ValueError, match=rf"window step {step} must be from 1 to the window's 4 voxels"):
        window_origins((10, 10, 10), (4, 4, 4), (4, step, 4))


def test_a_volume_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match=r"a volume of \(10, 3, 10\) is smaller than the window \(4, 4, 4\); pad it"):
        window_origins((10, 3, 10), (4, 4, 4), (4, 4, 4))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_overlapping_windows_are_averaged_as_a_plain_loop_does(batch_size):
    voxels = volume()
    merged = predict_windows(uneven, voxels, PATCH, STEP, batch_size)
    assert merged.dtype == np.float32 and merged.shape == SHAPE
    np.testing.assert_allclose(merged, merge_by_loop(voxels, PATCH, STEP), atol=1e-5)


def test_a_constant_answer_comes_back_as_that_constant():
    merged = predict_windows(lambda windows: jnp.full(windows.shape[:4], 0.25), volume(), PATCH, STEP, 4)
    np.testing.assert_array_equal(merged, np.full(SHAPE, 0.25, np.float32))


def test_windows_that_fill_up_the_last_batch_do_not_count():
    """5 windows in batches of 3: the last batch's third window is a copy, and what it says must not be averaged."""
    calls = []

    def forward(windows):
        calls.append(windows.shape[0])
        value = jnp.full(windows.shape[:4], float(len(calls)))
        return value if len(calls) == 1 else value.at[2].set(1000.0)

    merged = predict_windows(forward, volume((5, 2, 2)), (1, 2, 2), (1, 1, 1), 3)
    assert calls == [3, 3]  # always full, so that one compilation serves all
    np.testing.assert_array_equal(merged[:, 0, 0], [1, 1, 1, 2, 2])


def test_progress_counts_each_window_once():
    told = []
    predict_windows(uneven, volume(), PATCH, STEP, 7, told.append)
    count = len(window_origins(SHAPE, PATCH, STEP))
    assert count % 7 and told == [7] * (count // 7) + [count % 7]


def test_all_channels_reach_the_network_as_they_are():
    voxels = volume(channels=4)
    last_minus_first = predict_windows(lambda w: (w[..., 3] - w[..., 0]).astype(jnp.float32), voxels, PATCH, PATCH, 5)
    np.testing.assert_array_equal(last_minus_first, (voxels[..., 3] - voxels[..., 0]).astype(np.float32))
