"""One convolution in the exact forms of `lowering.REWRITES`, for 2D `(b, y, x, c)` and 3D `(b, z, y, x, c)` alike."""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from raunet_jax.networks.products import apply_flattened, convolve_plane, product, shifted, xla_conv

# Of voxels repeated twice, a window of three taps sees two: (place 1 and 0 in a block of 2, tap before, tap after).
MERGED_TAPS = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)
WINOGRAD_CHANNELS, WINOGRAD_SIZE = 32, 2**20  # from which on its fewer products outweigh its sums (measured)


class DeferredConcat(NamedTuple):
    """`concatenate([upsample(low), skip])` along the channels, not yet formed: the rewrite "split"."""

    low: Float[Array, "b *half i"]
    skip: Float[Array, "b *space j"]


def upsample(x: Float[Array, "b *space c"]) -> Float[Array, "b *double c"]:
    """Each voxel repeated twice in every spatial dimension (nearest neighbor)."""
    batch, *space, channels = x.shape
    single = [part for size in space for part in (size, 1)]
    double = [part for size in space for part in (size, 2)]
    repeated = jnp.broadcast_to(x.reshape(batch, *single, channels), (batch, *double, channels))
    return repeated.reshape(batch, *(2 * size for size in space), channels)


def join(low: Float[Array, "b *half i"], skip: Float[Array, "b *space j"], rewrites: Collection[str] = ()):
    """`upsample(low)` and `skip` along the channels: one array, or with the rewrite "split" a DeferredConcat."""
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
        return apply_flattened(lambda voxels: product(voxels, kernel.reshape(channels, features)), x)
    if "shift_and_matmul" in rewrites and features == 1:
        return _convolve_after_products(x, kernel)
    if (
        "shift_and_matmul" in rewrites and channels == 1 and len(window) == 2
    ):  # in 3D its 27 arrays would be kept for the gradient
        return _convolve_by_products(x, kernel)
    if "winograd" in rewrites and _in_pairs(x, window):
        return _convolve_slices_in_pairs(x, kernel, rewrites)
    if "slices" in rewrites and len(window) == 3:
        return _convolve_slices(x, kernel, rewrites)
    return _by_xla(x, kernel, "SAME", rewrites)


def _in_pairs(x, window) -> bool:
    """Whether Winograd's form is for `x`, and worth it."""
    large = x.shape[-1] >= WINOGRAD_CHANNELS and x[0].size >= WINOGRAD_SIZE  # whatever the batch: the same sums
    return large and len(window) == 3 == window[0] and x.shape[1] % 2 == 0


def _by_xla(x, kernel, padding, rewrites):
    """By XLA's own convolution; where it is 2D, as that runs best."""
    return (convolve_plane if kernel.ndim == 4 else xla_conv)(x, kernel, padding, rewrites)


