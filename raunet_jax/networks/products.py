"""Convolutions of window 1, and 2D ones, by XLA's own products and convolutions: both where its CPU is fast at them."""

import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PACK, PACKED_FEATURES = 4, 4  # neighbors along x; up to how many features a matrix product is too narrow by itself
TREE = 32  # a sum of more XLA would divide itself
SHIFTED_SIZE = 2**25  # from which on copies of an array and its gradient, shifted, cost more than they save (measured)


def apply_flattened(function: Callable, x: Float[Array, "b *space i"]) -> Float[Array, "b *space o"]:
    """`function` (n, i) -> (n, o) of all voxels of `x`."""
    return function(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def sum_voxels(voxels: Float[Array, "n c"], rewrites: Collection[str]) -> Float[Array, " c"]:
    """`voxels.sum(0)`, by the rewrite "tree_sum" of every 32 first.

    A plain sum XLA would take over the axes that the voxels once had, at which its CPU is several times slower.
    """
    if "tree_sum" in rewrites and len(voxels) % TREE == 0:
        window = (TREE, 1)
        voxels = jax.lax.reduce_window(voxels, np.zeros((), voxels.dtype), jax.lax.add, window, window, "VALID")
    return voxels.sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(voxels: Float[Array, "n c"], bias: Float[Array, " c"], rewrites: frozenset[str]) -> Float[Array, "n c"]:
    return voxels + bias


def _bias_forward(voxels, bias, rewrites):
    return voxels + bias, None


def _bias_backward(rewrites, _, gradient):
    return gradient, sum_voxels(gradient, rewrites)


add_bias.defvjp(_bias_forward, _bias_backward)


def shifted(x: Float[Array, "b ..."], shifts: Sequence[int], zero=0.0) -> Float[Array, "b ..."]:
    """`x` moved by `shifts` voxels along its first spatial axes, with `zero` where nothing comes in."""
    moves = [(0, 0, 0), *((shift, -shift, 0) for shift in shifts)]
    return jax.lax.pad(x, jnp.asarray(zero, x.dtype), moves + [(0, 0, 0)] * (x.ndim - len(moves)))


@jax.custom_vjp
def product(voxels: Float[Array, "n i"], kernel: Float[Array, "i o"]) -> Float[Array, "n o"]:
    """`voxels @ kernel`, with a gradient by `_sum_of_products`."""
    return voxels @ kernel


def _product_forward(voxels, kernel):
    return voxels @ kernel, (voxels, kernel)


def _product_backward(residuals, gradient):
    voxels, kernel = residuals
    return gradient @ kernel.T, _sum_of_products(voxels, gradient)


product.defvjp(_product_forward, _product_backward)


def _sum_of_products(left, right):
    """`left.T @ right` of (n, i) and (n, o). XLA's CPU is two or three times as fast where i is the smaller."""
    if left.shape[1] < right.shape[1]:
        return left.T @ right
    return jax.lax.optimization_barrier(right.T @ left).T  # else XLA turns it back


def xla_conv(x, kernel, padding, rewrites=()):
    """XLA's convolution, with stride 1, of `x` (b, *space, i) in 2D or 3D."""
    space = "zyx"[-(kernel.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), padding, dimension_numbers=layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_plane(
    x: Float[Array, "b y x i"], kernel: Float[Array, "u v i o"], padding: str, rewrites: frozenset[str]
) -> Float[Array, "b Y X o"]:
    """A 2D convolution with the rewrites "pack_width", "im2col_kernel_grad" and "matmul_transpose"."""
    width, features = x.shape[-2], kernel.shape[-1]
    if "pack_width" in rewrites and padding == "SAME" and features <= PACKED_FEATURES and width % PACK == 0:
        packed = xla_conv(x.reshape(*x.shape[:2], width // PACK, -1), _packed(kernel), padding)
        return packed.reshape(*x.shape[:-1], features)
    return xla_conv(x, kernel, padding)


def _packed(kernel):
    """The kernel of window (u, 3) that takes and gives PACK neighbors along x as channels of one place."""
    taps = kernel.shape[1]
    block, ours, out = np.ogrid[:3, :PACK, :PACK]
    tap = PACK * (block - 1) + ours - out + taps // 2
    inside = ((tap >= 0) & (tap < taps)).astype(np.float32)[..., None, None]  # block ours out 1 1
    blocks = kernel[:, np.clip(tap, 0, taps - 1)] * jnp.asarray(inside, kernel.dtype)  # u block ours out i o
    return blocks.swapaxes(3, 4).reshape(kernel.shape[0], 3, PACK * kernel.shape[2], PACK * kernel.shape[3])


def _plane_forward(x, kernel, padding, rewrites):
    return convolve_plane(x, kernel, padding, rewrites), (x, kernel)


def _plane_backward(padding, rewrites, residuals, gradient):
    x, kernel = residuals
    if "pack_width" in rewrites and padding == "SAME" and kernel.shape[2] <= PACKED_FEATURES:
        to_x = convolve_plane(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), padding, rewrites)
    else:
        (to_x,) = jax.vjp(lambda x: xla_conv(x, kernel, padding), x)[1](gradient)
    if "im2col_kernel_grad" in rewrites and padding == "SAME":
        axes, size = _cheapest_copies(x, gradient, kernel.shape[:2])
        if size <= SHIFTED_SIZE:
            return to_x, _kernel_gradient_by_neighbors(x, gradient, kernel.shape[:2], axes)
    if "matmul_transpose" in rewrites:
        return to_x, _kernel_gradient_turned(x, gradient, kernel.shape[:2], padding)
    return to_x, *jax.vjp(lambda kernel: xla_conv(x, kernel, padding), kernel)[1](gradient)


convolve_plane.defvjp(_plane_forward, _plane_backward)


def _cheapest_copies(x, gradient, window):
    """Along which axes (0: y, 1: x) `x` is to be shifted, not `gradient`, for the fewest values; how many these are."""

    def values(axes):
        of_x, of_gradient = (
            array.size * math.prod(size if (axis in axes) == own else 1 for axis, size in enumerate(window))
            for array, own in ((x, True), (gradient, False))
        )
        return of_x + of_gradient

    axes = min(((0, 1), (1,), ()), key=values)
    return axes, values(axes)


def _kernel_gradient_by_neighbors(x, gradient, window, axes):
    """Neighbors of each voxel as its channels, of `x` along `axes`, of `gradient` along the others; one product."""

    # A zero that waits for the gradient: else XLA copies `x` as soon as it can, and keeps the copies until then.
    zero = jnp.minimum(jnp.abs(gradient.ravel()[0]), 0)

    def neighbors(array, sign, own):
        places = [range(size) if (axis in axes) == own else [size // 2] for axis, size in enumerate(window)]
        reach = [
            [sign * (place - size // 2) for place, size in zip(tap, window, strict=True)]
            for tap in itertools.product(*places)
        ]
        stacked = jnp.concatenate([shifted(array, shifts, zero) for shifts in reach], axis=-1)  # b y x (tap c)
        return stacked.reshape(-1, stacked.shape[-1]), [len(place) for place in places]

    (left, (u, v)), (right, (other_u, other_v)) = neighbors(x, -1, True), neighbors(gradient, 1, False)
    sums = _sum_of_products(left, right).reshape(u, v, x.shape[-1], other_u, other_v, gradient.shape[-1])
    return sums.transpose(0, 3, 1, 4, 2, 5).reshape(*window, x.shape[-1], gradient.shape[-1])


def _kernel_gradient_turned(x, gradient, window, padding):
    """XLA's own way but for how `x` is turned.

    XLA's CPU turns it voxel by voxel, with whatever made `x` computed anew for each; a matrix product with the identity
    turns it block by block.
    """
    batch, *plane, channels = x.shape
    voxels = jnp.moveaxis(x, 0, -2).reshape(-1, channels)  # (y x b) i
    turned = jax.lax.dot_general(jnp.eye(channels, dtype=x.dtype), voxels, (((1,), (1,)), ((), ())))
    turned = turned.reshape(channels, *plane, batch)
    reach = [(size // 2, size // 2) if padding == "SAME" else (0, 0) for size in window]
    return jnp.moveaxis(xla_conv(turned, jnp.moveaxis(gradient, 0, -2), reach), 0, -2)  # i u v o, then u v i o
