"""The epoch loop: what a run leaves behind, and that signals, kills and restarts change nothing of it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import tiny_lits
from data_prep import patch_dataset
from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.run_folder import FoldFolder, RunError
from raunet_jax.signals import Stopped, StopRequest, catch_signals
from raunet_jax.training import batches, fold_run, loop
from raunet_jax.training.fold_run import FoldRun
from raunet_jax.training.loop import train_fold
from raunet_jax.training.metrics import MetricsLog
from raunet_jax.training.step import replicate
from raunet_jax.training.validation import validation_dice
from small_network import use_small_network

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
EPOCH_STEPS, EPOCHS = 3, 3
CUT = 4  # the step after whose loss a run is interrupted: in the middle of the second epoch

KILLED = """
import os, pathlib, signal, sys
from raunet_jax import recipe
from raunet_jax.signals import StopRequest
from raunet_jax.training.fold_run import FoldRun
from raunet_jax.training.loop import train_fold

config, patch_set, run, cut, network = sys.argv[1:]
if network == "small":
    import pytest, test_training
    test_training.use_small_network(pytest.MonkeyPatch())
record = FoldRun.record

def record_and_die(fold_run, number, cases, loss):
    record(fold_run, number, cases, loss)
    if number == int(cut):
        os.kill(os.getpid(), signal.SIGKILL)

