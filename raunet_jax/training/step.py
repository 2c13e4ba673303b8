"""Training state and the compiled steps, for one device or many (importable with jax, flax and optax alone)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.raunet import RAUNet, image_shape, init_variables
from raunet_jax.training.augmentation import OFF, Augmentation, augment, sample_keys
from raunet_jax.training.losses import dice_loss, overlap_counts

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """Everything training changes. `optimizer` is Adam's state; `plateau` scales its learning rate epoch by epoch."""

    step: Any
    params: Any
    batch_stats: Any
    optimizer: Any
    plateau: Any


def adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8)


def plateau(patience_epochs: int) -> optax.GradientTransformationExtraArgs:
    """Learning rate x 0.1 once the loss was no better, by 1e-4, than the best for `patience_epochs` epochs."""
    return optax.contrib.reduce_on_plateau(factor=0.1, patience=patience_epochs, rtol=0.0, atol=1e-4)


def reduction_axis() -> str | None:
    """The axis over whose devices a step's sums and means are joined, for `make_network`; None if there is one device.

    XLA would keep those over one device, hundreds of them: 6 % of a train step of RA-UNet-I on two cores.
    """
    return AXIS if jax.local_device_count() > 1 else None


def make_state(network: RAUNet, config) -> TrainState:
    """The recipe's initial state, on every device; it depends on the recipe and its seed alone."""
    variables = init_variables(network, image_shape(config), config.seed)
    params = jax.tree.map(jnp.asarray, variables["params"])
    optimizer = adam(config.learning_rate).init(params)
    rate = plateau(config.plateau_patience).init(params)
    return replicate(TrainState(np.zeros((), np.int32), params, variables["batch_stats"], optimizer, rate))


def replicate(tree):
    """A pytree of arrays as the steps return it, whole on every device; anything else would compile them once more."""
    return jax.device_put(tree, NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec()))


def end_epoch(state: TrainState, config, mean_loss: float) -> TrainState:
    """The state with the plateau's counters moved on by one epoch's mean loss."""
    _, moved = plateau(config.plateau_patience).update({}, jax.device_get(state.plateau), value=np.float32(mean_loss))
    return state.replace(plateau=replicate(moved))


@functools.lru_cache
def make_train_step(
    network: RAUNet, learning_rate: float, per_sample: bool, augmentation: Augmentation = OFF
) -> Callable:
    """`step(state, batch) -> (state, metrics)` on all devices; arrays of `batch` are `(device, b, ...)`.

    The state is replicated and has no device axis. The Dice sums, batch statistics and gradients are those of the
    whole batch on all devices, so that their number changes no result beyond rounding; nor does it change what a
    patch is augmented by. With augmentation OFF no code of it is compiled.
    """
    joined = reduction_axis()

    def step(state: TrainState, batch):
        image = normalize(batch["image"], batch["low"], batch["high"])
        mask = batch["mask"].astype(jnp.float32)
        if augmentation != OFF:
            count = len(image)
            keys = sample_keys(augmentation.seed, state.step, jax.lax.axis_index(AXIS) * count, count)
            image, mask = augment(image, mask, keys, augmentation)

        def objective(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updates = network.apply(variables, image, train=True, mutable=["batch_stats"])
            return dice_loss(jax.nn.sigmoid(logits), mask, per_sample, joined), updates["batch_stats"]

        (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        if joined:
            gradients, batch_stats, loss = jax.lax.pmean((gradients, batch_stats, loss), joined)
        updates, optimizer = adam(learning_rate).update(gradients, state.optimizer)
        scaled = jax.tree.map(lambda update: state.plateau.scale * update, updates)
        params = optax.apply_updates(state.params, scaled)
        moved = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, optimizer=optimizer)
        return moved, {"loss": loss, "learning_rate": learning_rate * state.plateau.scale}

    return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)


@functools.lru_cache
def make_validation_step(network: RAUNet) -> Callable:
    """`step(state, batch) -> (device, b, 3)` overlap counts at probability 0.5, by the running batch statistics."""

    def step(state: TrainState, batch):
        image = normalize(batch["image"], batch["low"], batch["high"])
        logits = network.apply({"params": state.params, "batch_stats": state.batch_stats}, image)
        return overlap_counts((logits > 0).astype(jnp.float32), batch["mask"].astype(jnp.float32))

    return jax.pmap(step, AXIS, in_axes=(None, 0))


def split_over_devices(batch: dict) -> dict:
    """Arrays `(b, ...)` of a batch as `(device, b / device, ...)`; entries that no device needs are left out."""
    devices = jax.local_device_count()
    names = ("image", "mask", "low", "high")
    return {name: batch[name].reshape(devices, -1, *batch[name].shape[1:]) for name in names}
