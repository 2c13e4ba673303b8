"""Convolutions of window 1, and 2D ones, by XLA's own matrix products and convolutions, both fast on its CPU.

Every array is taken and given in channel-last layout; `u` and `v` are a window's voxels along y and x.
"""

import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

PACK_MAX_FEATURES = 4  # up to which a matrix product is too narrow without neighbors along x as further channels
PACK_FEW, PACK_ONE = 4, 8  # how many neighbors: for so few features, and for a single input channel (measured)
TREE_SUM_BLOCK = 32  # a sum of more XLA would divide itself
IM2COL_MAX_SIZE = 2**25  # values from which on shifted copies cost more than they save (measured)
FEW_SLICES = 3  # up to which cuDNN takes a 3D kernel's gradient for a forward convolution of absurd shape


def apply_flattened(function: Callable, x: Float[Array, "b *space i"]) -> Float[Array, "b *space o"]:
    """`function` (n, i) -> (n, o), applied to `x` with batch and space flattened to n voxels."""
    return function(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def sum_voxels(voxels: Float[Array, "n c"], rewrites: Collection[str]) -> Float[Array, " c"]:
    """`voxels.sum(0)`; with the rewrite "tree_sum", blocks of 32 voxels are summed first.

    XLA would take a plain sum over the axes that were flattened to n, at which its CPU is several times slower.
    """
    if "tree_sum" in rewrites and len(voxels) % TREE_SUM_BLOCK == 0:
        window = (TREE_SUM_BLOCK, 1)
        voxels = jax.lax.reduce_window(voxels, np.zeros((), voxels.dtype), jax.lax.add, window, window, "VALID")
    return voxels.sum(0)


def sum_two_over_voxels(
    left: Float[Array, "n c"], right: Float[Array, "n c"], rewrites: Collection[str]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """`sum_voxels` of each; with the rewrite "joint_sum" by one reduction of both."""
    if "joint_sum" not in rewrites:
        return sum_voxels(left, rewrites), sum_voxels(right, rewrites)
    zero = np.zeros((), left.dtype)
    return tuple(jax.lax.reduce((left, right), (zero, zero), _add_each, (0,)))


def _add_each(sums: Sequence[ArrayLike], more: Sequence[ArrayLike]) -> tuple[ArrayLike, ...]:
    return tuple(one + another for one, another in zip(sums, more, strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(voxels: Float[Array, "n c"], bias: Float[Array, " c"], rewrites: frozenset[str]) -> Float[Array, "n c"]:
    """`voxels + bias`; the bias's gradient is a `sum_voxels`."""
    return voxels + bias[None]


def _add_bias_forward(voxels, bias, rewrites):
    return voxels + bias[None], None


def _add_bias_backward(rewrites, _, gradient):
    return gradient, sum_voxels(gradient, rewrites)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def shift(x: Float[Array, "b ..."], offsets: Sequence[int], fill: ArrayLike | Array = 0.0) -> Float[Array, "b ..."]:
    """`x` moved by `offsets` voxels along its first spatial axes, with `fill` where nothing comes in."""
    moves = [(0, 0, 0), *((offset, -offset, 0) for offset in offsets)]
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), moves + [(0, 0, 0)] * (x.ndim - len(moves)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(voxels: Float[Array, "n i"], kernel: Float[Array, "i o"], rewrites: frozenset[str]) -> Float[Array, "n o"]:
    """`voxels @ kernel`; the kernel's gradient is a `_matmul_over_voxels`."""
    return voxels @ kernel


def _matmul_forward(voxels, kernel, rewrites):
    return voxels @ kernel, (voxels, kernel)


def _matmul_backward(rewrites, residuals, gradient):
    voxels, kernel = residuals
    return gradient @ kernel.T, _matmul_over_voxels(voxels, gradient, rewrites)


matmul.defvjp(_matmul_forward, _matmul_backward)


def _matmul_over_voxels(
    left: Float[Array, "n i"], right: Float[Array, "n o"], rewrites: Collection[str]
) -> Float[Array, "i o"]:
    """`left.T @ right`; with the rewrite "narrow_left" the smaller of both as the left operand.

    On XLA's CPU that is two or three times as fast; on a GPU it would leave a transpose.
    """
    if left.shape[1] < right.shape[1] or "narrow_left" not in rewrites:
        return left.T @ right
    return jax.lax.optimization_barrier(right.T @ left).T  # without the barrier XLA swaps the operands back


def xla_conv(
    x: Float[Array, "b *space i"],
    kernel: Float[Array, "*window i o"],
    padding: str | Sequence[tuple[int, int]],
    rewrites: Collection[str] = (),
) -> Float[Array, "b *out o"]:
    """XLA's convolution in 2D or 3D, with stride 1; `rewrites` are not for it."""
    space = "zyx"[-(kernel.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), padding, dimension_numbers=layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_2d(
    x: Float[Array, "b y x i"], kernel: Float[Array, "u v i o"], padding: str, rewrites: frozenset[str]
) -> Float[Array, "b Y X o"]:
    """A 2D convolution with the rewrites "pack_width", "im2col_kernel_grad" and "matmul_transpose"."""
    width, (channels, features) = x.shape[-2], kernel.shape[-2:]
    neighbors = PACK_ONE if channels == 1 else PACK_FEW if features <= PACK_MAX_FEATURES else 1
    if "pack_width" in rewrites and padding == "SAME" and neighbors > 1 and width % neighbors == 0:
        packed = xla_conv(x.reshape(*x.shape[:2], width // neighbors, -1), _pack_kernel(kernel, neighbors), padding)
        return packed.reshape(*x.shape[:-1], features)
    return xla_conv(x, kernel, padding)


def _pack_kernel(kernel: Float[Array, "u v i o"], neighbors: int) -> Float[Array, "u 3 packed_i packed_o"]:
    """The kernel of window (u, 3) whose channels are those of so many neighbors along x."""
    taps = kernel.shape[1]
    block, source, target = np.ogrid[:3, :neighbors, :neighbors]
    tap = neighbors * (block - 1) + source - target + taps // 2
    inside = ((tap >= 0) & (tap < taps)).astype(np.float32)[..., None, None]  # block source target 1 1
    blocks = kernel[:, np.clip(tap, 0, taps - 1)] * jnp.asarray(inside, kernel.dtype)[None]  # u block source target i o
    return blocks.swapaxes(3, 4).reshape(kernel.shape[0], 3, neighbors * kernel.shape[2], neighbors * kernel.shape[3])


def _conv_2d_forward(x, kernel, padding, rewrites):
    return conv_2d(x, kernel, padding, rewrites), (x, kernel)


def _conv_2d_backward(padding, rewrites, residuals, gradient):
    x, kernel = residuals
    if "pack_width" in rewrites and padding == "SAME" and kernel.shape[2] <= PACK_MAX_FEATURES:
        to_x = conv_2d(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), padding, rewrites)
    else:
        (to_x,) = jax.vjp(lambda x: xla_conv(x, kernel, padding), x)[1](gradient)
    if "im2col_kernel_grad" in rewrites and padding == "SAME":
        axes, size = _im2col_axes(x, gradient, kernel.shape[:2])
        if size <= IM2COL_MAX_SIZE:
            return to_x, _im2col_kernel_grad(x, gradient, kernel.shape[:2], axes, rewrites)
    if "matmul_transpose" in rewrites:
        return to_x, _matmul_transpose_kernel_grad(x, gradient, kernel.shape[:2], padding)
    return to_x, *jax.vjp(lambda kernel: xla_conv(x, kernel, padding), kernel)[1](gradient)


conv_2d.defvjp(_conv_2d_forward, _conv_2d_backward)


def _im2col_axes(
    x: Float[Array, "b y x i"], gradient: Float[Array, "b y x o"], window: tuple[int, int]
) -> tuple[tuple[int, ...], int]:
    """Along which axes (0: y, 1: x) to copy `x`, not `gradient`, for the fewest values, and how many these are."""

    def values(axes):
        of_x, of_gradient = (
            array.size * math.prod(size if (axis in axes) == is_x else 1 for axis, size in enumerate(window))
            for array, is_x in ((x, True), (gradient, False))
        )
        return of_x + of_gradient

    axes = min(((0, 1), (1,), ()), key=values)
    return axes, values(axes)


def _im2col_kernel_grad(
    x: Float[Array, "b y x i"],
    gradient: Float[Array, "b y x o"],
    window: tuple[int, int],
    axes: tuple[int, ...],
    rewrites: Collection[str],
) -> Float[Array, "u v i o"]:
    """The kernel's gradient by one matrix product: copies of `x`, shifted along `axes`, and of `gradient`, along the
    others, become channels (im2col).
    """
    # A zero that waits for the gradient: else XLA copies `x` as soon as it can, and keeps the copies until then.
    zero = jnp.minimum(jnp.abs(gradient.ravel()[0]), 0)

    def im2col(array, sign, is_x):
        places = [range(size) if (axis in axes) == is_x else [size // 2] for axis, size in enumerate(window)]
        offsets = [
            [sign * (place - size // 2) for place, size in zip(tap, window, strict=True)]
            for tap in itertools.product(*places)
        ]
        columns = jnp.concatenate([shift(array, offset, zero) for offset in offsets], axis=-1)  # b y x (tap c)
        return columns.reshape(-1, columns.shape[-1]), [len(place) for place in places]

    (left, (u, v)), (right, (other_u, other_v)) = im2col(x, -1, True), im2col(gradient, 1, False)
    sums = _matmul_over_voxels(left, right, rewrites).reshape(u, v, x.shape[-1], other_u, other_v, gradient.shape[-1])
    return sums.transpose(0, 3, 1, 4, 2, 5).reshape(*window, x.shape[-1], gradient.shape[-1])


def _matmul_transpose_kernel_grad(
    x: Float[Array, "b y x i"], gradient: Float[Array, "b Y X o"], window: tuple[int, int], padding: str
) -> Float[Array, "u v i o"]:
    """The kernel's gradient as XLA computes it, its input transposed by a product with the identity.

    XLA's CPU transposes voxel by voxel, and computes whatever made `x` anew for each; a matrix product works block by
    block.
    """
    batch, *plane, channels = x.shape
    voxels = jnp.moveaxis(x, 0, -2).reshape(-1, channels)  # (y x b) i
    transposed = jax.lax.dot_general(jnp.eye(channels, dtype=x.dtype), voxels, (((1,), (1,)), ((), ())))
    transposed = transposed.reshape(channels, *plane, batch)
    reach = [(size // 2, size // 2) if padding == "SAME" else (0, 0) for size in window]
    return jnp.moveaxis(xla_conv(transposed, jnp.moveaxis(gradient, 0, -2), reach), 0, -2)  # i u v o, then u v i o


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_3d(
    x: Float[Array, "b z y x i"],
    kernel: Float[Array, "w u v i o"],
    padding: str | Sequence[tuple[int, int]],
    rewrites: frozenset[str],
) -> Float[Array, "b Z Y X o"]:
    """A 3D convolution with the rewrite "flat_kernel_grad"."""
    return xla_conv(x, kernel, padding)


def _conv_3d_forward(x, kernel, padding, rewrites):
    return xla_conv(x, kernel, padding), (x, kernel)


def _conv_3d_backward(padding, rewrites, residuals, gradient):
    x, kernel = residuals
    if "flat_kernel_grad" not in rewrites or padding != "SAME" or x.shape[1] > FEW_SLICES:
        return jax.vjp(lambda x, kernel: xla_conv(x, kernel, padding), x, kernel)[1](gradient)
    (to_x,) = jax.vjp(lambda x: xla_conv(x, kernel, padding), x)[1](gradient)
    return to_x, _flat_kernel_grad(x, gradient, kernel.shape[:3])


conv_3d.defvjp(_conv_3d_forward, _conv_3d_backward)


def _flat_kernel_grad(
    x: Float[Array, "b z y x i"], gradient: Float[Array, "b z y x o"], window: tuple[int, int, int]
) -> Float[Array, "w u v i o"]:
    """The kernel's gradient by one matrix product: copies of `x`, one a tap, as channels.

    A tap along z whose copy would hold no slice of `x` is left out, and its gradient is 0.
    """
    reach = min(window[0] // 2, x.shape[1] - 1)
    taps = itertools.product(range(-reach, reach + 1), *(range(-(size // 2), size // 2 + 1) for size in window[1:]))
    copies = jnp.concatenate([shift(x, [-offset for offset in tap]) for tap in taps], axis=-1)
    sums = copies.reshape(-1, copies.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    sums = sums.reshape(-1, *window[1:], x.shape[-1], gradient.shape[-1])
    outside = window[0] // 2 - reach
    return jnp.pad(sums, [(outside, outside)] + [(0, 0)] * 4)
