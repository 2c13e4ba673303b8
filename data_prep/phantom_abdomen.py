"""A drawn portal-venous CT of the upper abdomen: organs at their usual attenuation and place, liver and lesions known.

Every shape is a level set in cavity coordinates: u toward the patient's right, v toward the front (both 1 at the
wall of the abdominal cavity), w from 0 at the lowest slice to 1 at the highest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_prep import drawing
from raunet_jax.imaging.volume import Grid, Volume

HU = {
    "air": -1000, "fat": -100, "skin": 0, "muscle": 58, "bone": 480, "marrow": 230, "cord": 30, "lung": -840,
    "heart": 130, "spleen": 118, "cortex": 185, "medulla": 140, "aorta": 165, "cava": 135, "stomach": 22, "bowel": 45,
    "gas": -900, "gallbladder": 8, "table": 60, "foam": -920,
}  # fmt: skip
LIVER_HU = (97, 117)
LESION_HU = (45, 68)
VESSEL_CONTRAST_HU = 50
NO_LESION_SHARE = 1 / 8
MOST_LESIONS = 6
NOISE_HU = (10, 15)
BODY_HALF_WIDTH_MM = (155, 200)
COVERAGE_MM = (190, 250)  # height of the scanned block
SLICE_MM = (1.0, 5.0)


class _Body(NamedTuple):
    u: np.ndarray  # cavity coordinates (z, y, x)
    v: np.ndarray
    w: np.ndarray  # (z, 1, 1)
    skin: np.ndarray  # radius-like, 1 at the skin
    cavity: np.ndarray  # radius-like, 1 at the inner side of the abdominal wall
    wall: float  # outer radius of the wall, in units of `skin`
    half_width_voxels: float

    def ellipsoid(self, center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        return drawing.radius((self.u, self.v, self.w), center, radii)

    def cylinder(self, center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        return drawing.radius((self.u, self.v), center, radii)


def draw_abdomen(rng: np.random.Generator, size_xyz: Sequence[int]) -> tuple[Volume, np.ndarray]:
    """A CT of about `size_xyz` voxels (the slice count varies by a quarter) and its labels.

    One case in eight has no lesion, the others one to six.

    Returns:
        Volume, voxels int16 (z, y, x, 1) in HU, noise of 10 to 15 HU, canonical orientation.
        labels, uint8 (z, y, x): 1 liver, 2 lesion.
    """
    width, height, depth = size_xyz
    slices = max(8, round(depth * rng.uniform(0.75, 1.25)))
    shape = (slices, height, width)
    body = _draw_body(rng, shape)
    in_plane_mm = rng.uniform(*BODY_HALF_WIDTH_MM) / body.half_width_voxels
    slice_mm = float(np.clip(rng.uniform(*COVERAGE_MM) / slices, *SLICE_MM))
    spacing_mm = (slice_mm, in_plane_mm, in_plane_mm)

    canvas = np.full(shape, HU["air"], np.float32)
    _paint_table(canvas, body)
    _paint_wall(rng, canvas, body)
    lungs, top = _paint_chest(canvas, body)
    _paint_bowel(rng, canvas, body, lungs)
    kidney = _paint_left_and_back(rng, canvas, body, lungs)
    liver = _liver(rng, body, lungs, top, kidney)
    liver_hu = rng.uniform(*LIVER_HU)
    drawing.paint(canvas, liver, liver_hu)
    gallbladder = body.ellipsoid((0.3, 0.42, 0.45), (0.1, 0.13, 0.09)) < 1
    drawing.paint(canvas, gallbladder & (body.cavity < 0.93) & ~lungs, HU["gallbladder"])
    liver &= ~gallbladder
    _paint_spine(canvas, body)
    _paint_vessels(rng, canvas, body, liver, liver_hu + VESSEL_CONTRAST_HU, spacing_mm)
    labels = liver.astype(np.uint8)
    _paint_lesions(rng, canvas, labels, spacing_mm)

    canvas = ndimage.gaussian_filter(canvas, (0.3, 0.55, 0.55))
    texture = drawing.smooth_field(rng, shape, [max(2, n // 4) for n in shape])
    canvas += texture * np.float32(4.0) * (canvas > -300)
    canvas += drawing.film_noise(rng, shape, rng.uniform(*NOISE_HU))
    voxels = np.rint(np.clip(canvas, -1024, 3071)).astype(np.int16)[..., None]

    affine = np.diag([in_plane_mm, in_plane_mm, slice_mm, 1.0])
    affine[:3, 3] = [-in_plane_mm * width / 2, -in_plane_mm * height / 2, rng.uniform(-900, 300)]
    grid = Grid(shape_xyz=(width, height, slices), affine=affine, header=None)
    return Volume(voxels=voxels, affine=affine, grid=grid, name="drawn abdomen"), labels


def _draw_body(rng: np.random.Generator, shape: tuple[int, int, int]) -> _Body:
    slices, height, width = shape
    flatness = rng.uniform(0.68, 0.78)
    half_width = rng.uniform(0.88, 0.95) * min(width / 2, height / 2 / flatness)
    z, y, x = np.ogrid[:slices, :height, :width]
    shift = rng.uniform(-0.02, 0.02, 2)
    u = ((x - (width - 1) / 2) / half_width + shift[0]).astype(np.float32)
    v = ((y - (height - 1) / 2) / (half_width * flatness) + shift[1]).astype(np.float32)
    w = ((z + 0.5) / slices).astype(np.float32)
    u = u + 0.02 * drawing.smooth_field(rng, shape, (2, 3, 3))
    v = v + 0.02 * drawing.smooth_field(rng, shape, (2, 3, 3))
    skin = (np.abs(u) ** 2.25 + np.abs(v) ** 2.25) ** np.float32(1 / 2.25)
    wall = rng.uniform(0.84, 0.93)
    inner = wall - 0.07
    return _Body(u / inner, v / inner, w, skin, skin / inner, wall, half_width)


def _paint_table(canvas: np.ndarray, body: _Body) -> None:
    u, v = body.u * (body.wall - 0.07), body.v * (body.wall - 0.07)
    below = -1.1 + 0.09 * u**2 - v
    shell = max(0.02, 1.5 / body.half_width_voxels)  # two voxels, or blurring hides it
    across = np.abs(u) < 0.75
    drawing.paint(canvas, (below > 0) & (below < 0.14) & across, HU["foam"])
    drawing.paint(canvas, ((np.abs(below) < shell) | (np.abs(below - 0.14) < shell)) & across, HU["table"])


def _paint_wall(rng: np.random.Generator, canvas: np.ndarray, body: _Body) -> None:
    drawing.paint(canvas, body.skin < 1, HU["skin"])
    drawing.paint(canvas, body.skin < 0.985, HU["fat"])
    drawing.paint(canvas, body.skin < body.wall, HU["muscle"])
    drawing.paint(canvas, body.cavity < 1, HU["fat"])
    angle = np.arctan2(np.abs(body.u), -body.v)  # 0 at the spine, pi at the navel
    ribs = np.cos(9 * angle + 2 * np.pi * 6 * body.w + rng.uniform(0, 6)) > 0.62
    ribs &= (np.abs(body.cavity - 1.045) < 0.035) & (angle > 0.35) & (angle < 1.2 + 1.3 * body.w) & (body.w > 0.3)
    drawing.paint(canvas, ribs, HU["bone"])


def _paint_chest(canvas: np.ndarray, body: _Body) -> tuple[np.ndarray, float]:
    """Lungs above the two domes of the diaphragm, and the heart between them; also returns the right dome's height."""
    u, v, w = body.u, body.v, body.w
    right, left = 0.9, 0.86
    dome = np.maximum(
        right - 0.5 * (u - 0.42) ** 2 - 0.28 * (v - 0.12) ** 2, left - 0.5 * (u + 0.42) ** 2 - 0.28 * (v - 0.12) ** 2
    )
    above = (body.cavity < 0.985) & (w > dome)
    mediastinum = (np.abs(u) < 0.13) & (v < 0.1)
    heart = body.ellipsoid((-0.16, 0.36, 1.04), (0.42, 0.42, 0.2)) < 1
    drawing.paint(canvas, above, HU["lung"])
    drawing.paint(canvas, above & mediastinum, HU["muscle"])
    drawing.paint(canvas, heart & (body.cavity < 0.97), HU["heart"])
    return above | (heart & (body.cavity < 0.97)), right


