"""One training step: what it changes, that the number of devices does not matter, and the learning rate's plateau."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import common
from raunet_jax.networks.raunet import make_network
from raunet_jax.step import TrainState, end_epoch, make_state, plateau

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

STEP = """
import sys
import jax, numpy as np
from flax.traverse_util import flatten_dict
from tests_step import recipe, batch
from raunet_jax.networks.raunet import make_network
from raunet_jax.step import AXIS, make_state, make_train_step, split_over_devices

config = recipe()
state = make_state(make_network(config, AXIS), config)
step = make_train_step(make_network(config, AXIS), config.learning_rate, False)
state, metrics = step(state, split_over_devices(batch()))
kept = {"params": state.params, "batch_stats": state.batch_stats, "moments": state.optimizer[0].mu}
flat = flatten_dict(kept, sep="/")
np.savez(sys.argv[1], devices=jax.device_count(), loss=metrics["loss"], step=state.step, **flat)
"""


def recipe():
    config = common.get_config()
    config.patch_size = (32, 32, 1)
    config.network.width = 4
    return config


def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(-200, 300, (4, 32, 32, 1)).astype(np.int16)
    low, high = np.full((4, 1), -100, np.float32), np.full((4, 1), 200, np.float32)
    return {"image": image, "mask": (image > 100).astype(np.uint8), "low": low, "high": high, "case": list("abcd")}


@pytest.fixture(scope="module")
def after_a_step(tmp_path_factory):
    """What a step leaves in a process of its own, by the number of devices."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "tests_step.py").write_text(pathlib.Path(__file__).read_text())
    (folder / "step.py").write_text(STEP)
    left = {}

    def run(devices):
        if devices not in left:
            out = folder / f"{devices}.npz"
            environment = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "PYTHONPATH": str(REPOSITORY),
            }
            subprocess.run([sys.executable, folder / "step.py", out], env=environment, check=True)
            left[devices] = dict(np.load(out))
        return dict(left[devices])

    return run


def test_a_step_on_two_devices_equals_a_step_on_one(after_a_step):
    one, two = after_a_step(1), after_a_step(2)
    assert (one.pop("devices"), two.pop("devices")) == (1, 2)
    assert one.keys() == two.keys()
    moments = {name: one.pop(name) for name in list(one) if name.startswith("moments/")}
    for name in one:
        ours, theirs = one[name], two[name]
        if name.startswith("params/"):
            # Adam's first step is lr * sign(gradient): one that is 0 but for rounding may go either way.
            certain = np.abs(moments[name.replace("params/", "moments/", 1)]) > 1e-7
            ours, theirs = ours[certain], theirs[certain]
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    for name, moment in moments.items():
        np.testing.assert_allclose(moment, two[name], atol=2e-4, err_msg=name)  # a tenth of the gradient, up to 1


def test_a_step_moves_each_parameter_by_the_learning_rate_and_counts_itself(after_a_step):
    after = after_a_step(1)
    before = make_state(make_network(recipe()), recipe())
    moved = after["params/Conv3/kernel"] - np.asarray(before.params["Conv3"]["kernel"])
    expected = -1e-3 * np.sign(after["moments/Conv3/kernel"])  # bias-corrected Adam: m / sqrt(v) = sign at step 1
    np.testing.assert_allclose(moved, expected, rtol=2e-3, atol=1e-7)
    assert after["step"] == 1 and 0 < after["loss"] < 1


def test_batch_statistics_move_by_one_minus_the_momentum(after_a_step):
    after = after_a_step(1)
    # from mean 0 and variance 1: .99 * 0 + .01 * mean of the batch, .99 * 1 + .01 * its variance
    variance = after["batch_stats/Conv1_norm/var"]
    assert ((variance >= 0.99) & (variance < 1.5)).all() and (variance != 1).any()
    image = np.clip(batch()["image"].astype(np.float64), -100, 200)
    image = (image + 100) / 300
    kernel = np.asarray(make_state(make_network(recipe()), recipe()).params["Conv1"]["kernel"], np.float64)
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    conv = sum(padded[:, y : y + 32, x : x + 32] @ kernel[y, x] for y in range(3) for x in range(3))
    np.testing.assert_allclose(after["batch_stats/Conv1_norm/mean"], 0.01 * conv.mean((0, 1, 2)), atol=1e-6)


def test_the_learning_rate_falls_by_ten_after_patience_epochs_without_a_better_loss():
    config = recipe()
    config.plateau_patience = 3
    state = TrainState(0, {}, {}, {}, plateau(3).init({}))
    scales = []
    for loss in (0.9, 0.8, 0.8, 0.79995, 0.85, 0.7, 0.7, 0.7, 0.7):
        state = end_epoch(state, config, loss)
        scales.append(round(float(jax.device_get(state.plateau.scale)), 6))
    # 0.79995 is no better by 1e-4; the third epoch without a better loss lowers the rate
    assert scales == [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]
