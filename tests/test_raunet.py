"""The networks: exact sizes, the blocks' formulas, and what is refused."""

import ast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import brats, common, liver_coarse, liver_voi
from raunet_jax.networks.blocks import AttentionModule, ResidualBlock, Settings
from raunet_jax.networks.convolution import upsample
from raunet_jax.networks.layers import max_pool
from raunet_jax.networks.raunet import check_size, image_shape, init_variables, make_network


def number(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("config", "parameters", "statistics"),
    [
        (liver_coarse.get_config(), 737_897, 9_424),
        (liver_voi.get_config(), 4_420_849, 18_848),
        (brats.get_config(), 12_778_945, 34_432),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_parameters_and_batch_statistics_are_the_papers_to_the_last_one(config, parameters, statistics):
    network, image = make_network(config), jax.ShapeDtypeStruct((1, *image_shape(config)), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    assert (number(variables["params"]), number(variables["batch_stats"])) == (parameters, statistics)
    logits = jax.eval_shape(network.apply, variables, image)
    assert logits.shape == (*image.shape[:-1], 1) and logits.dtype == jnp.float32
    kernel = variables["params"]["Conv2"]["kernel"]
    assert kernel.shape[:-2] == (3,) * (len(image.shape) - 2)


def norm(x, values, statistics):
    scaled = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-3)
    return scaled * values["scale"] + values["bias"]


def res(x, params, statistics):
    """Res(c) in 2D by plain numpy, at inference."""
    out = x
    for name in ("reduce", "middle", "expand"):
        out = np.maximum(norm(out, params[name]["norm"], statistics[name]["norm"]), 0)
        kernel, bias = params[name]["conv"]["kernel"], params[name]["conv"]["bias"]
        reach = kernel.shape[0] // 2
        padded = np.pad(out, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
        size = out.shape[1:3]
        taps = np.ndindex(kernel.shape[:2])
        out = bias + sum(padded[:, y : y + size[0], x : x + size[1]] @ kernel[y, x] for y, x in taps)
    identity = params["identity"]
    return out + x @ identity["kernel"][0, 0] + identity["bias"]


def filled(module, x):
    """The module's variables with nothing at its default, so that no term can hide."""
    variables = jax.eval_shape(lambda key: module.init(key, jnp.asarray(x), False), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 0.8, leaf.shape).astype(np.float32) - 0.3, variables) | {
        "batch_stats": jax.tree.map(
            lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
        )
    }


def test_a_residual_block_is_three_times_norm_relu_conv_and_a_convolved_identity():
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    block = ResidualBlock(8, Settings())
    variables = filled(block, x)
    widths = [variables["params"][name]["conv"]["kernel"].shape[-1] for name in ("reduce", "middle", "expand")]
    assert widths == [2, 2, 8]
    expected = res(x, variables["params"], variables["batch_stats"])
    np.testing.assert_allclose(block.apply(variables, jnp.asarray(x), False), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_one_plus_the_mask_times_the_trunk_with_the_mask_head_at_full_size():
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype(np.float32)
    module = AttentionModule(4, 1, Settings())
    variables = filled(module, x)
    params, statistics = variables["params"], variables["batch_stats"]

    def block(name, x):
        return res(np.asarray(x), params[name], statistics[name])

    before = block("before", x)
    trunk = block("trunk_2", block("trunk_1", before))
    mask = block("mask_in", max_pool(jnp.asarray(before)))
    skip = block("mask_skip_0", mask)
    mask = block("mask_down_0", max_pool(jnp.asarray(mask)))
    mask = np.asarray(upsample(jnp.asarray(block("mask_up_0", mask)))) + skip
    mask = np.asarray(upsample(jnp.asarray(block("mask_out", mask))))  # as the paper: upsampled before its head
    for name in ("mask_conv_1", "mask_conv_2"):
        mask = mask @ params[name]["kernel"][0, 0] + params[name]["bias"]
    expected = block("after", (1 + np.asarray(nn.sigmoid(mask))) * trunk)
    np.testing.assert_allclose(module.apply(variables, jnp.asarray(x), False), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "nearest"), [(33, "32 or 64"), (100, "96 or 128"), (16, "is 32"), (0, "is 32"), (-32, "is 32")]
)
def test_a_size_that_cannot_be_pooled_five_times_is_refused_with_the_nearest_that_can(size, nearest):
    with pytest.raises(ValueError, match=f"size {size} .*not a multiple of 32.*{nearest}"):
        check_size((64, size))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("network.width", 6, "network.width is 6.*multiple of 4"),
        ("network.bottom_width", 10, "network.bottom_width is 10"),
        ("precision", "float16", "precision is 'float16'; choose one of float32, highest, bfloat16"),
        ("network.momentum", 1.0, "network.momentum is 1.0"),
        ("network.remat", "some", "network.remat is 'some'; choose one of none, blocks, all"),
        ("network.lowering", "fast", "network.lowering names 'fast'; choose auto, plain"),
        ("patch_size", (64, 64, 20), "size 20"),
    ],
)
def test_a_recipe_that_no_network_can_have_is_refused(field, value, message):
    config = liver_voi.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        make_network(config)


