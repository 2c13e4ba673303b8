"""Convolution, batch norm, pooling and upsampling for 2D `(b, y, x, c)` and 3D `(b, z, y, x, c)` alike.

Parameters keep their ordinary Flax names and shapes (kernel `(z, y, x, in, out)`) whatever way XLA is asked to compute
them, so that a checkpoint is the same on every device.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def convolve(x: Float[Array, "b *space i"], kernel: Float[Array, "*window i o"]) -> Float[Array, "b *space o"]:
    """SAME convolution with zero padding and stride 1, in the form that the present platform runs fastest.

    A window of one voxel is a matrix product. On a CPU a 3D convolution is written as a 2D one, since XLA's own is
    several times slower there. Elsewhere XLA's own is used.
    """
    window = kernel.shape[:-2]
    if all(size == 1 for size in window):
        return jnp.einsum("...i,io->...o", x, kernel.reshape(kernel.shape[-2:]))
    if len(window) == 3 and jax.default_backend() == "cpu":
        return _convolve_in_slices(x, kernel)
    return _convolve_natively(x, kernel)


def _convolve_natively(x, kernel):
    space = "zyx"[-(kernel.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), "SAME", dimension_numbers=layout)


def _convolve_in_slices(x, kernel):
    """The z-taps as input channels of one 2D convolution whose batch is all slices."""
    batch, depth, *plane, channels = x.shape
    taps, *window, _, features = kernel.shape
    reach = taps // 2
    padded = jnp.pad(x, [(0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)])
    shifted = [padded[:, tap : tap + depth] for tap in range(taps)]
    stacked = jnp.concatenate(shifted, axis=-1).reshape(batch * depth, *plane, taps * channels)  # (b z) y x (tap i)
    flat = jnp.moveaxis(kernel, 0, -3).reshape(*window, taps * channels, features)  # y x (tap i) o
    return _convolve_natively(stacked, flat).reshape(batch, depth, *plane, features)


def max_pool(x: Float[Array, "b *space c"]) -> Float[Array, "b *half c"]:
    """Maximum over blocks of 2 voxels in every spatial dimension, all of which must be even."""
    # Pairs, axis by axis: the gradient of one maximum over a block divides by how many voxels equal it, and that is
    # none, so NaN, where XLA computes the voxels anew beside the gradient and rounds them otherwise.
    for axis in range(1, x.ndim - 1):
        if x.shape[axis] % 2:
            raise ValueError(f"cannot pool {x.shape[axis]} voxels in pairs; every size of {x.shape[1:-1]} must be even")
        x = jnp.maximum(*(jax.lax.slice_in_dim(x, first, None, 2, axis) for first in (0, 1)))
    return x


def upsample(x: Float[Array, "b *space c"]) -> Float[Array, "b *double c"]:
    """Each voxel repeated twice in every spatial dimension (nearest neighbour)."""
    batch, *space, channels = x.shape
    single = [part for size in space for part in (size, 1)]
    double = [part for size in space for part in (size, 2)]
    repeated = jnp.broadcast_to(x.reshape(batch, *single, channels), (batch, *double, channels))
    return repeated.reshape(batch, *(2 * size for size in space), channels)


class Conv(nn.Module):
    """SAME convolution with a bias; `window` is the kernel's size in every spatial dimension."""

    features: int
    window: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.window,) * (x.ndim - 2) + (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


# Keras's epsilon; on several devices the statistics are those of the whole batch.
BatchNorm = functools.partial(nn.BatchNorm, epsilon=1e-3)
