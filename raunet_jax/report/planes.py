"""Reading planes of a volume on a black sheet: where a plane lies, how it is turned, its scale, letters and legend.

Volumes come in canonical orientation (z, y, x) with x, y, z rising toward the patient's right, front and head. Every
plane is therefore drawn with both of its axes reversed: the head or the front is up, and the patient's right (axial,
coronal) or front (sagittal) is on the left, as on a reading station.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raunet_jax.imaging.geometry import Box
from raunet_jax.report import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _GAP, _HEADER, _CAPTION = 12.0, 0.12, 0.36, 0.28  # inches
_ROW_HEIGHT = 4.2  # inches, at most


class Plane(NamedTuple):
    """A reading plane: the array axis it cuts, and the letters at its left, right, top and bottom edge."""

    name: str
    axis: int
    edges: str

    @property
    def rows_columns(self) -> tuple[int, int]:
        return tuple(axis for axis in range(3) if axis != self.axis)

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """The plane at `index` of a (z, y, x) array, as it is looked at: first row on top, first column at the left."""
        return np.take(array, index, axis=self.axis)[::-1, ::-1]

    def limits_mm(self, box: Box, shape, spacing_mm) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of a box in the plane as drawn, in mm from its upper left corner."""
        row, column = self.rows_columns
        left, right = ((shape[column] - edge[column]) * spacing_mm[column] for edge in (box.stop, box.start))
        top, bottom = ((shape[row] - edge[row]) * spacing_mm[row] for edge in (box.stop, box.start))
        return left, right, top, bottom


PLANES = (Plane("axial", 0, "RLAP"), Plane("coronal", 1, "RLSI"), Plane("sagittal", 2, "APSI"))


def scale_bar_mm(width_mm: float) -> float:
    """The longest round length that takes at most a third of `width_mm`."""
    return max((length for length in (10.0, 20.0, 50.0, 100.0) if length <= width_mm / 3), default=5.0)


def heat(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] -> RGBA of the color map that probabilities are drawn in."""
    import matplotlib

    return matplotlib.colormaps["inferno"](values)


class Key(NamedTuple):
    """An entry of a row's legend."""

    text: str
    color: str
    kind: str  # line | dash | fill | heat, whose scale ends at `text` and has colors of its own


class Row(NamedTuple):
    """What a row of a sheet is to hold."""

    title: str
    keys: Sequence[Key]
    sizes_mm: Sequence[tuple[float, float]]  # (width, height) of each panel


def sheet(rows: Sequence[Row]) -> tuple["Figure", list[list["Axes"]]]:
    """A black figure of rows of panels that share a scale in their row, so that lengths compare.

    Returns:
        The figure with its titles and legends, and the axes of each row's panels, which are empty.
    """
    sizes = []  # of each row's panels, in inches
    for row in rows:
        wide = (_WIDTH - _GAP * (len(row.sizes_mm) + 1)) / sum(width for width, _ in row.sizes_mm)
        scale = min(wide, _ROW_HEIGHT / max(height for _, height in row.sizes_mm))
        sizes.append([(width * scale, height * scale) for width, height in row.sizes_mm])
    heights = [max(height for _, height in panels) for panels in sizes]
    total = sum(heights) + len(rows) * (_HEADER + _CAPTION) + _GAP
    figure = drawing.new_figure(_WIDTH, total, background=drawing.SCAN_BACKGROUND)
    axes, top = [], 0.0
    for row, panels, height in zip(rows, sizes, heights, strict=True):
        _legend(figure, (0, 1 - (top + _HEADER) / total, 1, _HEADER / total), row)
        axes.append([])
        middle = total - top - _HEADER - height / 2
        spare = left = (_WIDTH - sum(width for width, _ in panels)) / (len(panels) + 1)
        for wide, high in panels:
            place = (left / _WIDTH, (middle - high / 2) / total, wide / _WIDTH, high / total)
            axes[-1].append(figure.add_axes(place))
            axes[-1][-1].set_axis_off()
            left += wide + spare
        top += _HEADER + height + _CAPTION
    return figure, axes


