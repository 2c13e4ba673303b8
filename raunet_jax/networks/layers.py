"""Convolution, batch norm and pooling for 2D `(b, y, x, c)` and 3D `(b, z, y, x, c)` alike.

Parameters keep their ordinary Flax names and shapes (kernel `(z, y, x, in, out)`) whatever rewrites they are computed
with (`lowering.REWRITES`), so that a checkpoint is the same on every device.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from raunet_jax.networks.convolution import Joined, by_voxel, convolve

EPSILON = 1e-3  # of batch norm: Keras's


def max_pool(x: Float[Array, "b *space c"], rewrites: Collection[str] = ("pairs",)) -> Float[Array, "b *half c"]:
    """Maximum over blocks of 2 voxels in every spatial dimension, all of which must be even."""
    for size in x.shape[1:-1]:
        if size % 2:
            raise ValueError(f"cannot pool {size} voxels in pairs; every size of {x.shape[1:-1]} must be even")
    if "pairs" not in rewrites:
        window = (2,) * (x.ndim - 2)
        return nn.max_pool(x, window, window)
    # Pairs, axis by axis: the gradient of one maximum over a block divides by how many voxels equal it, and that is
    # none, so NaN, where XLA computes the voxels anew beside the gradient and rounds them otherwise.
    for axis in range(1, x.ndim - 1):
        x = jnp.maximum(*(jax.lax.slice_in_dim(x, first, None, 2, axis) for first in (0, 1)))
    return x


class Conv(nn.Module):
    """SAME convolution with a bias; `window` is the kernel's size in every spatial dimension."""

    features: int
    window: int
    dtype: jnp.dtype = jnp.float32
    rewrites: Collection[str] = ()

    @nn.compact
    def __call__(self, x: Array | Joined) -> Array:
        parts = jax.tree.leaves(x)
        channels = sum(part.shape[-1] for part in parts)
        shape = (*(self.window,) * (parts[0].ndim - 2), channels, self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = jax.tree.map(lambda array: jnp.asarray(array, self.dtype), (x, kernel, bias))
        return by_voxel(lambda voxels: voxels + bias, convolve(x, kernel, self.rewrites))


class BatchNorm(nn.Module):
    """Batch norm over all voxels, statistics in float32, for one array or a Joined; parameters as Flax names them.

    Nearest upsampling repeats every voxel equally often, so the statistics of a Joined's upsampled half are those of
    the small array. `axis_name`: mapped axis over whose devices they are joined while training.
    """

    momentum: float
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Joined, train: bool) -> Array | Joined:
        parts, form = jax.tree.flatten(x)
        shape = (sum(part.shape[-1] for part in parts),)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = self._statistics(parts)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        factor = scale * jax.lax.rsqrt(var + EPSILON)
        borders = np.cumsum([part.shape[-1] for part in parts])[:-1]
        pieces = zip(parts, *(jnp.split(value, borders) for value in (mean, factor, bias)), strict=True)
        return form.unflatten([self._normalised(*piece) for piece in pieces])

    def _normalised(self, x, mean, factor, bias):
        return by_voxel(lambda voxels: ((voxels - mean) * factor + bias).astype(self.dtype), x)

    def _statistics(self, parts):
        def over_voxels(power):
            voxels = [part.reshape(-1, part.shape[-1]).astype(jnp.float32) for part in parts]
            return jnp.concatenate([jnp.mean(part**power, axis=0) for part in voxels])

        mean, square = over_voxels(1), over_voxels(2)
        if self.axis_name is not None and not self.is_initializing():
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(0.0, square - mean**2)
