"""The blocks in training, against their formulas in XLA's own operations: values, statistics, gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.networks.blocks import AttentionModule, ResidualBlock, Settings
from raunet_jax.networks.convolution import upsample_and_concatenate
from raunet_jax.networks.lowering import BY_PLATFORM


def convolve(x, params):
    space = "zyx"[-(x.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    strides = (1,) * len(space)
    return jax.lax.conv_general_dilated(x, params["kernel"], strides, "SAME", dimension_numbers=layout) + params["bias"]


def pool(x):
    window = (1, *(2 for _ in x.shape[1:-1]), 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def up(x):
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x


def res(x, params, statistics):
    """Res(c) by the statistics of the batch; these move the running ones by a hundredth."""
    out, moved = x, {}
    for unit in ("reduce", "middle", "expand"):
        axes = tuple(range(x.ndim - 1))
        now, before, scale = {"mean": out.mean(axes), "var": out.var(axes)}, statistics[unit]["norm"], params[unit]
        moved[unit] = {"norm": {name: 0.99 * before[name] + 0.01 * now[name] for name in now}}
        out = (out - now["mean"]) / jnp.sqrt(now["var"] + 1e-3) * scale["norm"]["scale"] + scale["norm"]["bias"]
        out = convolve(jnp.maximum(out, 0), params[unit]["conv"])
    return out + convolve(x, params["identity"]), moved


def attention(x, params, statistics, depth):
    """`(1 + S) * trunk`, the mask upsampled before its two convolutions and its sigmoid, as the paper draws it."""
    moved = {}

    def block(name, x):
        out, moved[name] = res(x, params[name], statistics[name])
        return out

    x = block("before", x)
    trunk = block("trunk_2", block("trunk_1", x))
    mask, skips = block("mask_in", pool(x)), []
    for level in range(depth):
        skips.append(block(f"mask_skip_{level}", mask))
        mask = block(f"mask_down_{level}", pool(mask))
    for level in reversed(range(depth)):
        mask = up(block(f"mask_up_{level}", mask)) + skips[level]
    mask = up(block("mask_out", mask))
    mask = convolve(convolve(mask, params["mask_conv_1"]), params["mask_conv_2"])
    return block("after", (1 + 1 / (1 + jnp.exp(-mask))) * trunk), moved


def filled(block, x):
    """Variables of which none is at its default, so that no term can hide."""
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.asarray(x), False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1.0, leaf.shape).astype(np.float32) - 0.4, shapes)


def assert_same(block, formula, shape):
    """Output, moved statistics, and gradients for the parameters and the input are the same to rounding."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype(np.float32)
    weight = rng.normal(size=(*shape[:-1], block.features)).astype(np.float32)
    variables = filled(block, x)

    def ours(params, x):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        out, updates = block.apply(state, x, True, mutable=["batch_stats"])
        return (out * weight).sum(), (out, updates["batch_stats"])

    def theirs(params, x):
        out, moved = formula(x, params, variables["batch_stats"])
        return (out * weight).sum(), (out, moved)

    results = [jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))(variables["params"], x)]
    with jax.numpy_rank_promotion("allow"):  # a formula broadcasts as it is written
        results.append(jax.jit(jax.value_and_grad(theirs, argnums=(0, 1), has_aux=True))(variables["params"], x))
    paths, expected = zip(*jax.tree_util.tree_leaves_with_path(results[1]), strict=True)
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for path, one, other in zip(paths, jax.tree.leaves(results[0]), expected, strict=True):
        size = max(1.0, float(jnp.abs(other).max()))
        np.testing.assert_allclose(one, other, atol=2e-4 * size, err_msg=jax.tree_util.keystr(path))


LOWERINGS = ("plain", *map(",".join, sorted(set(BY_PLATFORM.values()))))


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 1, 4, 4, 3), (1, 2, 4, 6, 3)])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_residual_block_learns_as_its_formula_does(lowering, shape):
    assert_same(ResidualBlock(8, Settings(lowering=lowering)), res, shape)


@pytest.mark.parametrize(
    ("shape", "depth", "lowering"),
    [((2, 4, 6, 4), 0, "plain"), ((2, 4, 6, 4), 0, "auto"), ((2, 4, 4, 4, 4), 1, "auto")],
)
def test_attention_with_its_mask_head_below_the_upsampling_learns_as_with_it_above(shape, depth, lowering):
    settings = Settings(lowering=lowering)
    assert_same(AttentionModule(4, depth, settings), lambda *given: attention(*given, depth), shape)


class Decoder(nn.Module):
    """A stage of the decoder, of an array and a skip that are not joined."""

    settings: Settings
    features: int = 8

    @nn.compact
    def __call__(self, x, train):
        low, skip = x[:, ::2, ::2, ..., :2], x[..., 2:]
        low = low if x.ndim == 4 else low[:, :, :, ::2]
        return self.settings.residual_block(self.features, "block")(
            upsample_and_concatenate(low, skip, self.settings.rewrites), train
        )


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 2, 4, 6, 5)])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_decoder_stage_learns_from_unjoined_halves_as_from_the_joined_array(lowering, shape):
    def formula(x, params, statistics):
        low = x[(slice(None), *(slice(None, None, 2) for _ in x.shape[1:-1]), slice(2))]
        out, moved = res(jnp.concatenate([up(low), x[..., 2:]], -1), params["block"], statistics["block"])
        return out, {"block": moved}

    assert_same(Decoder(Settings(lowering=lowering)), formula, shape)


class Coder(nn.Module):
    """An attention module as the network makes it."""

    settings: Settings

    @nn.compact
    def __call__(self, x, train):
        return self.settings.attention(8, 0, "Att")(x, train)


def test_what_is_computed_anew_is_not_kept_and_learns_the_same():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 8)), jnp.float32)
    variables = filled(Coder(Settings()), x)

    def step(remat):
        def loss(params):
            out, moved = Coder(Settings(remat=remat)).apply(
                variables | {"params": params}, x, True, mutable=["batch_stats"]
            )
            return (out**2).mean(), moved["batch_stats"]

        gradient = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], variables["params"])
        kept = sum(leaf.size for leaf in jax.tree.leaves(gradient))
        return kept, jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    kept, expected = step("none")
    for remat in ("blocks", "all"):
        less, found = step(remat)
        assert less < 0.8 * kept
        kept = less
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5), found, expected)


def test_batch_statistics_are_joined_over_a_mapped_axis():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4, 4, 3)), jnp.float32)
    alone, joined = ResidualBlock(8, Settings()), ResidualBlock(8, Settings(axis_name="devices"))
    variables = filled(alone, x)

    def apply(block, x):
        return block.apply(variables, x, True, mutable=["batch_stats"])

    expected, moved = apply(alone, x)
    parts, parts_moved = jax.vmap(lambda x: apply(joined, x), axis_name="devices")(x.reshape(2, 2, 4, 4, 3))
    np.testing.assert_allclose(parts.reshape(expected.shape), expected, atol=1e-5)
    jax.tree.map(
        lambda part, whole: np.testing.assert_allclose(part, np.stack([whole, whole]), atol=1e-6), parts_moved, moved
    )


def test_bfloat16_is_of_the_activations_alone():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)
    narrow = ResidualBlock(8, Settings(dtype=jnp.bfloat16))
    variables = filled(narrow, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    out, moved = narrow.apply(variables, x, True, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {np.dtype("float32")}
    exact = ResidualBlock(8, Settings()).apply(variables, x, True, mutable=["batch_stats"])[0]
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))
