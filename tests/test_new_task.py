"""A new task is a recipe and one row of `tasks.TASKS`: from scans on a disk to scores and pages in its own words."""

import json

import nibabel as nib
import numpy as np
import pytest

import exact_models
import spleen_task
import tiny_lits
from configs import custom
from raunet_jax.commands import evaluate, predict, train
from raunet_jax.commands.request import Request
from raunet_jax.inference.models import StageModel
from raunet_jax.run_folder import RunFolder
from test_training import use_small_network

SPLEEN = np.s_[10:22, 12:24, 4:12]  # (x, y, z), HU 110 in a body of 40
VOXEL_ML = 0.001


@pytest.fixture
def root(tmp_path):
    """Five CTs with a spleen of label 3, in the Decathlon's layout, and a label 1 that is none of it."""
    root = tmp_path / "spleens"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    description = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "kidney", "3": "spleen"}}
    (root / "dataset.json").write_text(json.dumps(description))
    for case in range(5):
        hu = np.random.default_rng(case).integers(35, 45, (40, 40, 36)).astype(np.int16)
        labels = np.zeros(hu.shape, np.uint8)
        hu[SPLEEN], labels[SPLEEN] = 110, 3
        hu[30:36, 30:36, 20:30], labels[30:36, 30:36, 20:30] = 180, 1
        hu[0] = -1000
        for folder, values in (("images", hu), ("labels", labels)):
            nib.Nifti1Image(values, np.eye(4)).to_filename(root / folder / f"spleen_{case}.nii.gz")
    return root


@pytest.fixture
def config(root, tmp_path):
    """The recipe, as it would stand in configs/spleen.py."""
    config = custom.get_config()
    config.name, config.stage = "spleen", "spleen"
    config.data.update({"root": str(root), "prepared": str(tmp_path / "prepared"), "foreground": (3,), "test_cases": 2})
    config.data.folds = 2
    config.update(
        {"folds": (0,), "epochs": 1, "window_hu": (-100.0, 200.0), "batch_size": 2, "patch_size": (32, 32, 32)}
    )
    config.network.width = 4
    return config


def test_a_task_added_to_the_table_trains_evaluates_and_predicts_in_its_own_words(
    config, root, tmp_path, monkeypatch, capsys
):
    spleen_task.add(monkeypatch)
    tiny_lits.cut_here(monkeypatch)
    exact_models.use_rules(monkeypatch)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        use_small_network(patch)
        assert train.run(Request(config, run)) == 0
    assert (run / "fold_0" / "metrics.jsonl").is_file()

    def models(workdir, recipe=None, fold=None):
        return {"spleen": StageModel(RunFolder(workdir).load_recipe(), (exact_models.rule((100, 120)),))}

    for command in (evaluate, predict):
        monkeypatch.setattr(command, "load_cascade", models)
    assert evaluate.run(Request(None, run)) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert scores["spleen"]["dice"] == 1 and len(scores["cases"]) == 2
    assert "Spleen" in capsys.readouterr().out
    page = (run / "report" / "index.html").read_text(encoding="utf-8").lower()
    assert "spleen" in page and not any(word in page for word in ("tumor dice", "liver dice", "whole tumor"))

    output = tmp_path / "masks"
    scan = root / "images" / "spleen_0.nii.gz"
    assert predict.run(Request(None, run, input=[str(scan)], output=str(output), probabilities=True)) == 0
    (case,) = json.loads((output / "summary.json").read_text())["cases"]
    assert case["spleen_ml"] == pytest.approx(12 * 12 * 8 * VOXEL_ML)
    assert len(case["lesions"]) == 1
    expected = np.zeros((40, 40, 36), np.uint8)
    expected[SPLEEN] = 1
    np.testing.assert_array_equal(nib.load(output / "spleen_0_seg.nii.gz").dataobj, expected)
    assert (output / "spleen_0_spleen.nii.gz").is_file()
    assert "spleen, mL" in (output / "index.html").read_text(encoding="utf-8")
