"""How each stage sees a volume: one rule for patch set and prediction (paper sections III-E to III-G and IV-F)."""

from raunet_jax.imaging.geometry import Box, View, expand, whole

FOREGROUND = {
    "coarse": 1,
    "voi": 1,
    "tumor": 2,
    "brain": 1,
    "custom": 1,
}  # the lowest label that a stage's network is to find
STAGES = tuple(FOREGROUND)


def view_for(stage: str, shape: tuple[int, int, int], liver_box: Box | None, config) -> View:
    """The view that `stage` has of a volume.

    coarse: every slice of the whole volume, resized in plane to the patch. voi: the liver's box and `config.box_margin`
    voxels around it, resized in plane to the patch, slices untouched. tumor: the same box at the scan's own
    resolution. brain, custom: the whole volume as it is.

    Args:
      stage: one of STAGES.
      shape: of the volume, voxels (z, y, x).
      liver_box: bounding box of the liver without margin, voxels of the volume; read by stages voi and tumor only.
      config: `patch_size` (x, y, z) and `box_margin` are read.

    Raises:
      ValueError: an unknown stage, or a stage that needs the liver's box was given none.
    """
    if stage not in STAGES:
        raise ValueError(f"config.stage is {stage!r}; choose {', '.join(STAGES)}")
    in_plane = (int(config.patch_size[1]), int(config.patch_size[0]))
    if stage == "coarse":
        return View(whole(shape), in_plane)
    if stage in ("brain", "custom"):
        return View(whole(shape), None)
    if liver_box is None:
        raise ValueError(f"stage {stage} looks inside the liver's box, and there is no liver voxel to draw one around")
    return View(expand(liver_box, config.box_margin, shape), in_plane if stage == "voi" else None)
