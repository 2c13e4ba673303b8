"""One convolution in the exact forms of `lowering.REWRITES`, for 2D `(b, y, x, c)` and 3D `(b, z, y, x, c)` alike."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from raunet_jax.networks.products import apply_flattened, conv_2d, conv_3d, matmul, shift

# Of voxels repeated twice, a window of three taps sees two: (place 1 and 0 in a block of 2, tap before, tap after).
MERGED_TAPS = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)
WINOGRAD_CHANNELS, WINOGRAD_SIZE = 32, 2**20  # from which on its fewer products outweigh its sums (measured)


class DeferredConcat(NamedTuple):
    """Upsample-and-concatenate, evaluated lazily: `concatenate([upsample(low), skip])` along the channels.

    A layer computes with the small `low`, and upsamples what comes of it.
    """

    low: Float[Array, "b *half i"]
    skip: Float[Array, "b *space j"]


def upsample(x: Float[Array, "b *space c"]) -> Float[Array, "b *double c"]:
    """Nearest-neighbor upsampling by two in every spatial dimension."""
    batch, *space, channels = x.shape
    single = [part for size in space for part in (size, 1)]
    double = [part for size in space for part in (size, 2)]
    repeated = jnp.broadcast_to(x.reshape(batch, *single, channels), (batch, *double, channels))
    return repeated.reshape(batch, *(2 * size for size in space), channels)


def upsample_and_concatenate(
    low: Float[Array, "b *half i"], skip: Float[Array, "b *space j"], rewrites: Collection[str] = ()
) -> Float[Array, "b *space k"] | DeferredConcat:
    """`upsample(low)` and `skip` along the channels, k = i + j; with the rewrite "split" as a DeferredConcat."""
    return DeferredConcat(low, skip) if "split" in rewrites else jnp.concatenate([upsample(low), skip], axis=-1)


def convolve(
    x: Float[Array, "b *space i"] | DeferredConcat, kernel: Float[Array, "*window i o"], rewrites: Collection[str] = ()
) -> Float[Array, "b *space o"]:
    """SAME convolution with zero padding and stride 1; `window` is 1 or 3 voxels in every dimension."""
    rewrites = frozenset(rewrites)
    if jnp.result_type(*jax.tree.leaves(x)) == jnp.bfloat16:
        rewrites -= {"winograd", "shift_and_matmul"}  # whose sums of rounded products are three times less exact
    if isinstance(x, DeferredConcat):
        border = x.low.shape[-1]
        low = _convolve_upsampled(x.low, kernel[..., :border, :], rewrites)
        return low + convolve(x.skip, kernel[..., border:, :], rewrites)
    *window, channels, features = kernel.shape
    if "dots" in rewrites and set(window) == {1}:
        return apply_flattened(lambda voxels: matmul(voxels, kernel.reshape(channels, features), rewrites), x)
    if "shift_and_matmul" in rewrites and features == 1:
        return _matmul_and_shift(x, kernel)
    if "winograd" in rewrites and _suits_winograd(x, window):
        return _convolve_winograd(x, kernel, rewrites)
    if "slices" in rewrites and len(window) == 3:
        return _convolve_slices(x, kernel, rewrites)
    return _convolve_directly(x, kernel, "SAME", rewrites)


def _suits_winograd(x: Float[Array, "b *space i"], window: Sequence[int]) -> bool:
    """Whether Winograd's form is possible for `x`, and worth it."""
    large = x.shape[-1] >= WINOGRAD_CHANNELS and x[0].size >= WINOGRAD_SIZE  # whatever the batch: the same sums
    return large and len(window) == 3 == window[0] and x.shape[1] % 2 == 0


def _convolve_directly(
    x: Float[Array, "b *space i"], kernel: Float[Array, "*window i o"], padding: str, rewrites: frozenset[str]
) -> Float[Array, "b *out o"]:
    """By XLA's own convolution, with the rewrites of `conv_2d` or `conv_3d`."""
    return (conv_2d if kernel.ndim == 4 else conv_3d)(x, kernel, padding, rewrites)


