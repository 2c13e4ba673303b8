"""Trained networks, from a run folder: the models of each stage and the recipe that they are used by."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from raunet_jax import recipe, tasks
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.errors import NotFound, UserError
from raunet_jax.inference.windows import check_window
from raunet_jax.networks.folding import fold as fold_batch_norm
from raunet_jax.run_folder import RunFolder

INFERENCE_FIELDS = ("threshold", "vote", "window")  # what a user may change after training
READING_FIELDS = ("repair", "check")  # of `data`: how scans are read, likewise
VOTES = ("mean", "majority")


class ModelMissing(NotFound):
    """A run folder lacks a trained model; the message names it and the command that trains it."""


@dataclasses.dataclass(frozen=True)
class StageModel:
    """The trained networks of one stage, one a fold, and the recipe they share."""

    config: ConfigDict
    variables: tuple[dict, ...]  # `params` and `batch_stats` of each fold, by `folding.fold`
    steps: tuple[int, ...] = ()  # of training, at which each was saved


def load_stage(run: pathlib.Path, folds: Sequence[int] | None = None) -> StageModel:
    """The best checkpoint of each fold trained in `run` (of those in `folds`). Raises ModelMissing."""
    run_folder = RunFolder(run)
    trained = run_folder.folds() if folds is None else [run_folder.fold(number) for number in folds]
    config, variables, steps = None, [], []
    for fold in (fold for fold in trained if folds is not None or fold.checkpoints.is_dir()):
        step = None
        if fold.checkpoints.is_dir():
            with Checkpoints(fold.checkpoints) as checkpoints:
                step = checkpoints.best_step()
                if step is not None:
                    variables.append(fold_batch_norm(checkpoints.restore_weights(step)))
                    config = checkpoints.recipe(step)
                    steps.append(step)
        if step is None:
            raise ModelMissing(
                f"{fold.checkpoints} holds no checkpoint: this fold has not been trained; run --mode=train first"
            )
    if config is None:
        raise ModelMissing(f"{run} holds no trained model (fold_K/checkpoints); run --mode=train first")
    return StageModel(config, tuple(jax.device_put(variables)), tuple(steps))


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
    config = config or run.load_recipe()
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
        check_inference(model.config)
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
