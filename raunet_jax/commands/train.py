"""Trains every fold of every stage of a recipe; a cascade is then evaluated."""

import logging
import os
import pathlib

from ml_collections import ConfigDict

from data_prep import patch_dataset
from raunet_jax import files, recipe
from raunet_jax.commands import evaluate, out_of_fold, report
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.inference.models import check_inference
from raunet_jax.run_folder import RunFolder, check_same_recipe
from raunet_jax.signals import catch_signals
from raunet_jax.training import augmentation, loop, parallel_folds

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    """Case failures along the way make the exit status 1."""
    config, run = request.planned_recipe(), request.run
    cascade = "stages" in config
    places = {name: run / name if cascade else run for name in recipe.stages_of(config)}
    for name, stage in recipe.stages_of(config).items():  # before anything is written over what is there
        for fold in stage.folds:
            begun = places[name] / f"fold_{fold}" / "config.json"
            if begun.is_file():
                check_same_recipe(begun.parent, recipe.load(begun), stage)
    for stage in recipe.stages_of(config).values():
        augmentation.from_recipe(stage)  # these raise, before days of training, where a field does not fit
        check_inference(stage)
        if stage.folds_at_once > 1:  # the folds' processes need the memory that this one would keep for itself
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    failed: list[str] = []
    for name, stage in recipe.stages_of(config).items():
        place = places[name]
        patches = patch_dataset.prepare(stage, _boxes(config, run, stage))
        failed += [f"{case}: {reason}" for case, reason in patches.failed]
        RunFolder(place).keep_split(patches.split)
        files.write_text(place / "config.json", recipe.to_json(stage) + "\n")
        files.write_text(run / "config.json", recipe.to_json(config) + "\n")
        with catch_signals() as stop:
            if min(stage.folds_at_once, len(stage.folds)) > 1:
                parallel_folds.train_folds(patches.folder, place, stage.folds, stage.folds_at_once, stop)
            else:
                for fold in stage.folds:
                    loop.train_fold(stage, patches.folder, place / f"fold_{fold}", fold, stop)
    status = evaluate.run(request) if cascade else report.run(request)
    for line in dict.fromkeys(failed):
        log.warning(f"not trained on {line}")
    return 1 if failed else status


def _boxes(config: ConfigDict, run: pathlib.Path, stage: ConfigDict) -> dict:
    """The out-of-fold liver boxes that the patches of `stage` are cut around, or none: those of the reference."""
    if stage.liver_source == "reference" or stage.stage != "tumor":
        return {}
    if stage.liver_source != "predicted":
        raise UsageError(f"config.liver_source is {stage.liver_source!r}; choose predicted or reference")
    if "stages" not in config:
        raise UsageError(
            "config.liver_source=predicted needs the stages before: train a cascade, such as configs/liver.py"
        )
    if set(stage.folds) < set(range(stage.data.folds)):
        log.warning(f"{stage.name}: config.liver_source=reference is used, as out-of-fold livers need all folds")
        return {}
    return out_of_fold.liver_boxes(config, run, RunFolder(run / "voi").read_split())
