"""How each stage sees a volume: one rule for patch set and prediction (paper sections III-E to III-G and IV-F)."""

from ml_collections import ConfigDict

from raunet_jax import tasks
from raunet_jax.errors import UserError
from raunet_jax.imaging.geometry import Box, View, expand, whole


def view_for(stage: str, shape: tuple[int, int, int], liver_box: Box | None, config: ConfigDict) -> View:
    """The view that `stage` has of a volume.

    Its row in `tasks` says which: the whole volume, or the liver's box with `config.box_margin` voxels around it;
    either at the scan's own resolution, or resized in plane to the patch, slices untouched.

    Args:
        stage: name of a stage in `tasks.TASKS`.
        shape: of the volume, voxels (z, y, x).
        liver_box: bounding box of the liver without margin, voxels of the volume; not read where the whole volume is
            seen.
        config: `patch_size` (x, y, z) and `box_margin` are read.

    Raises:
        ValueError: an unknown stage, or a stage that needs the liver's box was given none.
    """
    row = tasks.stage_of(stage)
    size = (int(config.patch_size[1]), int(config.patch_size[0])) if row.resized else None
    if row.region == "volume":
        return View(whole(shape), size)
    if liver_box is None:
        raise UserError(f"stage {stage} looks inside the liver's box, and there is no liver voxel to draw one around")
    return View(expand(liver_box, config.box_margin, shape), size)
