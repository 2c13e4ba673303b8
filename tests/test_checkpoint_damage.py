"""A checkpoint whose files are no longer what was written is passed over and said; none is ever read as it is."""

import errno
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import types

import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import common, liver_coarse
from raunet_jax import checkpoints as checkpoints_module
from raunet_jax import digests, saved_checkpoint
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.commands import run_facts
from raunet_jax.digests import Damaged
from raunet_jax.errors import FileError
from raunet_jax.inference.models import load_stage
from raunet_jax.recipe import to_json
from raunet_jax.training import optimizer, saved_state
from raunet_jax.training.step import TrainState

SETTINGS = optimizer.OptimizerSettings(1e-3, patience_epochs=2, epoch_steps=3)
DICE = {2: 0.95, 3: 0.99}


def state(value):
    params = {"Conv1": {"kernel": np.full((3, 3, 1, 4), value, np.float32), "bias": np.zeros(4, np.float32)}}
    statistics = {"Conv1_norm": {"mean": np.zeros(4, np.float32), "var": np.full(4, value, np.float32)}}
    return TrainState(np.asarray(value, np.int32), params, statistics, optimizer.make_optimizer(SETTINGS).init(params))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run whose fold has checkpoints at steps 2 and 3, each of whose weights is its step."""
    run = tmp_path_factory.mktemp("written") / "run"
    config = liver_coarse.get_config()
    with Checkpoints(run / "fold_0" / "checkpoints") as checkpoints:
        for step, dice in DICE.items():
            checkpoints.save(step, state(step), {"losses": [], "loader": {}}, config, dice)
    (run / "config.json").write_text(to_json(config))
    return run


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


@pytest.fixture
def said(caplog):
    """What was warned of so far."""
    log = logging.getLogger("raunet_jax")
    log.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.name == log.name]
    log.removeHandler(caplog.handler)


def resume(run):
    """Step and weight with which a training goes on."""
    with Checkpoints(run / "fold_0" / "checkpoints") as checkpoints:

        def read(step):
            assert checkpoints.recipe(step).stage in ("coarse", "")
            return saved_state.restore(checkpoints, step, state(0))

        step, (saved, _) = checkpoints.read_newest(read)
        return step, saved.params["Conv1"]["kernel"][0, 0, 0, 0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": lambda path: path.unlink(),
    "an empty object": lambda path: path.write_bytes(b"{}"),
    "a list": lambda path: path.write_bytes(b"[]"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_file_of_the_newest_is_damaged_the_one_before_is_used_and_the_file_named(run, said, damage):
    newest = run / "fold_0" / "checkpoints" / "3"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        whole = path.read_bytes()
        DAMAGE[damage](path)
        with Checkpoints(newest.parent) as checkpoints:
            step, recipe = checkpoints.read_newest(checkpoints.recipe)
        assert step == 2 and recipe.stage == "coarse"
        place = re.escape(str(newest if path.name == "sha256.json" else path))  # it may name a file it is wrong about
        assert re.match(rf"warning: {place}.*: .*; the checkpoint of step 2 is used instead", said()[-1])
        path.write_bytes(whole)
    assert resume(run) == (3, 3)


@pytest.mark.parametrize("item", ["weights", "state", "loop", "recipe", "metrics"])
def test_a_missing_item_is_passed_over_too(run, said, item):
    shutil.rmtree(run / "fold_0" / "checkpoints" / "3" / item)
    assert resume(run) == (2, 2)
    assert f"{run}/fold_0/checkpoints/3/{item}/" in said()[-1] and "is missing" in said()[-1]


def test_prediction_uses_the_next_best_and_says_so(run, said):
    assert load_stage(run).steps == (3,)
    for path in (run / "fold_0" / "checkpoints" / "3" / "weights").glob("ocdbt.process_0/d/*"):
        flip(path)
    assert load_stage(run).steps == (2,)
    assert "checkpoints/3/weights/" in said()[-1] and "step 2 is used instead" in said()[-1]
    flip(run / "fold_0" / "checkpoints" / "2" / "metrics" / "metrics")
    with pytest.raises(Damaged, match=r"checkpoints/3/weights/.*no other checkpoint in .* can be used; copy the run"):
        load_stage(run)


def test_a_training_state_that_is_damaged_does_not_keep_its_weights_from_predicting(run):
    flip(next((run / "fold_0" / "checkpoints" / "3" / "state").glob("ocdbt.process_0/d/*")))
    assert load_stage(run).steps == (3,)
    assert resume(run) == (2, 2)


def test_inspection_shows_the_one_before_and_what_is_wrong_with_the_newest(run):
    flip(run / "fold_0" / "checkpoints" / "3" / "loop" / "metadata")
    fold = run_facts.inspect_run(run)["folds"]["fold_0"]
    assert fold["step"] == 2 and f"{run}/fold_0/checkpoints/3/loop/metadata: is not what was written" in fold["error"]


def test_a_damaged_checkpoint_is_neither_counted_among_those_kept_nor_kept(run):
    folder = run / "fold_0" / "checkpoints"
    flip(folder / "2" / "loop" / "metadata")
    flip(folder / "3" / "loop" / "metadata")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state(1), {"losses": []}, common.get_config(), 0.5)
        assert checkpoints.steps() == [1]
    assert resume(run) == (1, 1)


@pytest.mark.parametrize("file", ["sha256.json", "loop/metadata", "loop"])
def test_a_checkpoint_that_cannot_be_read_just_now_is_passed_over_and_kept(run, monkeypatch, said, file):
    newest = run / "fold_0" / "checkpoints" / "3"

    def but(call):
        def read(path, *arguments):
            if str(path) == str(newest / file):
                raise OSError(errno.EMFILE, "Too many open files", str(path))
            return call(path, *arguments)

        return read

    with monkeypatch.context() as patch, Checkpoints(newest.parent) as checkpoints:
        for place, name in ((pathlib.Path, "read_bytes"), (os, "scandir"), (digests, "sha256")):
            patch.setattr(place, name, but(getattr(place, name)))
        step, _ = checkpoints.read_newest(checkpoints.recipe)
        assert step == 2 and "Too many open files" in said()[-1]
        checkpoints.save(1, state(1), {"losses": []}, common.get_config(), 0.5)
        assert checkpoints.steps() == [1, 2, 3]
    assert resume(run) == (3, 3)


def test_what_a_kill_left_half_deleted_goes_when_the_training_is_begun_again(run):
    folder = run / "fold_0" / "checkpoints"
    shutil.copytree(folder / "2", folder / ".deleted.1")
    with Checkpoints(folder) as checkpoints:
        checkpoints.clear()
    assert {path.name for path in folder.iterdir()} == {"2", "3"}


def test_hashes_are_part_of_what_a_kill_leaves_or_does_not(run, monkeypatch):
    folder = run / "fold_0" / "checkpoints"

    def killed(*_):
        raise KeyboardInterrupt

    for place in ("raunet_jax.digests.write_json", "raunet_jax.checkpoints.os.rename"):
        with monkeypatch.context() as patch, Checkpoints(folder) as checkpoints:
            patch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(4, state(4), {"losses": []}, common.get_config(), None)
        assert resume(run) == (3, 3)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, state(4), {"losses": []}, common.get_config(), None)
    assert {path.name for path in folder.iterdir()} == {"3", "4"} and resume(run) == (4, 4)
    assert json.loads((folder / "4" / "sha256.json").read_text()).keys() == {
        path.relative_to(folder / "4").as_posix()
        for path in (folder / "4").rglob("*")
        if path.is_file() and path.name != "sha256.json"
    }


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: full")])
def test_a_full_disk_is_said_and_costs_no_checkpoint(run, monkeypatch, error):
    def full(_, path, *__):
        path.mkdir()
        raise error

    with Checkpoints(run / "fold_0" / "checkpoints") as checkpoints:
        monkeypatch.setattr(checkpoints_module.Writer, "write", full)
        with pytest.raises(
            FileError, match=f"{checkpoints.folder}: the checkpoint of step 4 cannot be .*free some space"
        ):
            checkpoints.save(4, state(4), {"losses": []}, common.get_config(), None)
        monkeypatch.setattr(checkpoints_module.Writer, "write", lambda *_: {}["a mistake"])
        with pytest.raises(KeyError):
            checkpoints.save(4, state(4), {"losses": []}, common.get_config(), None)
    assert {path.name for path in (run / "fold_0" / "checkpoints").iterdir()} == {"2", "3"}


def test_weights_that_are_not_finite_predict_nothing_even_if_they_were_written_so(tmp_path):
    spoiled = state(1)
    spoiled.params["Conv1"]["kernel"][0, 0, 0, :2] = np.nan, np.inf
    with Checkpoints(tmp_path / "fold_0" / "checkpoints") as checkpoints:
        checkpoints.save(1, spoiled, {"losses": []}, common.get_config(), 0.5)
    with pytest.raises(
        FileError, match=r"checkpoints/1/weights: 2 weights are not finite, such as 2 of params/Conv1/ke"
    ):
        load_stage(tmp_path)


@pytest.mark.parametrize("item", ["weights", "state", "loop/metadata", "recipe/metadata", "weights/_METADATA"])
def test_of_an_earlier_version_that_wrote_no_hashes_what_cannot_be_read_is_passed_over(run, said, item):
    for step in DICE:
        folder = run / "fold_0" / "checkpoints" / str(step)
        (folder / "sha256.json").unlink()
        saved = json.loads((folder / "recipe" / "metadata").read_text())
        (folder / "recipe" / "metadata").write_text(json.dumps({"json": saved["json"]}))
    assert resume(run) == (3, 3) and load_stage(run).steps == (3,) and not said()
    path = run / "fold_0" / "checkpoints" / "3" / item
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(b"[]")
    assert resume(run) == (2, 2)
    assert f"{run}/fold_0/checkpoints/3" in said()[-1] and len(said()[-1]) < 600


@pytest.mark.parametrize("debug", [False, True])
def test_a_full_disk_is_one_sentence_though_a_thread_of_orbax_logs_its_traceback(tmp_path, monkeypatch, caplog, debug):
    def save(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.Checkpointer, "save", save)
    monkeypatch.setattr(saved_checkpoint, "LATE_S", 0)
    caplog.set_level(logging.DEBUG if debug else logging.INFO, "raunet_jax")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileError, match=r"4 cannot be written \(No space left"):
        checkpoints.save(4, state(4), {"losses": [], "loader": {}}, liver_coarse.get_config(), None)
    absl = logging.getLogger("absl")
    for said, path in (("Traceback", ocp.__file__), ("of another", __file__)):  # a thread may be late
        absl.handle(absl.makeRecord("absl", logging.ERROR, path, 1, said, (), None))
    assert ("Traceback" in caplog.text) == debug and "of another" in caplog.text


def test_of_what_no_thread_catches_only_that_orbax_has_given_up_is_not_shown(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(2), {"losses": [], "loader": {}}, liver_coarse.get_config(), None)
    for said in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(said)))
    assert shown == ["another"]
