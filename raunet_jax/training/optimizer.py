"""Adam, whose learning rate falls by ten once the training loss stands still."""

from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict


class OptimizerSettings(NamedTuple):
    """All that decides the optimizer; hashable.

    Attributes:
        learning_rate: Adam's, until the plateau lowers it.
        patience_epochs: epochs without a better mean loss after which it is lowered.
        epoch_steps: training steps in an epoch.
    """

    learning_rate: float
    patience_epochs: int
    epoch_steps: int


def from_recipe(config: ConfigDict, epoch_steps: int) -> OptimizerSettings:
    """By the fields `learning_rate` and `plateau_patience`."""
    return OptimizerSettings(config.learning_rate, config.plateau_patience, epoch_steps)


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformationExtraArgs:
    """Adam, then the scale that a plateau of the loss leaves: x 0.1 once the mean loss of an epoch was no better, by
    1e-4, than the best for `patience_epochs` epochs.

    `update` takes each step's loss as `value`. The plateau is looked at in the last step of an epoch, which is the
    first to take the new scale. State: `(Adam's, ReduceLROnPlateauState)`.
    """
    adam = optax.adam(settings.learning_rate, b1=0.9, b2=0.999, eps=1e-8)
    plateau = optax.contrib.reduce_on_plateau(
        factor=0.1, patience=settings.patience_epochs, rtol=0.0, atol=1e-4, accumulation_size=settings.epoch_steps
    )
    chain = optax.chain(adam, plateau)

    def update(updates, state, params=None, **extra_args):
        with jax.numpy_dtype_promotion("standard"):  # Optax multiplies the plateau's int32 count by its float32 mean
            return chain.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def plateau_scale(optimizer_state: Any) -> jax.Array:
    """What the learning rate is multiplied by, from the state of `make_optimizer`."""
    return optimizer_state[1].scale
