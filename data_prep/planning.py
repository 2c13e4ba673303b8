"""What a recipe leaves open, worked out from the data set: channels, patch, batch, HU window, patches a case."""

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from ml_collections import ConfigDict

from data_prep import layouts
from data_prep.cases import find_cases, read_case
from data_prep.description import read_description
from raunet_jax.errors import UserError
from raunet_jax.files import look_below
from raunet_jax.imaging.grid import VolumeError
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.nifti_reader import open_header
from raunet_jax.progress import progress
from raunet_jax.tasks import task_of

log = logging.getLogger("raunet_jax")

UNIT = 32  # every side of a patch is a multiple of it
PATCH_VOXELS = 128 * 128 * 32  # at most: the paper's stage 3
STEP_VOXELS = 2 * PATCH_VOXELS
WINDOW_CASES = 20  # of so many the intensities are looked at
WINDOW_PERCENTILES = (0.5, 99.5)


def plan(config: ConfigDict) -> ConfigDict:
    """The recipe; of a task that may leave fields open, a copy with those that are empty or 0 filled in, and said.

    Args:
        config: a stage's recipe, or a cascade's, which leaves nothing open. Filled in are `data.modalities`,
            `patch_size`, `batch_size`, `data.patches_per_case` and, of CT, `window_hu`.

    Raises:
        DataNotFound: no case.
        ValueError: a dataset.json that cannot be used, several that differ, or a foreground label that it does not
            have; no scan can be read, or no voxel is labeled.
    """
    if "stage" not in config or not task_of(config.stage).planned:
        return config
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        _read_descriptions(config)
        cases = find_cases(config)
        shape, spacing = _median_grid([case.images[0] for case in cases])
        if not any(config.patch_size):
            config.patch_size = patch_size(shape, spacing)
        voxels = int(np.prod(config.patch_size))
        if not config.batch_size:
            config.batch_size = int(np.clip(STEP_VOXELS // voxels, 2, 32))
        if not config.data.patches_per_case:
            config.data.patches_per_case = float(max(2, np.ceil(2 * np.prod(shape) / voxels)))
        if kind_of(config.data.modalities) == "ct" and not any(config.window_hu):
            config.window_hu = _window(cases, config)
    scan, mm, patch = ("x".join(f"{side:.4g}" for side in sides) for sides in (shape, spacing, config.patch_size))
    log.info(
        f"{config.name}: {len(cases)} cases, {', '.join(config.data.modalities)}, median {scan} voxels of {mm} mm; "
        f"patch {patch}, batch {config.batch_size}, {config.data.patches_per_case:g} patches a case"
    )
    return config


def patch_size(shape: Sequence[float], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """The patch (x, y, z) for scans of `shape` voxels and `spacing_mm`, both (x, y, z).

    Each side is the multiple of 32 nearest to the scan's; while the patch has more voxels than the paper's stage 3, the
    side that is longest in mm is shortened.
    """
    size = [max(UNIT, UNIT * round(length / UNIT)) for length in shape]
    while np.prod(size) > PATCH_VOXELS:
        longest = max((axis for axis in range(3) if size[axis] > UNIT), key=lambda axis: size[axis] * spacing_mm[axis])
        size[longest] -= UNIT
    return tuple(size)


def _read_descriptions(config: ConfigDict) -> None:
    root = Path(config.data.root).expanduser()
    found = [read_description(path) for path in look_below(root).files if path.name == "dataset.json"]
    if not found:
        return  # find_cases says what is missing
    if len({description.modalities for description in found}) > 1:
        raise UserError(
            f"{found[0].path} and {found[1].path} name other channels; point config.data.root at one of them"
        )
    if not config.data.modalities:
        config.data.modalities = found[0].modalities
    missing = sorted(set(config.data.foreground) - set(found[0].labels))
    if missing:
        raise UserError(
            f"config.data.foreground={tuple(config.data.foreground)}: {found[0].path} has no label {missing}, it has "
            f"{found[0].structures}"
        )


def _median_grid(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Median shape (voxels) and spacing (mm) of the scans, both (x, y, z), from their headers."""
    shapes, spacings = [], []
    for path in paths:
        try:
            grid = open_header(path)[1]
        except VolumeError as error:
            log.warning(f"{path}: not looked at ({error.problem}); --mode=verify says more")
            continue
        spacings.append(nib.affines.voxel_sizes(grid.canonical_affine))
        shapes.append(grid.canonical_shape[::-1])
    if not shapes:
        raise VolumeError(paths[0].parent, "not one scan can be read", "--mode=verify says why")
    return np.median(shapes, axis=0), np.median(spacings, axis=0)


def _window(cases: Sequence[layouts.Case], config: ConfigDict) -> tuple[float, float]:
    """HU between which nearly all voxels of the foreground lie, to full tens."""
    looked_at, values = cases[:: max(1, len(cases) // WINDOW_CASES)][:WINDOW_CASES], []
    with progress("looking at intensities", len(looked_at)) as bar:
        for case in looked_at:
            try:
                volume, mask = read_case(case, config)
                values.append(volume.voxels[mask > 0].ravel())
            except (VolumeError, OSError) as error:
                log.warning(f"{case.name}: not looked at ({error})")
            bar.advance(1, case.name)
    inside = np.concatenate(values) if values else np.zeros(0)
    if not inside.size:
        raise UserError(f"no voxel is labeled in {len(looked_at)} cases; set config.window_hu, and see --mode=verify")
    low, high = np.percentile(inside, WINDOW_PERCENTILES)
    low, high = 10 * np.floor(low / 10), 10 * np.ceil(high / 10)
    return float(low), float(max(high, low + 10))
