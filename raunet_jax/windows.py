"""Overlapping windows over a volume: cut, predicted and merged on the device."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from raunet_jax.intensity import normalise
from raunet_jax.networks.raunet import RAUNet


def window_origins(shape: Sequence[int], patch: Sequence[int], step: Sequence[int]) -> np.ndarray:
    """First voxels `(n, 3)` of the windows that cover a volume of `shape`; all arguments (z, y, x).

    Neighbours are `step` apart, except that the last window of each axis ends with the volume. Raises ValueError for a
    volume smaller than a patch or a step that leaves gaps.
    """
    axes = []
    for size, length, stride in zip(shape, patch, step, strict=True):
        if size < length:
            raise ValueError(f"a volume of {tuple(shape)} is smaller than the window {tuple(patch)}; pad it first")
        if not 0 < stride <= length:
            raise ValueError(
                f"window step {stride} must be from 1 to the window's {length} voxels, or voxels are missed"
            )
        axes.append([*range(0, size - length, stride), size - length])
    return np.array(list(itertools.product(*axes)), np.int32)


@functools.lru_cache
def make_forward(network: RAUNet) -> Callable:
    """`forward(variables, image (b, z, y, x, c), low (c,), high (c,)) -> probabilities (b, z, y, x)`, compiled.

    Windows one slice thick go through a 2D network.
    """

    @jax.jit
    def forward(variables, image, low, high):
        image = normalise(image, low, high)
        flat = image.shape[1] == 1
        logits = network.apply(variables, image[:, 0] if flat else image)
        probabilities = jax.nn.sigmoid(logits[..., 0])
        return probabilities[:, None] if flat else probabilities

    return forward


@functools.partial(jax.jit, static_argnames="patch")
def _cut(volume, origins, patch):
    sizes = (*patch, volume.shape[-1])
    return jax.vmap(lambda origin: jax.lax.dynamic_slice(volume, (*origin, 0), sizes))(origins)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _add(total, weight, windows, origins, valid):
    def add_one(index, sums):
        total, weight = sums
        at, shape = tuple(origins[index]), windows.shape[1:]
        seen = jax.lax.dynamic_slice(total, at, shape) + windows[index] * valid[index]
        count = jax.lax.dynamic_slice(weight, at, shape) + valid[index]
        return jax.lax.dynamic_update_slice(total, seen, at), jax.lax.dynamic_update_slice(weight, count, at)

    return jax.lax.fori_loop(0, windows.shape[0], add_one, (total, weight))


def predict_windows(
    forward: Callable[[Array], Float[Array, "b z y x"]],
    volume: np.ndarray,
    patch: Sequence[int],
    step: Sequence[int],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Mean of the windows' probabilities at each voxel: float32 (z, y, x).

    The volume goes to the device once; windows are cut and summed there, so that only the finished map comes back.

    Args:
        forward: windows (b, z, y, x, c) -> probabilities (b, z, y, x).
        volume: (z, y, x, c), at least a patch in size.
        patch, step: voxels (z, y, x).
        batch_size: windows a call of `forward`; the last call is filled up, so that it is compiled once.
        advance: told the number of windows finished, batch by batch.
    """
    origins = window_origins(volume.shape[:3], patch, step)
    volume = jnp.asarray(volume)
    total = jnp.zeros(volume.shape[:3], jnp.float32)
    weight = jnp.zeros(volume.shape[:3], jnp.float32)
    for first in range(0, len(origins), batch_size):
        some = origins[first : first + batch_size]
        valid = np.arange(batch_size) < len(some)
        some = np.concatenate([some, np.repeat(some[-1:], batch_size - len(some), axis=0)])
        windows = forward(_cut(volume, some, tuple(patch)))
        total, weight = _add(total, weight, windows, some, valid.astype(np.float32))
        advance(int(valid.sum()))
    return np.asarray(total / weight)
