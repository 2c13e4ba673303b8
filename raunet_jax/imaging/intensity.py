"""Intensities of a scan as the network sees them: the one copy, for patch set and prediction alike.

The paper's preprocessing of CT (section III-C) is a HU window, zero-mean normalization and min-max normalization to
[0, 1]. The last two are affine, so together they are one affine map of the windowed volume, which `encode` writes down
as (low, high) and `normalize` applies to any patch of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.errors import UserError

QUANTIZED_HIGH = 32767  # MR intensities have no unit and are stored as 0..32767


class Encoded(NamedTuple):
    """A volume as it is stored: `normalize(*encoded)` is what the network is given."""

    voxels: np.ndarray  # (z, y, x, channel) int16
    low: np.ndarray  # (channel,) float32: lower bound, mapped to 0
    high: np.ndarray  # (channel,) float32: upper bound, mapped to 1


def kind_of(modalities: Sequence[str]) -> str:
    """ "ct", whose intensities are HU, or "mr": anything else, each channel stretched by itself."""
    return "ct" if tuple(modalities) == ("ct",) else "mr"


def encode(voxels: np.ndarray, kind: str, window_hu: tuple[float, float] = (-100.0, 200.0)) -> Encoded:
    """Encode `voxels` (z, y, x, channel) so that `normalize` yields the paper's input.

    kind "ct": int16 HU stay as scanned; low and high are the extremes of the volume clipped to `window_hu`.
    kind "mr": each modality is stretched to 0..32767 and rounded; a constant one becomes 0.
    """
    if kind == "ct":
        below, above = window_hu
        if not below < above:
            raise UserError(f"window_hu is ({below}, {above}) HU; its first value must be the smaller one")
        extremes = voxels.min(axis=(0, 1, 2)), voxels.max(axis=(0, 1, 2))
        low, high = (np.clip(value.astype(np.float32), below, above).astype(np.float32) for value in extremes)
        return Encoded(voxels.astype(np.int16, copy=False), low, high)
    if kind != "mr":
        raise UserError(f'kind is "{kind}"; it can be "ct" or "mr"')
    stored = np.empty(voxels.shape, np.int16)
    for channel in range(voxels.shape[-1]):
        stored[..., channel] = np.rint(min_max(voxels[..., channel]) * QUANTIZED_HIGH)
    channels = voxels.shape[-1]
    return Encoded(stored, np.zeros(channels, np.float32), np.full(channels, QUANTIZED_HIGH, np.float32))


def normalize(voxels, low, high):
    """Map [low, high] to [0, 1] as float32, clipping what lies outside; 0 where low equals high.

    voxels: (b, *space, c) with low and high (b, c), or (*space, c) with (c,); NumPy or JAX arrays.
    """
    xp = voxels.__array_namespace__()
    low, high = xp.asarray(low, dtype=xp.float32), xp.asarray(high, dtype=xp.float32)
    spread = (*low.shape[:-1], *(1,) * (voxels.ndim - low.ndim), low.shape[-1])
    low, high = xp.reshape(low, spread), xp.reshape(high, spread)
    width = high - low
    clipped = xp.clip(xp.astype(voxels, xp.float32), low, high)
    return (clipped - low) / xp.where(width > 0, width, xp.ones_like(width))


def clip_hu(voxels: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """float32 HU, those outside the window set to its nearer end."""
    return np.clip(voxels.astype(np.float32), *np.float32(window_hu))


def zero_mean(voxels: np.ndarray) -> np.ndarray:
    """float32 (voxels - mean) / standard deviation; only the mean is taken off a constant volume."""
    deviation = voxels.std(dtype=np.float64)
    return ((voxels - voxels.mean(dtype=np.float64)) / (deviation or 1.0)).astype(np.float32)


def min_max(voxels: np.ndarray) -> np.ndarray:
    """float32 (voxels - minimum) / (maximum - minimum); a constant volume becomes 0."""
    low, high = np.float64(voxels.min()), np.float64(voxels.max())
    if high == low:
        return np.zeros(voxels.shape, np.float32)
    return ((voxels - low) / (high - low)).astype(np.float32)
