"""Adam's steps, and the plateau of the loss that lowers its learning rate."""

import jax
import numpy as np
import pytest

from configs import common
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.training.optimizer import OptimizerSettings, from_recipe, make_optimizer, plateau_scale

PARAMS = {"kernel": np.zeros(2, np.float32)}


def take_steps(settings, losses, state=None):
    """The optimizer's state after steps of these losses, and by step how far Adam's first unit moved the parameters."""
    optimizer = make_optimizer(settings)
    state = optimizer.init(PARAMS) if state is None else state
    moves = []
    for loss in losses:
        updates, state = jax.jit(optimizer.update)({"kernel": np.ones(2, np.float32)}, state, value=np.float32(loss))
        moves.append(float(jax.device_get(updates["kernel"][0])))
    return state, moves


def test_the_settings_are_those_of_the_recipe():
    config = common.get_config()
    config.learning_rate, config.plateau_patience = 2e-3, 7
    assert from_recipe(config, 5) == OptimizerSettings(learning_rate=2e-3, patience_epochs=7, epoch_steps=5)


def test_the_learning_rate_falls_by_ten_after_patience_epochs_without_a_better_loss():
    # 0.79995 is no better by 1e-4; the third epoch without a better loss lowers the rate
    losses = (0.9, 0.8, 0.8, 0.79995, 0.85, 0.7, 0.7, 0.7, 0.7)
    state, moves = None, []
    for loss in losses:
        state, (move,) = take_steps(OptimizerSettings(1e-3, 3, 1), [loss], state)
        moves.append(move)
    # every gradient is 1, and so are Adam's bias-corrected moments: each move is the learning rate
    np.testing.assert_allclose(moves, -1e-3 * np.array([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]), rtol=1e-4)
    assert float(plateau_scale(state)) == pytest.approx(0.01)


def test_an_epochs_loss_is_the_mean_of_its_steps_and_its_last_step_takes_the_new_rate():
    settings = OptimizerSettings(1e-3, patience_epochs=1, epoch_steps=3)
    better = [0.9, 0.8, 0.7, 0.9, 0.8, 0.6]  # means 0.8 and 0.767
    worse = [0.1, 0.9, 1.4]  # mean 0.8, though the best step of all is in it
    _, moves = take_steps(settings, better + worse)
    np.testing.assert_allclose(moves, -1e-3 * np.array([1] * 8 + [0.1]), rtol=1e-4)


def test_the_plateau_goes_on_counting_after_a_restore_within_an_epoch(tmp_path):
    settings = OptimizerSettings(1e-3, patience_epochs=1, epoch_steps=3)
    losses = [0.8, 0.8, 0.8, 0.7, 0.9, 0.81]
    state, _ = take_steps(settings, losses[:4])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"optimizer": state}, {}, common.get_config(), None)
        restored, _ = checkpoints.restore(1, {"optimizer": state})
    uninterrupted, _ = take_steps(settings, losses)
    resumed, _ = take_steps(settings, losses[4:], restored["optimizer"])
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    assert float(plateau_scale(resumed)) == pytest.approx(0.1)
