"""What every figure of the report shares: colors, the two themes of the page, and the way to PNG bytes."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # Matplotlib takes half a second, and is loaded where something is drawn
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which readers with red-green blindness can tell apart, lightened for a black background.
REFERENCE = "#35d0ff"
PREDICTION = "#ffb02e"
BOX = "#f5f5f5"
SCAN_BACKGROUND, SCAN_INK, SCAN_MUTED = "#000000", "#e8ecf2", "#97a3b4"
TRUE_POSITIVE = "#4aa8ff"
FALSE_POSITIVE = "#ffb02e"
FALSE_NEGATIVE = "#ff4d9d"


_GRAYS = 56  # of the 256 colors of a scan; 5 HU a step in the usual window, well below the noise


@dataclass(frozen=True)
class Theme:
    """Colors of a plotted figure. Scans are always drawn on black, as on a reading station."""

    name: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    "light", "#1c2430", "#5d6878", "#d9dee6", ("#0b6bcb", "#c25e00", "#0a8a63", "#a83a86", "#5b4fc4", "#7a6a00")
)
DARK = Theme(
    "dark", "#e8ecf2", "#97a3b4", "#343c48", ("#5cb0ff", "#ffa94d", "#3ddc97", "#f07cc8", "#a99cff", "#e3d04a")
)


def new_figure(width: float, height: float, dpi: int = 110, background: str = "none") -> "Figure":
    """A figure of `width` x `height` inches that owns its canvas, so that pyplot's global state is never touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=background)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes, theme: Theme, title: str = "", x_label: str = "", y_label: str = "") -> None:
    axes.set_facecolor("none")
    axes.set_title(title, color=theme.ink, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(x_label, color=theme.muted, fontsize=9)
    axes.set_ylabel(y_label, color=theme.muted, fontsize=9)
    axes.tick_params(colors=theme.muted, labelsize=8, length=3)
    axes.grid(True, color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)


def legend(axes, theme: Theme, **where) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink, **where)


def png_bytes(figure: "Figure", palette: bool = False) -> bytes:
    """PNG of a figure; with `palette` its opaque picture takes 256 colors, a third of the size for a noisy scan.

    Gray and color get their own parts of the palette: a common method spends it all on the grays of the scan and
    turns an outline into the color of another one.
    """
    figure.canvas.draw()
    pixels = np.array(figure.canvas.buffer_rgba())
    image = _with_palette(pixels[..., :3]) if palette else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _with_palette(rgb: np.ndarray) -> Image.Image:
    brightest, darkest = rgb.max(axis=-1), rgb.min(axis=-1)
    colored = brightest.astype(np.int16) - darkest > 8
    indices = np.rint(brightest * ((_GRAYS - 1) / 255)).astype(np.uint8)
    palette = np.rint(np.linspace(0, 255, _GRAYS)).astype(np.uint8).repeat(3).tolist()
    if colored.any():
        strip = Image.fromarray(rgb[colored][None]).quantize(256 - _GRAYS, method=Image.Quantize.FASTOCTREE)
        indices[colored] = np.asarray(strip)[0] + _GRAYS
        palette += strip.getpalette()
    image = Image.fromarray(indices)
    image.putpalette(palette)
    return image
