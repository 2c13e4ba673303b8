"""Trained networks, from a run folder: the models of each stage and the recipe that they are used by."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from raunet_jax import recipe, tasks
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.errors import FileError, NotFound, UserError
from raunet_jax.inference.windows import check_window
from raunet_jax.networks.folding import as_argument
from raunet_jax.networks.folding import fold as fold_batch_norm
from raunet_jax.networks.packing import Packed
from raunet_jax.run_folder import FoldFolder, RunFolder
from raunet_jax.saved_checkpoint import not_finite

INFERENCE_FIELDS = ("threshold", "vote", "window")  # what a user may change after training
READING_FIELDS = ("repair", "check")  # of `data`: how scans are read, likewise
VOTES = ("mean", "majority")


class ModelMissing(NotFound):
    """A run folder lacks a trained model; the message names it and the command that trains it."""


@dataclasses.dataclass(frozen=True)
class StageModel:
    """The trained networks of one stage, one a fold, and the recipe they share."""

    config: ConfigDict
    variables: tuple[Packed | dict, ...]  # `params` and `batch_stats` of each fold, by `folding.fold`
    steps: tuple[int, ...] = ()  # of training, at which each was saved


def load_stage(run: pathlib.Path, folds: Sequence[int] | None = None) -> StageModel:
    """The best checkpoint of each fold trained in `run` (of those in `folds`); of a damaged one the next best, said so.

    Raises:
        ModelMissing: a fold has none.
        FileError: none of a fold's is as it was written, or the weights of the one that is are not finite.
    """
    run_folder = RunFolder(run)
    trained = run_folder.folds() if folds is None else [run_folder.fold(number) for number in folds]
    config, variables, steps = None, [], []
    for fold in (fold for fold in trained if folds is not None or fold.checkpoints.is_dir()):
        found = _load_fold(fold)
        if found is None:
            raise ModelMissing(
                f"{fold.checkpoints} holds no checkpoint: this fold has not been trained; run --mode=train first"
            )
        step, (weights, config) = found
        variables.append(as_argument(fold_batch_norm(weights)))
        steps.append(step)
    if config is None:
        raise ModelMissing(f"{run} holds no trained model (fold_K/checkpoints); run --mode=train first")
    return StageModel(config, tuple(jax.device_put(variables)), tuple(steps))


def _load_fold(fold: FoldFolder) -> tuple[int, tuple[dict, ConfigDict]] | None:
    """Step, weights and recipe of a fold's best checkpoint; None when it has none."""
    with Checkpoints(fold.checkpoints) as checkpoints:
        found = checkpoints.read_best(lambda step: (checkpoints.restore_weights(step), checkpoints.recipe(step)))
    bad = not_finite(found[1][0]) if found else {}
    if bad:
        name, count = next(iter(bad.items()))
        raise FileError(
            fold.checkpoints / str(found[0]) / "weights",
            f"{sum(bad.values())} weights are not finite, such as {count} of {name}, so that this model finds nothing",
            f"delete {fold.path} and train this fold anew, or copy the run again from where it is whole",
        )
    return found


def load_cascade(
    workdir: pathlib.Path,
    config: ConfigDict | None = None,
    fold: int | None = None,
    stages: Sequence[str] | None = None,
) -> dict[str, StageModel]:
    """The StageModel of each stage (of `stages`) of the run in `workdir`, in the order they run.

    Thresholds, votes, windows and how scans are read are those of `config`, by default of the recipe saved in
    `workdir`. `fold` picks one model of the stages that have several.

    Raises:
        FileNotFoundError: `workdir` is no run folder.
        ModelMissing: a stage was not trained.
        ValueError: its windows cannot be merged as asked for.
    """
    run = RunFolder(workdir)
    saved = run.load_recipe() if config is None else None
    config = config or saved
    folders, models = run.stages(config), {}
    for name, stage in recipe.stages_of(config).items():
        if stages is not None and name not in stages:
            continue
        single = fold is None or tasks.stage_of(name).single_model
        model = load_stage(folders[name].path, None if single else [fold])
        with model.config.ignore_type():
            for field in INFERENCE_FIELDS:
                model.config[field] = stage[field]
            for field in READING_FIELDS:
                model.config.data[field] = stage.data[field]
        try:
            check_inference(model.config)
        except UserError as error:
            if config is not saved:
                raise
            raise FileError(run.recipe, str(error), "put back the file as it was") from None
        models[name] = model
    return models


def last_model(models: dict[str, StageModel]) -> StageModel:
    """That of the stage that runs last, whose labels are the answer."""
    return next(reversed(models.values()))


def patch_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(z, y, x) of `config.patch_size`."""
    return tuple(reversed(config.patch_size))


def check_inference(config: ConfigDict) -> None:
    """Raise ValueError for a stage's recipe by which windows cannot be merged, or folds not be joined."""
    check_window(config.window, patch_shape(config))
    if config.vote not in VOTES:
        raise UserError(f"config.vote is {config.vote!r}; choose {' or '.join(VOTES)}")
