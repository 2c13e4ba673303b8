"""What each mode asks of the command line, in what order it works, and the exit status it gives."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import exact_models
import tiny_lits
from configs import brats, custom, demo
from data_prep import patch_dataset
from raunet_jax import recipe
from raunet_jax.commands import evaluate, load, out_of_fold, predict, prepare, report, score, train
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.imaging.geometry import Box
from raunet_jax.run_folder import RunError
from test_training import use_small_network


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_lits.write(tmp_path_factory.mktemp("lits"))


@pytest.fixture
def config(root, tmp_path, monkeypatch):
    """Of stage voi on six small cases."""
    tiny_lits.cut_here(monkeypatch)
    config = tiny_lits.recipe(root, tmp_path / "prepared", "voi", (32, 32, 1), patches_per_case=2.0)
    config.name, config.folds, config.epochs = "small", (0, 1), 1
    return config


@pytest.fixture
def damaged(root, tmp_path):
    """The same cases, one of them cut short."""
    copy = tmp_path / "damaged"
    shutil.copytree(root, copy)
    path = copy / "volume-3.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    return copy


def test_the_run_folder_is_the_recipes_own_unless_another_is_named(config, tmp_path):
    assert Request(config, None).run == pathlib.Path("runs/small")
    assert Request(config, tmp_path).run == tmp_path


def test_without_a_recipe_the_one_saved_in_the_run_folder_is_used(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing: this is not a run folder"):
        _ = Request(None, tmp_path).recipe
    (tmp_path / "config.json").write_text(recipe.to_json(demo.get_config()))
    saved = Request(None, tmp_path).recipe
    assert saved.name == "demo" and saved.stages.tumor.patch_size == (64, 64, 32)
    with pytest.raises(UsageError, match="name a recipe, such as --config=configs/demo.py, or a run folder"):
        _ = Request(None, None).recipe


@pytest.mark.parametrize("mode, missing", [("score", "output"), ("score", "prediction"), ("score", "reference")])
def test_a_flag_that_the_mode_needs_is_named(mode, missing):
    flags = {name: "x" for name in ("output", "prediction", "reference") if name != missing}
    with pytest.raises(UsageError, match=f"--{missing} is needed in this mode"):
        load(mode)(Request(None, None, **flags))


@pytest.mark.parametrize(("field", "value"), [("window.mirror", ("u",)), ("window.weights", "flat"), ("vote", "most")])
def test_what_evaluation_could_not_do_is_refused_before_training(config, tmp_path, field, value):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=f"config.{field} "):
        train.run(Request(config, tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["input", "output"])
def test_predict_needs_input_and_output(config, monkeypatch, missing):
    flags = {"input": ["x"], "output": "y"} | {missing: ""}
    with pytest.raises(UsageError, match=f"--{missing} is needed in this mode"):
        predict.run(Request(config, None, **flags))


@pytest.mark.parametrize(
    "names, status, said",
    [(["a"], 0, "1 segmented, 0 failed"), (["a", "cut"], 1, "1 segmented, 1 failed"), ([], 1, "0 segmented, 1 failed")],
)
def test_predict_succeeds_only_when_every_scan_was_segmented(tmp_path, monkeypatch, capsys, names, status, said):
    exact_models.use_rules(monkeypatch)
    monkeypatch.setattr(predict, "load_cascade", lambda run, config: exact_models.models())
    scans, output = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir()
    for name in names:
        exact_models.write(scans / f"{name}.nii.gz", exact_models.abdomen()[0])
    if "cut" in names:
        (scans / "cut.nii.gz").write_bytes((scans / "cut.nii.gz").read_bytes()[:200])
    assert predict.run(Request(None, tmp_path, input=[str(scans)], output=str(output))) == status
    printed = capsys.readouterr()
    assert f"{said}; look at {output}/index.html" in printed.out and (output / "index.html").is_file()
    assert (f"failed: {scans}/cut.nii.gz: " in printed.err) == ("cut" in names)
    assert [path.name for path in output.glob("*_seg.nii.gz")] == [f"{name}_seg.nii.gz" for name in names[:1]]


def test_predict_with_a_run_that_has_no_stage_3_says_that_tumors_are_not_looked_for(tmp_path, monkeypatch, capsys):
    exact_models.use_rules(monkeypatch)
    monkeypatch.setattr(predict, "load_cascade", lambda run, config: exact_models.models("coarse", "voi"))
    scan, output = exact_models.write(tmp_path / "scan.nii.gz", exact_models.abdomen()[0]), tmp_path / "masks"
    assert predict.run(Request(None, tmp_path, input=[str(scan)], output=str(output))) == 0
    assert "this run has no stage tumor: it looks for no tumor, and none is found" in capsys.readouterr().err
    (case,) = json.loads((output / "summary.json").read_text())["cases"]
    assert case["liver_ml"] > 0 and "tumor_ml" not in case


def test_predict_refuses_a_run_of_stage_tumor_alone_before_any_scan_is_read(tmp_path, monkeypatch):
    """Nothing says where the liver is."""
    read = []
    monkeypatch.setattr(predict, "read_scan", lambda *arguments: read.append(arguments))
    monkeypatch.setattr(predict, "load_cascade", lambda run, config: {"tumor": exact_models.model("tumor")})
    scan, output = exact_models.write(tmp_path / "scan.nii.gz", exact_models.abdomen()[0]), tmp_path / "masks"
    with pytest.raises(UsageError, match="stage tumor alone"):
        predict.run(Request(None, tmp_path, input=[str(scan)], output=str(output)))
    assert read == [] and not output.exists()


@pytest.mark.parametrize(
    "recipe_file, rule, group",
    [(None, "lits2017", "tumor"), (custom, "custom", "foreground"), (brats, "brats", "whole_tumor")],
)
def test_masks_are_scored_by_the_recipes_rule(tmp_path, capsys, recipe_file, rule, group):
    for folder in ("predicted", "reference"):
        labels = np.zeros((8, 9, 10), np.uint8)
        labels[2:6, 2:6, 2:6], labels[3:5, 3:5, 3:5] = 1, 2
        exact_models.write(tmp_path / folder / "segmentation-1.nii.gz", labels)
    config, output = recipe_file and recipe_file.get_config(), tmp_path / "scores.json"
    request = Request(
        config, None, output=str(output), prediction=str(tmp_path / "predicted"), reference=str(tmp_path / "reference")
    )
    assert score.run(request) == 0
    scores = json.loads(output.read_text())
    assert scores["rule"] == rule and scores["cases"][0][group]["dice"] == 1
    exact_models.write(tmp_path / "reference" / "segmentation-2.nii.gz", labels)
    assert score.run(request) == 1
    assert f"not scored: 2: {tmp_path}/reference/segmentation-2.nii.gz has no counterpart" in capsys.readouterr().err


def test_prepare_says_what_the_set_holds_and_fails_when_a_case_did(config, damaged, capsys):
    assert prepare.run(Request(config, None)) == 0
    folder = patch_dataset.folder(config)
    assert capsys.readouterr().out == f"small: 12 patches (fold_0 6, fold_1 6) in {folder}\n"
    config.data.root = str(damaged)
    assert prepare.run(Request(config, None)) == 1


@pytest.fixture
def trained(monkeypatch):
    """Which folds `train` has trained, in order, and what came after; the training itself is not done."""
    done = []
    monkeypatch.setattr(train.loop, "train_fold", lambda stage, patches, run, fold, stop: done.append(run))
    monkeypatch.setattr(evaluate, "run", lambda request: done.append("evaluate") or 0)
    monkeypatch.setattr(report, "run", lambda request: done.append("report") or 0)
    return done


def small_cascade(root, tmp_path, folds=(0, 1)):
    config = demo.get_config()
    config.data.update({"source": "lits", "root": str(root), "prepared": str(tmp_path / "prepared"), "workers": 1})
    config.data.update({"cases": 0, "test_cases": 0, "folds": 2, "validation_share": 0.5})
    config.folds = folds
    for stage in config.stages.values():
        stage.patch_size = (32, 32, 1) if stage.stage == "coarse" else (32, 32, 32)
        stage.data.patches_per_case, stage.epochs, stage.batch_size = 1.0, 1, 1
    return config


def test_a_cascade_is_trained_stage_by_stage_and_then_evaluated(root, tmp_path, monkeypatch):
    tiny_lits.cut_here(monkeypatch)
    use_small_network(monkeypatch)
    monkeypatch.setattr(evaluate, "run", lambda request: evaluated.append(request) or 0)
    evaluated, run = [], tmp_path / "run"
    config = small_cascade(root, tmp_path, folds=(1,))
    assert train.run(Request(config, run)) == 0
    written = [
        (run / f"{stage}/metrics.jsonl").stat().st_mtime_ns for stage in ("coarse/fold_0", "voi/fold_1", "tumor/fold_1")
    ]
    assert written == sorted(written) and len(evaluated) == 1
    assert not (run / "voi" / "fold_0").exists()
    assert recipe.load(run / "config.json").folds == (1,)
    assert recipe.load(run / "voi" / "config.json").stage == "voi"
    held_out = json.loads((run / "voi" / "split.json").read_text())
    assert sorted(held_out) == ["fold_0", "fold_1", "test"]


def test_a_single_stage_ends_with_its_page(config, tmp_path, trained):
    assert train.run(Request(config, tmp_path)) == 0
    assert trained == [tmp_path / "fold_0", tmp_path / "fold_1", "report"]
    assert recipe.load(tmp_path / "config.json").name == "small"


def test_a_case_that_could_not_be_trained_on_makes_the_status_1_at_the_end(config, damaged, tmp_path, trained, capsys):
    config.data.root = str(damaged)
    assert train.run(Request(config, tmp_path)) == 1
    assert trained == [tmp_path / "fold_0", tmp_path / "fold_1", "report"]
    said = capsys.readouterr().err
    assert "not trained on volume-3: " in said and "the gzip ends early" in said


def test_another_recipe_is_refused_before_it_takes_the_place_of_the_runs_own(config, tmp_path, trained):
    (tmp_path / "fold_1").mkdir()
    for place in (tmp_path, tmp_path / "fold_1"):
        (place / "config.json").write_text(recipe.to_json(config))
    other = config.copy_and_resolve_references()
    other.seed, other.epochs = 7, 3
    with pytest.raises(RunError, match=r"fold_1 was started with another recipe .*: seed: 0, 7\. Name"):
        train.run(Request(other, tmp_path))
    assert recipe.load(tmp_path / "config.json").seed == 0 and trained == []
    other.seed = 0  # more epochs are no other recipe
    assert train.run(Request(other, tmp_path)) == 0
    assert recipe.load(tmp_path / "config.json").epochs == 3


@pytest.mark.parametrize(
    "liver_source, folds, predicted",
    [("predicted", (0, 1), True), ("predicted", (1,), False), ("reference", (0, 1), False)],
)
def test_stage_3_is_cropped_around_out_of_fold_livers_where_all_folds_are_trained(
    root, tmp_path, trained, monkeypatch, liver_source, folds, predicted
):
    """The boxes are a part of what the patch set is keyed by."""
    tiny_lits.cut_here(monkeypatch)
    box = Box((2, 10, 8), (8, 28, 30))
    monkeypatch.setattr(
        out_of_fold, "liver_boxes", lambda config, run, split: dict.fromkeys(split["fold_0"] | split["fold_1"], box)
    )
    config = small_cascade(root, tmp_path, folds)
    config.liver_source = liver_source
    train.run(Request(config, tmp_path / "run"))
    prepared = {path.parents[1].name for path in (tmp_path / "prepared").rglob("dataset_info.json")}
    assert (patch_dataset.folder(config.stages.tumor).parent.name in prepared) == (not predicted)
    assert len(prepared) == 3


def test_livers_of_no_known_source_are_refused_before_anything_is_prepared(config, tmp_path, trained):
    config.stage, config.liver_source = "tumor", "guessed"
    with pytest.raises(UsageError, match="config.liver_source is 'guessed'; choose predicted or reference"):
        train.run(Request(config, tmp_path / "run"))
    assert trained == [] and not list(tmp_path.iterdir())


def test_predicted_livers_need_a_cascade(config, tmp_path, trained):
    config.stage, config.liver_source = "tumor", "predicted"
    with pytest.raises(UsageError, match="config.liver_source=predicted needs the stages before: train a cascade"):
        train.run(Request(config, tmp_path))
    assert trained == []
