"""The residual block and the attention residual module (paper section III-D, Figures 4 and 5)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from raunet_jax.networks.convolution import DeferredConcat, upsample
from raunet_jax.networks.layers import Conv, NormRelu, max_pool
from raunet_jax.networks.lowering import rewrites

REMATERIALIZATIONS = ("none", "blocks", "all")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all blocks of a network have in common.

    Attributes:
        dtype: of the activations; parameters and batch statistics stay float32.
        momentum: of the running batch statistics; None: see `layers.NormRelu`.
        axis_name: mapped axis over whose devices batch statistics, and a train step's loss and gradients, are averaged.
        lowering: which rewrites the network is computed with, see `lowering.rewrites`.
        remat: what is rematerialized for the gradient instead of kept in memory: "none"; "blocks", the inside of each
            residual block; "all", the inside of each attention module as well. XLA's CPU compiler keeps most of it.
        folded: the variables are those of `folding.fold`; for inference.
        products: how exact the products of convolutions and matrices are, "highest" for float32's own; None leaves it
            to the platform, whose NVIDIA GPUs round their float32 factors to TF32's 10 bits. See `traced`.
    """

    dtype: DTypeLike = jnp.float32
    momentum: float | None = 0.99
    axis_name: str | None = None
    lowering: str = "auto"
    remat: str = "none"
    folded: bool = False
    products: str | None = None

    def traced(self, function: Callable) -> Callable:
        """`function`, which computes with the network, as it is to be compiled: all its products are as exact as said.

        Of a training step that is the whole step: gradients are traced outside of the network, where `nn.Module` ends.
        """
        if self.products is None:
            return function

        @functools.wraps(function)
        def exact(*args):
            with jax.default_matmul_precision(self.products):
                return function(*args)

        return exact

    @property
    def rewrites(self) -> frozenset[str]:
        return rewrites(self.lowering)

    def conv(self, features: int, window: int, name: str, before_norm: bool = False) -> Conv:
        return Conv(features, window, before_norm, self.dtype, self.rewrites, name=name)

    def norm_relu(self, name: str) -> NormRelu:
        return NormRelu(self.momentum, self.axis_name, self.dtype, self.rewrites, name=name)

    def residual_block(self, features: int, name: str) -> nn.Module:
        block = ResidualBlock if self.remat == "none" else nn.remat(ResidualBlock, static_argnums=(2,))
        return block(features, self, name=name)

    def attention(self, features: int, depth: int, name: str) -> nn.Module:
        module = nn.remat(AttentionModule, static_argnums=(2,)) if self.remat == "all" else AttentionModule
        return module(features, depth, self, name=name)


class NormReluConv(nn.Module):
    """Batch norm, ReLU, convolution: the unit that a residual block stacks three times.

    Attributes:
        features, window: of the convolution.
        settings: of the network.
        follows_conv: its input is a convolution's output alone, so that its norm may be folded into that one.
        before_norm: of the convolution.
    """

    features: int
    window: int
    settings: Settings
    follows_conv: bool
    before_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"] | DeferredConcat, train: bool) -> Float[Array, "b *space o"]:
        if self.follows_conv and self.settings.folded:
            x = nn.relu(x)
        else:
            x = self.settings.norm_relu("norm")(x, train)
        return self.settings.conv(self.features, self.window, "conv", self.before_norm)(x)


class ResidualBlock(nn.Module):
    """`Res(c)`, Equation 1: a bottleneck of windows 1, 3, 1 and widths c/4, c/4, c, plus a convolved identity path.

    An array (b, *space, i), or a DeferredConcat, -> (b, *space, c); c is a multiple of 4.
    """

    features: int
    settings: Settings

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"] | DeferredConcat, train: bool) -> Float[Array, "b *space o"]:
        def unit(features, window, name):
            return NormReluConv(features, window, self.settings, name != "reduce", name != "expand", name=name)

        residual = unit(self.features // 4, 1, "reduce")(x, train)
        residual = unit(self.features // 4, 3, "middle")(residual, train)
        residual = unit(self.features, 1, "expand")(residual, train)
        return residual + self.settings.conv(self.features, 1, "identity")(x)


class AttentionModule(nn.Module):
    """Attention residual module, Equation 2: `(1 + S) * trunk` with a soft mask `S` in [0, 1].

    (b, *space, i) -> (b, *space, features). The mask comes from a small U-Net of its own that goes `depth` levels below
    its first pooling, so every size must be a multiple of 2^(depth + 1).
    """

    features: int
    depth: int
    settings: Settings

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"], train: bool) -> Float[Array, "b *space o"]:
        def res(name):
            return self.settings.residual_block(self.features, name)

        rewrites = self.settings.rewrites
        x = res("before")(x, train)
        trunk = res("trunk_2")(res("trunk_1")(x, train), train)

        mask = res("mask_in")(max_pool(x, rewrites), train)
        skips = []
        for level in range(self.depth):
            skips.append(res(f"mask_skip_{level}")(mask, train))
            mask = res(f"mask_down_{level}")(max_pool(mask, rewrites), train)
        for level in reversed(range(self.depth)):
            mask = upsample(res(f"mask_up_{level}")(mask, train)) + skips[level]
        mask = res("mask_out")(mask, train)
        # The paper upsamples before these two. A 1x1 convolution and a sigmoid see one voxel at a time, so the order
        # changes nothing but the work: an eighth of it in 3D, a quarter in 2D.
        if "low_mask" not in rewrites:
            mask = upsample(mask)
        for name in ("mask_conv",) if self.settings.folded else ("mask_conv_1", "mask_conv_2"):
            mask = self.settings.conv(self.features, 1, name)(mask)
        mask = nn.sigmoid(mask)
        if "low_mask" in rewrites:
            mask = upsample(mask)

        return res("after")((1 + mask) * trunk, train)
