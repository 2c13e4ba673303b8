"""Builds the patch sets of a recipe; train does so when they are missing."""

import logging
import pathlib

from ml_collections import ConfigDict

from data_prep import patch_dataset, stage_check
from raunet_jax import recipe, tasks
from raunet_jax.commands.request import Request
from raunet_jax.disk import check_writable
from raunet_jax.errors import UserError

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    """Exit status 1 when a case had to be left out of a patch set, or a stage has nothing to be trained on."""
    config, left_out = trainable(request.planned_recipe())
    status = 1 if left_out else 0
    for stage in recipe.stages_of(config).values():
        if recipe.crops_around_predicted_liver(stage):
            print(f"{stage.name}: its patches are cropped around what stages 1 and 2 find, once train has made these")
            continue
        patches = patch_dataset.prepare(stage)
        counts = ", ".join(f"{split} {count}" for split, count in patches.counts.items())
        print(f"{stage.name}: {sum(patches.counts.values())} patches ({counts}) in {patches.folder}")
        status = 1 if patches.failed else status
    return status


def trainable(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """The recipe with those stages that can be trained, and a sentence, logged too, where a cascade loses some.

    Raises:
        UserError: there is nothing to train any stage on, too few cases, or no place for patch sets.
    """
    for stage in recipe.stages_of(config).values():
        if not patch_dataset.finished(stage):  # sets that are there may lie on a disk that is read-only
            check_writable(pathlib.Path(stage.data.prepared).expanduser(), "config.data.prepared")
    untrainable = stage_check.untrainable(config)
    if not untrainable:
        return config, []
    names = list(recipe.stages_of(config))
    first = min(names.index(name) for name in untrainable)
    reason = untrainable[names[first]]
    if not first:
        raise UserError(f"{reason}; --mode=verify says what is wrong with each case")
    sentence = (
        f"{reason}. It is left out: trained are {', '.join(names[:first])}, and the run finds no "
        f"{tasks.stage_of(names[first]).structure}; add cases that have some, and train in another --workdir"
    )
    log.warning(sentence)
    return recipe.with_stages(config, names[:first]), [sentence]
