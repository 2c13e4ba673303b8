"""Which rewrites a network is computed with, and that each of them does something."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from raunet_jax.networks import convolution
from raunet_jax.networks.blocks import Settings
from raunet_jax.networks.convolution import upsample_and_concatenate
from raunet_jax.networks.layers import max_pool
from raunet_jax.networks.lowering import BY_PLATFORM, NEEDS, REWRITES, rewrites


@pytest.mark.parametrize(("platform", "known"), [("cpu", "cpu"), ("gpu", "gpu"), ("tpu", "tpu"), ("metal", "gpu")])
def test_auto_follows_the_platform_and_one_that_is_unknown_is_taken_for_a_gpu(platform, known, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert rewrites("auto") == set(BY_PLATFORM[known])


class EveryLayer(nn.Module):
    """Whatever a network is made of, once: each rewrite has something here to work on."""

    settings: Settings

    @nn.compact
    def __call__(self, x):
        low = max_pool(x, self.settings.rewrites)
        skip = self.settings.attention(4, 0, "attention")(x, True)
        joined = upsample_and_concatenate(low, skip, self.settings.rewrites)
        x = self.settings.residual_block(8, "block")(joined, True) + self.settings.conv(8, 3, "stem")(joined)
        return self.settings.conv(1, 3, "last")(x)


@functools.cache  # most rewrites are compared with the plain form
def operations(names, shape):
    """How often each operation, told by the shape of its result, is in a training step's gradient."""
    layers = EveryLayer(Settings(lowering=",".join(names) or "plain"))
    x = jnp.zeros(shape)
    variables = jax.eval_shape(layers.init, jax.random.key(0), x)

    def loss(variables):
        return layers.apply(variables, x, mutable=["batch_stats"])[0].sum()

    counts = collections.Counter()

    def count(jaxpr):
        for equation in jaxpr.eqns:
            counts[equation.primitive.name, str(equation.outvars[0].aval)] += 1
            for inner in jaxprs_in_params(equation.params):
                count(inner)

    count(jax.make_jaxpr(jax.grad(loss))(variables).jaxpr)
    return counts


@pytest.mark.parametrize("name", REWRITES)
def test_each_rewrite_changes_what_is_computed(name, monkeypatch):
    monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(convolution, "WINOGRAD_SIZE", 1)
    shape = (1, 4, 4, 4, 4) if name in ("slices", "winograd", "flat_kernel_grad") else (2, 8, 8, 4)
    others = (NEEDS[name],) if name in NEEDS else ()
    assert operations((*others, name), shape) != operations(others, shape)


def test_plain_is_none_and_names_are_themselves():
    assert rewrites("plain") == set()
    assert rewrites("dots,slices,winograd") == {"dots", "slices", "winograd"}


@pytest.mark.parametrize("names", BY_PLATFORM.values(), ids=BY_PLATFORM)
def test_what_a_platform_uses_could_be_named(names):
    assert rewrites(",".join(names)) == set(names) <= REWRITES.keys()


def test_a_name_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="names 'fast'; choose auto, plain, or .* dots, .*shift_and_matmul"):
        rewrites("dots,fast")


def test_a_rewrite_of_another_is_refused_without_it():
    with pytest.raises(ValueError, match="names subpixel without split, which it builds on; name both"):
        rewrites("subpixel")