def _paint_bowel(rng: np.random.Generator, canvas: np.ndarray, body: _Body, lungs: np.ndarray) -> None:
    loops = drawing.smooth_field(rng, canvas.shape, (6, 11, 13))
    reach = drawing.smooth_field(rng, canvas.shape, (2, 4, 4))
    where = (body.cavity < 0.9 + 0.04 * reach) & (body.v > -0.28 + 0.12 * reach) & ~lungs
    where &= body.w < 0.54 + 0.04 * reach
    drawing.paint(canvas, where & (loops > -0.45), HU["bowel"])
    drawing.paint(canvas, where & (loops > 0.35), HU["stomach"])
    drawing.paint(canvas, where & (loops > 1.2) & (body.v > 0.05), HU["gas"])


def _paint_left_and_back(rng: np.random.Generator, canvas: np.ndarray, body: _Body, lungs: np.ndarray) -> np.ndarray:
    """Stomach, spleen, kidneys and the great vessels; returns the right kidney with the fat around it."""
    free = (body.cavity < 0.95) & ~lungs
    stomach = body.ellipsoid((-0.4, 0.34, rng.uniform(0.6, 0.68)), (0.34, 0.3, 0.17))
    drawing.paint(canvas, free & (stomach < 1.15), HU["fat"])
    drawing.paint(canvas, free & (stomach < 1), HU["bowel"])
    drawing.paint(canvas, free & (stomach < 0.9), HU["stomach"])
    drawing.paint(canvas, free & (stomach < 0.88) & (body.v > rng.uniform(0.34, 0.48)), HU["gas"])
    spleen = body.ellipsoid((-0.72, -0.22, rng.uniform(0.6, 0.68)), (0.27, 0.46, 0.2))
    hollow = body.ellipsoid((-0.44, -0.1, 0.64), (0.22, 0.34, 0.4))
    drawing.paint(canvas, free & (spleen < 1) & (hollow > 1), HU["spleen"])
    around_right = None
    for side, middle in ((-1, rng.uniform(0.38, 0.46)), (1, rng.uniform(0.3, 0.38))):
        kidney = body.ellipsoid((0.5 * side, -0.48, middle), (0.19, 0.24, 0.2))
        sinus = body.ellipsoid((0.36 * side, -0.4, middle), (0.13, 0.1, 0.1))
        drawing.paint(canvas, free & (kidney < 1.2), HU["fat"])
        drawing.paint(canvas, free & (kidney < 1), HU["cortex"])
        drawing.paint(canvas, free & (kidney < 0.68), HU["medulla"])
        drawing.paint(canvas, free & (kidney < 1.05) & (sinus < 1), HU["fat"])
        around_right = kidney < 1.2
    drawing.paint(canvas, body.cylinder((-0.08, -0.34), (0.075, 0.1)) < 1, HU["aorta"])
    drawing.paint(canvas, body.cylinder((0.13, -0.3), (0.085, 0.095)) < 1, HU["cava"])
    return around_right


