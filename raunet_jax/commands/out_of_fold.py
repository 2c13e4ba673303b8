"""Liver boxes for stage 3's patches from stage 2 models that never saw the case, as stage 3 meets them in use."""

import logging
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from data_prep.cases import find_cases, read_image
from raunet_jax import recipe, tasks
from raunet_jax.errors import FileError, NotFound
from raunet_jax.files import read_json, write_json
from raunet_jax.imaging.geometry import Box, bounding_box
from raunet_jax.inference.cascade import segment
from raunet_jax.inference.models import load_cascade
from raunet_jax.progress import progress
from raunet_jax.read_ahead import keep_result, pipeline
from raunet_jax.run_folder import TEST, RunFolder, fold_part
from raunet_jax.shapes import CORNER

log = logging.getLogger("raunet_jax")


def liver_boxes(config: ConfigDict, run: pathlib.Path, split: Mapping[str, Mapping]) -> dict[str, Box]:
    """The box around the liver that stages 1 and 2 find in each case of the trained folds, by case name.

    A case of fold k is segmented by stage 1 and by stage 2's model of fold k. A case without a box is one of a fold
    that is not trained, one that cannot be read or is too big for the memory, or one in which no liver is found: its
    patches are cropped around the reference liver, and this is said.

    What is found is kept in RUN/voi/boxes.json, case by case, and found again only when the models have changed, or
    their threshold, their vote or how windows are laid and merged.

    Args:
        config: the cascade's recipe.
        run: its run folder; stages coarse and voi are trained.
        split: stage voi's, from split.json.
    """
    through = liver_stages(config)
    stage = config.stages[through[-1]]
    path = RunFolder(run).stages(config)[through[-1]].boxes
    wanted = {name: fold for fold in stage.folds for name in split.get(fold_part(fold), ())}
    cases = {case.name: case for case in find_cases(stage) if case.name in wanted}
    models = {str(fold): load_cascade(run, config, fold, through) for fold in stage.folds}
    made_by = {
        "steps": {fold: [step for model in stages.values() for step in model.steps] for fold, stages in models.items()},
        "inference": {name: _inference(config.stages[name]) for name in through},
    }
    known = _known(path)
    same = all(known.get(field) == value for field, value in made_by.items())
    found = {name: box for name, box in known.get("boxes", {}).items() if name in cases and same}
    with progress("out-of-fold livers", len(cases), len(found)) as bar:

        def work(case, volume):
            return bounding_box(segment(volume, models[str(wanted[case.name])]).labels)

        def finish(case, outcome, saving):
            def keep(box):
                found[case.name] = box
                with saving():
                    write_json(path, made_by | {"boxes": found})

            reason = keep_result(outcome, keep)
            if reason:
                log.warning(f"{case.name}: no out-of-fold liver ({reason})")
            bar.advance(1, case.name)

        others = [case for name, case in cases.items() if name not in found]
        pipeline(others, lambda case: read_image(case, stage), work, finish, lambda volume: volume.voxels.size)
    missing = sorted(name for part, names in split.items() if part != TEST for name in names if not found.get(name))
    if missing:
        log.warning(
            f"{len(missing)} cases have no out-of-fold liver and are cropped around the reference: {', '.join(missing)}"
        )
    return {name: Box(*(tuple(side) for side in box)) for name, box in found.items() if box}


def _known(path: pathlib.Path) -> dict:
    """What boxes.json holds; nothing where there is none, or a damaged one, whose boxes are found again."""
    try:
        return read_json(path, "the boxes are found again", {"boxes": {str: (None, [CORNER, CORNER])}})
    except NotFound:
        return {}
    except FileError as error:
        log.warning(f"warning: {error}")
        return {}


def liver_stages(config: ConfigDict) -> tuple[str, ...]:
    """The stages of a cascade that find the liver, the last of which gives it."""
    return tuple(name for name in recipe.stages_of(config) if tasks.stage_of(name).structure == "liver")


def _inference(stage: ConfigDict) -> dict:
    """What a recipe may change of a trained stage's answer; the windows' batch size and skipping change none."""
    merged = {"window_weights": stage.window.weights, "window_mirror": sorted(stage.window.mirror)}
    chosen = {name: value for name, value in merged.items() if value not in ("uniform", [])}
    return {"threshold": stage.threshold, "vote": stage.vote, "window_step": list(stage.window.step)} | chosen
