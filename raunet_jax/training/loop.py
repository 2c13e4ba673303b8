"""Training of one network on one fold: state, step, and an epoch loop that a kill cannot harm."""

import contextlib
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from raunet_jax import files, recipe, startup
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.networks.raunet import make_network
from raunet_jax.progress import progress
from raunet_jax.run_folder import RunError, check_same_recipe
from raunet_jax.signals import StopRequest
from raunet_jax.training import augmentation, batches
from raunet_jax.training.step import (
    TrainState,
    end_epoch,
    make_state,
    make_train_step,
    make_validation_step,
    reduction_axis,
    replicate,
    split_over_devices,
)

log = logging.getLogger("raunet_jax")


def validation_dice(step: Callable, state: TrainState, validation: Iterator[dict]) -> float | None:
    """Dice over all voxels of all validation patches together; None where neither mask has a voxel."""
    counts = np.zeros(3)
    for batch in validation:
        found = np.asarray(step(state, split_over_devices(batch)), np.float64).reshape(-1, 3)
        counts += found[batch["valid"]].sum(axis=0)
    overlap, predicted, reference = counts
    return float(2 * overlap / (predicted + reference)) if predicted + reference else None


class MetricsLog:
    """`metrics.jsonl` and TensorBoard files of one fold; lines after the step that training resumes at are dropped."""

    def __init__(self, run: pathlib.Path, resumed_step: int):
        self._path = run / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        self._lines = [line for line in lines if json.loads(line)["step"] <= resumed_step]
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, row: dict) -> None:
        self._lines.append(json.dumps(row))
        files.write_text(self._path, "\n".join(self._lines) + "\n")
        for name in ("loss", "validation_dice", "learning_rate", "patches_per_second"):
            if row[name] is not None:
                self._board.add_scalar(name, row[name], row["step"])
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class FoldRun:
    """One fold's training in `run`: the state, the loop's place, and the means to save both and go on from them."""

    def __init__(self, config: ConfigDict, patch_set: pathlib.Path, run: pathlib.Path, fold: int):
        if config.batch_size % jax.device_count():
            raise RunError(f"batch_size {config.batch_size} does not divide over {jax.device_count()} devices")
        self.config, self.run = config, run
        self.patch_set = patch_set.parent.name  # its key, above the version
        self.started_with = self.patch_set
        self.network = make_network(config, reduction_axis())
        self.state = make_state(self.network, config)
        self.loader = batches.train_batches(config, patch_set, fold)
        self.validation = batches.validation_batches(config, patch_set, fold)
        self.step = 0
        self.epoch_steps = max(1, batches.train_size(config, patch_set, fold) // config.batch_size)
        self.losses: list[float] = []  # of the present epoch's steps
        self.seconds = 0.0  # of training, over all starts
        self.checkpoints = Checkpoints(run / "checkpoints")

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one; RunError if another recipe made it."""
        newest = self.checkpoints.newest_step()
        if newest is None:
            return
        check_same_recipe(self.run, self.checkpoints.recipe(newest), self.config)
        state, loop = self.checkpoints.restore(newest, self.state)
        self.state = replicate(state)
        self.step, self.losses, self.seconds = newest, loop["losses"], loop["seconds"]
        self.started_with = loop["patch_set"]
        self.loader.set_state(loop["loader"])
        log.info(f"{self.run}: going on from step {newest}")

    def save(self, dice: float | None, cases: list[str]) -> None:
        """Write a checkpoint; RunError if the last step, on `cases`, left weights that are not finite."""
        # A step's loss is that of the weights before it: what its own update spoiled shows in no loss yet.
        weights = jax.device_get((self.state.params, self.state.batch_stats))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)):
            raise self._not_finite(f"the weights after step {self.step} are not finite", cases)
        loop = {"loader": self.loader.get_state(), "losses": self.losses, "seconds": self.seconds}
        loop["patch_set"] = self.patch_set
        self.checkpoints.save(self.step, self.state, loop, self.config, dice)

    def record(self, number: int, cases: list[str], loss: float) -> None:
        """Keep a step's loss; RunError if it is not finite."""
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss of step {number} is {loss}", cases)
        self.losses.append(loss)

    def _not_finite(self, what: str, cases: list[str]) -> RunError:
        return RunError(
            f"{self.run}: {what}, on cases {', '.join(sorted(set(cases)))}. The last good checkpoint is kept; lower "
            f"learning_rate, or look at these cases with --mode=verify"
        )

    def end_epoch(self) -> dict:
        """Validate, move the learning rate's plateau on, and return the epoch's line for the metrics."""
        loss = float(np.mean(self.losses))
        row = {
            "step": self.step,
            "epoch": self.step // self.epoch_steps,
            "loss": loss,
            "validation_dice": validation_dice(make_validation_step(self.network), self.state, self.validation),
            "learning_rate": float(self.config.learning_rate * self.state.plateau.scale),
        }
        self.state = end_epoch(self.state, self.config, loss)
        self.losses = []
        return row


def train_fold(config: ConfigDict, patch_set: pathlib.Path, run: pathlib.Path, fold: int, stop: StopRequest) -> None:
    """Train the recipe's network on all folds but `fold`, from the newest checkpoint in `run` if there is one.

    `stop` is checked after every step. Raises Stopped once a signal's state is saved, RunError when a loss or a
    weight is not finite, when the batch does not divide over the devices, or when `run` was started with another
    recipe.
    """
    fold_begin = time.monotonic()
    training = FoldRun(config, patch_set, run, fold)
    last_step = config.epochs * training.epoch_steps
    changes = augmentation.from_recipe(config)
    train_step = make_train_step(training.network, config.learning_rate, config.loss_per_sample, changes)
    with training.checkpoints:
        training.resume()
        if training.step >= last_step:
            log.info(f"{run}: trained already, {training.step} steps")
            return
        if training.started_with != training.patch_set:
            raise RunError(
                f"{run} was started with patch set {training.started_with}, and this is {training.patch_set}: scans, "
                "masks or out-of-fold livers have changed since. Name another --workdir, or put them back"
            )
        files.write_text(run / "config.json", recipe.to_json(config) + "\n")
        title = f"{config.name} fold {fold}"
        with (
            contextlib.closing(MetricsLog(run, training.step)) as metrics_log,
            progress(title, last_step, training.step) as bar,
        ):
            note, pending, first_step = "", None, training.step + 1
            saved = epoch_begin = time.monotonic()
            begin, epoch_patches = saved - training.seconds, 0
            while training.step < last_step:
                batch = next(training.loader)
                step_begin = time.monotonic()
                training.state, metrics = train_step(training.state, split_over_devices(batch))
                training.step += 1
                if training.step == first_step:
                    jax.block_until_ready(metrics)
                    now = time.monotonic()
                    log.info(
                        f"{title}: the first step took {now - step_begin:.1f} s with what was compiled for it; "
                        f"it ended {now - fold_begin:.1f} s after this fold's start"
                    )
                    startup.give_back_memory()
                epoch_patches += config.batch_size
                # A loss is fetched once the next step is under way, so that the device never waits for the host.
                if pending:
                    training.record(*pending[:2], float(pending[2]["loss"]))
                pending = (training.step, batch["case"], metrics)

                ended = training.step % training.epoch_steps == 0
                if ended or stop or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    training.record(*pending[:2], float(pending[2]["loss"]))
                    pending, dice = None, None
                    rate = epoch_patches / (time.monotonic() - epoch_begin)
                    if ended:
                        row = training.end_epoch() | {"patches_per_second": rate}
                        dice = row["validation_dice"]
                        metrics_log.write(row | {"seconds": time.monotonic() - begin})
                        note = f"epoch {row['epoch']} loss {row['loss']:.3f} Dice {dice or 0:.3f} {rate:.1f} patches/s"
                        epoch_begin, epoch_patches = time.monotonic(), 0
                    saved = time.monotonic()
                    training.seconds = saved - begin
                    training.save(dice, batch["case"])
                    if stop:
                        raise stop.stopped()
                bar.advance(1, note)
