"""What an epoch loop needs of one fold: steps, validation, and a checkpoint from which both go on."""

import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from raunet_jax.checkpoints import Checkpoints
from raunet_jax.networks.raunet import make_network
from raunet_jax.run_folder import FoldFolder, RunError, check_same_recipe
from raunet_jax.training import augmentation, batches, optimizer, saved_state
from raunet_jax.training.step import make_state, make_train_step, reduction_axis, replicate, split_over_devices
from raunet_jax.training.validation import make_validation_step, validation_dice

log = logging.getLogger("raunet_jax")


class FoldRun:
    """Training of one fold: state, position in the data, checkpointing.

    Attributes:
        step: steps taken, over all starts; `last_step` is where the training ends.
        epoch_steps: steps in an epoch.
        loader: endless batches, from the position that the state has reached.
        seconds: of training, over all starts, at the newest checkpoint.
        checkpoints: to be closed at the end.
    """

    def __init__(self, config: ConfigDict, patch_set: pathlib.Path, folder: FoldFolder, fold: int):
        """The training's beginning. Raises RunError when the batch does not divide over the devices."""
        if config.batch_size % jax.device_count():
            raise RunError(f"batch_size {config.batch_size} does not divide over {jax.device_count()} devices")
        self.config, self.folder = config, folder
        self.patch_set = patch_set.parent.name  # its key, above the version
        self.loader = batches.train_batches(config, patch_set, fold)
        self.epoch_steps = max(1, batches.train_size(config, patch_set, fold) // config.batch_size)
        self.last_step = config.epochs * self.epoch_steps
        self.step, self.seconds = 0, 0.0

        settings, changes = optimizer.from_recipe(config, self.epoch_steps), augmentation.from_recipe(config)
        network = make_network(config, reduction_axis())
        self.state = make_state(network, settings, config)
        self._train_step = make_train_step(network, settings, config.loss_per_sample, changes)
        self._validation_step = make_validation_step(network)
        self._validation = batches.validation_batches(config, patch_set, fold)
        self._pending: tuple[int, Sequence[str], Mapping[str, Any]] | None = None  # step, cases, metrics on the device
        self._cases: Sequence[str] = ()  # of the last step
        self._losses: list[float] = []  # of the present epoch's steps
        self._learning_rate = 0.0  # of these
        self._dice: float | None = None  # of the validation at the last step, None between epochs
        self.checkpoints = Checkpoints(folder.checkpoints)

    @property
    def epoch_ended(self) -> bool:
        return self.step % self.epoch_steps == 0

    def resume(self) -> None:
        """Take up the newest checkpoint that is as it was written, if there is any; those passed over are said.

        Raises:
            RunError: another recipe or version made it, or it is to go on and was made with another patch set.
            FileError: there are checkpoints, and all of them are damaged.
        """

        def read(step: int):
            check_same_recipe(self.folder.path, self.checkpoints.recipe(step), self.config)
            state, loop = saved_state.restore(self.checkpoints, step, jax.device_get(self.state).unpacked())
            for name in ("loader", "seconds", "patch_set"):
                if name not in loop:  # of an earlier version, whose files have no SHA-256
                    raise self.checkpoints.damaged(step, f"loop/metadata holds no {name}")
            return state, loop

        if jax.process_index() == 0:
            self.checkpoints.clear()  # now: a training that is over saves no more
        found = self.checkpoints.read_newest(read)
        if found is None:
            return
        newest, (state, loop) = found
        self.state = replicate(state.packed())
        self.step, self._losses, self.seconds = newest, loop["losses"], loop["seconds"]
        self.loader.set_state(loop["loader"])
        log.info(f"{self.folder.path}: going on from step {newest}")
        if self.step < self.last_step and loop["patch_set"] != self.patch_set:
            raise RunError(
                f"{self.folder.path} was started with patch set {loop['patch_set']}, and this is {self.patch_set}: "
                "scans, masks or out-of-fold livers have changed since. Name another --workdir, or put them back"
            )

    def take_step(self, batch: Mapping[str, Any]) -> None:
        """Start the next step. Raises RunError when the loss of the step before is not finite.

        A loss is fetched once the next step is under way, so that the device never waits for the host.
        """
        self.state, metrics = self._train_step(self.state, split_over_devices(batch))
        self.step += 1
        self._cases, self._dice = batch["case"], None
        self.fetch_loss()
        self._pending = (self.step, self._cases, metrics)

    def wait(self) -> None:
        """Until the last step has ended on the device."""
        jax.block_until_ready(self.state)

    def fetch_loss(self) -> None:
        """Record the loss of the last step, which is waited for, unless that is done. Raises RunError as `record`."""
        if self._pending:
            (number, cases, metrics), self._pending = self._pending, None
            metrics = jax.device_get(metrics)
            self._learning_rate = float(metrics["learning_rate"])
            self.record(number, cases, float(metrics["loss"]))

    def record(self, number: int, cases: Sequence[str], loss: float) -> None:
        """Keep a step's loss; RunError if it is not finite."""
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss of step {number} is {loss}", cases)
        self._losses.append(loss)

    def end_epoch(self) -> dict:
        """Validate, and return the epoch's line for the metrics."""
        self.fetch_loss()
        self._dice = validation_dice(self._validation_step, self.state, self._validation)
        loss, self._losses = float(np.mean(self._losses)), []
        return {
            "step": self.step,
            "epoch": self.step // self.epoch_steps,
            "loss": loss,
            "validation_dice": self._dice,
            "learning_rate": self._learning_rate,
        }

    def save(self, seconds: float) -> None:
        """Write a checkpoint after `seconds` of training; RunError if the last step left weights that are not finite.

        A step's loss is that of the weights before it: what its own update spoiled shows in no loss yet.
        """
        self.fetch_loss()
        state = jax.device_get(self.state)
        if not all(np.isfinite(weights.vector).all() for weights in (state.params, state.batch_stats)):
            raise self._not_finite(f"the weights after step {self.step} are not finite", self._cases)
        self.seconds = seconds
        loop = {"loader": self.loader.get_state(), "losses": self._losses, "seconds": seconds}
        loop["patch_set"] = self.patch_set
        self.checkpoints.save(self.step, state.unpacked(), loop, self.config, self._dice)

    def _not_finite(self, what: str, cases: Sequence[str]) -> RunError:
        return RunError(
            f"{self.folder.path}: {what}, on cases {', '.join(sorted(set(cases)))}. The last good checkpoint is kept; "
            "lower learning_rate, or look at these cases with --mode=verify"
        )
