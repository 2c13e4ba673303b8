"""Too few cases for a stage, or none that holds what it is to find, is known before any training."""

import json
import os
import re
import signal
import socket

import nibabel as nib
import numpy as np
import pytest

import small_layouts
import tiny_lits
from configs import demo
from data_prep import stage_check
from data_prep.verify import verify
from raunet_jax import recipe
from raunet_jax.commands import evaluate, prepare, train
from raunet_jax.commands.request import Request
from raunet_jax.errors import UserError
from raunet_jax.run_folder import RunError, RunFolder
from raunet_jax.signals import Stopped


def write(root, cases=6, tumors=()):
    """Of tiny_lits; only the cases in `tumors` keep their tumor."""
    tiny_lits.write(root, cases)
    for number in set(range(cases)) - set(tumors):
        path = root / f"segmentation-{number}.nii.gz"
        image = nib.load(path)
        labels = np.minimum(np.asarray(image.dataobj), 1).astype(np.uint8)
        nib.Nifti1Image(labels, image.affine).to_filename(path)
    return root


def cascade(root, prepared, **data):
    config = demo.get_config()
    config.data.update({"source": "lits", "root": str(root), "prepared": str(prepared), "workers": 1})
    config.data.update({"cases": 0, "test_cases": 0, "folds": 2, "validation_share": 0.5} | data)
    for stage in config.stages.values():
        stage.patch_size = (32, 32, 1) if stage.stage == "coarse" else (32, 32, 32)
        stage.data.patches_per_case, stage.epochs, stage.batch_size = 1.0, 1, 1
    return config


@pytest.fixture
def trained(monkeypatch):
    """Which folds `train` has trained, in order, and with which stages the cascade is then evaluated."""
    done = []
    monkeypatch.setattr(train.loop, "train_fold", lambda stage, patches, run, fold, stop: done.append(run))
    monkeypatch.setattr(evaluate, "run", lambda request: done.append(list(request.config.stages)) or 0)
    tiny_lits.cut_here(monkeypatch)
    return done


NO_TUMOR = (
    "stage tumor has nothing to be trained on: of the cases to train on, no mask that can be read holds tumor (label 2)"
)


def test_without_any_tumor_stages_1_and_2_are_trained_and_stage_3_is_left_out_and_it_is_said(tmp_path, trained, capsys):
    config, run = cascade(write(tmp_path / "lits"), tmp_path / "prepared"), tmp_path / "run"
    assert train.run(Request(config, run)) == 1
    assert trained == [run / "coarse" / "fold_0", run / "voi" / "fold_0", ["coarse", "voi"]]
    said = capsys.readouterr().err
    assert (
        said.count(f"{NO_TUMOR}. It is left out: trained are coarse, voi, and the run finds no tumor; add cases") == 2
    )
    assert said.index(NO_TUMOR) < said.index("cutting patches")
    assert list(recipe.stages_of(RunFolder(run).load_recipe())) == ["coarse", "voi"]


def test_prepare_says_it_too(tmp_path, trained, capsys):
    config = cascade(write(tmp_path / "lits"), tmp_path / "prepared")
    assert prepare.run(Request(config, None)) == 1
    printed = capsys.readouterr()
    assert NO_TUMOR in printed.err and "liver_voi: " in printed.out and "liver_tumor" not in printed.out


def test_finished_patch_sets_may_lie_where_nothing_can_be_written(tmp_path, trained, monkeypatch):
    config = cascade(write(tmp_path / "lits", tumors=range(6)), tmp_path / "prepared")
    config = recipe.with_stages(config, ["coarse"])

    def refuse(folder, name):
        raise UserError(f"{name} cannot be written in")

    monkeypatch.setattr(prepare, "check_writable", refuse)
    with pytest.raises(UserError, match="^config.data.prepared cannot be written in"):
        prepare.run(Request(config, None))
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "check_writable", lambda folder, name: None)
        assert prepare.run(Request(config, None)) == 0
    assert prepare.run(Request(config, None)) == 0


def test_a_signal_at_the_end_of_a_fold_is_not_forgotten(tmp_path, trained, monkeypatch):
    config = cascade(write(tmp_path / "lits", tumors=range(6)), tmp_path / "prepared")
    config.stages.voi.folds, begun = (0, 1), []

    def last(stage, patches, folder, fold, stop):
        begun.append(folder.relative_to(tmp_path).as_posix())
        if stage.stage == "voi":
            stop.signum = signal.SIGTERM  # after the fold's last step was saved

    monkeypatch.setattr(train.loop, "train_fold", last)
    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command resumes"):
        train.run(Request(config, tmp_path / "run"))
    assert begun == ["run/coarse/fold_0", "run/voi/fold_0"] and not trained


