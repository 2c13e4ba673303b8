"""Boxes for stage 3 come from the stage 2 model that never saw the case."""

import json

import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import exact_models
from configs import liver
from exact_models import model, rule
from raunet_jax.commands import out_of_fold
from raunet_jax.files import write_json
from raunet_jax.imaging.geometry import Box, bounding_box

# What the liver network of each fold finds: all of the liver, only what is as bright as tumor in it, nothing.
FINDS = {0: (90, 165), 1: (140, 165), 2: exact_models.NOTHING}
SPLIT = {
    "test": {"volume-6": "t"},
    **{f"fold_{k}": {f"volume-{2 * k}": "a", f"volume-{2 * k + 1}": "b"} for k in range(3)},
}


@pytest.fixture
def cascade(tmp_path, monkeypatch):
    exact_models.use_rules(monkeypatch)
    hu, labels = exact_models.abdomen()
    for number in range(7):
        exact_models.write(tmp_path / "lits" / f"volume-{number}.nii.gz", hu)
        exact_models.write(tmp_path / "lits" / f"segmentation-{number}.nii.gz", labels)
    config = liver.get_config()
    config.data.root, config.data.prepared, config.data.folds, config.folds = (
        str(tmp_path / "lits"),
        str(tmp_path),
        3,
        (0, 1),
    )
    loaded = []

    def load_cascade(run, config, fold, stages):
        loaded.append(fold)
        assert stages == ("coarse", "voi")
        return {"coarse": model("coarse"), "voi": model("voi", rule(FINDS[fold]), box_margin=10)}

    monkeypatch.setattr(out_of_fold, "load_cascade", load_cascade)
    return config, labels, loaded


def test_each_case_has_the_box_that_its_own_folds_model_finds(cascade, tmp_path, capsys):
    config, labels, _ = cascade
    boxes = out_of_fold.liver_boxes(config, tmp_path, SPLIT)
    assert set(boxes) == {"volume-0", "volume-1", "volume-2", "volume-3"}  # fold 2 is not trained, volume-6 held out
    whole = bounding_box(labels > 0)
    assert boxes["volume-0"] == boxes["volume-1"] == whole
    largest = np.zeros_like(labels)
    largest[exact_models.TUMORS[1]] = 1  # of two bright spots, both of 8 voxels, one is kept as the largest component
    assert boxes["volume-2"] in (bounding_box(largest), bounding_box((labels == 2) & (largest == 0)))
    assert (
        "2 cases have no out-of-fold liver and are cropped around the reference: volume-4, volume-5"
        in capsys.readouterr().err
    )


def test_a_case_without_a_liver_is_cut_around_the_reference_and_said(cascade, tmp_path, capsys):
    config, _, _ = cascade
    config.folds = (2,)
    assert out_of_fold.liver_boxes(config, tmp_path, SPLIT) == {}
    assert "6 cases have no out-of-fold liver" in capsys.readouterr().err


def test_what_was_found_before_a_kill_is_kept_and_made_anew_when_the_models_have_changed(
    cascade, tmp_path, monkeypatch
):
    config, _, _ = cascade
    first = out_of_fold.liver_boxes(config, tmp_path, SPLIT)
    path = tmp_path / "voi" / "boxes.json"
    kept = json.loads(path.read_text())
    kept["boxes"] = {"volume-0": [[1, 2, 3], [4, 5, 6]]}
    write_json(path, kept)
    again = out_of_fold.liver_boxes(config, tmp_path, SPLIT)
    assert again["volume-0"] == Box((1, 2, 3), (4, 5, 6)) and again["volume-2"] == first["volume-2"]
    write_json(path, kept | {"steps": {"0": [1, 1], "1": [1, 1]}})
    assert out_of_fold.liver_boxes(config, tmp_path, SPLIT) == first


def test_boxes_are_found_anew_when_what_decides_the_labels_has_changed_but_not_what_leaves_them(cascade, tmp_path):
    config, _, _ = cascade
    first = out_of_fold.liver_boxes(config, tmp_path, SPLIT)
    path = tmp_path / "voi" / "boxes.json"
    known = json.loads(path.read_text())
    mark = [[1, 2, 3], [4, 5, 6]]
    write_json(path, known | {"boxes": known["boxes"] | {"volume-0": mark}})
    config.stages.voi.window.batch_size += 1
    config.stages.voi.window.skip_empty = False
    assert out_of_fold.liver_boxes(config, tmp_path, SPLIT)["volume-0"] == Box(*map(tuple, mark))
    changes = (
        ("voi", "threshold", 0.25),
        ("coarse", "threshold", 0.125),
        ("coarse", "vote", "majority"),
        ("voi", "window", {"step": (8, 8, 8)}),
        ("voi", "window", {"weights": "gaussian"}),
        ("coarse", "window", {"mirror": ("x",)}),
    )
    for stage, field, value in changes:
        known = json.loads(path.read_text())
        write_json(path, known | {"boxes": known["boxes"] | {"volume-0": mark}})
        config.stages[stage].update({field: value})
        assert out_of_fold.liver_boxes(config, tmp_path, SPLIT) == first, (stage, field)


@pytest.mark.parametrize("error", [MemoryError(), JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_a_case_too_big_for_the_memory_is_cut_around_the_reference_and_the_others_go_on(
    cascade, tmp_path, monkeypatch, capsys, error
):
    config, _, _ = cascade
    segment = out_of_fold.segment

    def run_out_of_memory(volume, models):
        if volume.name == "volume-1":
            raise error
        return segment(volume, models)

    monkeypatch.setattr(out_of_fold, "segment", run_out_of_memory)
    boxes = out_of_fold.liver_boxes(config, tmp_path, SPLIT)
    assert set(boxes) == {"volume-0", "volume-2", "volume-3"}
    said = capsys.readouterr().err
    assert "volume-1: no out-of-fold liver (the " in said and "memory is used up" in said and str(error) in said
    assert "cropped around the reference: volume-1, volume-4, volume-5" in said
