"""The epoch loop of one fold, which a kill cannot harm."""

import contextlib
import logging
import pathlib
import time

import jax
from ml_collections import ConfigDict

from raunet_jax import files, recipe, startup
from raunet_jax.progress import progress
from raunet_jax.run_folder import FoldFolder
from raunet_jax.signals import StopRequest
from raunet_jax.training.fold_run import FoldRun
from raunet_jax.training.metrics import MetricsLog

log = logging.getLogger("raunet_jax")


class Clock:
    """Seconds of training over all starts, the speed of the present epoch, and when a checkpoint is due."""

    def __init__(self, seconds_before: float, checkpoint_minutes: float):
        now = time.monotonic()
        self._begin, self._between_saves = now - seconds_before, 60 * checkpoint_minutes
        self._saved = self._epoch_begin = now
        self._patches = 0

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def count(self, patches: int) -> None:
        self._patches += patches

    def patches_per_second(self) -> float:
        return self._patches / (time.monotonic() - self._epoch_begin)

    def begin_epoch(self) -> None:
        self._epoch_begin, self._patches = time.monotonic(), 0

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved > self._between_saves

    def begin_save(self) -> None:
        self._saved = time.monotonic()


def train_fold(config: ConfigDict, patch_set: pathlib.Path, run: pathlib.Path, fold: int, stop: StopRequest) -> None:
    """Train the recipe's network on all folds but `fold`, from the newest checkpoint in `run` if there is one.

    `stop` is checked after every step.

    Raises:
        Stopped: a signal asked for an end; the state is saved.
        RunError: a loss or a weight is not finite, the batch does not divide over the devices, or `run` was started
            with another recipe or patch set.
    """
    begin = time.monotonic()
    if config.deterministic and jax.default_backend() == "gpu" and not startup.is_deterministic():
        log.warning(
            f"{run}: config.deterministic is True, but XLA was started without {startup.DETERMINISTIC}=true: what is "
            "resumed on a GPU may differ in rounding; set it in XLA_FLAGS before Python starts"
        )
    folder, title = FoldFolder(run), f"{config.name} fold {fold}"
    training = FoldRun(config, patch_set, folder, fold)
    with training.checkpoints:
        training.resume()
        if training.step >= training.last_step:
            log.info(f"{run}: trained already, {training.step} steps")
            return
        files.write_text(folder.recipe, recipe.to_json(config) + "\n")
        with (
            contextlib.closing(MetricsLog(folder, training.step)) as metrics,
            progress(title, training.last_step, training.step) as bar,
        ):
            clock, note, first_step = Clock(training.seconds, config.checkpoint_minutes), "", training.step + 1
            while training.step < training.last_step:
                batch = next(training.loader)
                step_begin = time.monotonic()
                training.take_step(batch)
                if training.step == first_step:
                    _end_start_up(training, title, begin, step_begin)
                clock.count(config.batch_size)
                if training.epoch_ended:
                    note = _log_epoch(training, metrics, clock)
                if training.epoch_ended or stop or clock.checkpoint_due():
                    clock.begin_save()
                    training.save(clock.seconds())
                    if stop:
                        raise stop.stopped()
                bar.advance(1, note)


def _end_start_up(training: FoldRun, title: str, begin: float, step_begin: float) -> None:
    """Say how long the first step took, and give back what compiling it needed."""
    training.wait()
    now = time.monotonic()
    log.info(
        f"{title}: the first step took {now - step_begin:.1f} s with what was compiled for it; "
        f"it ended {now - begin:.1f} s after this fold's start"
    )
    startup.give_back_memory()


def _log_epoch(training: FoldRun, metrics: MetricsLog, clock: Clock) -> str:
    """Validate, write the epoch's line, and return what the bar is to show of it."""
    training.fetch_loss()  # the epoch ends with its last step, not with the validation
    rate = clock.patches_per_second()
    row = training.end_epoch() | {"patches_per_second": rate}
    metrics.write(row | {"seconds": clock.seconds()})
    clock.begin_epoch()
    return f"epoch {row['epoch']} loss {row['loss']:.3f} Dice {row['validation_dice'] or 0:.3f} {rate:.1f} patches/s"