def _paint_spine(canvas: np.ndarray, body: _Body) -> None:
    u, v = body.u, body.v
    phase = np.mod(body.w * 7, 1)  # seven vertebrae in the block
    for side in (-1, 1):
        drawing.paint(canvas, body.cylinder((0.24 * side, -0.86), (0.2, 0.19)) < 1, HU["muscle"])
    vertebra = body.cylinder((0, -0.62), (0.17, 0.2))
    drawing.paint(canvas, vertebra < 1.08, HU["muscle"])
    drawing.paint(canvas, vertebra < 1, np.where(phase < 0.16, 85, HU["marrow"]))
    drawing.paint(canvas, (vertebra < 1) & (vertebra > 0.84) & (phase >= 0.16), HU["bone"])
    arch = body.cylinder((0, -0.88), (0.11, 0.11)) < 1
    arch |= (np.abs(v + 0.87) < 0.04) & (np.abs(u) < 0.28) & (phase > 0.55)
    arch |= (np.abs(u) < 0.035) & (v < -0.88) & (v > -1.12) & (phase > 0.4)
    drawing.paint(canvas, arch, HU["bone"])
    drawing.paint(canvas, body.cylinder((0, -0.86), (0.065, 0.07)) < 1, HU["cord"])


def _liver(rng: np.random.Generator, body: _Body, lungs: np.ndarray, top: float, kidney: np.ndarray) -> np.ndarray:
    """Right lobe that narrows downward, left lobe across the midline, cut by its neighbors: bool (z, y, x)."""
    grown = rng.uniform(0.9, 1.06)
    tip = rng.uniform(0.24, 0.34)
    middle, half = (top + tip) / 2, (top - tip) / 2
    narrowing = 0.62 + 0.38 * np.clip((body.w - tip) / 0.4, 0, 1)  # of the right lobe toward its tip
    right_lobe = drawing.radius(
        ((body.u - 0.62) / narrowing, (body.v + 0.02) / narrowing, body.w),
        (-0.1, rng.uniform(-0.05, 0.05), middle),
        (0.47 * grown, 0.72 * grown, half),
    )
    reach = rng.uniform(0.36, 0.5)
    left_lobe = body.ellipsoid((0.02, 0.43, rng.uniform(0.66, 0.72)), (reach * grown, 0.3 * grown, 0.19))
    level = drawing.smoother_union(right_lobe, left_lobe, softness=0.06)
    level = level + 0.035 * drawing.smooth_field(rng, level.shape, (4, 5, 5))
    liver = (level < 1) & (body.cavity < 0.96) & ~lungs & ~kidney
    liver &= body.cylinder((0.13, -0.3), (0.1, 0.11)) > 1
    liver &= body.cylinder((0, -0.55), (0.24, 0.28)) > 1
    fissure = (np.abs(body.u - 0.1 - 0.25 * (body.v - 0.5)) < 0.014) & (body.v > 0.42) & (body.w < 0.72)
    return drawing.largest_piece(liver & ~fissure)


