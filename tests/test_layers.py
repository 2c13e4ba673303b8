"""Layers against plain loops, numpy and Flax, in 2D and 3D, forward and gradient."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.networks import products
from raunet_jax.networks.convolution import DeferredConcat
from raunet_jax.networks.layers import EPSILON, Conv, NormRelu, max_pool


def random(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_kernels_keep_flax_names_and_shapes():
    variables = Conv(4, 3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 5)))
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"kernel": (3, 3, 3, 5, 4), "bias": (4,)}  # (z, y, x, in, out)


def test_bias_is_added_to_every_voxel():
    params = {"kernel": jnp.zeros((1, 1, 2, 3)), "bias": jnp.array([1.0, 2.0, 3.0])}
    out = Conv(3, 1).apply({"params": params}, random(0, (1, 2, 2, 2)))
    np.testing.assert_array_equal(out, np.broadcast_to([1.0, 2.0, 3.0], (1, 2, 2, 3)))


@pytest.mark.parametrize("rewrites", [(), ("tree_sum",)], ids=["plain", "tree_sum"])
@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 3, 5, 1, 3)])
def test_a_biass_gradient_is_the_sum_over_all_voxels(shape, rewrites, monkeypatch):
    monkeypatch.setattr(products, "TREE_SUM_BLOCK", 4)
    x, weight = random(0, shape), random(1, (*shape[:-1], 2))
    params = {"kernel": random(2, (*(1,) * (len(shape) - 2), 3, 2)), "bias": random(3, (2,))}
    conv = Conv(2, 1, rewrites=rewrites)
    gradient = jax.grad(lambda params: (conv.apply({"params": params}, x) * weight).sum())(params)
    np.testing.assert_allclose(gradient["bias"], np.sum(weight, axis=tuple(range(x.ndim - 1))), atol=1e-5)


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


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pooling_in_one_step_is_pooling_in_pairs(dimensions):
    x = random(0, (2, *(4,) * dimensions, 3))
    np.testing.assert_array_equal(max_pool(x, ()), max_pool(x, ("pairwise_max_pool",)))
    weight = random(1, (2, *(2,) * dimensions, 3))
    gradients = [
        jax.grad(lambda x, way=way: (max_pool(x, way) * weight).sum())(x) for way in ((), ("pairwise_max_pool",))
    ]
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("half", [(2, 3, 2, 3), (1, 2, 1, 3, 3)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("rewrites", [(), ("tree_sum",)], ids=["plain", "tree_sum"])
def test_norm_and_relu_of_two_unjoined_halves_are_flaxs_of_the_joined_array(half, train, rewrites, monkeypatch):
    monkeypatch.setattr(products, "TREE_SUM_BLOCK", 4)
    low, skip = 3 * random(0, half) + 1, random(1, (half[0], *(2 * size for size in half[1:-1]), 2))
    weight = random(2, (*skip.shape[:-1], 5))
    variables = {
        "params": {"scale": random(3, (5,)), "bias": random(4, (5,))},
        "batch_stats": {"mean": random(5, (5,)), "var": random(6, (5,)) ** 2 + 0.5},
    }

    def joined(low, skip):
        for axis in range(1, low.ndim - 1):
            low = jnp.repeat(low, 2, axis)
        return jnp.concatenate([low, skip], -1)

    def ours(params, low, skip):
        state = variables | {"params": params}
        norm_relu = NormRelu(0.9, rewrites=rewrites)
        parts, moved = norm_relu.apply(state, DeferredConcat(low, skip), train, mutable=["batch_stats"])
        out = joined(*parts)
        return (out * weight).sum(), (out, moved)

    def flaxs(params, low, skip):
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON)
        out, moved = norm.apply(variables | {"params": params}, joined(low, skip), mutable=["batch_stats"])
        out = nn.relu(out)
        return (out * weight).sum(), (out, moved)

    results = [
        jax.value_and_grad(form, argnums=(0, 1, 2), has_aux=True)(variables["params"], low, skip)
        for form in (ours, flaxs)
    ]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4), *results)