FoldRun.record = record_and_die
train_fold(recipe.load(pathlib.Path(config)), pathlib.Path(patch_set), pathlib.Path(run), 0, StopRequest())
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A recipe of stage coarse with three steps an epoch, and its patch set."""
    root = tiny_lits.write(tmp_path_factory.mktemp("lits"))
    config = tiny_lits.narrow(tiny_lits.recipe(root, tmp_path_factory.mktemp("prepared"), "coarse", (32, 32, 1)))
    config.name, config.epochs, config.folds = "tiny", EPOCHS, (0,)
    patch_set = patch_dataset.prepare(config).folder
    assert batches.train_size(config, patch_set, 0) // config.batch_size == EPOCH_STEPS
    return config, patch_set


@pytest.fixture
def small(prepared, monkeypatch):
    use_small_network(monkeypatch)
    return prepared


@pytest.fixture(scope="module")
def unbroken(prepared, tmp_path_factory):
    """The run folder of a small network's training that nothing disturbed."""
    run = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        use_small_network(patch)
        train_fold(*prepared, run, 0, StopRequest())
    return run


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.update(fields)
    return config


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run):
    """Step, state and loop position of a run's newest checkpoint, the seconds aside."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        step = checkpoints.newest_step()
        state = checkpoints.restore_tree(step)
    loop = json.loads((run / "checkpoints" / str(step) / "loop" / "metadata").read_text())
    return step, state, {name: loop[name] for name in loop if name != "seconds"}


def assert_same_run(one, other):
    """Bit for bit the same state and losses, whatever the clock said."""
    (step, state, loop), (other_step, other_state, other_loop) = checkpoint(one), checkpoint(other)
    assert step == other_step and loop == other_loop
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    timeless = [
        [{name: row[name] for name in row if name not in ("seconds", "patches_per_second")} for row in rows(run)]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]


def interrupt(monkeypatch, signum):
    """Have a training send itself a signal once the loss of step CUT is known."""
    record = FoldRun.record

    def record_and_signal(fold_run, number, cases, loss):
        record(fold_run, number, cases, loss)
        if number == CUT:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(FoldRun, "record", record_and_signal)


def test_a_run_leaves_a_line_an_epoch_a_checkpoint_and_its_recipe(small, unbroken):
    config, _ = small
    lines = rows(unbroken)
    assert [(row["step"], row["epoch"]) for row in lines] == [(3, 1), (6, 2), (9, 3)]
    assert all(0 < row["loss"] < 1 for row in lines)
    for row in lines:
        assert row["validation_dice"] is None or 0 <= row["validation_dice"] <= 1
        assert row["learning_rate"] == pytest.approx(config.learning_rate)
        assert row["patches_per_second"] > 0
    assert 0 < lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]
    step, state, loop = checkpoint(unbroken)
    assert step == state["step"] == EPOCHS * EPOCH_STEPS and loop["losses"] == []
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert recipe.differences(recipe.load(unbroken / "config.json"), config) == []
    assert list((unbroken / "tensorboard").iterdir())


def train_and_die(config, patch_set, run, cut, network, place):
    """Train in a process of its own, which SIGKILL ends once the loss of step `cut` is known."""
    (place / "recipe.json").write_text(recipe.to_json(config))
    (place / "killed.py").write_text(KILLED)
    killed = subprocess.run(
        [sys.executable, place / "killed.py", place / "recipe.json", patch_set, run, str(cut), network],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_raunet_killed_within_an_epoch_ends_as_if_it_never_was(prepared, tmp_path):
    config, patch_set = prepared
    config = changed(config, epochs=2)
    train_fold(config, patch_set, tmp_path / "unbroken", 0, StopRequest())  # first: the other finds it compiled
    run = tmp_path / "run"
    train_and_die(config, patch_set, run, CUT, "raunet", tmp_path)
    assert len(rows(run)) == 1
    train_fold(config, patch_set, run, 0, StopRequest())
    assert_same_run(run, tmp_path / "unbroken")


def test_a_kill_after_a_checkpoint_within_the_epoch_costs_no_more_than_the_steps_since(
    small, unbroken, tmp_path, capsys
):
    config, patch_set = small
    run = tmp_path / "run"
    train_and_die(changed(config, checkpoint_minutes=0.0), patch_set, run, CUT + 1, "small", tmp_path)
    step, _, loop = checkpoint(run)
    assert step == CUT and len(loop["losses"]) == CUT - EPOCH_STEPS
    train_fold(config, patch_set, run, 0, StopRequest())
    assert f"going on from step {CUT}" in capsys.readouterr().err
    assert_same_run(run, unbroken)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_within_the_epoch_and_the_same_call_goes_on(
    small, unbroken, tmp_path, monkeypatch, capsys, signum, status
):
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"{signum.name}.*resumes") as stopped:
        interrupt(patch, signum)
        with catch_signals() as stop:
            train_fold(*small, tmp_path, 0, stop)
    assert stopped.value.exit_status == status
    step, _, loop = checkpoint(tmp_path)
    assert step == CUT + 1 and len(loop["losses"]) == step - EPOCH_STEPS
    with catch_signals() as stop:
        train_fold(*small, tmp_path, 0, stop)
    assert f"going on from step {step}" in capsys.readouterr().err
    assert_same_run(tmp_path, unbroken)


def test_a_signal_between_the_check_of_a_step_and_its_end_saves_all_the_same(small, unbroken, tmp_path, monkeypatch):
    stop, taken, take_step = StopRequest(), [], FoldRun.take_step

    def is_due(clock):
        if taken[-1] == CUT:
            stop.signum = signal.SIGTERM
        return False

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(FoldRun, "take_step", lambda run, batch: (take_step(run, batch), taken.append(run.step)))
        patch.setattr(loop.Clock, "checkpoint_due", is_due)
        train_fold(*small, tmp_path, 0, stop)
    assert checkpoint(tmp_path)[0] == taken[-1] >= CUT
    train_fold(*small, tmp_path, 0, StopRequest())
    assert_same_run(tmp_path, unbroken)


def test_saving_at_every_step_changes_nothing(small, unbroken, tmp_path, monkeypatch):
    config, patch_set = small
    saved = []
    save = FoldRun.save
    monkeypatch.setattr(FoldRun, "save", lambda run, *given: (saved.append(run.step), save(run, *given)))
    train_fold(changed(config, checkpoint_minutes=0.0), patch_set, tmp_path, 0, StopRequest())
    assert saved == list(range(1, EPOCHS * EPOCH_STEPS + 1))
    assert_same_run(tmp_path, unbroken)


def test_augmentation_is_drawn_again_as_it_was_after_a_resume(small, unbroken, tmp_path, monkeypatch):
    config, patch_set = small
    augment = {"flip": ("x", "y"), "quarter_turns": True, "rotation": 15.0, "scale": 0.15, "intensity": 0.1}
    config = changed(config, augment=augment)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_fold(config, patch_set, whole, 0, StopRequest())
    with monkeypatch.context() as patch, pytest.raises(Stopped), catch_signals() as stop:
        interrupt(patch, signal.SIGTERM)
        train_fold(config, patch_set, cut, 0, stop)
    train_fold(config, patch_set, cut, 0, StopRequest())
    assert_same_run(whole, cut)
    assert all(row["loss"] != plain["loss"] for row, plain in zip(rows(whole), rows(unbroken), strict=True))


def test_a_finished_run_is_left_as_it_is(small, unbroken, capsys):
    before = checkpoint(unbroken)[0], rows(unbroken)
    half_deleted = unbroken / "checkpoints" / ".deleted.1"  # by a kill at its very end
    (half_deleted / "state").mkdir(parents=True)
    train_fold(*small, unbroken, 0, StopRequest())
    assert "trained already, 9 steps" in capsys.readouterr().err and not half_deleted.exists()
    assert (checkpoint(unbroken)[0], rows(unbroken)) == before


def test_a_run_started_with_another_recipe_is_refused_by_field_and_values(small, unbroken):
    config, patch_set = small
    other = changed(config, batch_size=2, box_margin=9)
    message = "was started with another recipe.*batch_size: 4, 2; box_margin: 2, 9.*--workdir"
    with pytest.raises(RunError, match=message):
        train_fold(other, patch_set, unbroken, 0, StopRequest())


def spoil(monkeypatch, at, spoiled):
    """Have step `at` of a training return what `spoiled` makes of its state and metrics."""
    make_train_step = fold_run.make_train_step

    def make_spoiled_step(*arguments):
        step = make_train_step(*arguments)

        def spoiled_step(state, batch):
            state, metrics = step(state, batch)
            return spoiled(state, metrics) if jax.device_get(state.step) == at else (state, metrics)

        return spoiled_step

    monkeypatch.setattr(fold_run, "make_train_step", make_spoiled_step)


def cases_of_step(config, patch_set, number):
    loader = batches.train_batches(config, patch_set, 0)
    return ", ".join(sorted(set([next(loader)["case"] for _ in range(number)][-1])))


def test_a_run_does_not_go_on_with_another_patch_set(small, tmp_path):
    config, patch_set = small
    with pytest.raises(Stopped):
        train_fold(config, patch_set, tmp_path / "fold_0", 0, StopRequest(signal.SIGTERM))
    other = tmp_path / "coarse_other" / patch_set.name
    shutil.copytree(patch_set, other)
    with pytest.raises(RunError, match=f"was started with patch set {patch_set.parent.name}, and this is coarse_other"):
        train_fold(config, other, tmp_path / "fold_0", 0, StopRequest())


def test_a_loss_that_is_not_finite_stops_with_step_and_cases_and_keeps_the_last_good_checkpoint(
    small, tmp_path, monkeypatch
):
    spoil(monkeypatch, 5, lambda state, metrics: (state, metrics | {"loss": np.float32("nan")}))
    message = f"loss of step 5 is nan, on cases {cases_of_step(*small, 5)}. .*lower learning_rate"
    with pytest.raises(RunError, match=message):
        train_fold(*small, tmp_path, 0, StopRequest())
    assert checkpoint(tmp_path)[0] == EPOCH_STEPS


def test_weights_that_are_not_finite_never_replace_the_last_good_checkpoint(small, tmp_path, monkeypatch):
    def spoiled(state, metrics):  # the loss is that of the weights before the step, and still finite
        params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), jax.device_get(state.params))
        return state.replace(params=replicate(params)), metrics

    spoil(monkeypatch, 2 * EPOCH_STEPS, spoiled)
    message = f"weights after step 6 are not finite, on cases {cases_of_step(*small, 6)}. .*lower learning_rate"
    with pytest.raises(RunError, match=message):
        train_fold(*small, tmp_path, 0, StopRequest())
    assert checkpoint(tmp_path)[0] == EPOCH_STEPS


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(RunError, match="batch_size 4 does not divide over 3 devices"):
        train_fold(*small, tmp_path, 0, StopRequest())


def test_a_second_signal_goes_to_whoever_handled_it_before():
    received = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    try:
        with catch_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.signum, received) == (signal.SIGTERM, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.signum, received) == (signal.SIGTERM, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(received) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_validation_pools_the_voxels_of_all_valid_patches():
    def batch(valid):
        voxels = np.zeros((2, 1))
        return {"image": voxels, "mask": voxels, "low": voxels, "high": voxels, "valid": np.array(valid)}

    counts = iter([[[[10, 20, 30], [1, 2, 3]]], [[[5, 5, 5], [100, 100, 100]]]])  # overlap, predicted, reference
    dice = validation_dice(lambda state, _: np.array(next(counts)), None, [batch([True, True]), batch([True, False])])
    assert dice == pytest.approx(2 * (10 + 1 + 5) / (20 + 2 + 5 + 30 + 3 + 5))
    assert validation_dice(lambda state, _: np.zeros((1, 2, 3)), None, [batch([True, True])]) is None
    assert validation_dice(None, None, []) is None


def test_metrics_after_the_step_that_is_resumed_at_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in (3, 6, 9)))
    row = {"step": 9, "loss": 0.5, "validation_dice": None, "learning_rate": 1e-3, "patches_per_second": 2.0}
    log = MetricsLog(FoldFolder(tmp_path), resumed_step=6)
    log.write(row)
    log.close()
    assert rows(tmp_path) == [{"step": 3}, {"step": 6}, row]


def test_starting_to_train_waits_for_nothing_that_is_used_only_later():
    code = "import sys, raunet_jax.commands.train; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    later = {"tensorboardX", "matplotlib", "raunet_jax.commands.evaluate", "raunet_jax.report", "raunet_jax.scores"}
    assert not later & set(loaded.stdout.split())
