"""A tree as one vector: nothing is lost on the way, and its gradient is the tree's, packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.networks.packing import pack, unpack_all


def drawn_tree():
    rng = np.random.default_rng(0)
    shapes = {"a": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "b": {"scale": (1,)}, "scalar": ()}
    return jax.tree.map(
        lambda shape: np.asarray(rng.normal(size=shape), np.float32), shapes, is_leaf=lambda node: type(node) is tuple
    )


def equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_what_is_packed_comes_out_as_it_was():
    tree = drawn_tree()
    packed = pack(tree)
    assert packed.vector.shape == (3 * 3 * 2 * 4 + 4 + 1 + 1,)
    equal(packed.unpack(), tree)
    equal(jax.device_get(pack(jax.tree.map(jnp.asarray, tree)).unpack()), tree)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_kernels_may_lie_with_their_features_first(of):
    tree = jax.tree.map(of, drawn_tree() | {"product": np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)})
    packed = pack(tree, features_first=True)
    equal(jax.device_get(packed.unpack()), jax.device_get(tree))
    kernel = np.asarray(tree["a"]["kernel"])
    expected = [*tree["a"]["bias"], *np.moveaxis(kernel, -1, 0).ravel(), *tree["b"]["scale"], *range(6)]
    np.testing.assert_array_equal(packed.vector[:-1], np.float32(expected))


def test_arrays_of_numpy_are_views_of_their_vector():
    packed = pack(drawn_tree())
    assert all(np.shares_memory(leaf, packed.vector) for leaf in jax.tree.leaves(packed.unpack()))


def test_the_gradient_is_that_of_the_tree_packed():
    tree = drawn_tree()

    def energy(tree):
        return sum((weight * leaf**2).sum() for weight, leaf in enumerate(jax.tree.leaves(tree), start=1))

    by_vector = jax.jit(jax.grad(lambda packed: energy(packed.unpack())))(pack(tree))
    expected = [2 * weight * leaf for weight, leaf in enumerate(jax.tree.leaves(tree), start=1)]
    for found, true in zip(jax.tree.leaves(by_vector.unpack()), expected, strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-6)


def test_a_compiled_function_serves_every_vector_of_a_layout():
    compilations = 0

    @jax.jit
    def double(packed):
        nonlocal compilations
        compilations += 1
        return jax.tree.map(lambda leaf: 2 * leaf, packed)

    first = double(pack(drawn_tree()))
    second = double(pack(jax.tree.map(lambda leaf: leaf + 1, drawn_tree())))
    assert compilations == 1
    equal(jax.device_get(first.unpack()), jax.tree.map(lambda leaf: 2 * leaf, drawn_tree()))
    equal(jax.device_get(second.unpack()), jax.tree.map(lambda leaf: 2 * (leaf + 1), drawn_tree()))


def test_packed_trees_within_a_tree_are_unpacked():
    tree = {"step": np.int32(3), "params": pack(drawn_tree()), "moments": (pack({"a": np.ones(2, np.float32)}),)}
    equal(unpack_all(tree), {"step": np.int32(3), "params": drawn_tree(), "moments": ({"a": np.ones(2)},)})


def test_an_empty_tree_is_an_empty_vector():
    assert pack({}).vector.size == 0 and pack({}).unpack() == {}


def test_whole_numbers_are_not_packed():
    with pytest.raises(ValueError, match="int32"):
        pack({"count": np.zeros(3, np.int32)})
