"""Convolution, batch norm and pooling for 2D `(b, y, x, c)` and 3D `(b, z, y, x, c)` alike.

Parameters keep their ordinary Flax names and shapes (kernel `(z, y, x, in, out)`) whatever rewrites they are computed
with (`lowering.REWRITES`), so that a checkpoint is the same on every device.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from raunet_jax.networks.convolution import DeferredConcat, convolve
from raunet_jax.networks.packing import Packed
from raunet_jax.networks.products import add_bias, apply_flattened, sum_two_over_voxels

EPSILON = 1e-3  # of batch norm: Keras's
_glorot_uniform = jax.jit(nn.initializers.glorot_uniform(), static_argnums=(1, 2), inline=True)


@functools.partial(jax.jit, static_argnames="rewrites", inline=True)  # as below
def max_pool(
    x: Float[Array, "b *space c"], rewrites: Collection[str] = ("pairwise_max_pool",)
) -> Float[Array, "b *half c"]:
    """Maximum over blocks of 2 voxels in every spatial dimension.

    Raises:
        ValueError: a size is odd.
    """
    for size in x.shape[1:-1]:
        if size % 2:
            raise ValueError(f"cannot pool {size} voxels in pairs; every size of {x.shape[1:-1]} must be even")
    if "pairwise_max_pool" not in rewrites:
        window = (2,) * (x.ndim - 2)
        return nn.max_pool(x, window, window)
    # Pairwise, axis by axis: the gradient of one maximum over a block divides by how many voxels equal it, and that is
    # none, so NaN, where XLA computes the voxels anew beside the gradient and rounds them otherwise.
    for axis in range(1, x.ndim - 1):
        x = jnp.maximum(*(jax.lax.slice_in_dim(x, first, None, 2, axis) for first in (0, 1)))
    return x


def _param(module: nn.Module, name: str, initializer: Callable, shape: tuple[int, ...]) -> ArrayLike:
    """`module.param`, but where there are parameters without tracing their initializer: a third of a network's tracing.

    Raises:
        ValueError: the parameter that is there has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, initializer, shape)
    value = module.get_variable("params", name)
    if np.shape(value) != shape:
        raise ValueError(f"{'/'.join((*module.path, name))} has shape {np.shape(value)}, and the network needs {shape}")
    return value


class Conv(nn.Module):
    """SAME convolution with a bias: an array (b, *space, i), or a DeferredConcat, -> (b, *space, features).

    Attributes:
        features: channels of the output.
        window: the kernel's size in every spatial dimension, 1 or 3 voxels.
        before_norm: a batch norm alone takes the output. It subtracts the bias again, whose gradient is therefore 0,
            exactly; what would be computed is rounding, by which Adam would move the bias.
        dtype: that input and parameters are cast to.
        rewrites: of `lowering.REWRITES`.
    """

    features: int
    window: int
    before_norm: bool = False
    dtype: DTypeLike = jnp.float32
    rewrites: Collection[str] = ()

    @nn.compact
    def __call__(self, x: Float[Array, "b *space i"] | DeferredConcat) -> Float[Array, "b *space o"]:
        parts = jax.tree.leaves(x)
        channels = sum(part.shape[-1] for part in parts)
        shape = (*(self.window,) * (parts[0].ndim - 2), channels, self.features)
        kernel = _param(self, "kernel", _glorot_uniform, shape)
        bias = _param(self, "bias", nn.initializers.zeros_init(), (self.features,))
        bias = jax.lax.stop_gradient(bias) if self.before_norm else bias
        x, kernel, bias = jax.tree.map(lambda array: jnp.asarray(array, self.dtype), (x, kernel, bias))
        return _convolve(x, kernel, bias, frozenset(self.rewrites))


