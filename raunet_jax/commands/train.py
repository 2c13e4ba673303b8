"""Trains every fold of every stage of a recipe; a cascade is then evaluated."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import NoReturn

from ml_collections import ConfigDict

from data_prep import patch_dataset
from raunet_jax import files, locks, recipe, recipe_ranges
from raunet_jax.commands.prepare import trainable
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.disk import check_writable
from raunet_jax.imaging.geometry import Box
from raunet_jax.inference.models import check_inference
from raunet_jax.networks.raunet import make_network
from raunet_jax.run_folder import RunError, RunFolder, check_same_recipe
from raunet_jax.signals import catch_signals
from raunet_jax.training import augmentation, loop, parallel_folds

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    """Exit status 1 where a case failed along the way, or a stage has nothing to be trained on."""
    run = RunFolder(request.run)
    check_writable(run.path, "--workdir")
    config = request.planned_recipe()
    _check(config, run)
    with locks.alone(run.path, lambda holder: _refuse(run, holder)) as lock:
        return _train(config, run, request, lock)


def _refuse(run: RunFolder, holder: str) -> NoReturn:
    raise RunError(
        f"{run.path}: {holder} is training in this run folder, or was, and its folds are being saved; wait for the "
        "end of that, or name another --workdir"
    )


def _train(config: ConfigDict, run: RunFolder, request: Request, lock: int) -> int:
    config, left_out = trainable(config)
    stages = recipe.stages_of(config)
    if any(stage.folds_at_once > 1 for stage in stages.values()):
        # the folds' processes need the memory that this one would keep for itself from JAX's start on
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    failed: list[str] = []
    for name, stage in stages.items():
        failed += _train_stage(config, run, name, stage, lock)
    status = _finish(config, dataclasses.replace(request, config=config))
    for line in dict.fromkeys(failed):
        log.warning(f"not trained on {line}")
    for line in left_out:
        log.warning(line)
    return 1 if failed or left_out else status


def _check(config: ConfigDict, run: RunFolder) -> None:
    """Refuse, before days of training and before anything is written over what is there, what could not be done.

    Raises:
        RunError: a fold of a stage was started with another recipe.
        ValueError: a field of a stage's recipe does not fit.
    """
    recipe_ranges.check_folds(config)
    for name, stage in recipe.stages_of(config).items():
        folder = run.stages(config)[name]
        for fold in map(folder.fold, stage.folds):
            if fold.recipe.is_file():
                check_same_recipe(fold.path, recipe.load(fold.recipe), stage)
        augmentation.from_recipe(stage)
        make_network(stage)
        check_inference(stage)
        _check_liver_source(config, stage)


def _train_stage(config: ConfigDict, run: RunFolder, name: str, stage: ConfigDict, lock: int) -> list[str]:
    """Train the folds of one stage; a sentence for each case that could not be trained on."""
    folder = run.stages(config)[name]
    patches = patch_dataset.prepare(stage, _boxes(config, run, stage))
    folder.keep_split(patches.split)
    files.write_text(folder.recipe, recipe.to_json(stage) + "\n")
    files.write_text(run.recipe, recipe.to_json(config) + "\n")
    with catch_signals() as stop:
        if min(stage.folds_at_once, len(stage.folds)) > 1:
            at_once = stage.folds_at_once
            parallel_folds.train_folds(patches.folder, folder.path, stage.folds, at_once, stop, (lock,))
        else:
            for fold in stage.folds:
                if not stop:
                    loop.train_fold(stage, patches.folder, folder.fold(fold).path, fold, stop)
        if stop:  # also after the last step, or while a fold turned out to be trained already
            raise stop.stopped()
    return [f"{case}: {reason}" for case, reason in patches.failed]


def _finish(config: ConfigDict, request: Request) -> int:
    """Evaluate a cascade, which makes its page too; make the page of a single stage."""
    if recipe.is_cascade(config):
        from raunet_jax.commands import evaluate

        return evaluate.run(request)
    from raunet_jax.commands import report

    return report.run(request)


def _check_liver_source(config: ConfigDict, stage: ConfigDict) -> None:
    if not recipe.wants_predicted_liver(stage):
        return
    if stage.liver_source != "predicted":
        raise UsageError(f"config.liver_source is {stage.liver_source!r}; choose predicted or reference")
    if not recipe.is_cascade(config):
        raise UsageError(
            "config.liver_source=predicted needs the stages before: train a cascade, such as configs/liver.py"
        )


def _boxes(config: ConfigDict, run: RunFolder, stage: ConfigDict) -> Mapping[str, Box]:
    """The out-of-fold liver boxes that the patches of `stage` are cropped around, or none: those of the reference."""
    if not recipe.wants_predicted_liver(stage):
        return {}
    if not recipe.crops_around_predicted_liver(stage):
        log.warning(f"{stage.name}: config.liver_source=reference is used, as out-of-fold livers need all folds")
        return {}
    from raunet_jax.commands import out_of_fold

    split = run.stages(config)[out_of_fold.liver_stages(config)[-1]].read_split()
    return out_of_fold.liver_boxes(config, run.path, split)
