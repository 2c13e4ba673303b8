"""Plotted figures of a run: training curves, intensities before and after windowing, scores of all cases."""

from collections.abc import Mapping, Sequence

import numpy as np

from raunet_jax.imaging.intensity import normalize
from raunet_jax.imaging.volume import Volume
from raunet_jax.report import drawing, markup
from raunet_jax.report.drawing import Theme
from raunet_jax.report.markup import Html

_BINS = 128


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows])


def training_curves(runs: Mapping[str, Sequence[dict]], theme: Theme = drawing.LIGHT) -> bytes:
    """PNG of training loss and validation Dice by epoch: a column a stage, a line a fold.

    Args:
      runs: "coarse fold 0", or "fold 0" for a single stage -> the rows of its metrics.jsonl, which have "epoch",
        "loss", "validation_dice" (null where it was not measured) and "learning_rate". Dotted verticals: where the
        learning rate of any fold was lowered.
    """
    stages: dict[str, list[tuple[str, Sequence[dict]]]] = {}
    for name, rows in runs.items():
        stage, _, fold = name.rpartition("fold ")
        stages.setdefault(stage.strip(), []).append((f"fold {fold}", rows))
    figure = drawing.new_figure(12, 5.2)
    grid = figure.subplots(2, len(stages), sharex="col", sharey="row", squeeze=False)
    for column, (stage, folds) in enumerate(stages.items()):
        loss, dice = grid[:, column]
        drawing.style_axes(loss, theme, stage or "training", "", "" if column else "training loss (1 - Dice)")
        drawing.style_axes(dice, theme, "", "epoch", "" if column else "validation Dice")
        dice.set_ylim(0, 1)
        lowered = set()
        for index, (fold, rows) in enumerate(folds):
            epoch, rate = _column(rows, "epoch"), _column(rows, "learning_rate")
            look = {"color": theme.series[index % len(theme.series)], "linewidth": 1.5, "label": fold}
            look |= {"marker": "o", "markersize": 3 if len(rows) < 30 else 0}
            loss.plot(epoch, _column(rows, "loss"), **look)
            measured = ~np.isnan(_column(rows, "validation_dice"))
            dice.plot(epoch[measured], _column(rows, "validation_dice")[measured], **look)
            lowered |= set(epoch[1:][rate[1:] < rate[:-1]])
        for axes in (loss, dice):
            for epoch in lowered:
                axes.axvline(epoch, color=theme.muted, linewidth=0.8, linestyle=":", zorder=0)
        drawing.legend(dice, theme, loc="lower right", ncols=2 if len(folds) > 3 else 1)
    figure.tight_layout()
    return drawing.png_bytes(figure)


def intensity_histogram(
    volume: Volume, mask: np.ndarray | None, window_hu: tuple[float, float], theme: Theme = drawing.LIGHT
) -> bytes:
    """PNG of a CT's intensities as scanned and as the networks see them, for the whole scan and for each label.

    After Fig. 3 of the RA-UNet paper; the curves of liver and tumor show whether the window keeps them apart.

    Args:
      volume: voxels (z, y, x, 1) in HU.
      mask: uint8 (z, y, x), 1 liver and 2 tumor, or None.
    """
    voxels = volume.voxels[..., 0]
    groups = [("whole scan", voxels.reshape(-1))]
    if mask is not None:
        groups += [("liver", voxels[mask == 1]), ("tumor", voxels[mask == 2])]
    groups = [(name, values) for name, values in groups if values.size]
    figure = drawing.new_figure(12, 3.2)
    raw, windowed = figure.subplots(1, 2)
    drawing.style_axes(raw, theme, "As scanned", "HU", "share of voxels (log)")
    drawing.style_axes(windowed, theme, "As the networks see it", "intensity", "density")
    span = float(voxels.min()), float(max(voxels.max(), voxels.min() + 1))
    low, high = np.float32([window_hu[0]]), np.float32([window_hu[1]])
    for color, (name, values) in zip((theme.muted, theme.series[2], theme.series[1]), groups, strict=False):
        counts, edges = np.histogram(values, _BINS, span)
        raw.stairs(counts / values.size, edges, color=color, linewidth=1.5, label=name)
        seen = normalize(values[:, None], low, high)[:, 0]
        inside = seen[(seen > 0) & (seen < 1)] if name == "whole scan" else seen
        if inside.size:
            counts, edges = np.histogram(inside, _BINS // 2, (0, 1), density=True)
            windowed.stairs(counts, edges, color=color, linewidth=1.5, fill=name != "whole scan", alpha=0.7, label=name)
    raw.set_yscale("log")
    raw.axvspan(*window_hu, color=theme.series[0], alpha=0.15, linewidth=0)
    drawing.legend(raw, theme)
    figure.tight_layout()
    return drawing.png_bytes(figure)


def score_distribution(
    scores: Mapping[str, Sequence[float | None]], label: str = "Dice per case", theme: Theme = drawing.LIGHT
) -> bytes:
    """PNG with a dot a case and the median and quartiles of each structure; a score of None is left out."""
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
    return drawing.png_bytes(figure)


def both_themes(draw, alt: str, *arguments) -> Html:
    """What `draw(*arguments, theme=...)` makes as PNG, once for light and once for dark systems."""
    light, dark = (draw(*arguments, theme=theme) for theme in (drawing.LIGHT, drawing.DARK))
    return markup.image(light, alt, dark)
