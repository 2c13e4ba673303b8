"""What each mode asks of the command line, in what order it works, and the exit status it gives."""

import pathlib

import pytest

from configs import brats, common, demo, liver
from data_prep import patch_dataset
from raunet_jax import recipe
from raunet_jax.commands import evaluate, load, out_of_fold, predict, prepare, report, score, train
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.run_folder import RunError


@pytest.fixture
def config(tmp_path):
    config = common.get_config()
    config.name, config.stage, config.patch_size, config.folds = "small", "voi", (32, 32, 32), (0, 1)
    config.data.prepared = str(tmp_path / "prepared")
    return config


class Patches:
    folder = pathlib.Path("patches")
    counts = {"fold_0": 3, "fold_1": 4}
    split = {"test": {}, "fold_0": {"volume-0": "a"}, "fold_1": {"volume-1": "b"}}

    def __init__(self, *failed):
        self.failed = failed


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
    monkeypatch.setattr(predict, "load_cascade", lambda run, config: {})
    flags = {"input": ["x"], "output": "y"} | {missing: ""}
    with pytest.raises(UsageError, match=f"--{missing} is needed in this mode"):
        predict.run(Request(config, None, **flags))


@pytest.mark.parametrize(
    "cases, failed, status",
    [([{}], [], 0), ([{}], [{"input": "b.nii", "reason": "cut"}], 1), ([], [], 1)],
)
def test_predict_succeeds_only_when_every_scan_was_segmented(config, monkeypatch, capsys, cases, failed, status):
    monkeypatch.setattr(predict, "load_cascade", lambda run, config: {})
    monkeypatch.setattr(predict, "predict", lambda models, paths, output, **flags: {"cases": cases, "failed": failed})
    assert predict.run(Request(config, None, input=["a.nii"], output="masks")) == status
    printed = capsys.readouterr()
    assert f"{len(cases)} segmented, {len(failed)} failed; look at masks/index.html" in printed.out
    assert ("failed: b.nii: cut" in printed.err) == bool(failed)


@pytest.mark.parametrize(
    "recipe_file, how",
    [
        (None, {"rule": "lits2017"}),
        (liver, {"rule": "lits2017"}),
        (brats, {"rule": "brats", "structure": "whole_tumor", "foreground": ()}),
    ],
)
def test_masks_are_scored_by_the_recipes_rule(monkeypatch, recipe_file, how):
    asked = []

    def score_folders(*arguments, **options):
        asked.append((arguments, options))
        return {}, problems

    monkeypatch.setattr(score.scores, "score_folders", score_folders)
    monkeypatch.setattr(score, "print_tables", lambda summary, console: None)
    request = Request(recipe_file and recipe_file.get_config(), None, output="o", prediction="p", reference="r")
    problems = []
    assert score.run(request) == 0
    problems = ["3: no counterpart"]
    assert score.run(request) == 1
    assert asked == [(("p", "r", "o"), how)] * 2


def test_prepare_says_what_the_set_holds_and_fails_when_a_case_did(config, monkeypatch, capsys):
    monkeypatch.setattr(patch_dataset, "prepare", lambda stage, boxes=None: Patches())
    assert prepare.run(Request(config, None)) == 0
    assert capsys.readouterr().out == "small: 7 patches (fold_0 3, fold_1 4) in patches\n"
    monkeypatch.setattr(patch_dataset, "prepare", lambda stage, boxes=None: Patches(("volume-3", "cut")))
    assert prepare.run(Request(config, None)) == 1


@pytest.fixture
def trained(monkeypatch):
    """What `train` has done, in order; the work itself is not."""
    done = []
    monkeypatch.setattr(
        patch_dataset, "prepare", lambda stage, boxes=None: done.append(f"prepare {stage.stage}") or Patches()
    )
    monkeypatch.setattr(train.loop, "train_fold", lambda stage, patches, run, fold, stop: done.append(f"train {run}"))
    monkeypatch.setattr(evaluate, "run", lambda request: done.append("evaluate") or 0)
    monkeypatch.setattr(report, "run", lambda request: done.append("report") or 0)
    return done


def test_a_cascade_is_trained_stage_by_stage_and_then_evaluated(tmp_path, trained):
    config = demo.get_config()
    config.folds = (0, 2)
    assert train.run(Request(config, tmp_path)) == 0
    coarse, voi, tumor = (tmp_path / stage for stage in ("coarse", "voi", "tumor"))
    assert trained == [
        "prepare coarse",
        f"train {coarse}/fold_0",
        "prepare voi",
        *(f"train {voi}/fold_{fold}" for fold in (0, 2)),
        "prepare tumor",
        *(f"train {tumor}/fold_{fold}" for fold in (0, 2)),
        "evaluate",
    ]
    assert recipe.load(tmp_path / "config.json").folds == (0, 2)
    assert recipe.load(voi / "config.json").stage == "voi"


def test_a_single_stage_ends_with_its_page(config, tmp_path, trained):
    assert train.run(Request(config, tmp_path)) == 0
    assert trained == ["prepare voi", f"train {tmp_path}/fold_0", f"train {tmp_path}/fold_1", "report"]
    assert recipe.load(tmp_path / "config.json").name == "small"


def test_a_case_that_could_not_be_trained_on_makes_the_status_1_at_the_end(
    config, tmp_path, trained, monkeypatch, capsys
):
    monkeypatch.setattr(
        patch_dataset, "prepare", lambda stage, boxes=None: Patches(("volume-3", "the gzip ends early"))
    )
    assert train.run(Request(config, tmp_path)) == 1
    assert trained[-1] == "report"
    assert "not trained on volume-3: the gzip ends early" in capsys.readouterr().err


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
    "voi, folds, cut_around", [("predicted", (0, 1), "boxes"), ("predicted", (1,), {}), ("reference", (0, 1), {})]
)
def test_stage_3_is_cut_around_out_of_fold_livers_where_all_folds_are_trained(
    tmp_path, trained, monkeypatch, voi, folds, cut_around
):
    given = {}
    monkeypatch.setattr(patch_dataset, "prepare", lambda stage, boxes: given.update({stage.stage: boxes}) or Patches())
    monkeypatch.setattr(
        out_of_fold, "liver_boxes", lambda config, run, split: "boxes" if split == Patches.split else None
    )
    config = demo.get_config()
    config.liver_source, config.folds, config.data.folds = voi, folds, 2
    train.run(Request(config, tmp_path))
    assert given == {"coarse": {}, "voi": {}, "tumor": cut_around}


def test_predicted_livers_need_a_cascade(config, tmp_path, trained):
    config.stage, config.liver_source = "tumor", "predicted"
    with pytest.raises(UsageError, match="config.liver_source=predicted needs the stages before: train a cascade"):
        train.run(Request(config, tmp_path))
