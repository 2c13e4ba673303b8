"""Shaded surfaces of structures inside each other, such as a liver and its tumors, drawn without a 3D library."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import edt
import numpy as np
from scipy import ndimage

from raunet_jax.imaging.geometry import Box, bounding_box
from raunet_jax.report import drawing
from raunet_jax.report.planes import PLANES, Key, Plane, Row, scale_bar_mm, sheet
from raunet_jax.tasks import Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 160  # samples along the longest edge of the outer structure
# Blur (voxels) and opacity: the blur of the outer structure would make the smallest of the inner ones vanish.
_OUTER, _INNER = (1.5, 0.55), (0.4, 1.0)
_VIEWS = (("from the front", PLANES[1], True), ("from the feet", PLANES[0], False))  # True: rays go down the axis


def shaded(distance: np.ndarray, plane: Plane, backwards: bool) -> tuple[np.ndarray, np.ndarray]:
    """Parallel rays along the axis of `plane` onto the surface of a smooth (z, y, x) signed distance, positive inside.

    Returns (rows, columns) brightness in [0, 1], the cosine between ray and surface normal over an ambient share, and
    whether the ray hit anything, both turned like `plane.cut`.
    """
    along = np.moveaxis(distance, plane.axis, 0)
    along = along[::-1] if backwards else along
    inside = along > 0
    hit, first = inside.any(axis=0), inside.argmax(axis=0)
    slopes = _slopes(along, first)
    length = np.sqrt(sum(slope**2 for slope in slopes))
    facing = np.abs(slopes[0]) / np.maximum(length, 1e-6)
    return (0.3 + 0.7 * facing)[::-1, ::-1], hit[::-1, ::-1]


def _slopes(values: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
    """Central differences of (depth, rows, columns) along each axis at depth `first` (rows, columns) only."""
    rows, columns = np.indices(first.shape)
    slopes = []
    for axis in range(3):
        beside = []
        for step in (1, -1):
            index = [first, rows, columns]
            index[axis] = np.clip(index[axis] + step, 0, values.shape[axis] - 1)
            beside.append(values[tuple(index)])
        slopes.append(beside[0] - beside[1])
    return slopes


def _smooth(mask: np.ndarray, spacing_mm, step_mm: float, blur: float) -> np.ndarray:
    """Signed distance to the mask's surface in mm, positive inside, on cubes of `step_mm` with an edge of air.

    Distances are interpolated instead of the mask, so that thick slices make slopes and not steps; `blur` (in
    voxels of the mask) takes away what steps are left.
    """
    air = [max(2, int(np.ceil(3 * step_mm / s))) for s in spacing_mm]
    distance = edt.sdf(np.pad(mask, [(a, a) for a in air]), anisotropy=spacing_mm)
    cubes = ndimage.zoom(distance, [s / step_mm for s in spacing_mm], order=1, grid_mode=True, mode="nearest")
    return ndimage.gaussian_filter(cubes, [blur * max(1.0, s / step_mm) for s in spacing_mm])


def surface_views(
    masks: Mapping[str, np.ndarray],
    spacing_mm: tuple[float, float, float],
    structures: Mapping[str, Structure],
) -> "Figure | None":
    """Each mask that is not empty: the outer structure, see-through, and those inside of it; None when all are empty.

    Args:
        masks: name, such as "reference" -> uint8 (z, y, x) labels of one grid.
        spacing_mm: (z, y, x).
        structures: name -> label and color, the outer one first.
    """
    boxes = [box for mask in masks.values() if (box := bounding_box(mask))]
    if not boxes:
        return None
    box = Box(
        tuple(min(b.start[a] for b in boxes) for a in range(3)), tuple(max(b.stop[a] for b in boxes) for a in range(3))
    )
    longest_mm = max(length * s for length, s in zip(box.shape, spacing_mm, strict=True))
    step_mm = max(longest_mm / _STEPS, min(spacing_mm) / 2)
    stride = [max(1, int(step_mm / s)) for s in spacing_mm]
    spacing_mm = tuple(float(s) * n for s, n in zip(spacing_mm, stride, strict=True))
    views = []
    for name, mask in masks.items():
        crop = mask[box.slices][tuple(slice(None, None, n) for n in stride)]
        layers = _layers(crop, spacing_mm, step_mm, structures)
        if layers:
            views += [(f"{name}, {view}", plane, _blend(layers, plane, down)) for view, plane, down in _VIEWS]
    if not views:
        return None
    sizes = [(picture.shape[1] * step_mm, picture.shape[0] * step_mm) for _, _, picture in views]
    keys = [Key(name, structure.color, "fill") for name, structure in structures.items()]
    figure, (panels,) = sheet([Row("Surfaces", keys, sizes)])
    for axes, (title, plane, picture), (width, height) in zip(panels, views, sizes, strict=True):
        axes.set_autoscale_on(False)
        axes.axis((0, width, height, 0))
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="bilinear")
        letters = plane.edges
        style = {"color": drawing.SCAN_MUTED, "fontsize": 9, "transform": axes.transAxes, "va": "top"}
        axes.text(0.02, 0.98, letters[0], **style)
        axes.text(0.98, 0.98, letters[1], ha="right", **style)
        axes.text(0.5, -0.03, title, ha="center", **style)
        bar_mm = scale_bar_mm(width)
        axes.plot((0.03 * width, 0.03 * width + bar_mm), (0.97 * height,) * 2, color=drawing.SCAN_INK, linewidth=2)
        axes.text(0.03 * width, 0.95 * height, f"{bar_mm / 10:g} cm", color=drawing.SCAN_INK, fontsize=8, va="bottom")
    return figure


def _layers(labels: np.ndarray, spacing_mm, step_mm: float, structures: Mapping[str, Structure]) -> list[tuple]:
    """(signed distance, opacity, RGB) of each structure that is there, the inner ones first, as they are drawn."""
    from matplotlib.colors import to_rgb

    layers = []
    for place, structure in enumerate(structures.values()):
        blur, opacity = _INNER if place else _OUTER
        inside = labels >= structure.label
        if inside.any():
            layers.insert(0, (_smooth(inside, spacing_mm, step_mm, blur), opacity, np.array(to_rgb(structure.color))))
    return layers


def _blend(layers: list[tuple], plane: Plane, backwards: bool) -> np.ndarray:
    """(rows, columns, RGB) of the layers seen along the axis of `plane`, each laid over those before it."""
    picture = np.zeros((*(layers[0][0].shape[axis] for axis in plane.rows_columns), 3))
    for distance, opacity, color in layers:
        light, hit = shaded(distance, plane, backwards)
        cover = opacity * hit[..., None]
        picture = (1 - cover) * picture + cover * light[..., None] * color
    return picture