def _legend(figure: "Figure", place: tuple[float, float, float, float], row: Row) -> None:
    """A row's title at the left of a strip at `place`, its keys at the right."""
    from matplotlib.patches import Rectangle

    strip = figure.add_axes(place)
    strip.set_axis_off()
    strip.set_autoscale_on(False)
    strip.set_xlim(0, _WIDTH)
    strip.set_ylim(0, _HEADER)
    middle, right = _HEADER / 2, _WIDTH - _GAP
    style = {"color": drawing.SCAN_INK, "va": "center"}
    strip.text(_GAP, middle, row.title, fontsize=10.5, fontweight="bold", **style)
    for text, color, kind in reversed(row.keys):
        written = strip.text(right, middle, text, fontsize=9, ha="right", **style)
        right -= written.get_window_extent().width / figure.dpi + 0.08
        if kind == "heat":
            place = (right - 1.2, right, middle - 0.06, middle + 0.06)
            strip.imshow(heat(np.linspace(0.15, 1, 128))[None], extent=place, aspect="auto")
            strip.text(right - 1.28, middle, "0", fontsize=9, ha="right", **style)
            right -= 1.5
        elif kind == "fill":
            strip.add_patch(Rectangle((right - 0.2, middle - 0.06), 0.2, 0.12, color=color))
            right -= 0.4
        else:
            dashes = (0, (4, 2)) if kind == "dash" else "solid"
            strip.plot((right - 0.3, right), (middle, middle), color=color, linewidth=1.8, linestyle=dashes)
            right -= 0.5


class Cut:
    """One plane of one case; everything drawn over it lies on the same millimeter axes, zoomed to the box `shown`."""

    def __init__(self, axes: "Axes", plane: Plane, index: int, shape, spacing_mm, shown: Box):
        self.axes, self.plane, self.index = axes, plane, index
        self._shape, self._spacing_mm = shape, spacing_mm
        self._rows, self._columns = (shape[axis] for axis in plane.rows_columns)
        self._down_mm, self._right_mm = (spacing_mm[axis] for axis in plane.rows_columns)
        self._left, self._right, self._top, self._bottom = plane.limits_mm(shown, shape, spacing_mm)
        axes.set_autoscale_on(False)
        axes.axis((self._left, self._right, self._bottom, self._top))

    def picture(self, image: np.ndarray, interpolation: str = "bilinear") -> None:
        """`image`: (rows, columns) gray in [0, 1], or (rows, columns, 4) RGBA laid over what is there."""
        place = (0.0, self._columns * self._right_mm, self._rows * self._down_mm, 0.0)
        self.axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=place, interpolation=interpolation)

    def contour(self, mask: np.ndarray, color: str, width: float = 1.2) -> None:
        """Outline of a (rows, columns) boolean plane; one that reaches the scan's edge is closed along it."""
        if not mask.any():
            return
        y = (np.arange(-1, self._rows + 1) + 0.5) * self._down_mm
        x = (np.arange(-1, self._columns + 1) + 0.5) * self._right_mm
        padded = np.pad(mask, 1).astype(np.float32)
        self.axes.contour(x, y, padded, levels=(0.5,), colors=(color,), linewidths=(width,))

    def box(self, box: Box) -> None:
        """Dashed outline of a box, when this plane passes through it."""
        if not box.start[self.plane.axis] <= self.index < box.stop[self.plane.axis]:
            return
        from matplotlib.patches import Rectangle

        left, right, top, bottom = self.plane.limits_mm(box, self._shape, self._spacing_mm)
        style = {"fill": False, "edgecolor": drawing.BOX, "linewidth": 1.0, "linestyle": (0, (4, 3))}
        self.axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))

    def annotate(self, bar_mm: float | None = None, caption: str = "") -> None:
        """Write the letters of the edges, a caption below (the plane and slice, if not given) and a scale bar."""
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground=drawing.SCAN_BACKGROUND)]  # readable on bright tissue
        places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"))
        places += ((0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))
        for letter, (x, y, ha, va) in zip(self.plane.edges, places, strict=True):
            style = {"color": drawing.SCAN_INK, "fontsize": 9, "alpha": 0.8, "path_effects": halo}
            self.axes.text(x, y, letter, ha=ha, va=va, transform=self.axes.transAxes, **style)
        caption = caption or f"{self.plane.name}, slice {self.index + 1} of {self._shape[self.plane.axis]}"
        where = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
        self.axes.annotate(caption, (0.5, 0), (0, -5), color=drawing.SCAN_MUTED, fontsize=9, **where)
        if bar_mm:
            x = self._left + 0.04 * (self._right - self._left)
            y = self._bottom - 0.05 * (self._bottom - self._top)
            self.axes.plot((x, x + bar_mm), (y, y), color=drawing.SCAN_INK, linewidth=2, solid_capstyle="butt")
            style = {"color": drawing.SCAN_INK, "fontsize": 8, "path_effects": halo}
            self.axes.annotate(f"{bar_mm / 10:g} cm", (x, y), (0, 4), textcoords="offset points", **style)
