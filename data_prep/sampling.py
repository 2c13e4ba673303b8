"""Which patches of a case are kept: how many, and where they begin (paper sections III-E to III-G and IV-F).

Everything here is pure: arrays and a random generator in, origins out. Positions are voxels (z, y, x) of the stage's
view of the case, padded at its end edges to at least one patch.
"""

import math
from fractions import Fraction

import numpy as np

PAPER_PATCHES_PER_CASE = {"voi": Fraction(5096, 130), "tumor": Fraction(150), "brain": Fraction(400)}
PHANTOM_PATCHES_PER_CASE = Fraction(1)  # of the 3D stages: a full-width step takes half a minute on two cores


def mean_patches(stage: str, source: str, patches_per_case: float) -> Fraction | None:
    """Mean number of patches a case: the recipe's, else the paper's, else None: the stage's own rule decides (coarse).

    Raises:
      ValueError: a negative number.
    """
    if patches_per_case < 0:
        raise ValueError(f"config.data.patches_per_case is {patches_per_case}; give 0 (the paper's count) or more")
    if patches_per_case > 0:
        return Fraction(patches_per_case).limit_denominator(1_000_000)
    paper = PAPER_PATCHES_PER_CASE.get(stage)
    return PHANTOM_PATCHES_PER_CASE if paper and source == "phantom" else paper


def case_patches(index: int, mean: Fraction | None) -> int | None:
    """Patches of the case at `index`, such that the first n cases have floor(n * mean) together; None stays None."""
    return None if mean is None else math.floor((index + 1) * mean) - math.floor(index * mean)


def patch_origins(stage, voxels, labels, patch_shape, count, foreground_fraction, rng) -> np.ndarray:
    """Draw where the patches of one case begin.

    coarse: every slice with liver and a random third of those without; `count` is the most that are kept of them.
    voi: runs of successive slices, start slices drawn without replacement, reshuffled when exhausted. The others:
    `foreground_fraction` of the patches around a random foreground voxel, off-center by up to a quarter patch, the
    others centered on a random voxel of healthy liver, or where any channel is above its lowest value; clipped into
    the view, which keeps that voxel inside the patch.

    Args:
      stage: coarse | voi | tumor | brain | custom.
      voxels: (z, y, x, channel) the padded view; read by stages brain and custom only.
      labels: (z, y, x) uint8 likewise: 1 liver and 2 tumor, or for brain and custom 1 what is to be found.
      patch_shape: (z, y, x), nowhere larger than the view.
      count: patches to draw; None for coarse keeps all that its rule keeps.
      foreground_fraction: 0 to 1; not read by stages coarse and voi.
      rng: numpy Generator.

    Returns:
      (patch, 3) int32 origins (z, y, x). None at all for stage tumor where there is no tumor (section III-G takes only
      the volumes that have one).

    Raises:
      ValueError: a view smaller than a patch, a share outside 0 to 1, a slice patch of several slices.
    """
    room = np.subtract(labels.shape, patch_shape)
    if (room < 0).any():
        raise ValueError(f"a view of {labels.shape} voxels is smaller than a patch of {tuple(patch_shape)}; pad it")
    if stage == "coarse":
        if patch_shape[0] != 1:
            raise ValueError(f"stage coarse takes single slices; config.patch_size has {patch_shape[0]} slices, not 1")
        return _along_z(_slices(labels, count, rng))
    if stage == "voi":
        return _along_z(_runs(room[0] + 1, count, rng))
    if not 0 <= foreground_fraction <= 1:
        raise ValueError(f"config.data.foreground_fraction is {foreground_fraction}; a share lies between 0 and 1")
    if stage == "tumor":
        tumor, healthy = labels == 2, labels == 1
        if not tumor.any():
            return np.zeros((0, 3), np.int32)
    else:
        tumor = labels > 0
        healthy = (voxels > voxels.min((0, 1, 2))).any(-1) & ~tumor
    around_tumor = math.floor(count * foreground_fraction + 0.5) if tumor.any() else 0
    jitter = np.asarray(patch_shape) // 4
    centers = np.concatenate(
        [
            _draw(tumor, around_tumor, rng) + rng.integers(-jitter, jitter + 1, (around_tumor, 3)),
            _draw(healthy if healthy.any() else np.ones_like(tumor), count - around_tumor, rng),
        ]
    )
    return np.clip(centers - np.asarray(patch_shape) // 2, 0, room).astype(np.int32)


def _slices(labels, most, rng) -> np.ndarray:
    with_liver = (labels > 0).any((1, 2))
    without = np.flatnonzero(~with_liver)
    kept = np.concatenate([np.flatnonzero(with_liver), rng.choice(without, round(len(without) / 3), replace=False)])
    if most is not None and most < len(kept):
        kept = rng.choice(kept, most, replace=False)
    return np.sort(kept)


def _runs(starts: int, count: int, rng) -> np.ndarray:
    rounds = [rng.permutation(starts) for _ in range(math.ceil(count / starts))]
    return np.concatenate([*rounds, np.zeros(0, np.int64)])[:count]


def _along_z(starts) -> np.ndarray:
    return np.stack([starts, np.zeros_like(starts), np.zeros_like(starts)], 1).astype(np.int32)


def _draw(mask, count: int, rng) -> np.ndarray:
    chosen = rng.choice(np.flatnonzero(mask), count) if count else np.zeros(0, np.int64)
    return np.stack(np.unravel_index(chosen, mask.shape), 1)
