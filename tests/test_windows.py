"""Windows over a volume: they cover it, they are merged as a plain loop merges them, and no voxel counts twice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from raunet_jax.inference.windows import (
    AHEAD,
    check_window,
    empty_windows,
    make_forward,
    predict_maps,
    predict_windows,
    window_origins,
    windows_a_call,
)
from raunet_jax.networks.packing import pack
from raunet_jax.networks.raunet import RAUNet

PATCH, STEP = (2, 4, 3), (1, 3, 2)
SHAPE = (5, 9, 8)


def volume(shape=SHAPE, channels=1, seed=0):
    return np.random.default_rng(seed).integers(-500, 500, (*shape, channels)).astype(np.int16)


def uneven(windows):
    """Probabilities that depend on the place in the window too, so that overlapping windows disagree."""
    place = np.linspace(0, 1, np.prod(PATCH), dtype=np.float32).reshape(PATCH)
    return windows[..., 0] / 1000 + jnp.asarray(place)[None]


def windows_of(voxels, patch, step):
    """(slices, voxels) of each window."""
    for z, y, x in window_origins(voxels.shape[:3], patch, step):
        where = np.s_[z : z + patch[0], y : y + patch[1], x : x + patch[2]]
        yield where, voxels[where]


def weight_of(place, patch):
    """Of the Gaussian around a window's center, its standard deviation an eighth of each side."""
    return np.exp(-sum(((at - (side - 1) / 2) / (side / 8)) ** 2 for at, side in zip(place, patch, strict=True)) / 2)


def merge_by_loop(voxels, patch, step, weights="uniform", mirror=()):
    total, count = np.zeros(voxels.shape[:3]), np.zeros(voxels.shape[:3])
    weight = np.ones(patch)
    if weights == "gaussian":
        for place in np.ndindex(*patch):
            weight[place] = weight_of(place, patch)
    for where, window in windows_of(voxels, patch, step):
        copies = []
        for turned in itertools.product(*[(1, -1) if axis in mirror else (1,) for axis in "zyx"]):
            turn = tuple(slice(None, None, way) for way in turned)
            copies.append(np.asarray(uneven(window[turn][None])[0], np.float64)[turn])
        total[where] += weight * np.mean(copies, axis=0)
        count[where] += weight
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


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("mirror", [(), ("x",), ("z", "y"), ("x", "y", "z")])
def test_weighted_and_mirrored_windows_are_merged_as_a_plain_loop_does(weights, mirror):
    merged = predict_windows(uneven, volume(), PATCH, STEP, 4, weights=weights, mirror=mirror)
    np.testing.assert_allclose(merged, merge_by_loop(volume(), PATCH, STEP, weights, mirror), atol=1e-5)


def test_a_constant_answer_comes_back_as_that_constant():
    def forward(windows):
        return jnp.full(windows.shape[:4], 0.25)

    merged = predict_windows(forward, volume(), PATCH, STEP, 4)
    np.testing.assert_array_equal(merged, np.full(SHAPE, 0.25, np.float32))
    merged = predict_windows(forward, volume((40, 9, 8)), (32, 4, 3), (5, 3, 2), 4, weights="gaussian", mirror=("x",))
    np.testing.assert_allclose(merged, 0.25, rtol=1e-6)


def window(weights="uniform", mirror=()):
    return ConfigDict({"weights": weights, "mirror": mirror})


def test_what_windows_cannot_be_merged_by_is_refused():
    check_window(window("gaussian", ("x", "y", "z")), PATCH)
    check_window(window(mirror=("x", "y")), (1, 4, 4))
    with pytest.raises(ValueError, match="config.window.weights is 'flat'; choose uniform or gaussian"):
        check_window(window("flat"), PATCH)
    flat = r"config.window.mirror has 'z'; windows of \(z, y, x\) \(1, 4, 4\) have axes x, y$"
    with pytest.raises(ValueError, match=flat):
        check_window(window(mirror=("x", "z")), (1, 4, 4))
    with pytest.raises(ValueError, match="config.window.mirror has 'w'; .* have axes x, y, z$"):
        check_window(window(mirror="w"), PATCH)
    with pytest.raises(ValueError, match=flat):
        predict_windows(uneven, volume(), (1, 4, 4), (1, 4, 4), 1, mirror=("z",))
    with pytest.raises(ValueError, match="config.window.weights is 'flat'"):
        predict_windows(uneven, volume(), PATCH, STEP, 1, weights="flat")


FLOOR = np.array([-100, -100], np.float32)


def half_empty(seed=0):
    """Two channels, above the floor in a corner and, one of them, at a single far voxel."""
    voxels = np.random.default_rng(seed).integers(-900, -100, (12, 16, 12, 2), endpoint=True).astype(np.int16)
    voxels[:4, :6, :5] += 1000
    voxels[10, 14, 9, 1] = -99
    return voxels


def clipped(windows):
    """Like a network: what lies at or below the floor is all the same; and no two places answer alike."""
    seen = jnp.maximum(windows.astype(jnp.float32), FLOOR[None, None, None, None]).sum(axis=-1)
    place = np.random.default_rng(1).random(PATCH, np.float32)
    return jax.nn.sigmoid(seen / 300 + jnp.roll(seen, 1, axis=-1) / 500 + jnp.asarray(place)[None])


@pytest.mark.parametrize("step", [STEP, (2, 2, 1)])
def test_windows_are_empty_where_no_voxel_of_any_channel_lies_above_the_floor(step):
    expected = [bool((part <= FLOOR).all()) for _, part in windows_of(half_empty(), PATCH, step)]
    found = empty_windows(half_empty(), FLOOR, PATCH, step)
    assert found.tolist() == expected and 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("settings", [{}, {"weights": "gaussian", "mirror": ("x", "z")}])
