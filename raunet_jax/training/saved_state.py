"""Training states as this version and earlier ones saved them, brought to today's form."""

import dataclasses

import numpy as np

from raunet_jax.checkpoints import Checkpoints
from raunet_jax.run_folder import RunError
from raunet_jax.saved_checkpoint import WEIGHTS, not_finite
from raunet_jax.training.step import TrainState

PARTS = {field.name for field in dataclasses.fields(TrainState)}
SEPARATE_PLATEAU = PARTS | {"plateau"}  # where the plateau was moved on by the host, once an epoch


def restore(checkpoints: Checkpoints, step: int, state_like: TrainState) -> tuple[TrainState, dict]:
    """The state that was saved at `step`, as numpy arrays, and the loop position saved with it.

    Raises:
        RunError: no version known to this one saved the state.
        Damaged: its files are not what was written, or hold weights or a position that cannot be.
    """
    parts = checkpoints.state_parts(step)
    if parts == PARTS:
        saved, loop = _sound(checkpoints, step, *checkpoints.restore(step, state_like))
        return TrainState(**saved), loop
    if parts == SEPARATE_PLATEAU:
        adam, plateau = state_like.optimizer
        state_like = vars(state_like) | {"optimizer": adam, "plateau": plateau}
        saved, loop = _sound(checkpoints, step, *checkpoints.restore(step, state_like))
        plateau = _with_losses(saved.pop("plateau"), loop["losses"])
        return TrainState(**saved | {"optimizer": (saved["optimizer"], plateau)}), loop
    if parts | set(WEIGHTS) in (PARTS, SEPARATE_PLATEAU):
        raise checkpoints.damaged(step, f"holds no {' and no '.join(sorted(set(WEIGHTS) - parts))}")
    raise RunError(
        f"{checkpoints.folder}: the training state of step {step} has the parts {', '.join(sorted(parts))}, which "
        "this version does not know. Go on with the version that saved it, or name another --workdir to train anew"
    )


def _sound(checkpoints: Checkpoints, step: int, saved: dict, loop: dict) -> tuple[dict, dict]:
    """What was restored; Damaged where no version can have written it: of earlier ones no file has a SHA-256."""
    bad = not_finite({name: saved[name] for name in WEIGHTS})
    if bad:
        raise checkpoints.damaged(step, f"holds weights that are not finite ({', '.join(bad)})")
    if not isinstance(loop.get("losses"), list):
        raise checkpoints.damaged(step, "loop/metadata holds no losses")
    return saved, loop


def _with_losses(plateau, losses: list[float]):
    """The plateau's state after the present epoch's losses, of which it then knew nothing before the epoch's end."""
    count, mean = np.int32(0), np.float32(0)
    for loss in losses:
        mean = np.float32((np.float32(count) * mean + np.float32(loss)) / np.float32(count + 1))  # as Optax adds it
        count += np.int32(1)
    return plateau._replace(count=np.asarray(count), avg_value=np.asarray(mean))