class NormRelu(nn.Module):
    """Batch norm over all voxels, then ReLU, of an array (b, *space, c) or a DeferredConcat; parameters as in Flax.

    Statistics are float32. Nearest upsampling repeats every voxel equally often, so those of the upsampled half of a
    DeferredConcat are those of the small array.

    Attributes:
        momentum: of the running mean and variance; None leaves the batch's mean and mean square in their places, for
            `running_statistics` to average all of a network's at once.
        axis_name: mapped axis over whose devices the statistics are averaged while training.
        dtype: of the output.
        rewrites: of `lowering.REWRITES`.
    """

    momentum: float | None
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32
    rewrites: Collection[str] = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"] | DeferredConcat, train: bool
    ) -> Float[Array, "b *space c"] | DeferredConcat:
        parts, form = jax.tree.flatten(x)
        shape = (sum(part.shape[-1] for part in parts),)
        scale = _param(self, "scale", nn.initializers.ones_init(), shape)
        bias = _param(self, "bias", nn.initializers.zeros_init(), shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        axis_name, rewrites = None if self.is_initializing() else self.axis_name, frozenset(self.rewrites)
        mean, var = running_mean.value, running_var.value
        if train:
            # their share of the gradient is that of `_batch_norm_relu_train`
            moments = [_moments(jax.lax.stop_gradient(part), axis_name, rewrites) for part in parts]
            mean, square = (_join(values) for values in zip(*moments, strict=True))
            var = _variance(mean, square)
            if self.momentum is None:
                running_mean.value, running_var.value = mean, square
            elif not self.is_initializing():
                running_mean.value = _running_average(running_mean.value, mean, self.momentum)
                running_var.value = _running_average(running_var.value, var, self.momentum)
        borders = np.cumsum([part.shape[-1] for part in parts])[:-1]
        pieces = zip(parts, *(_split(value, borders) for value in (mean, var, scale, bias)), strict=True)
        return form.unflatten([_norm_relu(*piece, axis_name, rewrites, train, self.dtype) for piece in pieces])


def _join(values: Sequence[Float[Array, " _"]]) -> Float[Array, " c"]:
    return values[0] if len(values) == 1 else jnp.concatenate(values)


def _split(values: ArrayLike, borders: np.ndarray) -> list[ArrayLike]:
    """Undo `_join`."""
    return jnp.split(values, borders) if len(borders) else [values]


# The functions below are where a network's operations are. A network calls each hundreds of times, and as inlined jits
# they are traced once a shape, not once a call: the same program, in a third of the time.


@functools.partial(jax.jit, static_argnames="momentum", inline=True)
def _running_average(average: Float[Array, " c"], value: Float[Array, " c"], momentum: float) -> Float[Array, " c"]:
    return momentum * average + (1 - momentum) * value


@functools.partial(jax.jit, inline=True)
def _variance(mean: Float[Array, " c"], square: Float[Array, " c"]) -> Float[Array, " c"]:
    return jnp.maximum(0.0, square - mean**2)


def running_statistics(running: Packed, moments: Packed, momentum: float) -> Packed:
    """A network's running `batch_stats` after one more batch, whose `moments` it left where its momentum is None."""
    places = Packed(np.arange(moments.vector.size), moments.layout).unpack()
    means = jax.tree_util.tree_map_with_path(
        lambda path, own: own if path[-1].key == "mean" else _mean_beside(places, path), places
    )
    of_mean = np.concatenate([*jax.tree.leaves(means), np.zeros(0, int)])
    is_mean = of_mean == np.arange(len(of_mean))
    batch = jnp.where(is_mean, moments.vector, _variance(moments.vector[of_mean], moments.vector))
    return running.replace(vector=_running_average(running.vector, batch, momentum))


def _mean_beside(tree: Mapping, path: Sequence) -> np.ndarray:
    """Of the batch norm that has the variance at `path`."""
    for key in path[:-1]:
        tree = tree[key.key]
    return tree["mean"]


@functools.partial(jax.jit, static_argnames="rewrites", inline=True)
def _convolve(
    x: Float[Array, "b *space i"] | DeferredConcat,
    kernel: Float[Array, "*window i o"],
    bias: Float[Array, " o"],
    rewrites: frozenset[str],
) -> Float[Array, "b *space o"]:
    return apply_flattened(lambda voxels: add_bias(voxels, bias, rewrites), convolve(x, kernel, rewrites))


@functools.partial(jax.jit, static_argnames=("axis_name", "rewrites"), inline=True)
def _moments(
    x: Float[Array, "b *space c"], axis_name: str | None, rewrites: frozenset[str]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean, and mean of the squares, of each channel over the voxels of all devices."""
    voxels = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    mean, square = (total / len(voxels) for total in sum_two_over_voxels(voxels, voxels**2, rewrites))
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
    return mean, square


@functools.partial(jax.jit, static_argnames=("axis_name", "rewrites", "train", "dtype"), inline=True)
def _norm_relu(
    x: Float[Array, "b *space c"],
    mean: Float[Array, " c"],
    var: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    axis_name: str | None,
    rewrites: frozenset[str],
    train: bool,
    dtype: DTypeLike,
) -> Float[Array, "b *space c"]:
    by_batch = functools.partial(_batch_norm_relu_train, axis_name, rewrites)
    norm_relu = by_batch if train else _batch_norm_relu
    return apply_flattened(lambda voxels: norm_relu(voxels, mean, var, scale, bias).astype(dtype), x)


def _batch_norm_relu(
    voxels: Float[Array, "n c"],
    mean: Float[Array, " c"],
    var: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
) -> Float[Array, "n c"]:
    centered = voxels.astype(jnp.float32) - mean[None]
    return nn.relu(centered * (scale * jax.lax.rsqrt(var + EPSILON))[None] + bias[None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm_relu_train(axis_name, rewrites, voxels, mean, var, scale, bias):
    """`_batch_norm_relu` with a VJP through the batch statistics: `mean` and `var` are those of `voxels`.

    With d the gradient before ReLU and h the normalized voxels, the gradient of the voxels is
    scale / deviation * (d - mean(d) - h mean(d h)) (Ioffe and Szegedy 2015): two sums, where autodiff takes four.
    """
    return _batch_norm_relu(voxels, mean, var, scale, bias)


def _batch_norm_relu_forward(axis_name, rewrites, *arguments):
    return _batch_norm_relu(*arguments), arguments


def _batch_norm_relu_backward(axis_name, rewrites, arguments, gradient):
    voxels, mean, var, scale, bias = arguments
    inverse = jax.lax.rsqrt(var + EPSILON)
    normalized = (voxels.astype(jnp.float32) - mean[None]) * inverse[None]
    gradient = jnp.where(_batch_norm_relu(*arguments) > 0, gradient, 0)
    to_bias, to_scale = sum_two_over_voxels(gradient, gradient * normalized, rewrites)
    means = to_bias / len(voxels), to_scale / len(voxels)
    if axis_name is not None:
        means = jax.lax.pmean(means, axis_name)
    factor = scale * inverse
    centered = gradient - means[0][None] - normalized * means[1][None]
    return (factor[None] * centered).astype(voxels.dtype), jnp.zeros_like(mean), jnp.zeros_like(var), to_scale, to_bias


_batch_norm_relu_train.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)
