"""Folds trained in processes of their own end as they do one after another."""

import signal
import sys
import threading
import time

import jax
import numpy as np
import pytest

import tiny_lits
from data_prep import patch_dataset
from raunet_jax import files, recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.run_folder import RunError
from raunet_jax.signals import Stopped, StopRequest, catch_signals
from raunet_jax.training import loop, parallel_folds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tiny_lits.write(tmp_path_factory.mktemp("lits"))
    prepared = tmp_path_factory.mktemp("prepared")
    config = tiny_lits.narrow(tiny_lits.recipe(root, prepared, "voi", (32, 32, 1), patches_per_case=4.0))
    config.name, config.epochs, config.folds = "tiny", 1, (0, 1)
    return config, patch_dataset.prepare(config).folder


def weights(run):
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.newest_step(), checkpoints.restore_tree(checkpoints.newest_step())["params"]


def test_two_folds_at_once_end_with_the_weights_they_have_one_after_another(prepared, tmp_path, capsys):
    config, patch_set = prepared
    together, alone = tmp_path / "together", tmp_path / "alone"
    files.write_text(together / "config.json", recipe.to_json(config))
    parallel_folds.train_folds(patch_set, together, (0, 1), 2, StopRequest())
    said = capsys.readouterr().err
    loop.train_fold(config, patch_set, alone / "fold_1", 1, StopRequest())
    (step, one), (same_step, other) = weights(together / "fold_1"), weights(alone / "fold_1")
    assert step == same_step > 0
    assert all(f"tiny fold {fold}: {step}/{step}" in said for fold in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_folds_that_fail_are_named_and_the_others_are_started_all_the_same(prepared, tmp_path, capsys):
    config, patch_set = prepared
    files.write_text(tmp_path / "config.json", recipe.to_json(config))
    with pytest.raises(RunError, match=r"fold 7 \(exit status 1\), fold 9 \(exit status 1\) failed"):
        parallel_folds.train_folds(patch_set, tmp_path, (7, 9), 1, StopRequest())
    said = capsys.readouterr().err
    assert all(f"error: fold {fold}: fold {fold} is not one of the 2 folds" in said for fold in (7, 9))


@pytest.fixture
def stop():
    """Empty; asks for an end after a while, so that a fold that waits for ever is a failed test."""
    stop = StopRequest()
    timer = threading.Timer(30, setattr, (stop, "signum", signal.SIGTERM))
    timer.start()
    yield stop
    timer.cancel()


def test_a_process_that_cannot_be_started_is_a_failed_fold_and_gives_its_device_back(
    tmp_path, monkeypatch, capsys, stop
):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(RunError, match=r"fold 0 \(.*/gone: there is no such file.*fold 1 \(.*/gone: there is"):
        parallel_folds.train_folds(tmp_path, tmp_path, (0, 1), 1, stop)
    assert "/gone: there is no such file or folder (No such file or directory)" in capsys.readouterr().err


def program(path, lines):
    """A program in the place of Python's."""
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)
    return str(path)


def test_what_a_process_says_in_no_known_encoding_is_passed_on_as_far_as_it_can_be_read(
    tmp_path, monkeypatch, capsys, stop
):
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", "printf 'a\\377b\\n' >&2; exit 3\n"))
    with pytest.raises(RunError, match=r"fold 0 \(exit status 3\), fold 1 \(exit status 3\)"):
        parallel_folds.train_folds(tmp_path, tmp_path, (0, 1), 1, stop)
    assert capsys.readouterr().err.splitlines() == ["a\ufffdb"] * 2


@pytest.mark.parametrize("at_once, started", [(1, ["0"]), (2, ["0", "1"])])
def test_a_signal_is_passed_on_to_the_folds_that_run_and_no_other_is_started(
    tmp_path, monkeypatch, capsys, stop, at_once, started
):
    lines = "trap 'echo $5 got TERM >&2; kill $!; exit 143' TERM\nsleep 30 2> /dev/null & touch $4/$5\nwait\n"
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", lines))
    run = tmp_path / "run"  # the processes are given it as their 4th argument, and the fold as their 5th
    run.mkdir()

    def send():
        while len(list(run.iterdir())) < at_once:
            time.sleep(0.05)
        time.sleep(0.5)
        stop.signum = signal.SIGTERM

    threading.Thread(target=send, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command resumes") as stopped:
        parallel_folds.train_folds(tmp_path, run, (0, 1, 2), at_once, stop)
    assert stopped.value.exit_status == 143 and time.monotonic() - begin < 20
    assert sorted(capsys.readouterr().err.splitlines()) == [f"{fold} got TERM" for fold in started]
    assert sorted(path.name for path in run.iterdir()) == started


def test_a_fold_whose_parent_is_gone_is_asked_to_save_and_end(monkeypatch):
    parents = iter((7, 7, 1))
    monkeypatch.setattr(parallel_folds.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(parallel_folds.threading.Event, "wait", lambda event, seconds: None)
    with catch_signals() as stop:
        parallel_folds._end_with(7)
    assert stop.signum == signal.SIGTERM and next(parents, None) is None


@pytest.mark.parametrize("shown, seen", [("", {"shown=."}), ("3,5", {"shown=3.", "shown=5."})])
def test_the_processes_see_the_gpus_that_this_one_sees_and_no_other(tmp_path, monkeypatch, capsys, stop, shown, seen):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(parallel_folds, "NODES", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    say = "echo shown=$CUDA_VISIBLE_DEVICES. >&2; sleep 0.3\n"  # long enough for the other to be started
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", say))
    parallel_folds.train_folds(tmp_path, tmp_path, (0, 1), 2, stop)
    assert set(capsys.readouterr().err.split()) == seen


def test_each_process_is_shown_a_gpu_of_its_own_and_there_are_no_more_than_gpus(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,7")
    assert parallel_folds._devices(2) == ["2", "5"] and capsys.readouterr().err == ""
    assert parallel_folds._devices(4) == ["2", "5", "7"]
    assert "4 folds at once were asked for; trained at a time: 3, one on each GPU" in capsys.readouterr().err


def test_without_the_variable_gpus_are_counted_whatever_the_numbers_of_their_nodes(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(parallel_folds, "NODES", tmp_path)
    assert parallel_folds._devices(3) == ["", "", ""]
    for node in ("nvidia3", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / node).touch()
    assert parallel_folds._devices(2) == ["0", "1"]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_stay_hidden(tmp_path, monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(parallel_folds, "NODES", tmp_path)
    (tmp_path / "nvidia0").touch()
    assert parallel_folds._devices(2) == ["", ""]
