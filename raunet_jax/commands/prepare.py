"""Builds the patch sets of a recipe; train does so when they are missing."""

from data_prep import patch_dataset
from raunet_jax import recipe
from raunet_jax.commands.request import Request


def run(request: Request) -> int:
    """Exit status 1 when a case had to be left out of a patch set."""
    status = 0
    for stage in recipe.stages_of(request.planned_recipe()).values():
        if recipe.crops_around_predicted_liver(stage):
            print(f"{stage.name}: its patches are cropped around what stages 1 and 2 find, once train has made these")
            continue
        patches = patch_dataset.prepare(stage)
        counts = ", ".join(f"{split} {count}" for split, count in patches.counts.items())
        print(f"{stage.name}: {sum(patches.counts.values())} patches ({counts}) in {patches.folder}")
        status = 1 if patches.failed else status
    return status
