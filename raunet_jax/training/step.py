"""Training state and the compiled steps, for one device or many (importable with jax, flax and optax alone)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.raunet import RAUNet, image_shape, init_variables
from raunet_jax.training.augmentation import OFF, Augmentation, augment, sample_keys
from raunet_jax.training.losses import dice_loss
from raunet_jax.training.optimizer import OptimizerSettings, make_optimizer, plateau_scale

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """Everything training changes. `optimizer` is the state of `make_optimizer`."""

    step: Any
    params: Any
    batch_stats: Any
    optimizer: Any


def reduction_axis() -> str | None:
    """Name of the mapped axis to reduce a step's sums and means over, for `make_network`; None if there is one device.

    It runs over the devices of all processes. XLA would keep the reductions over one device, hundreds of them: 6 % of
    a train step of RA-UNet-I on two cores.
    """
    return AXIS if jax.device_count() > 1 else None


def make_state(network: RAUNet, settings: OptimizerSettings, config: ConfigDict) -> TrainState:
    """The initial state, on every device, by the recipe's `seed`, `patch_size` and `data.modalities`."""
    with jax.transfer_guard("allow"):  # Flax and Optax bring numbers of theirs to the device, once
        variables = init_variables(network, image_shape(config), config.seed)
        params = jax.tree.map(jnp.asarray, variables["params"])
        optimizer = make_optimizer(settings).init(params)
    return replicate(TrainState(np.zeros((), np.int32), params, variables["batch_stats"], optimizer))


def replicate(tree):
    """A pytree of arrays as the steps return it, whole on every device; anything else would compile them once more."""
    return jax.device_put(tree, NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec()))


@functools.lru_cache
def make_train_step(
    network: RAUNet, settings: OptimizerSettings, per_sample: bool, augmentation: Augmentation = OFF
) -> Callable:
    """`step(state, batch) -> (state, metrics)` on all devices; arrays of `batch` are `(device, b, ...)`.

    Metrics: `loss`, of the weights before the step, and `learning_rate`, of the epoch's steps; its last step may take
    the next epoch's already, see `make_optimizer`.

    The state is replicated and has no device axis. The Dice sums, batch statistics and gradients are those of the
    whole batch on all devices, so that their number changes no result beyond rounding; nor does it change what a
    patch is augmented by. With augmentation OFF no code of it is compiled.
    """
    axis = reduction_axis()
    optimizer = make_optimizer(settings)

    @network.settings.traced
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
            return dice_loss(jax.nn.sigmoid(logits), mask, per_sample, axis), updates["batch_stats"]

        (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        if axis:
            gradients, batch_stats, loss = jax.lax.pmean((gradients, batch_stats, loss), axis)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(state.step + 1, params, batch_stats, optimizer_state)
        # an epoch of a single step has no other than its last one
        scale = plateau_scale(optimizer_state if settings.epoch_steps == 1 else state.optimizer)
        return moved, {"loss": loss, "learning_rate": settings.learning_rate * scale}

    return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)


def split_over_devices(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays `(b, ...)` of this process's part of a batch as `(device, b / device, ...)`, on its own devices.

    Entries that no device needs are left out.
    """
    devices = np.array(jax.local_devices())
    part = NamedSharding(Mesh(devices, (AXIS,)), PartitionSpec(AXIS))
    arrays = {name: batch[name] for name in ("image", "mask", "low", "high")}
    return jax.device_put(
        {name: array.reshape(len(devices), -1, *array.shape[1:]) for name, array in arrays.items()}, part
    )
