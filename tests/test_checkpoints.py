"""Checkpoints: which are kept, that nothing of the state is lost, and what a kill leaves."""

import shutil

import numpy as np
import pytest

from configs import common
from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints


def state(value):
    return {"params": {"kernel": np.full((2, 3), value, np.float32)}, "step": np.array(value, np.int32)}


def save(checkpoints, step, dice):
    checkpoints.save(step, state(step), {"loader": {"next_index": step}, "losses": [0.1]}, common.get_config(), dice)


def test_the_two_newest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, dice in ((1, 0.2), (2, 0.9), (3, 0.5), (4, 0.4), (5, None)):
            save(checkpoints, step, dice)
        assert (checkpoints.newest_step(), checkpoints.best_step()) == (5, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "4", "5"}


def test_without_any_validation_the_newest_is_the_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest_step() is checkpoints.best_step() is None
        save(checkpoints, 5, None)
        assert checkpoints.best_step() == 5


def test_state_loop_and_recipe_come_back_as_they_were(tmp_path):
    exact = {"weights": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), "count": np.array(7, np.int32)}
    config = common.get_config()
    config.name, config.patch_size = "mine", (64, 64, 32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, exact, {"losses": [0.1, 1 / 3], "loader": {"next_index": 9}}, config, 0.5)
    with Checkpoints(tmp_path) as checkpoints:
        back, loop = checkpoints.restore(3, exact)
        tree = checkpoints.restore_tree(3)
        assert recipe.to_json(checkpoints.recipe(3)) == recipe.to_json(config)
        assert checkpoints.recipe(3).patch_size == (64, 64, 32)
    for restored in (back, tree):
        np.testing.assert_array_equal(restored["weights"], exact["weights"])
        assert restored["count"] == 7 and restored["weights"].dtype == np.float32
    assert loop == {"losses": [0.1, 1 / 3], "loader": {"next_index": 9}}


def test_weights_are_read_without_what_only_training_needs(tmp_path):
    params, statistics = {"kernel": np.arange(6.0, dtype=np.float32)}, {"mean": np.ones(2, np.float32)}
    whole = {"step": np.array(3, np.int32), "params": params, "batch_stats": statistics, "optimizer": {"m": params}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, whole, {}, common.get_config(), None)
        assert checkpoints.state_parts(3) == whole.keys()
        shutil.rmtree(tmp_path / "3" / "state")
        weights = checkpoints.restore_weights(3)
    np.testing.assert_array_equal(weights["params"]["kernel"], params["kernel"])
    np.testing.assert_array_equal(weights["batch_stats"]["mean"], statistics["mean"])
    assert weights.keys() == {"params", "batch_stats"}


@pytest.mark.filterwarnings("default")
def test_a_half_written_checkpoint_is_not_seen_and_can_be_written_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 0.5)
    (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest_step() == 1
        save(checkpoints, 2, 0.6)
        assert checkpoints.newest_step() == 2