def test_empty_windows_are_computed_once_and_change_no_bit(batch_size, settings):
    calls, told = [], []

    def forward(windows):
        calls.append(len(windows))
        return clipped(windows)

    empty = empty_windows(half_empty(), FLOOR, PATCH, STEP)
    all_seen = predict_windows(clipped, half_empty(), PATCH, STEP, batch_size, **settings)
    skipped = predict_windows(forward, half_empty(), PATCH, STEP, batch_size, told.append, empty=empty, **settings)
    np.testing.assert_array_equal(skipped, all_seen)
    copies = 4 if settings else 1
    assert len(calls) == copies * -(-(1 + np.sum(~empty)) // batch_size) and set(calls) == {batch_size}
    assert sum(told) == len(empty)


@pytest.mark.parametrize("value, calls", [(-500, 1), (500, 8)])
def test_a_volume_of_air_takes_one_call_and_one_without_air_as_many_as_it_has_windows(value, calls):
    voxels, seen = np.full((4, 8, 6, 2), value, np.int16), []
    empty = empty_windows(voxels, FLOOR, PATCH, PATCH)

    def forward(windows):
        seen.append(windows)
        return clipped(windows)

    merged = predict_windows(forward, voxels, PATCH, PATCH, 1, empty=empty)
    assert len(seen) == calls
    np.testing.assert_array_equal(merged, predict_windows(clipped, voxels, PATCH, PATCH, 1))


def test_one_compilation_serves_volumes_of_any_shape_and_all_mirrored_copies():
    traced = []

    @jax.jit
    def forward(windows):
        traced.append(windows.shape)
        return uneven(windows)

    for shape in (SHAPE, (6, 11, 13), (2, 4, 3)):
        for settings in ({}, {"weights": "gaussian", "mirror": ("x", "y", "z")}):
            predict_windows(forward, volume(shape), PATCH, STEP, 4, **settings)
    assert traced == [(4, *PATCH, 1)]


def test_batches_are_dispatched_ahead_of_those_that_are_waited_for_and_no_more_than_agreed():
    """Across maps as well: while one is merged, the device has the first batches of the next."""
    events = []

    class Answer:
        """What a device returns before it has computed."""

        def __init__(self, number):
            self.number = number

        def copy_to_host_async(self):
            events.append(("on its way", self.number))

        def __array__(self, dtype=None, copy=None):
            events.append(("waited for", self.number))
            return np.zeros((1, 1, 2, 2), np.float32)

    def forward(windows):
        number = sum(event == "dispatched" for event, _ in events)
        events.append(("dispatched", number))
        return Answer(number)

    list(predict_maps([forward, forward], volume((3, 2, 2)), (1, 2, 2), (1, 1, 1), 1))
    for number in range(6):
        before = events[: events.index(("waited for", number))]
        for kind in ("dispatched", "on its way"):
            assert {other for event, other in before if event == kind} == set(range(min(6, number + AHEAD + 1)))


@pytest.mark.parametrize("empty", [False, True])
def test_several_maps_are_each_what_one_alone_is(empty):
    empty = empty_windows(half_empty(), FLOOR, PATCH, STEP) if empty else None
    forwards, told = [clipped, lambda windows: 1 - clipped(windows)], []
    maps = predict_maps(forwards, half_empty(), PATCH, STEP, 7, told.append, empty=empty)
    for forward, found in zip(forwards, maps, strict=True):
        np.testing.assert_array_equal(found, predict_windows(forward, half_empty(), PATCH, STEP, 7, empty=empty))
    assert sum(told) == 2 * len(window_origins((12, 16, 12), PATCH, STEP))


@pytest.mark.parametrize(
    ("platform", "patch", "count"),
    [("cpu", (32, 128, 128), 1), ("cpu", (1, 256, 256), 8), ("gpu", (32, 128, 128), 4), ("gpu", (1, 256, 256), 32)]
    + [("gpu", (32, 224, 224), 4), ("gpu", (1, 32, 32), 64)],
)
def test_windows_a_call_are_those_asked_for_or_else_suit_the_platform(monkeypatch, platform, patch, count):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert windows_a_call(0, patch) == count and windows_a_call(3, patch) == 3


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


class Pointwise(RAUNet):
    """Two layers that see one voxel at a time, in place of a network."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(1, name="out")(nn.relu(nn.Dense(3, name="hidden")(image)))


@pytest.mark.parametrize("patch", [(2, 4, 3), (1, 4, 3)])
def test_packed_variables_are_one_argument_and_answer_as_the_tree_does(patch):
    network, windows = Pointwise(4, 4, 4), np.arange(24, dtype=np.int16)[: 12 * patch[0]].reshape(1, *patch, 1) * 40
    variables = network.init(jax.random.key(0), np.zeros((1, 1), np.float32))
    low, high = np.float32([-100]), np.float32([900])
    forward, packed = make_forward(network), pack(variables)
    by_hand = np.clip((windows[0].astype(np.float32) + 100) / 1000, 0, 1)
    for layer in ("hidden", "out"):
        kernel, bias = (np.asarray(variables["params"][layer][name]) for name in ("kernel", "bias"))
        by_hand = (np.maximum(by_hand, 0) if layer == "out" else by_hand) @ kernel + bias
    for given in (variables, packed):
        np.testing.assert_allclose(forward(given, windows, low, high)[0], jax.nn.sigmoid(by_hand[..., 0]), rtol=1e-5)
    assert len(jax.make_jaxpr(forward)(packed, windows, low, high).in_avals) == 4
