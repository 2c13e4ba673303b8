"""A run that an earlier version trained: its weights predict, its recipe loads, and its training goes on.

tests/data/coarse_run_saved_at_67f030a.tar.xz is the run folder, less its page and TensorBoard files, that commit
67f030a left after

  python run.py --config=configs/liver_coarse.py --workdir=run --config.data.source=phantom --config.data.cases=3
    --config.data.phantom_size='(64,64,32)' --config.data.patches_per_case=6 --config.data.prepared=prepared
    --config.patch_size='(32,32,1)' --config.network.width=4 --config.network.stem_width=4
    --config.network.bottom_width=4 --config.network.momentum=0.8 --config.batch_size=4 --config.epochs=1

and its phantoms are drawn anew. The plateau of the loss was a part of the training state then, moved on once an epoch.
"""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from configs import common
from data_prep import patch_dataset
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.commands.run_facts import parameters_sha256
from raunet_jax.inference.models import load_stage
from raunet_jax.run_folder import RunError, RunFolder
from raunet_jax.signals import StopRequest
from raunet_jax.training import optimizer, saved_state
from raunet_jax.training.loop import train_fold
from raunet_jax.training.step import TrainState

RUN = pathlib.Path(__file__).parent / "data" / "coarse_run_saved_at_67f030a.tar.xz"
PARAMETERS_SHA256 = "ae5c607ca29520f04fbe72de31f5765bc8468a3226e837294a8b9321f6cd50c9"  # by its own --mode=inspect
SECOND_LOSS = 0.84255  # of the epoch with which that version itself went on
PATCH_SET = "coarse_32x32x1_824f7d9144712b60"
SETTINGS = optimizer.OptimizerSettings(1e-3, patience_epochs=2, epoch_steps=3)
RECIPE = common.get_config()


@pytest.fixture
def run(tmp_path):
    with tarfile.open(RUN) as archive:
        archive.extractall(tmp_path, filter="data")
    return RunFolder(tmp_path / "run")


def restore(run, step):
    with Checkpoints(run.fold(0).checkpoints) as checkpoints:
        return checkpoints.restore_tree(step)


def test_its_weights_predict_as_they_were_saved(run):
    model = load_stage(run.path)
    assert model.steps == (3,) and model.config.network.width == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.variables))
    assert parameters_sha256(restore(run, 3)["params"]) == PARAMETERS_SHA256


def test_its_recipe_has_todays_fields(run):
    config = run.load_recipe()
    assert config.liver_source == "reference" and config.data.foreground_fraction == 0.5
    assert config.patch_size == (32, 32, 1) and config.data.phantom_size == (64, 64, 32)


def test_its_training_goes_on_with_the_patches_drawn_anew(run, tmp_path):
    config = run.load_recipe()
    config.epochs, config.data.prepared = 2, str(tmp_path / "prepared")
    patch_set = patch_dataset.prepare(config).folder
    assert patch_set.parent.name == PATCH_SET
    train_fold(config, patch_set, run.fold(0).path, 0, StopRequest())
    first, second = map(json.loads, run.fold(0).metrics.read_text().splitlines())
    assert (first["step"], second["step"], second["epoch"]) == (3, 6, 2)
    assert second["loss"] == pytest.approx(SECOND_LOSS, rel=1e-3)
    (adam, _), plateau = restore(run, 6)["optimizer"]
    assert adam["count"] == 6 and plateau["scale"] == 1 and plateau["count"] == 0
    assert plateau["best_value"] == pytest.approx(min(first["loss"], second["loss"]))


def state_like(params):
    return TrainState(np.zeros((), np.int32), params, {}, optimizer.make_optimizer(SETTINGS).init(params))


def test_a_state_saved_within_an_epoch_knows_the_losses_since_its_beginning(tmp_path):
    params, losses = {"kernel": np.ones(2, np.float32)}, [0.75, 0.7, 0.8, 0.6, 0.9]
    steps = optimizer.make_optimizer(SETTINGS)
    state, gradients = jax.device_get(steps.init(params)), {"kernel": np.ones(2, np.float32)}
    for loss in losses:
        _, state = jax.jit(steps.update)(gradients, state, value=np.float32(loss))
    adam, plateau = jax.device_get(state)
    # what that version knew: of the epochs before their means, and in the loop's position the losses since
    epoch_start = plateau._replace(count=np.int32(0), avg_value=np.float32(0))
    old = {"step": np.int32(5), "params": params, "batch_stats": {}, "optimizer": adam, "plateau": epoch_start}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, old, {"losses": losses[3:]}, RECIPE, None)
        restored, _ = saved_state.restore(checkpoints, 5, state_like(params))
    jax.tree.map(np.testing.assert_array_equal, restored.optimizer, (adam, plateau))
    assert restored.step == 5


def test_a_state_of_unknown_parts_is_refused_with_the_remedy(tmp_path):
    params = {"kernel": np.ones(2, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, {"step": np.int32(5), "weights": params}, {"losses": []}, RECIPE, None)
        with pytest.raises(RunError, match="step 5 has the parts step, weights.*Go on with the version that saved it"):
            saved_state.restore(checkpoints, 5, state_like(params))
