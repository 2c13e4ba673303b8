"""Shaded surfaces of an organ with its tumors inside, seen from the front and from the feet, without a 3D library."""

import edt
import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from raunet_jax.imaging.geometry import Box, bounding_box
from raunet_jax.report import drawing
from raunet_jax.report.planes import PLANES, Plane, Sheet, scale_bar_mm

_STEPS = 160  # samples along the longest edge of the organ
_ORGAN, _TUMOR = to_rgb("#e0a08a"), to_rgb("#ffe14d")
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


def surface_views(masks: dict[str, np.ndarray], spacing_mm: tuple[float, float, float]) -> bytes | None:
    """PNG of the organ (labels >= 1, see-through) and its tumors (label 2) of each mask that is not empty; or None.

    Args:
      masks: name, such as "reference" -> uint8 (z, y, x) labels of one grid.
      spacing_mm: (z, y, x).
    """
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    if not masks:
        return None
    boxes = [bounding_box(mask) for mask in masks.values()]
    box = Box(
        tuple(min(b.start[a] for b in boxes) for a in range(3)), tuple(max(b.stop[a] for b in boxes) for a in range(3))
    )
    longest_mm = max(length * s for length, s in zip(box.shape, spacing_mm, strict=True))
    step_mm = max(longest_mm / _STEPS, min(spacing_mm) / 2)
    stride = [max(1, int(step_mm / s)) for s in spacing_mm]
    spacing_mm = tuple(float(s) * n for s, n in zip(spacing_mm, stride, strict=True))
    drawn, sizes = [], []
    for name, mask in masks.items():
        crop = mask[box.slices][tuple(slice(None, None, n) for n in stride)]
        # the blur of the organ would make the smallest lesions vanish
        layers = ((crop == 2, 0.4, _TUMOR, 1.0), (crop >= 1, 1.5, _ORGAN, 0.55))
        layers = [(_smooth(part, spacing_mm, step_mm, blur), *look) for part, blur, *look in layers if part.any()]
        for view, plane, backwards in _VIEWS:
            picture = np.zeros((*(layers[0][0].shape[a] for a in plane.rows_columns), 3))
            for distance, color, opacity in layers:
                light, hit = shaded(distance, plane, backwards)
                cover = opacity * hit[..., None]
                picture = (1 - cover) * picture + cover * light[..., None] * np.array(color)
            drawn.append((f"{name}, {view}", plane, picture))
            sizes.append((picture.shape[1] * step_mm, picture.shape[0] * step_mm))
    sheet = Sheet([sizes])
    keys = [("liver", _ORGAN, "fill"), ("tumor", _TUMOR, "fill")]
    for axes, (title, plane, picture), (width, height) in zip(sheet.row("Surfaces", keys), drawn, sizes, strict=True):
        axes.set_autoscale_on(False)
        axes.axis((0, width, height, 0))
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="bilinear")
        letters = plane.edges
        look = {"color": drawing.SCAN_MUTED, "fontsize": 9, "transform": axes.transAxes, "va": "top"}
        axes.text(0.02, 0.98, letters[0], **look)
        axes.text(0.98, 0.98, letters[1], ha="right", **look)
        axes.text(0.5, -0.03, title, ha="center", **look)
        bar_mm = scale_bar_mm(width)
        axes.plot((0.03 * width, 0.03 * width + bar_mm), (0.97 * height,) * 2, color=drawing.SCAN_INK, linewidth=2)
        axes.text(0.03 * width, 0.95 * height, f"{bar_mm / 10:g} cm", color=drawing.SCAN_INK, fontsize=8, va="bottom")
    return drawing.png_bytes(sheet.figure)
