"""What a recipe's compiled programs cost on the platform they are compiled for: kernels, bytes, operations, memory."""

import logging
from collections.abc import Callable

import jax
import numpy as np
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from raunet_jax.commands.network_facts import count_flop
from raunet_jax.errors import UserError
from raunet_jax.inference.models import patch_shape
from raunet_jax.inference.windows import make_forward, windows_a_call
from raunet_jax.networks.folding import as_argument, fold
from raunet_jax.networks.packing import unpack_all
from raunet_jax.networks.program import consists_of
from raunet_jax.networks.raunet import image_shape, make_network
from raunet_jax.training import augmentation, optimizer
from raunet_jax.training.step import make_state, make_train_step, reduction_axis, split_over_devices

EPOCH_STEPS = 100  # of the plateau's rule, which costs the same whatever it is

log = logging.getLogger("raunet_jax")


def recipe_cost(config: ConfigDict) -> dict:
    """What a train step and a call of the folded forward pass of a stage's recipe cost here, each compiled for it.

    Returns:
        `platform` (cpu, gpu, tpu), `device` (its name), `devices` (their number), and `train_step`, of one device's
        part of the recipe's batch, and `forward`, of a call's windows, as `program_cost` tells of them, each with its
        `patches`.

    Raises:
        UserError: no network can have the recipe's fields, or its batch does not divide over the devices.
    """
    count, batch = jax.local_device_count(), config.batch_size
    if batch % count:
        raise UserError(f"batch_size {batch} does not divide over {count} devices; set config.batch_size={count}")
    settings = optimizer.from_recipe(config, EPOCH_STEPS)
    network = make_network(config, reduction_axis())
    step = make_train_step(network, settings, config.loss_per_sample, augmentation.from_recipe(config))
    state = make_state(network, settings, config)
    weights = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    arrays = state, split_over_devices(_blank(batch, image_shape(config)))
    windows = windows_a_call(config.window.batch_size, patch_shape(config))
    image = _blank(windows, (*patch_shape(config), len(config.data.modalities)))
    forward, variables = make_forward(make_network(config, folded=True)), as_argument(fold(unpack_all(weights)))
    return {
        "platform": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "devices": count,
        "train_step": {"patches": batch // count} | program_cost(f"stage {config.stage}: train step", step, *arrays),
        "forward": {"patches": windows}
        | program_cost(
            f"stage {config.stage}: forward pass", forward, variables, image["image"], image["low"][0], image["high"][0]
        ),
    }


def program_cost(title: str, function: Callable, *arrays) -> dict:
    """Compile a function that is jitted, or mapped over devices, for `arrays`, and tell what it costs a device.

    Returns:
        `kernels`: of them `transposes` do nothing else to an array over 1 MiB; `gigabytes` that they touch, each
        operand and result once; `gflop`, of the convolutions and matrix products as they are traced; `xla_gflop`, by
        XLA's own count, which on a GPU leaves out what libraries compute, or None; `temporary_megabytes`, held while
        it runs, beside `argument_megabytes`; `kinds`: kind of kernel -> [number, GB], the most frequent first.
    """
    log.info(f"{title}: compiling for {jax.default_backend()} …")
    traced = jax.make_jaxpr(function)(*arrays).jaxpr  # most of it is kept, and not traced again below
    # A traced gradient holds convolutions whose results nothing uses, and which no compiler keeps.
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    compiled = function.lower(*arrays).compile()
    found, memory, xla = consists_of(compiled.as_text()), compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "kernels": found["kernels"],
        "transposes": found["transposes"],
        "gigabytes": found["gb"],
        "gflop": count_flop(needed) / 1e9,
        "xla_gflop": xla["flops"] / 1e9 if "flops" in xla else None,
        "temporary_megabytes": memory.temp_size_in_bytes / 1e6,
        "argument_megabytes": memory.argument_size_in_bytes / 1e6,
        "kinds": found["counts"],
    }


def _blank(count: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays as a patch set's batches have them."""
    limits = np.zeros((count, shape[-1]), np.float32)
    mask = np.zeros((count, *shape[:-1], 1), np.uint8)
    return {"image": np.zeros((count, *shape), np.int16), "mask": mask, "low": limits, "high": limits + 1}