def test_weights_of_another_width_are_refused_by_name_and_shapes():
    narrow, wide = common.get_config(), common.get_config()
    narrow.patch_size = wide.patch_size = (32, 32, 1)
    narrow.network.width, wide.network.width = 4, 8
    image = jax.ShapeDtypeStruct((1, *image_shape(wide)), jnp.float32)
    variables = jax.eval_shape(make_network(narrow).init, jax.random.key(0), image)
    with pytest.raises(ValueError, match=r"\w+/kernel has shape \(.*\), and the network needs \(.*\)") as refused:
        jax.eval_shape(make_network(wide).apply, variables, image)
    name, shapes = str(refused.value).split(" has shape ")
    has, needs = (ast.literal_eval(shape) for shape in shapes.split(", and the network needs "))
    needed = jax.eval_shape(make_network(wide).init, jax.random.key(0), image)["params"]
    assert flatten_dict(variables["params"], sep="/")[name].shape == has
    assert flatten_dict(needed, sep="/")[name].shape == needs != has


def test_in_bfloat16_the_weights_the_statistics_the_gradients_and_the_logits_stay_float32():
    config = common.get_config()
    config.patch_size, config.network.width, config.precision = (32, 32, 1), 4, "bfloat16"
    network, image = make_network(config), jax.ShapeDtypeStruct((2, *image_shape(config)), jnp.float32)
    variables = init_variables(network, image_shape(config), seed=0)

    def loss(params, image):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, moved = network.apply(
            given, image, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
        )
        return logits.sum(), (logits, moved)

    gradients, (logits, moved) = jax.eval_shape(jax.grad(loss, has_aux=True), variables["params"], image)
    kept = (variables, gradients, logits, moved["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype("float32")}
    assert {moved["intermediates"][block]["__call__"][0].dtype for block in ("Res1", "Conv3")} == {
        jnp.dtype("bfloat16")
    }


def test_initial_weights_are_glorots_and_follow_the_seed():
    config = common.get_config()
    config.patch_size, config.network.width = (32, 32, 1), 4
    network = make_network(config)
    variables = init_variables(network, image_shape(config), seed=3)
    kernel = variables["params"]["Conv2"]["kernel"]  # (3, 3, in, 4)
    limit = np.sqrt(6 / (9 * (kernel.shape[2] + 4)))
    assert np.abs(kernel).max() <= limit and np.abs(kernel).max() > 0.9 * limit
    assert not variables["params"]["Conv2"]["bias"].any() and (variables["params"]["Conv2_norm"]["scale"] == 1).all()
    again, other = (init_variables(network, image_shape(config), seed)["params"] for seed in (3, 4))
    np.testing.assert_array_equal(again["Conv2"]["kernel"], kernel)
    assert (other["Conv2"]["kernel"] != kernel).any()
