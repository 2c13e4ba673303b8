"""RA-UNet-I (2D), RA-UNet-II (3D) and the wide BraTS network: one module, told apart by widths and dimensions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from raunet_jax.errors import UserError
from raunet_jax.networks.blocks import REMATERIALIZATIONS, Settings
from raunet_jax.networks.convolution import upsample_and_concatenate
from raunet_jax.networks.layers import max_pool
from raunet_jax.networks.lowering import rewrites

SIZE_MULTIPLE = 32  # five poolings by two
PRECISIONS = ("float32", "highest", "bfloat16")  # see configs/common.py


class RAUNet(nn.Module):
    """Residual attention U-Net (paper Tables II and III).

    `image (b, [z,] y, x, channels) -> logits (b, [z,] y, x, 1)`, float32; the sigmoid is left to the caller. 2D or 3D
    follows the image.

    Raises:
        ValueError: a spatial size is not a multiple of 32.

    Attributes:
        width: channels of Res1; Res2, Res3 and Res4 have 2, 4 and 8 times as many. A multiple of 4.
        stem_width: channels of Conv1 and Conv2.
        bottom_width: channels of Res5 and Res6, at 1/32 of the size.
        settings: precision, batch norm and lowering of all blocks.
    """

    width: int
    stem_width: int
    bottom_width: int
    settings: Settings = Settings()

    @nn.compact
    def __call__(self, image: Float[Array, "b *space c"], train: bool = False) -> Float[Array, "b *space 1"]:
        check_size(image.shape[1:-1])
        settings, lowered = self.settings, self.settings.rewrites

        def stem(x, name):
            x = settings.conv(self.stem_width, 3, name, before_norm=True)(x)
            return nn.relu(x) if settings.folded else settings.norm_relu(f"{name}_norm")(x, train)

        def res(features, name, x):
            return settings.residual_block(features, name)(x, train)

        widths = [self.width * factor for factor in (1, 2, 4, 8)]
        conv1 = stem(image, "Conv1")
        encoder = []
        x = conv1
        for level, features in enumerate(widths, start=1):
            x = res(features, f"Res{level}", max_pool(x, lowered))
            encoder.append(x)
        x = res(self.bottom_width, "Res5", max_pool(x, lowered))
        x = res(self.bottom_width, "Res6", x)

        for depth, (features, skip) in enumerate(zip(reversed(widths), reversed(encoder), strict=True)):
            attention = settings.attention(features, depth, f"Att{depth + 1}")
            x = res(features, f"Res{7 + depth}", upsample_and_concatenate(x, attention(skip, train), lowered))

        x = stem(upsample_and_concatenate(x, conv1, lowered), "Conv2")
        return settings.conv(1, 3, "Conv3")(x).astype(jnp.float32)


def check_size(space: Sequence[int]) -> None:
    """Check that a network takes images of `space` ([z,] y, x).

    Raises:
        ValueError: a size is not a positive multiple of 32; the message names the nearest that are.
    """
    for size in space:
        if size <= 0 or size % SIZE_MULTIPLE:
            below = max(size // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
            nearest = f"{below}" if size <= 0 or size < below else f"{below} or {below + SIZE_MULTIPLE}"
            raise UserError(
                f"size {size} of {tuple(space)} is not a multiple of {SIZE_MULTIPLE}, which the network's five "
                f"poolings need; the nearest valid size is {nearest}"
            )


def make_network(config: ConfigDict, axis_name: str | None = None, folded: bool = False) -> RAUNet:
    """The network that a stage's recipe describes.

    Args:
        config: of one stage; `network`, `precision`, `patch_size` and `data.modalities` are read.
        axis_name: see `Settings`.
        folded: for variables of `folding.fold`.

    Raises:
        ValueError: a patch size, width, precision, momentum, lowering or remat that no network can have.
    """
    check_size(image_shape(config)[:-1])
    width = config.network.width
    widths = {
        "network.width": width,
        "network.stem_width": config.network.stem_width or width,
        "network.bottom_width": config.network.bottom_width or 16 * width,
    }
    for name, value in widths.items():
        if value <= 0 or value % 4:
            raise UserError(f"{name} is {value}; a residual block's bottleneck needs a positive multiple of 4")
    if config.precision not in PRECISIONS:
        raise UserError(f"precision is {config.precision!r}; choose one of {', '.join(PRECISIONS)}")
    if not 0 <= config.network.momentum < 1:
        raise UserError(f"network.momentum is {config.network.momentum}; it must be at least 0 and below 1")
    rewrites(config.network.lowering)
    if config.network.remat not in REMATERIALIZATIONS:
        raise UserError(f"network.remat is {config.network.remat!r}; choose one of {', '.join(REMATERIALIZATIONS)}")
    settings = Settings(
        jnp.bfloat16 if config.precision == "bfloat16" else jnp.float32,
        config.network.momentum,
        axis_name,
        config.network.lowering,
        config.network.remat,
        folded,
        "highest" if config.precision == "highest" else None,
    )
    return RAUNet(*widths.values(), settings)


def image_shape(config: ConfigDict) -> tuple[int, ...]:
    """`([z,] y, x, channel)` of one patch, by `patch_size` and `data.modalities`; a patch one slice thick is 2D."""
    x, y, z = config.patch_size
    return (*((z, y, x) if z > 1 else (y, x)), len(config.data.modalities))


def init_variables(network: nn.Module, shape: Sequence[int], seed: int) -> dict:
    """Fresh `params` and `batch_stats` for images of `shape` ([z,] y, x, channel), as numpy arrays.

    Glorot-uniform kernels (Glorot and Bengio 2010), zero biases, unit scales (Keras's defaults), drawn by numpy: the
    same weights on every platform, and no compilation. Flax's own init of 150 kernels compiles for 15-30 seconds on a
    CPU.
    """
    smallest = (1, *(SIZE_MULTIPLE for _ in shape[:-1]), shape[-1])  # no parameter depends on the spatial size
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(smallest, jnp.float32))
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            *window, fan_in, fan_out = leaf.shape
            limit = math.sqrt(6 / (math.prod(window) * (fan_in + fan_out)))
            return generator.uniform(-limit, limit, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, 1 if name in ("scale", "var") else 0, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))
