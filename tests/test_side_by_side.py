"""Folds trained in processes of their own end as they do one after another."""

import jax
import numpy as np
import pytest

import tiny_lits
from data_prep import patch_dataset
from raunet_jax import files, recipe, side_by_side, training
from raunet_jax.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    root = tiny_lits.write(tmp_path_factory.mktemp("lits"))
    config = tiny_lits.recipe(root, tmp_path_factory.mktemp("prepared"), "voi", (32, 32, 1), patches_per_case=2.0)
    config.name, config.network.width, config.epochs, config.folds = "tiny", 4, 1, (0, 1)
    return config, patch_dataset.prepare(config).folder


def weights(run):
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.newest_step(), checkpoints.restore_tree(checkpoints.newest_step())["params"]


def test_two_folds_at_once_end_with_the_weights_they_have_one_after_another(begun, tmp_path, capsys):
    config, patch_set = begun
    together, alone = tmp_path / "together", tmp_path / "alone"
    files.write_text(together / "config.json", recipe.to_json(config))
    side_by_side.train_folds(patch_set, together, (0, 1), 2, [])
    said = capsys.readouterr().err
    for fold in (0, 1):
        training.train_fold(config, patch_set, alone / f"fold_{fold}", fold, [])
        (step, one), (same_step, other) = weights(together / f"fold_{fold}"), weights(alone / f"fold_{fold}")
        assert step == same_step > 0 and f"tiny fold {fold}: {step}/{step}" in said
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_folds_that_fail_are_named_and_the_others_are_begun_all_the_same(begun, tmp_path, capsys):
    config, patch_set = begun
    files.write_text(tmp_path / "config.json", recipe.to_json(config))
    with pytest.raises(training.TrainingError, match=r"fold 7 \(exit status 1\), fold 9 \(exit status 1\) failed"):
        side_by_side.train_folds(patch_set, tmp_path, (7, 9), 1, [])
    said = capsys.readouterr().err
    assert all(f"error: fold {fold}: fold {fold} is not one of the 2 folds" in said for fold in (7, 9))


def test_each_process_is_shown_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert side_by_side._devices(2) == ["2", "5"] and side_by_side._devices(4) == ["2", "5", "7", "2"]
