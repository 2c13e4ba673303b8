"""One training step: what it changes, that the number of devices does not matter, and the learning rate's plateau."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from configs import common
from raunet_jax.networks.blocks import Settings
from raunet_jax.networks.raunet import make_network
from raunet_jax.training.augmentation import OFF, Augmentation
from raunet_jax.training.optimizer import OptimizerSettings, make_optimizer
from raunet_jax.training.step import make_state, make_train_step, reduction_axis, replicate, split_over_devices
from small_network import Small

AUGMENTED = Augmentation(("x", "y"), True, 15.0, 0.15, 0.1, seed=3)
TESTS = pathlib.Path(__file__).resolve().parent


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


NETWORK = make_network(recipe(), reduction_axis())
# compiled in no time, where what the network is given is in question
SMALL = Small(Settings(axis_name=reduction_axis()))
SETTINGS = OptimizerSettings(learning_rate=1e-3, patience_epochs=20, epoch_steps=10)


def initial_state(network=NETWORK):
    return jax.device_get(make_state(network, SETTINGS, recipe())).unpacked()


def take_step(state, network=NETWORK, augmentation=OFF):
    """State and metrics after one step from a state in host memory, which is left as it is."""
    step = make_train_step(network, SETTINGS, False, augmentation)
    state, metrics = jax.device_get(step(replicate(state.packed()), split_over_devices(batch())))
    return state.unpacked(), metrics


def by_name(state, metrics):
    """What a step leaves, each array by its name, and the number of devices that took the step."""
    kept = {"params": state.params, "batch_stats": state.batch_stats, "moments": state.optimizer[0][0].mu}
    kept |= {"loss": metrics["loss"], "step": state.step, "devices": jax.device_count()}
    leaves = jax.tree_util.tree_leaves_with_path(kept)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def small_losses():
    """Of the small network's first weights on the same batch: without augmentation, and as step 0, 1 and again 0."""
    before = initial_state(SMALL)
    plain = take_step(before, SMALL)[1]["loss"]
    states = [before.replace(step=np.int32(step)) for step in (0, 1, 0)]
    return np.array([plain, *(take_step(state, SMALL, AUGMENTED)[1]["loss"] for state in states)])


ON_DEVICES = """
import sys
import numpy as np
from test_step import initial_state, by_name, small_losses, take_step

np.savez(sys.argv[1], **by_name(*take_step(initial_state())), small_losses=small_losses())
"""


@pytest.fixture(scope="module")
def start():
    return initial_state()


@pytest.fixture(scope="module")
def after_a_step(start, tmp_path_factory):
    """What a step leaves by the number of CPU devices, which a process can choose only as it starts."""
    left = {}

    def run(devices):
        if devices not in left and (jax.default_backend(), jax.device_count()) == ("cpu", devices):
            left[devices] = by_name(*take_step(start)) | {"small_losses": small_losses()}
        if devices not in left:
            out = tmp_path_factory.mktemp("step") / "left.npz"
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
                "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent))),
            }
            subprocess.run([sys.executable, "-c", ON_DEVICES, out], env=environment, check=True)
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


def test_what_a_patch_is_augmented_by_does_not_depend_on_the_number_of_devices(after_a_step):
    one, two = after_a_step(1)["small_losses"], after_a_step(2)["small_losses"]
    np.testing.assert_allclose(one, two, atol=2e-6)
    plain, first, second, again = one
    assert first == again
    assert min(abs(first - plain), abs(second - plain), abs(second - first)) > 1e-4


def test_ten_steps_are_those_of_optax_on_trees():
    """The same step as any Flax program writes it: no vectors, statistics averaged by the network itself."""
    state, optimizer = initial_state(SMALL), make_optimizer(SETTINGS)
    given = batch()
    image = np.clip((given["image"].astype(np.float32) + 100) / 300, 0, 1)
    mask = given["mask"].astype(np.float32)

    @jax.jit
    def on_trees(image, params, statistics, moments):
        def objective(params):
            variables = {"params": params, "batch_stats": statistics}
            logits, updates = SMALL.apply(variables, image, train=True, mutable=["batch_stats"])
            found = jax.nn.sigmoid(logits)
            loss = 1 - 2 * (found * mask).sum() / ((found**2).sum() + (mask**2).sum())
            return loss, updates["batch_stats"]

        (loss, statistics), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params, value=loss)
        return optax.apply_updates(params, updates), statistics, moments, loss

    with jax.transfer_guard("allow"):
        trees = state.params, state.batch_stats, optimizer.init(state.params)
        expected = []
        for _ in range(10):
            *trees, loss = on_trees(image, *trees)
            expected.append(float(loss))
    found = []
    for _ in range(10):
        state, metrics = take_step(state, SMALL)
        found.append(float(metrics["loss"]))
    assert expected[0] - expected[-1] > 1e-3
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    for ours, theirs in zip((state.params, state.batch_stats), trees[:2], strict=True):
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), ours, theirs)


