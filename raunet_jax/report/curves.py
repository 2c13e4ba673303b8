"""Plotted figures of a run: training curves, intensities before and after windowing, scores of all cases."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raunet_jax.imaging.intensity import normalize
from raunet_jax.report import drawing, markup
from raunet_jax.report.display import CaseImages, DisplaySettings
from raunet_jax.report.drawing import Theme
from raunet_jax.report.markup import Html
from raunet_jax.tasks import Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 128


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows])


def training_curves(stages: Mapping[str, Mapping[int, Sequence[dict]]], theme: Theme = drawing.LIGHT) -> "Figure":
    """Training loss and validation Dice by epoch: a column a stage, a line a fold.

    Args:
        stages: name of a stage of a cascade, or "" for a single one -> number of a fold -> the rows of its
            metrics.jsonl, which have "epoch", "loss", "validation_dice" (null where it was not measured) and
            "learning_rate". Dotted verticals: where the learning rate of any fold was lowered.
    """
    figure = drawing.new_figure(12, 5.2)
    grid = figure.subplots(2, len(stages), sharex="col", sharey="row", squeeze=False)
    for column, (stage, folds) in enumerate(stages.items()):
        loss, dice = grid[:, column]
        drawing.style_axes(loss, theme, stage or "training", "", "" if column else "training loss (1 - Dice)")
        drawing.style_axes(dice, theme, "", "epoch", "" if column else "validation Dice")
        dice.set_ylim(0, 1)
        lowered = set()
        for index, (fold, rows) in enumerate(folds.items()):
            epoch, rate = _column(rows, "epoch"), _column(rows, "learning_rate")
            style = {"color": theme.series[index % len(theme.series)], "linewidth": 1.5, "label": f"fold {fold}"}
            style |= {"marker": "o", "markersize": 3 if len(rows) < 30 else 0}
            loss.plot(epoch, _column(rows, "loss"), **style)
            measured = ~np.isnan(_column(rows, "validation_dice"))
            dice.plot(epoch[measured], _column(rows, "validation_dice")[measured], **style)
            lowered |= set(epoch[1:][rate[1:] < rate[:-1]])
        for axes in (loss, dice):
            for epoch in lowered:
                axes.axvline(epoch, color=theme.muted, linewidth=0.8, linestyle=":", zorder=0)
        drawing.legend(dice, theme, loc="lower right", ncols=2 if len(folds) > 3 else 1)
    figure.tight_layout()
    return figure


def intensity_histogram(case: CaseImages, settings: DisplaySettings, theme: Theme = drawing.LIGHT) -> "Figure":
    """A CT's intensities in HU as scanned and as the networks see them, for the whole scan and for each structure.

    After Fig. 3 of the RA-UNet paper; the curves of liver and tumor show whether the window keeps them apart. What lies
    inside another structure is counted for itself alone, as the reference says; without one the scan is shown alone.
    """
    voxels = case.volume.voxels[..., 0]
    groups = [("whole scan", voxels.reshape(-1))]
    if case.reference is not None:
        groups += [(name, voxels[mask]) for name, mask in _apart(case.reference, settings.structures).items()]
    groups = [(name, values) for name, values in groups if values.size]
    figure = drawing.new_figure(12, 3.2)
    raw, windowed = figure.subplots(1, 2)
    drawing.style_axes(raw, theme, "As scanned", "HU", "share of voxels (log)")
    drawing.style_axes(windowed, theme, "As the networks see it", "intensity", "density")
    span = float(voxels.min()), float(max(voxels.max(), voxels.min() + 1))
    low, high = (np.float32([hu]) for hu in settings.window_hu)
    for color, (name, values) in zip(_colors(theme), groups, strict=False):
        counts, edges = np.histogram(values, _BINS, span)
        raw.stairs(counts / values.size, edges, color=color, linewidth=1.5, label=name)
        seen = normalize(values[:, None], low, high)[:, 0]
        inside = seen[(seen > 0) & (seen < 1)] if name == "whole scan" else seen
        if inside.size:
            counts, edges = np.histogram(inside, _BINS // 2, (0, 1), density=True)
            windowed.stairs(counts, edges, color=color, linewidth=1.5, fill=name != "whole scan", alpha=0.7, label=name)
    raw.set_yscale("log")
    raw.axvspan(*settings.window_hu, color=theme.series[0], alpha=0.15, linewidth=0)
    drawing.legend(raw, theme)
    figure.tight_layout()
    return figure


def _apart(labels: np.ndarray, structures: Mapping[str, Structure]) -> dict[str, np.ndarray]:
    """The voxels of each structure that are in none of those inside of it."""
    lowest = [structure.label for structure in structures.values()]
    return {
        name: (labels >= first) & (labels < after)
        for name, first, after in zip(structures, lowest, [*lowest[1:], np.inf], strict=True)
    }


def _colors(theme: Theme) -> tuple[str, ...]:
    """Of the whole scan, then of its structures."""
    return (theme.muted, theme.series[2], theme.series[1], *theme.series[3:])


def score_distribution(
    scores: Mapping[str, Sequence[float | None]], label: str = "Dice per case", theme: Theme = drawing.LIGHT
) -> "Figure":
    """A dot a case and the median and quartiles of each structure; a score of None is left out."""
    names = list(scores)
    figure = drawing.new_figure(12, 0.75 + 0.65 * len(names))
    axes = figure.subplots()
    drawing.style_axes(axes, theme, "", label)
    for row, name in enumerate(names):
        values = np.array([value for value in scores[name] if value is not None], float)
        if not values.size:
            continue
        color = theme.series[row % len(theme.series)]
        jitter = np.random.default_rng(0).uniform(-0.16, 0.16, values.size)
        axes.scatter(values, row + jitter, s=22, color=color, alpha=0.65, linewidths=0)
        quarter, median, three_quarters = np.percentile(values, (25, 50, 75))
        axes.plot((quarter, three_quarters), (row + 0.3, row + 0.3), color=color, linewidth=3)
        axes.plot(median, row + 0.3, "|", color=theme.ink, markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(names)), names, color=theme.ink, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    figure.tight_layout()
    return figure


def both_themes(draw: Callable[..., "Figure"], alt: str, *arguments) -> Html:
    """The figure that `draw(*arguments, theme=...)` makes, once for light and once for dark systems."""
    light, dark = (drawing.png_bytes(draw(*arguments, theme=theme)) for theme in (drawing.LIGHT, drawing.DARK))
    return markup.image(light, alt, dark)
