"""The Dice loss and the sums it is made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dice_loss(
    probabilities: Float[Array, "b *space 1"],
    mask: Float[Array, "b *space 1"],
    per_sample: bool = False,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """`1 - 2 sum(s g) / (sum(s^2) + sum(g^2))`, Equation 3; 0 with a zero gradient where both sums are 0.

    The sums run over all voxels of the batch, on all devices of the mapped axis `axis_name`; with `per_sample` over
    each patch, and the patches' losses are averaged.
    """
    axes = tuple(range(1 if per_sample else 0, mask.ndim))
    overlap = jnp.sum(probabilities * mask, axes)
    squares = jnp.sum(probabilities**2, axes) + jnp.sum(mask**2, axes)
    if axis_name is not None and not per_sample:
        overlap, squares = jax.lax.psum((overlap, squares), axis_name)
    empty = squares == 0
    loss = jnp.where(empty, 0.0, 1 - 2 * overlap / jnp.where(empty, 1.0, squares)).mean()
    if axis_name is not None and per_sample:
        loss = jax.lax.pmean(loss, axis_name)
    return loss


def overlap_counts(prediction: Float[Array, "b *space 1"], mask: Float[Array, "b *space 1"]) -> Float[Array, "b 3"]:
    """Voxels of each patch in both masks, in the prediction, and in the reference."""
    axes = tuple(range(1, mask.ndim))
    return jnp.stack([(prediction * mask).sum(axes), prediction.sum(axes), mask.sum(axes)], axis=-1)