def test_a_fold_all_of_whose_tumors_are_in_the_one_left_out_is_named(tmp_path):
    """Two folds of three; only one case has a tumor, so that the fold that holds it has nothing to train on."""
    config = cascade(write(tmp_path / "lits", tumors=[2]), tmp_path / "prepared")
    config.folds = (0, 1)
    (reason,) = stage_check.untrainable(config).values()
    assert re.match("stage tumor has nothing to be trained on for fold [01]: of the cases to train on, no mask", reason)
    assert stage_check.untrainable(cascade(write(tmp_path / "all", tumors=range(6)), tmp_path / "prepared")) == {}


@pytest.mark.parametrize(
    ("cases", "stage", "parts"), [(1, "coarse", "2 parts"), (2, "voi", "3 folds (config.data.folds)")]
)
def test_too_few_cases_for_any_stage_are_refused_before_the_first_is_trained(tmp_path, trained, cases, stage, parts):
    config = cascade(write(tmp_path / "lits", cases), tmp_path / "prepared", folds=3)
    with pytest.raises(UserError) as info:
        train.run(Request(config, tmp_path / "run"))
    wanted = f"{cases} patients are too few for 0 test cases (config.data.test_cases) and {parts}"
    assert str(info.value) == f"stage {stage}: {wanted}; lower these, or add cases"
    assert trained == [] and not list((tmp_path / "prepared").glob("raunet_patches/*"))


def test_a_stage_that_stands_alone_is_refused(tmp_path, trained):
    config = tiny_lits.recipe(write(tmp_path / "lits"), tmp_path / "prepared", "tumor", (32, 32, 32))
    config.folds = (0, 1)
    with pytest.raises(UserError, match=r"^stage tumor has nothing to be trained on: .*; --mode=verify says"):
        train.run(Request(config, tmp_path / "run"))


def test_verify_says_what_no_training_could_begin_with(tmp_path):
    config = cascade(write(tmp_path / "lits"), tmp_path / "prepared")
    (finding,) = [finding for finding in verify(config).findings if finding.check == "training"]
    assert finding.case == "stage tumor" and finding.value == NO_TUMOR and not finding.fatal
    few = cascade(write(tmp_path / "few", 2, tumors=[0, 1]), tmp_path / "prepared", folds=5)
    findings = [finding for finding in verify(few).findings if finding.check == "training"]
    assert [finding.case for finding in findings] == ["stage voi", "stage tumor"]
    assert "2 patients are too few for 0 test cases" in findings[0].value
    assert findings[0].remedy == "nothing unless you train on these cases: lower these, or add cases"


def test_labels_of_a_task_of_ones_own_are_those_that_the_recipe_names(tmp_path):
    root = tmp_path / "data"
    for number in range(3):
        small_layouts.write("custom", root, number)
    config = small_layouts.recipe("custom", root, tmp_path / "prepared")
    config.folds, config.data.modalities = (0, 1), ("mri",)
    assert stage_check.untrainable(config) == {}
    config.data.foreground = (99,)
    assert stage_check.untrainable(config)["custom"].endswith("holds one of config.data.foreground=(99,)")


def test_a_second_training_in_a_run_folder_ends_at_once_and_says_who_has_it(tmp_path, trained, monkeypatch):
    config, run = cascade(write(tmp_path / "lits", tumors=range(6)), tmp_path / "prepared"), tmp_path / "run"
    refused = []

    def second(stage, patches, folder, fold, stop):
        with pytest.raises(
            RunError, match=rf"^{run}: process \d+ on .* is training in this run folder, or was"
        ) as info:
            train.run(Request(config, run))
        refused.append(str(info.value))

    monkeypatch.setattr(train.loop, "train_fold", second)
    assert train.run(Request(config, run)) == 0
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert refused == 3 * [
        f"{run}: {holder} is training in this run folder, or was, and its folds are being saved; wait for the end of "
        "that, or name another --workdir"
    ]
    before = json.loads((run / "config.json").read_text())
    assert before["name"] == "demo"