def _convolve_each_slice(
    x: Float[Array, "b z y x i"], kernel: Float[Array, "u v i o"], rewrites: frozenset[str]
) -> Float[Array, "b z y x o"]:
    """A 2D convolution of all slices as one batch."""
    out = _convolve_directly(x.reshape(-1, *x.shape[2:]), kernel, "SAME", rewrites)
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _convolve_slices(
    x: Float[Array, "b z y x i"], kernel: Float[Array, "w u v i o"], rewrites: frozenset[str]
) -> Float[Array, "b z y x o"]:
    """3D by one 2D convolution, the w taps along z as input channels."""
    taps, *window, channels, features = kernel.shape
    padded = _pad(x, [taps // 2])
    stacked = jnp.concatenate([padded[:, tap : tap + x.shape[1]] for tap in range(taps)], axis=-1)  # b z y x (tap i)
    flat = jnp.moveaxis(kernel, 0, -3).reshape(*window, taps * channels, features)  # y x (tap i) o
    return _convolve_each_slice(stacked, flat, rewrites)


def _convolve_winograd(
    x: Float[Array, "b z y x i"], kernel: Float[Array, "3 u v i o"], rewrites: frozenset[str]
) -> Float[Array, "b z y x o"]:
    """Winograd's F(2, 3) along z (Lavin and Gray 2016): four 2D convolutions for two slices, in place of six."""
    padded = _pad(x, [1])
    even, odd = padded[:, 0::2], padded[:, 1::2]
    x0, x1, x2, x3 = even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:]  # the four slices that two outputs see
    sides, center = (kernel[0] + kernel[2]) / 2, kernel[1] / 2
    first = _convolve_each_slice(x0 - x2, kernel[0], rewrites)
    plus = _convolve_each_slice(x1 + x2, sides + center, rewrites)
    minus = _convolve_each_slice(x2 - x1, sides - center, rewrites)
    last = _convolve_each_slice(x1 - x3, kernel[2], rewrites)
    outputs = jnp.stack([first + plus + minus, plus - minus - last], axis=2)  # b z/2 2 y x o
    return outputs.reshape(*x.shape[:-1], -1)


def _shift_to_tap(x: Float[Array, " b *space"], tap: Sequence[int], window: Sequence[int]) -> Float[Array, " b *space"]:
    """`x` as the tap of a SAME convolution sees it."""
    return shift(x, [size // 2 - place for place, size in zip(tap, window, strict=True)])


def _matmul_and_shift(x: Float[Array, "b *space i"], kernel: Float[Array, "*window i 1"]) -> Float[Array, "b *space 1"]:
    """To one feature: one matrix product for all taps, then each tap's array shifted to its place, and their sum."""
    *window, channels, _ = kernel.shape
    taps = list(np.ndindex(*window))
    products = (kernel.reshape(-1, channels) @ x.reshape(-1, channels).T).reshape(-1, *x.shape[:-1])  # tap b *space
    # split, not slices: its gradient is one concatenation, where theirs is a sum of arrays filled up with zeros
    split = jax.lax.split(products, [1] * len(taps), 0)
    return sum(_shift_to_tap(part[0], tap, window) for part, tap in zip(split, taps, strict=True))[..., None]


def _convolve_upsampled(
    x: Float[Array, "b *half i"], kernel: Float[Array, "*window i o"], rewrites: frozenset[str]
) -> Float[Array, "b *space o"]:
    """`convolve(upsample(x), kernel)`, computed at the size of `x` where `rewrites` allow."""
    window = kernel.shape[:-2]
    if set(window) == {1}:
        return upsample(convolve(x, kernel, rewrites))
    if "subpixel" not in rewrites:
        return convolve(upsample(x), kernel, rewrites)
    if len(window) == 2 or "slices" not in rewrites:
        return _convolve_subpixel(x, kernel, rewrites)
    # Along z by differences of neighbors, three products for two slices where sub-pixels take four: with
    # S = w0 + w1 + w2, out[2j] = S x[j] - w0 (x[j] - x[j-1]) and out[2j+1] = S x[j] + w2 (x[j+1] - x[j]).
    steps = jnp.diff(_pad(x, [1]), axis=1)
    whole, before, after = (
        _convolve_subpixel(part.reshape(-1, *x.shape[2:]), plane, rewrites)
        for part, plane in ((x, kernel.sum(0)), (steps[:, :-1], kernel[0]), (steps[:, 1:], kernel[2]))
    )
    slices = jnp.stack([whole - before, whole + after], axis=1)  # (b z) 2 2y 2x o
    return slices.reshape(x.shape[0], -1, *slices.shape[2:])


def _convolve_subpixel(
    x: Float[Array, "b *half i"], kernel: Float[Array, "*window i o"], rewrites: frozenset[str]
) -> Float[Array, "b *space o"]:
    """Sub-pixel convolution: one of window 2, whose features are those of each place in a block of 2.

    Both places of an axis see two voxels: out[2j] = w0 x[j-1] + (w1 + w2) x[j], out[2j+1] = (w0 + w1) x[j] + w2 x[j+1].
    """
    dimensions, (channels, features) = kernel.ndim - 2, kernel.shape[-2:]
    batch, *space, _ = x.shape
    merged = kernel
    for done in range(dimensions):  # from the last axis on, each to (place, tap) in front
        merged = jnp.tensordot(MERGED_TAPS.astype(kernel.dtype), merged, ((2,), (dimensions - 1 + done,)))
    order = [*range(1, 2 * dimensions, 2), 2 * dimensions, *range(0, 2 * dimensions, 2), 2 * dimensions + 1]
    merged = merged.transpose(order).reshape(*(2,) * dimensions, channels, -1)  # *tap i (*place o)
    out = _convolve_directly(_pad(x, [1] * dimensions), merged, "VALID", rewrites)  # b *(space + 1) (*place o)
    out = out.reshape(batch, *(size + 1 for size in space), *(2,) * dimensions, features)
    # Place 1 of voxel j was computed with the taps of voxel j + 1, and so comes just before that one's place 0.
    axes = [axis for first in range(1, dimensions + 1) for axis in (first, first + dimensions)]
    out = out.transpose(0, *axes, 2 * dimensions + 1).reshape(batch, *(2 * size + 2 for size in space), features)
    return out[:, *[slice(1, -1)] * dimensions]


def _pad(x: Float[Array, "b *space c"], reach: Sequence[int]) -> Float[Array, "b *padded c"]:
    """`x` with `reach` zeros around the first spatial dimensions."""
    return jnp.pad(x, [(0, 0), *((r, r) for r in reach), *[(0, 0)] * (x.ndim - 1 - len(reach))])
