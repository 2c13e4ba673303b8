"""Boxes, in-plane resizing and padding, with the exact way back to the volume's grid. Arrays are (z, y, x)."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

_CHUNK_BYTES = 64 << 20  # of float32 output that `resize_in_plane` works on at once

Shape = tuple[int, int, int]


class Box(NamedTuple):
    """A block of voxels, `stop` exclusive."""

    start: Shape  # (z, y, x)
    stop: Shape

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def shape(self) -> Shape:
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))


def whole(shape: Shape) -> Box:
    """The box of an entire volume of `shape` (z, y, x)."""
    return Box((0, 0, 0), tuple(int(size) for size in shape[:3]))


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the non-zero voxels of `mask` (z, y, x); None when there are none."""
    rows = mask.any(axis=2)
    used = [np.flatnonzero(line) for line in (rows.any(axis=1), rows.any(axis=0), mask.any(axis=(0, 1)))]
    if not used[0].size:
        return None
    return Box(tuple(int(line[0]) for line in used), tuple(int(line[-1]) + 1 for line in used))


def expand(box: Box, margin: int, shape: Shape) -> Box:
    """`box` grown by `margin` voxels on every side, clipped to a volume of `shape` (z, y, x)."""
    return Box(
        tuple(max(0, start - margin) for start in box.start),
        tuple(min(size, stop + margin) for size, stop in zip(shape, box.stop, strict=True)),
    )


def resize_in_plane(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (z, y, x[, c]) to `size` (y, x) as float32: linear, half-pixel centers, edge pixels repeated outside.

    Output pixel i samples input coordinate (i + 1/2) * input size / output size - 1/2, so that both images cover the
    same extent. The same size gives an exact copy.
    """
    if min(size) < 1:
        raise ValueError(f"cannot resize to {size[0]} x {size[1]} pixels (y, x)")
    if array.shape[1:3] == tuple(size):
        return array.astype(np.float32)
    out = np.empty((array.shape[0], *size, *array.shape[3:]), np.float32)
    chunk = max(1, _CHUNK_BYTES // max(1, out[:1].nbytes, 4 * math.prod(array.shape[1:])))
    for first in range(0, array.shape[0], chunk):
        part = _resize_axis(array[first : first + chunk], 1, size[0])
        out[first : first + chunk] = _resize_axis(part, 2, size[1])
    return out


def _resize_axis(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    length = array.shape[axis]
    if length == size:
        return array.astype(np.float32, copy=False)
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    before = np.minimum(at.astype(int), max(0, length - 2))
    weight = (at - before).astype(np.float32).reshape((-1,) + (1,) * (array.ndim - axis - 1))
    lower = array.take(before, axis).astype(np.float32)
    upper = array.take(np.minimum(before + 1, length - 1), axis).astype(np.float32)
    # lower + (upper - lower) * weight: a constant stays exactly itself
    upper -= lower
    upper *= weight
    upper += lower
    return upper


@dataclasses.dataclass(frozen=True)
class View:
    """How a stage sees a volume: a box of it, resized in plane or not, and the way back."""

    box: Box
    size: tuple[int, int] | None  # (y, x) pixels the box is resized to; None = the original resolution

    @property
    def shape(self) -> Shape:
        """(z, y, x) of what the stage sees."""
        return (self.box.shape[0], *(self.size or self.box.shape[1:]))

    def image(self, voxels: np.ndarray) -> np.ndarray:
        """Crop and resize int16 (z, y, x, c), rounded back to int16."""
        part = voxels[self.box.slices]
        if part.shape[1:3] == self.shape[1:]:
            return part.copy()
        return np.rint(resize_in_plane(part, self.size)).astype(np.int16)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Crop and resize uint8 labels (z, y, x).

        Labels are nested (tumor lies in liver): a pixel is at least L where more than half of it was at least L, so
        no label is interpolated into another.
        """
        part = mask[self.box.slices]
        if part.shape[1:] == self.shape[1:]:
            return part.astype(np.uint8)
        out = np.zeros(self.shape, np.uint8)
        for label in range(1, int(part.max()) + 1):
            if (part == label).any():
                out[resize_in_plane(part >= label, self.size) >= 0.5] = label
        return out

    def back(self, probabilities: np.ndarray, shape: Shape) -> np.ndarray:
        """Put `probabilities` (z, y, x) of the view onto the volume's grid: float32 of `shape`, 0 outside the box."""
        if probabilities.shape != self.shape:
            raise ValueError(f"probabilities have shape {probabilities.shape}; this view's shape is {self.shape}")
        out = np.zeros(shape, np.float32)
        out[self.box.slices] = resize_in_plane(probabilities, self.box.shape[1:])
        return out


def pad_to(voxels: np.ndarray, shape: Shape, value) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """Pad (z, y, x[, c]) at the end of each axis to at least `shape` (z, y, x); also return the slices that undo it.

    value: a scalar or one per channel (c,). Nothing is copied when nothing is to be padded.
    """
    inner = tuple(slice(0, size) for size in voxels.shape[:3])
    target = tuple(max(size, wanted) for size, wanted in zip(voxels.shape[:3], shape, strict=True))
    if target == voxels.shape[:3]:
        return voxels, inner
    padded = np.empty((*target, *voxels.shape[3:]), voxels.dtype)
    padded[...] = np.asarray(value).astype(voxels.dtype)
    padded[inner] = voxels
    return padded, inner
