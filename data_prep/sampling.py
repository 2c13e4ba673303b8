"""Which patches of a case are kept: how many, and where they start (paper sections III-E to III-G and IV-F).

Everything here is pure: arrays and a random generator in, origins out. Positions are voxels (z, y, x) of the stage's
view of the case, padded at its end edges to at least one patch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from raunet_jax import tasks
from raunet_jax.errors import UserError

PHANTOM_PATCHES_PER_CASE = Fraction(1)  # of the 3D stages: a full-width step takes half a minute on two cores


@dataclasses.dataclass(frozen=True)
class PaddedView:
    """What a stage sees of one case, at least one patch large.

    Attributes:
        stage: row of the stage; `foreground` and `region` are read.
        voxels: (z, y, x, channel) intensities.
        labels: (z, y, x) uint8 reference: 1 liver and 2 tumor; of merged tasks 1 foreground.
        patch_shape: (z, y, x) voxels, nowhere larger than the view.
    """

    stage: tasks.Stage
    voxels: np.ndarray
    labels: np.ndarray
    patch_shape: tuple[int, int, int]

    @property
    def room(self) -> np.ndarray:
        """(z, y, x) the largest origin of a patch that lies in the view."""
        return np.subtract(self.labels.shape, self.patch_shape)

    @property
    def foreground(self) -> np.ndarray:
        return self.labels >= self.stage.foreground

    @property
    def healthy(self) -> np.ndarray:
        """Liver without tumor; where the whole volume is seen, what is above the lowest value in any channel."""
        if self.stage.region == "liver box":
            return self.labels == tasks.LIVER.label
        return (self.voxels > self.voxels.min((0, 1, 2))).any(-1) & ~self.foreground


def mean_patches(stage: str, source: str, patches_per_case: float) -> Fraction | None:
    """Mean number of patches a case: the recipe's, else the paper's, else None: the sampler's own rule decides.

    Raises:
        ValueError: a negative number, or an unknown stage.
    """
    if patches_per_case < 0:
        raise UserError(f"config.data.patches_per_case is {patches_per_case}; give 0 (the paper's count) or more")
    if patches_per_case > 0:
        return Fraction(patches_per_case).limit_denominator(1_000_000)
    paper = tasks.stage_of(stage).patches_per_case
    return PHANTOM_PATCHES_PER_CASE if paper and source == "phantom" else paper


def case_patches(index: int, mean: Fraction | None) -> int | None:
    """Patches of the case at `index`, such that the first n cases have floor(n * mean) together; None stays None."""
    return None if mean is None else math.floor((index + 1) * mean) - math.floor(index * mean)


def patch_origins(
    stage: str,
    voxels: np.ndarray,
    labels: np.ndarray,
    patch_shape: tuple[int, int, int],
    count: int | None,
    foreground_fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw where the patches of one case start, by the stage's sampler.

    Args:
        stage: name of a stage in `tasks.TASKS`.
        voxels: (z, y, x, channel) the padded view; read by sampler "centered" of whole volumes only.
        labels: (z, y, x) uint8 likewise: 1 liver and 2 tumor; of merged tasks 1 foreground.
        patch_shape: (z, y, x) voxels, nowhere larger than the view.
        count: patches to draw; for sampler "slices" the most that are kept, None: all that its rule keeps.
        foreground_fraction: 0 to 1, read by sampler "centered" only.
        rng: all that is random is drawn from it.

    Returns:
        (patch, 3) int32 origins (z, y, x).

    Raises:
        ValueError: an unknown stage, a view smaller than a patch, a fraction outside 0 to 1, a slice patch of several
            slices.
    """
    view = PaddedView(tasks.stage_of(stage), voxels, labels, tuple(patch_shape))
    if (view.room < 0).any():
        raise ValueError(f"a view of {labels.shape} voxels is smaller than a patch of {tuple(patch_shape)}; pad it")
    if view.stage.sampler == "slices" and patch_shape[0] != 1:
        raise UserError(f"stage {stage} is shown single slices; config.patch_size has {patch_shape[0]}, not 1")
    origins = SAMPLERS[view.stage.sampler](view, count, foreground_fraction, rng)
    return origins.astype(np.int32)


def sample_slices(
    view: PaddedView, count: int | None, foreground_fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Every slice with foreground and a random third of those without, in order; at most `count` of them."""
    with_foreground = view.foreground.any((1, 2))
    without = np.flatnonzero(~with_foreground)
    third = rng.choice(without, round(len(without) / 3), replace=False)
    kept = np.concatenate([np.flatnonzero(with_foreground), third])
    if count is not None and count < len(kept):
        kept = rng.choice(kept, count, replace=False)
    return _along_z(np.sort(kept))


def sample_successive(view: PaddedView, count: int, foreground_fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Runs of successive slices; start slices are drawn without replacement, reshuffled when exhausted."""
    starts = view.room[0] + 1
    rounds = [rng.permutation(starts) for _ in range(math.ceil(count / starts))]
    return _along_z(np.concatenate([*rounds, np.zeros(0, np.int64)])[:count])


def sample_centered(view: PaddedView, count: int, foreground_fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Patches around random voxels: first the foreground ones, off-center by up to a quarter patch, then healthy ones.

    All are clipped into the view, which keeps that voxel inside the patch. Of a liver box without foreground there are
    none at all (section III-G takes only the volumes that have a tumor).
    """
    if not 0 <= foreground_fraction <= 1:
        raise UserError(f"config.data.foreground_fraction is {foreground_fraction}; a share lies between 0 and 1")
    foreground, healthy = view.foreground, view.healthy
    if view.stage.region == "liver box" and not foreground.any():
        return np.zeros((0, 3), np.int64)
    around_foreground = math.floor(count * foreground_fraction + 0.5) if foreground.any() else 0
    patch = np.asarray(view.patch_shape)
    jitter = patch // 4
    centers = np.concatenate(
        [
            _draw(foreground, around_foreground, rng) + rng.integers(-jitter, jitter + 1, (around_foreground, 3)),
            _draw(healthy if healthy.any() else np.ones_like(healthy), count - around_foreground, rng),
        ]
    )
    return np.clip(centers - patch // 2, 0, view.room)


SAMPLERS: Mapping[str, Callable[[PaddedView, int | None, float, np.random.Generator], np.ndarray]] = {
    "slices": sample_slices,
    "successive": sample_successive,
    "centered": sample_centered,
}


def _along_z(starts: np.ndarray) -> np.ndarray:
    return np.stack([starts, np.zeros_like(starts), np.zeros_like(starts)], 1)


def _draw(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) voxels of `mask`, drawn with replacement."""
    chosen = rng.choice(np.flatnonzero(mask), count) if count else np.zeros(0, np.int64)
    return np.stack(np.unravel_index(chosen, mask.shape), 1)