def _paint_vessels(
    rng: np.random.Generator,
    canvas: np.ndarray,
    body: _Body,
    liver: np.ndarray,
    hu: float,
    spacing_mm: Sequence[float],
) -> None:
    """Portal branches from the hilum and hepatic veins from the cava, as curves of tapering spheres in the liver."""
    inside = np.argwhere(liver)
    if not len(inside):
        return
    spacing = np.asarray(spacing_mm)
    vessel = np.zeros(liver.shape, bool)
    for root_uvw, branches in (((0.16, 0.1, 0.56), 7), ((0.15, -0.22, 0.8), 5)):
        root = _nearest_voxel(body, root_uvw)
        for _ in range(branches):
            end = inside[rng.integers(len(inside))]
            length_mm = float(np.linalg.norm((end - root) * spacing))
            steps = max(2, int(length_mm / (0.7 * spacing.min())))
            t = np.linspace(0, 1, steps)[:, None]
            bend = rng.normal(0, 0.12 * length_mm, 3) / spacing
            points = root + t * (end - root) + np.sin(np.pi * t) * bend
            for point, radius_mm in zip(points, np.linspace(5.5, 2.2, steps), strict=True):
                _stamp(vessel, point, max(radius_mm, 0.62 * spacing[1]) / spacing)
    drawing.paint(canvas, vessel & liver, hu)


def _nearest_voxel(body: _Body, uvw: Sequence[float]) -> np.ndarray:
    slice_index = min(int(uvw[2] * len(body.w)), len(body.w) - 1)
    away = (body.u[slice_index] - uvw[0]) ** 2 + (body.v[slice_index] - uvw[1]) ** 2
    return np.array([slice_index, *np.unravel_index(np.argmin(away), away.shape)])


def _stamp(mask: np.ndarray, center: np.ndarray, radii: np.ndarray) -> None:
    low = np.maximum(np.floor(center - radii).astype(int), 0)
    high = np.minimum(np.ceil(center + radii).astype(int) + 1, mask.shape)
    box = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
    mask[box] |= drawing.radius(np.ogrid[box], center, radii) <= 1


def _paint_lesions(
    rng: np.random.Generator, canvas: np.ndarray, labels: np.ndarray, spacing_mm: Sequence[float]
) -> None:
    """Up to six hypodense lesions, round in mm, of a radius of a fortieth to a twelfth of the grid's width."""
    if rng.random() < NO_LESION_SHARE:
        return
    liver = labels > 0
    depth_mm = ndimage.distance_transform_edt(liver, sampling=spacing_mm)
    width = labels.shape[2]
    for number in range(1 + rng.binomial(MOST_LESIONS - 1, 0.45)):
        widest = 1 / 12 if number == 0 else 1 / 18
        radius_mm = max(1.5, width * rng.uniform(1 / 32 if number == 0 else 1 / 42, widest)) * spacing_mm[1]
        seats = np.argwhere(depth_mm > 0.6 * radius_mm)
        if not len(seats):
            seats = np.argwhere(depth_mm >= 0.9 * depth_mm.max())
        center = seats[rng.integers(len(seats))]
        radii = radius_mm * rng.uniform(0.85, 1.15, 3) / np.asarray(spacing_mm)
        box, level = drawing.blob(rng, labels.shape, center, np.maximum(radii, 0.9))
        inside = (level < 1) & liver[box]
        hu = rng.uniform(*LESION_HU)
        canvas[box][inside] = hu
        if radius_mm > 0.06 * width * spacing_mm[1]:
            canvas[box][inside & (level < 0.55)] = hu - 18
        labels[box][inside] = 2
