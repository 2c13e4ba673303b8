"""Shapes that the drawn phantoms are made of: smooth random fields, ellipsoids, blobs and noise, on (z, y, x) grids."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def smooth_field(rng: np.random.Generator, shape: Sequence[int], cells: Sequence[int]) -> np.ndarray:
    """A random field (float32, zero mean, unit deviation) of `shape` with about `cells` bumps along each axis.

    A tensor product of uniform cubic B-splines with normally distributed coefficients.
    """
    field = rng.standard_normal([count + 3 for count in cells]).astype(np.float32)
    for axis, (length, count) in enumerate(zip(shape, cells, strict=True)):
        field = np.moveaxis(np.tensordot(_spline_basis(length, count), field, axes=(1, axis)), 0, axis)
    field -= field.mean()
    return np.ascontiguousarray(field / max(field.std(), 1e-6))


def _spline_basis(length: int, cells: int) -> np.ndarray:
    place = (np.arange(length) + 0.5) * cells / length
    first = np.minimum(np.floor(place).astype(int), cells - 1)
    t = place - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    basis = np.zeros((length, cells + 3), np.float32)
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return basis


def radius(coordinates: Sequence[np.ndarray], center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Distance from `center` in units of `radii`: 1 on the surface of the ellipsoid. All three in the same order."""
    terms = [((x - c) / r) ** 2 for x, c, r in zip(coordinates, center, radii, strict=True)]
    return np.sqrt(sum(terms[1:], terms[0]))


def smoother_union(*levels: np.ndarray, softness: float) -> np.ndarray:
    """The smallest of the levels (radius-like, inside < 1), rounded where two are within about `softness`."""
    least = np.minimum.reduce(levels)
    return least - softness * np.log(sum(np.exp((least - level) / softness) for level in levels))


def paint(canvas: np.ndarray, where: np.ndarray, value: float | np.ndarray) -> None:
    """Set `canvas` to `value`, a number or an array of its shape, where the mask `where` is True."""
    np.copyto(canvas, np.asarray(value, canvas.dtype), where=where)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest component of `mask`, of voxels that touch by their faces; of equal ones the first."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def blob(
    rng: np.random.Generator,
    shape: Sequence[int],
    center: Sequence[float],
    radii: Sequence[float],
    roughness: float = 0.15,
) -> tuple[tuple[slice, ...], np.ndarray]:
    """An irregular ellipsoid on a grid of `shape`.

    Args:
        rng: of the surface's bumps.
        shape: voxels (z, y, x).
        center: voxels (z, y, x).
        radii: voxels (z, y, x).
        roughness: deviation of the surface, as a share of the radius.

    Returns:
        (the slices of the box that holds it, its radius-like level there: inside < 1).
    """
    reach = 1 + 3 * roughness
    box = tuple(
        slice(max(0, int(c - reach * r)), min(n, int(np.ceil(c + reach * r)) + 1))
        for c, r, n in zip(center, radii, shape, strict=True)
    )
    coordinates = np.ogrid[box]
    level = radius(coordinates, center, radii)
    return box, level * (1 + roughness * smooth_field(rng, level.shape, (3, 3, 3)))


def film_noise(rng: np.random.Generator, shape: Sequence[int], deviation: float) -> np.ndarray:
    """Noise (float32) that is grainy in plane and independent from slice to slice, as a reconstructed CT's is."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0, 0.55, 0.55))
    return noise * np.float32(deviation / max(noise.std(), 1e-6))
