"""How exact the products of a network are, as the recipe asks, in all that is compiled of it; read in StableHLO."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import liver_coarse
from raunet_jax.inference.windows import make_forward
from raunet_jax.networks.blocks import Settings
from raunet_jax.networks.lowering import BY_PLATFORM
from raunet_jax.networks.raunet import RAUNet, make_network
from raunet_jax.training.optimizer import OptimizerSettings
from raunet_jax.training.step import make_state, make_train_step, split_over_devices
from raunet_jax.training.validation import make_validation_step
from small_network import Small
from test_lowering import EveryLayer


@pytest.fixture(autouse=True)
def by_default():
    """As where a user starts JAX, not as the suite does."""
    with jax.default_matmul_precision("default"):
        yield


def precisions(lowered):
    """Of the products: a set of those of matrices, and one of convolutions."""
    found = {"dot_general": set(), "convolution": set()}
    for line in lowered.as_text().splitlines():
        for operation in found:
            if f"stablehlo.{operation}" in line:
                both = re.findall(r"(?:<precision |\[|, )(DEFAULT|HIGHEST)", line)
                found[operation] |= set(both if len(both) == 2 else [line])
    return found["dot_general"], found["convolution"]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_every_product_of_a_gradient_is_exact_in_every_rewrite(platform):
    layers = EveryLayer(Settings(lowering=",".join(BY_PLATFORM[platform]), products="highest"))
    x = jax.ShapeDtypeStruct((1, 4, 8, 8, 4), jnp.float32)
    variables = jax.eval_shape(layers.init, jax.random.key(0), x)

    def loss(variables, x):
        return layers.apply(variables, x, mutable=["batch_stats"])[0].sum()

    lowered = jax.jit(layers.settings.traced(jax.grad(loss))).lower(variables, x)
    assert precisions(lowered) == ({"HIGHEST"}, {"HIGHEST"})


class Pointwise(RAUNet):
    @nn.compact
    def __call__(self, image):
        return self.settings.conv(1, 1, "only")(image)


@pytest.mark.parametrize(("products", "expected"), [("highest", {"HIGHEST"}), (None, {"DEFAULT"})])
def test_steps_validation_and_windows_are_compiled_with_it(products, expected):
    settings, config = Settings(products=products, lowering="dots"), liver_coarse.get_config()
    config.patch_size = (32, 32, 1)
    ones = np.ones((jax.device_count(), 1), np.float32)
    batch = {"image": np.zeros((len(ones), 32, 32, 1), np.int16), "low": -ones, "high": ones}
    split = split_over_devices(batch | {"mask": batch["image"].astype(np.uint8)})
    optimizer = OptimizerSettings(1e-3, patience_epochs=20, epoch_steps=10)
    state = make_state(Small(settings), optimizer, config)
    train = make_train_step(Small(settings), optimizer, False).lower(state, split)
    evaluate = make_validation_step(Small(settings)).lower(state, split)
    assert precisions(train) == precisions(evaluate) == (set(), expected)  # no product of matrices in these layers
    network = Pointwise(4, 4, 4, settings)
    windows, low = np.zeros((1, 2, 2, 2, 1), np.int16), np.zeros(1, np.float32)
    variables = network.init(jax.random.key(0), jnp.zeros(windows.shape))
    assert precisions(make_forward(network).lower(variables, windows, low, low)) == (expected, set())


def test_a_recipe_names_it():
    def settings(precision):
        config = liver_coarse.get_config()
        config.precision = precision
        found = make_network(config).settings
        return jnp.dtype(found.dtype).name, found.products

    assert settings("float32") == ("float32", None) and settings("bfloat16") == ("bfloat16", None)
    assert settings("highest") == ("float32", "highest")
