"""Training state and the compiled steps, for one device or many (importable with jax, flax and optax alone)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.layers import running_statistics
from raunet_jax.networks.packing import Packed, pack, unpack_all
from raunet_jax.networks.raunet import RAUNet, image_shape, init_variables
from raunet_jax.training.augmentation import OFF, Augmentation, augment, sample_keys
from raunet_jax.training.losses import dice_loss
from raunet_jax.training.optimizer import OptimizerSettings, make_optimizer, plateau_scale

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """Everything training changes.

    Attributes:
        step: steps taken, int32.
        params, batch_stats: of the network; Packed while it is trained, trees in a checkpoint.
        optimizer: the state of `make_optimizer`; its moments are as `params`.
    """

    step: Any
    params: Any
    batch_stats: Any
    optimizer: Any

    def unpacked(self) -> "TrainState":
        """With trees in place of vectors, as checkpoints have it."""
        return unpack_all(self)

    def packed(self) -> "TrainState":
        """With vectors in place of trees, as the steps take and give it."""
        adam, plateau = self.optimizer
        moments = adam[0]._replace(mu=_pack_params(adam[0].mu), nu=_pack_params(adam[0].nu))
        optimizer = (moments, *adam[1:]), plateau
        return TrainState(self.step, _pack_params(self.params), pack(self.batch_stats), optimizer)


def _pack_params(tree: Any) -> Packed:
    return pack(tree, features_first=jax.default_backend() == "gpu")


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
        return replicate(begin(variables["params"], variables["batch_stats"], settings))


def begin(params: Any, batch_stats: Any, settings: OptimizerSettings) -> TrainState:
    """The state, packed, before the first step from these trees of float32 NumPy arrays."""
    packed = _pack_params(params)
    return TrainState(np.zeros((), np.int32), packed, pack(batch_stats), make_optimizer(settings).init(packed))


def replicate(tree):
    """A pytree of arrays as the steps return it, whole on every device; anything else would compile them once more."""
    return jax.device_put(tree, NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec()))


@functools.lru_cache
def make_train_step(
    network: RAUNet, settings: OptimizerSettings, per_sample: bool, augmentation: Augmentation = OFF
) -> Callable:
    """`step(state, batch) -> (state, metrics)`, compiled for all devices; arrays of `batch` are `(device, b, ...)`.

    The state is replicated and has no device axis; see `train_step`.

    Raises:
        ValueError: the network does not average over the devices, so that each would go its own way.
    """
    if network.settings.axis_name != reduction_axis():
        raise ValueError(f"the network's axis is {network.settings.axis_name}; make it with {reduction_axis()}")
    step = functools.partial(train_step, network, settings, per_sample, augmentation)
    return jax.pmap(network.settings.traced(step), AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)


def train_step(
    network: RAUNet,
    settings: OptimizerSettings,
    per_sample: bool,
    augmentation: Augmentation,
    state: TrainState,
    batch: Mapping[str, Array],
) -> tuple[TrainState, dict[str, Array]]:
    """The state, packed, after a step on this device's part `(b, ...)` of a batch, and metrics.

    Metrics: `loss`, of the weights before the step, and `learning_rate`, of the epoch's steps; its last step may take
    the next epoch's already, see `make_optimizer`.

    The Dice sums, batch statistics and gradients are those of the whole batch on all devices, so that their number
    changes no result beyond rounding; nor does it change what a patch is augmented by. With augmentation OFF no code of
    it is compiled.
    """
    axis = network.settings.axis_name
    image = normalize(batch["image"], batch["low"], batch["high"])
    mask = batch["mask"].astype(jnp.float32)
    if augmentation != OFF:
        count = len(image)
        keys = sample_keys(augmentation.seed, state.step, jax.lax.axis_index(AXIS) * count, count)
        image, mask = augment(image, mask, keys, augmentation)
    momentum = network.settings.momentum
    network = network.clone(settings=dataclasses.replace(network.settings, momentum=None))

    def objective(params):
        variables = {"params": params.unpack(), "batch_stats": state.batch_stats.unpack()}
        logits, updates = network.apply(variables, image, train=True, mutable=["batch_stats"])
        return dice_loss(jax.nn.sigmoid(logits), mask, per_sample, axis), pack(updates["batch_stats"])

    (loss, moments), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    if axis:
        gradients, moments, loss = jax.lax.pmean((gradients, moments, loss), axis)
    batch_stats = running_statistics(state.batch_stats, moments, momentum)
    optimizer = make_optimizer(settings)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    moved = TrainState(state.step + 1, params, batch_stats, optimizer_state)
    # an epoch of a single step has no other than its last one
    scale = plateau_scale(optimizer_state if settings.epoch_steps == 1 else state.optimizer)
    return moved, {"loss": loss, "learning_rate": settings.learning_rate * scale}


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