def _each_slice(x, kernel, padding, rewrites):
    """A 2D convolution of all slices of `x` (b, z, y, x, i) as one batch."""
    out = _by_xla(x.reshape(-1, *x.shape[2:]), kernel, padding, rewrites)
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _convolve_slices(x, kernel, rewrites):
    """The z-taps as input channels of one 2D convolution."""
    taps, *window, channels, features = kernel.shape
    padded = _pad(x, [taps // 2])
    stacked = jnp.concatenate([padded[:, tap : tap + x.shape[1]] for tap in range(taps)], axis=-1)  # b z y x (tap i)
    flat = jnp.moveaxis(kernel, 0, -3).reshape(*window, taps * channels, features)  # y x (tap i) o
    return _each_slice(stacked, flat, "SAME", rewrites)


def _convolve_slices_in_pairs(x, kernel, rewrites):
    """Winograd's F(2, 3) along z (Lavin and Gray 2016): four 2D convolutions for two slices, in place of six."""
    padded = _pad(x, [1])
    even, odd = padded[:, 0::2], padded[:, 1::2]
    x0, x1, x2, x3 = even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:]  # the four slices that a pair sees
    sides, center = (kernel[0] + kernel[2]) / 2, kernel[1] / 2
    first = _each_slice(x0 - x2, kernel[0], "SAME", rewrites)
    plus = _each_slice(x1 + x2, sides + center, "SAME", rewrites)
    minus = _each_slice(x2 - x1, sides - center, "SAME", rewrites)
    last = _each_slice(x1 - x3, kernel[2], "SAME", rewrites)
    pairs = jnp.stack([first + plus + minus, plus - minus - last], axis=2)  # b z/2 2 y x o
    return pairs.reshape(*x.shape[:-1], -1)


def _at_tap(x, tap, window):
    """`x` (b, *space) as the tap of a SAME convolution sees it."""
    return shifted(x, [size // 2 - place for place, size in zip(tap, window, strict=True)])


def _convolve_after_products(x, kernel):
    """To one feature: all taps' products by one matrix product, then a sum of whole arrays, each shifted as its tap."""
    *window, channels, _ = kernel.shape
    taps = list(np.ndindex(*window))
    products = (kernel.reshape(-1, channels) @ x.reshape(-1, channels).T).reshape(-1, *x.shape[:-1])  # tap b *space
    # split, not slices: its gradient is one concatenation, where theirs is a sum of arrays filled up with zeros
    split = jax.lax.split(products, [1] * len(taps), 0)
    return sum(_at_tap(part[0], tap, window) for part, tap in zip(split, taps, strict=True))[..., None]


def _convolve_by_products(x, kernel):
    """From one channel: whole arrays, each shifted as its tap, and one matrix product."""
    *window, _, features = kernel.shape
    stacked = jnp.stack([_at_tap(x[..., 0], tap, window) for tap in np.ndindex(*window)])  # tap b *space
    out = stacked.reshape(len(stacked), -1).T @ kernel.reshape(-1, features)
    return out.reshape(*x.shape[:-1], features)


def _convolve_upsampled(x, kernel, rewrites):
    """`convolve(upsample(x), kernel)`, of which the work is done on `x` (b, *half, i) itself where `rewrites` allow."""
    window = kernel.shape[:-2]
    if set(window) == {1}:
        return upsample(convolve(x, kernel, rewrites))
    if "subpixel" not in rewrites:
        return convolve(upsample(x), kernel, rewrites)
    if len(window) == 2 or "slices" not in rewrites:
        return _convolve_places(x, kernel, rewrites)
    # Along z by differences of neighbors, three products for two slices where places take four: with S = w0 + w1 + w2
    # out[2j] = S x[j] - w0 (x[j] - x[j-1]) and out[2j+1] = S x[j] + w2 (x[j+1] - x[j]).
    steps = jnp.diff(_pad(x, [1]), axis=1)
    whole, before, after = (
        _convolve_places(part.reshape(-1, *x.shape[2:]), plane, rewrites)
        for part, plane in ((x, kernel.sum(0)), (steps[:, :-1], kernel[0]), (steps[:, 1:], kernel[2]))
    )
    pairs = jnp.stack([whole - before, whole + after], axis=1)  # (b z) 2 2y 2x o
    return pairs.reshape(x.shape[0], -1, *pairs.shape[2:])


def _convolve_places(x, kernel, rewrites):
    """Sub-pixel form: one convolution of window 2, whose features are those of each place in a block of 2.

    Both places of an axis see two voxels: out[2j] = w0 x[j-1] + (w1 + w2) x[j], out[2j+1] = (w0 + w1) x[j] + w2 x[j+1].
    """
    dimensions, (channels, features) = kernel.ndim - 2, kernel.shape[-2:]
    batch, *space, _ = x.shape
    merged = kernel
    for done in range(dimensions):  # from the last axis on, each to (place, tap) in front
        merged = jnp.tensordot(MERGED_TAPS.astype(kernel.dtype), merged, ((2,), (dimensions - 1 + done,)))
    order = [*range(1, 2 * dimensions, 2), 2 * dimensions, *range(0, 2 * dimensions, 2), 2 * dimensions + 1]
    merged = merged.transpose(order).reshape(*(2,) * dimensions, channels, -1)  # *tap i (*place o)
    out = _by_xla(_pad(x, [1] * dimensions), merged, "VALID", rewrites)  # b *(space + 1) (*place o)
    out = out.reshape(batch, *(size + 1 for size in space), *(2,) * dimensions, features)
    # Place 1 of voxel j was computed with the taps of voxel j + 1, and so comes just before that one's place 0.
    axes = [axis for first in range(1, dimensions + 1) for axis in (first, first + dimensions)]
    out = out.transpose(0, *axes, 2 * dimensions + 1).reshape(batch, *(2 * size + 2 for size in space), features)
    return out[:, *[slice(1, -1)] * dimensions]


def _pad(x, reach):
    """`x` (b, *space, c) with `reach` zeros around the first spatial dimensions."""
    return jnp.pad(x, [(0, 0), *((r, r) for r in reach), *[(0, 0)] * (x.ndim - 1 - len(reach))])
