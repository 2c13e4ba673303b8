"""The Dice of a network on the patches that its fold is validated on."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.raunet import RAUNet
from raunet_jax.training.losses import overlap_counts
from raunet_jax.training.step import AXIS, TrainState, split_over_devices


@functools.lru_cache
def make_validation_step(network: RAUNet) -> Callable:
    """`step(state, batch) -> (device, b, 3)` overlap counts at probability 0.5, by the running batch statistics."""

    @network.settings.traced
    def step(state: TrainState, batch):
        image = normalize(batch["image"], batch["low"], batch["high"])
        logits = network.apply({"params": state.params.unpack(), "batch_stats": state.batch_stats.unpack()}, image)
        return overlap_counts((logits > 0).astype(jnp.float32), batch["mask"].astype(jnp.float32))

    return jax.pmap(step, AXIS, in_axes=(None, 0))


def validation_dice(step: Callable, state: TrainState, validation: Iterable[dict]) -> float | None:
    """Dice over all voxels of all valid patches together; None where neither mask has a voxel.

    A batch's counts are fetched once the next batch is under way, so that the device never waits for the host.

    Args:
        step: see `make_validation_step`.
        state: that the training has reached.
        validation: batches with `valid` (b,) bool, see `batches.ValidationBatches`.
    """
    counts, pending = np.zeros(3), None

    def fetched(found, valid):
        return np.asarray(jax.device_get(found), np.float64).reshape(-1, 3)[valid].sum(axis=0)

    for batch in validation:
        found = step(state, split_over_devices(batch))
        if pending:
            counts += fetched(*pending)
        pending = found, batch["valid"]
    if pending:
        counts += fetched(*pending)
    overlap, predicted, reference = counts
    return float(2 * overlap / (predicted + reference)) if predicted + reference else None