def test_a_bias_that_a_batch_norm_subtracts_again_has_no_gradient(after_a_step):
    moments = {name: array for name, array in after_a_step(1).items() if re.match("moments/.*bias", name)}
    undone = {name for name in moments if re.search("(reduce|middle)/conv/bias|Conv[12]/bias", name)}
    assert undone == {name for name, moment in moments.items() if not moment.any()}


def test_a_network_that_averages_over_other_devices_is_refused():
    with pytest.raises(ValueError, match="axis is a_pod; make it with (None|devices)"):
        make_train_step(Small(Settings(axis_name="a_pod")), SETTINGS, False)


def test_a_step_without_augmentation_draws_nothing():
    def compiled(augmentation):
        step = make_train_step(SMALL, SETTINGS, False, augmentation)
        return step.lower(replicate(initial_state(SMALL).packed()), split_over_devices(batch())).as_text()

    assert not re.search("threefry|random|rng", compiled(OFF))
    assert re.search("threefry|random|rng", compiled(AUGMENTED))  # so that the words are those to look for


def test_a_step_moves_each_parameter_by_the_learning_rate_and_counts_itself(start, after_a_step):
    after = after_a_step(1)
    moved = after["params/Conv3/kernel"] - start.params["Conv3"]["kernel"]
    expected = -1e-3 * np.sign(after["moments/Conv3/kernel"])  # bias-corrected Adam: m / sqrt(v) = sign at step 1
    np.testing.assert_allclose(moved, expected, rtol=2e-3, atol=1e-7)
    assert after["step"] == 1 and 0 < after["loss"] < 1


def test_batch_statistics_move_by_one_minus_the_momentum(start, after_a_step):
    after = after_a_step(1)
    # from mean 0 and variance 1: .99 * 0 + .01 * mean of the batch, .99 * 1 + .01 * its variance
    variance = after["batch_stats/Conv1_norm/var"]
    assert ((variance >= 0.99) & (variance < 1.5)).all() and (variance != 1).any()
    image = np.clip(batch()["image"].astype(np.float64), -100, 200)
    image = (image + 100) / 300
    kernel = start.params["Conv1"]["kernel"].astype(np.float64)
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    conv = sum(padded[:, y : y + 32, x : x + 32] @ kernel[y, x] for y in range(3) for x in range(3))
    np.testing.assert_allclose(after["batch_stats/Conv1_norm/mean"], 0.01 * conv.mean((0, 1, 2)), atol=1e-6)


def test_the_loss_falls_along_the_gradient_as_the_gradient_says(start):
    state, _ = take_step(start)
    gradient = jax.tree.map(
        lambda moment: 10 * moment, state.optimizer[0][0].mu
    )  # Adam's first moment is a tenth of it
    # Conv1 stays: moving it changes at thousands of voxels which one max pooling takes, where the loss has a kink.
    gradient["Conv1"] = jax.tree.map(np.zeros_like, gradient["Conv1"])
    length = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    reach = 5e-5  # in float64 the two agree to 1e-8 at reach 1e-7; float32 needs a longer one, and a tolerance

    def loss(distance):
        params = jax.tree.map(lambda leaf, slope: leaf + np.float32(distance / length) * slope, start.params, gradient)
        return float(take_step(start.replace(params=params))[1]["loss"])

    assert (loss(reach) - loss(-reach)) / (2 * reach) == pytest.approx(length, rel=0.03)


def test_the_plateaus_scale_is_that_of_the_step(start):
    adam, plateau = start.optimizer
    slow = start.replace(optimizer=(adam, plateau._replace(scale=np.float32(0.1))))
    moves = []
    for state, rate in ((start, 1e-3), (slow, 1e-4)):
        after, metrics = take_step(state)
        assert metrics["learning_rate"] == pytest.approx(rate)
        moves.append(after.params["Conv3"]["kernel"] - state.params["Conv3"]["kernel"])
    np.testing.assert_allclose(moves[0], 10 * moves[1], atol=2e-6)
