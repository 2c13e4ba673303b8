"""One training run in two processes of JAX's distributed runtime: they read and train what one process would."""

import itertools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import tiny_lits
from data_prep import patch_dataset
from raunet_jax import recipe
from raunet_jax.networks.blocks import Settings
from raunet_jax.training import batches, optimizer
from raunet_jax.training.step import make_state, make_train_step, reduction_axis, split_over_devices
from small_network import Small

TESTS = pathlib.Path(__file__).resolve().parent
TIME_LIMIT_S = 240
BATCHES, STEPS = 5, 3

PROCESS = """
import pathlib, sys
import jax

address, process, config, patch_set, out = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=int(process), initialization_timeout=60)
assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 2, 1)

import numpy as np
import test_two_processes
from raunet_jax import recipe

np.savez(out, **test_two_processes.read_and_train(recipe.load(pathlib.Path(config)), pathlib.Path(patch_set)))
"""


def read_and_train(config, patch_set):
    """What this process reads of each batch, and the state after STEPS steps on it, each array by a name of its own."""
    training = list(itertools.islice(batches.train_batches(config, patch_set, 0), BATCHES))
    validation = list(batches.validation_batches(config, patch_set, 0))
    left = {
        f"{kind}/{number}/{name}": np.asarray(value)
        for kind, read in (("train", training), ("validation", validation))
        for number, batch in enumerate(read)
        for name, value in batch.items()
    }
    network = Small(Settings(axis_name=reduction_axis()))
    settings = optimizer.from_recipe(config, epoch_steps=STEPS)
    state = make_state(network, settings, config)
    step = make_train_step(network, settings, False)
    for batch in training[:STEPS]:
        state, metrics = step(state, split_over_devices(batch))
    state, metrics = jax.device_get((state, metrics))
    left["state/loss"] = metrics["loss"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.unpacked()):
        left["state/" + jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return left


def part(left, kind):
    return {name: array for name, array in left.items() if name.startswith(f"{kind}/")}


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory):
    """What one process reads and ends with, and each of two processes."""
    root = tiny_lits.write(tmp_path_factory.mktemp("lits"))
    config = tiny_lits.recipe(root, tmp_path_factory.mktemp("prepared"))
    patch_set = patch_dataset.prepare(config).folder
    place = tmp_path_factory.mktemp("processes")
    (place / "config.json").write_text(recipe.to_json(config))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=1",
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent))),
    }
    children = []
    try:
        for process in range(2):
            out = place / f"{process}.npz"
            command = [sys.executable, "-c", PROCESS, address, str(process), place / "config.json", patch_set, out]
            with (place / f"{process}.log").open("w") as said:
                children.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
        statuses = [child.wait(TIME_LIMIT_S) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert statuses == [0, 0], "\n".join((place / f"{process}.log").read_text() for process in range(2))
    return read_and_train(config, patch_set), [dict(np.load(place / f"{process}.npz")) for process in range(2)]


def test_both_processes_end_with_the_weights_of_one_process_on_the_whole_batch(alone_and_together):
    alone, together = alone_and_together
    first, second = (part(left, "state") for left in together)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    assert first["state/step"] == STEPS
    for name, array in part(alone, "state").items():
        np.testing.assert_allclose(array, first[name], rtol=2e-4, atol=2e-6, err_msg=name)


def test_processes_together_read_what_one_process_reads(alone_and_together):
    alone, together = alone_and_together
    for kind in ("train", "validation"):
        whole, first, second = (part(left, kind) for left in (alone, *together))
        assert whole.keys() == first.keys() == second.keys() and len(whole) >= BATCHES
        for name, array in whole.items():
            assert len(first[name]) == len(second[name]) == 2
            np.testing.assert_array_equal(array, np.concatenate([first[name], second[name]]), err_msg=name)
