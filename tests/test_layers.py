"""Layers against plain loops and XLA's own convolution, in 2D and 3D, forward and gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.networks.convolution import convolve, upsample
from raunet_jax.networks.layers import Conv, max_pool

SHAPES = [(2, 5, 4, 3), (1, 1, 6, 3), (2, 4, 5, 6, 3), (1, 1, 3, 3, 3), (1, 2, 1, 1, 3)]


def random(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolve_by_loops(x, kernel):
    """out[p] = sum over taps t of x[p + t - reach] @ kernel[t], with zeros outside."""
    window = kernel.shape[:-2]
    reach = [size // 2 for size in window]
    padded = np.pad(x, [(0, 0), *((r, r) for r in reach), (0, 0)])
    out = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for tap in itertools.product(*map(range, window)):
        part = tuple(slice(t, t + size) for t, size in zip(tap, x.shape[1:-1], strict=True))
        out += padded[(slice(None), *part)] @ kernel[tap]
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [1, 3])
def test_convolution_is_the_sum_over_taps(shape, window):
    x, kernel = random(0, shape), random(1, (window,) * (len(shape) - 2) + (3, 4))
    np.testing.assert_allclose(convolve(x, kernel), convolve_by_loops(np.array(x), np.array(kernel)), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [1, 3])
def test_gradients_of_the_convolution_are_those_of_xlas_own(shape, window):
    x, kernel = random(0, shape), random(1, (window,) * (len(shape) - 2) + (3, 4))
    weight = random(2, (*shape[:-1], 4))
    space = "zyx"[-(len(shape) - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")

    def native(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), "SAME", dimension_numbers=layout)

    def gradients(form):
        return jax.grad(lambda x, kernel: jnp.sum(form(x, kernel) * weight), argnums=(0, 1))(x, kernel)

    for ours, xlas in zip(gradients(convolve), gradients(native), strict=True):
        np.testing.assert_allclose(ours, xlas, atol=2e-4)


def test_kernels_keep_flax_names_and_shapes():
    variables = Conv(4, 3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 5)))
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"kernel": (3, 3, 3, 5, 4), "bias": (4,)}  # (z, y, x, in, out)


def test_bias_is_added_to_every_voxel():
    params = {"kernel": jnp.zeros((1, 1, 2, 3)), "bias": jnp.array([1.0, 2.0, 3.0])}
    out = Conv(3, 1).apply({"params": params}, random(0, (1, 2, 2, 2)))
    np.testing.assert_array_equal(out, np.broadcast_to([1.0, 2.0, 3.0], (1, 2, 2, 3)))


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 2, 4, 6, 3)])
def test_pooling_takes_the_maximum_of_each_block_of_two(shape):
    x = np.array(random(0, shape))
    expected = np.full((shape[0], *(size // 2 for size in shape[1:-1]), shape[-1]), -np.inf)
    for corner in itertools.product((0, 1), repeat=len(shape) - 2):
        expected = np.maximum(expected, x[(slice(None), *(slice(c, None, 2) for c in corner))])
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)


def test_pooling_sends_the_gradient_to_the_maximum():
    x = jnp.asarray([[1.0, 5.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 7 * max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 7], [0, 0]])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pooling_shares_the_gradient_among_equal_maxima(dimensions):
    x = np.zeros((1, *(2,) * dimensions, 1), np.float32)  # flat, as a batch of air is
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)
    np.testing.assert_allclose(gradient, np.full(x.shape, 0.5**dimensions))
    x[(0,) + (0,) * dimensions], x[(0,) + (1,) * dimensions] = 3, 3
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x).sum())(x), x / 6)


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 2, 3, 2, 4)])
def test_upsampling_repeats_each_voxel_and_its_gradient_sums_them(shape):
    x = np.array(random(0, shape))
    expected = x
    for axis in range(1, len(shape) - 1):
        expected = expected.repeat(2, axis)
    np.testing.assert_array_equal(upsample(jnp.asarray(x)), expected)
    gradient = jax.grad(lambda x: upsample(x).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, np.full(shape, 2 ** (len(shape) - 2)))
