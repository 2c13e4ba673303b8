"""The residual block and the attention residual module (paper section III-D, Figures 4 and 5)."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from raunet_jax.networks.layers import BatchNorm, Conv, max_pool, upsample


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all blocks of a network have in common.

    Attributes:
        dtype: of the activations; parameters and batch statistics stay float32.
        momentum: of the running batch statistics.
        axis_name: mapped axis over whose devices the batch statistics are joined while training.
    """

    dtype: jnp.dtype = jnp.float32
    momentum: float = 0.99
    axis_name: str | None = None

    def norm(self, train: bool, name: str) -> nn.BatchNorm:
        return BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=name,
        )


class NormReluConv(nn.Module):
    """Batch norm, ReLU, convolution: the unit that a residual block stacks three times."""

    features: int
    window: int
    settings: Settings

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(self.settings.norm(train, "norm")(x))
        return Conv(self.features, self.window, self.settings.dtype, name="conv")(x)


class ResidualBlock(nn.Module):
    """`Res(c)`, Equation 1: a bottleneck of windows 1, 3, 1 and widths c/4, c/4, c, plus a convolved identity path."""

    features: int
    settings: Settings

    @nn.compact
    def __call__(self, x, train: bool):
        def unit(features, window, name):
            return NormReluConv(features, window, self.settings, name=name)

        residual = unit(self.features // 4, 1, "reduce")(x, train)
        residual = unit(self.features // 4, 3, "middle")(residual, train)
        residual = unit(self.features, 1, "expand")(residual, train)
        return residual + Conv(self.features, 1, self.settings.dtype, name="identity")(x)


class AttentionModule(nn.Module):
    """Attention residual module, Equation 2: `(1 + S) * trunk` with a soft mask `S` in [0, 1].

    The mask is a small U-Net of its own that goes `depth` levels below its first pooling.
    """

    features: int
    depth: int
    settings: Settings

    @nn.compact
    def __call__(self, x, train: bool):
        def res(name):
            return ResidualBlock(self.features, self.settings, name=name)

        x = res("before")(x, train)
        trunk = res("trunk_2")(res("trunk_1")(x, train), train)

        mask = res("mask_in")(max_pool(x), train)
        skips = []
        for level in range(self.depth):
            skips.append(res(f"mask_skip_{level}")(mask, train))
            mask = res(f"mask_down_{level}")(max_pool(mask), train)
        for level in reversed(range(self.depth)):
            mask = upsample(res(f"mask_up_{level}")(mask, train)) + skips[level]
        mask = res("mask_out")(mask, train)
        # The paper upsamples before these two. A 1x1 convolution and a sigmoid see one voxel at a time, so the order
        # changes nothing but the work: an eighth of it in 3D, a quarter in 2D.
        mask = Conv(self.features, 1, self.settings.dtype, name="mask_conv_1")(mask)
        mask = Conv(self.features, 1, self.settings.dtype, name="mask_conv_2")(mask)
        mask = upsample(nn.sigmoid(mask))

        return res("after")((1 + mask) * trunk, train)
