"""The page and the CSV file of two runs compared, and the figure of their differences."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raunet_jax.errors import NotFound
from raunet_jax.files import write_csv, write_text
from raunet_jax.report import curves, drawing, markup
from raunet_jax.report.comparison import (
    HEAD,
    SCORES,
    Comparison,
    Pairs,
    cells,
    compare,
    interval,
    notices,
    row_title,
    statistics,
)
from raunet_jax.report.drawing import Theme
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.report.structures import shown_name
from raunet_jax.run_folder import RunFolder
from raunet_jax.scores.statistics import LEVEL, mean_interval
from raunet_jax.scores.stored import misfit_of_cases
from raunet_jax.scores.tables import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = ("dice", "hausdorff95")  # HD95: the one distance that is the same under every rule
_LONG_MM = 100.0  # a longer difference, such as BraTS's 373.13 mm for a missed tumor, makes the scale logarithmic
_RULE = (
    "n: cases for which both runs have the score; distances in mm. A, B, A − B: means over these; then the median of "
    f"the differences, and the {LEVEL:.0%} interval of their mean (percentile bootstrap over cases). p: Wilcoxon's "
    "signed-rank test, two-sided, each row by itself. Favors: the run whose mean is better, where the interval leaves "
    "out 0 and p is below .05."
)


class Written(NamedTuple):
    """What `write_comparison` made."""

    page: pathlib.Path
    compared: Comparison
    rows: tuple[dict, ...]  # `statistics` of each score


def write_comparison(run: str | os.PathLike, other: str | os.PathLike) -> Written:
    """Compare the scores of two run folders, A = `run` and B = `other`.

    Writes RUN/report/compare.html, which needs no other file, and RUN/report/compare.csv, a row a score.

    Raises:
        FileNotFoundError: a run has no scores.json.
        ValueError: it cannot be read, the two are scored by different rules, or no case is in both.
    """
    ours, theirs = (RunFolder(pathlib.Path(folder)) for folder in (run, other))
    compared = compare(_read_scores(ours), _read_scores(theirs), str(ours.path), str(theirs.path))
    rows = tuple(statistics(pairs) for pairs in compared.pairs)
    write_text(ours.comparison, _page(compared, rows, str(ours.path), str(theirs.path)))
    write_csv(ours.comparison.with_suffix(".csv"), rows)
    return Written(ours.comparison, compared, rows)


def _read_scores(run: RunFolder) -> dict:
    path = run.scores
    if not path.is_file():
        raise NotFound(f"{path} is missing: score that run first, with --mode=evaluate --workdir={run.path}")
    return read_scores(path, misfit_of_cases)


def differences_figure(pairs: Sequence[Pairs], theme: Theme = drawing.LIGHT) -> "Figure":
    """A dot a case, A - B, a row a structure and a column each for Dice and HD95; mean and its interval."""
    names = list(dict.fromkeys(each.structure for each in pairs))
    scores = [score for score in DRAWN if any(each.score == score for each in pairs)]
    figure = drawing.new_figure(12, 1.1 + 0.8 * len(names))
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        better = "right" if score == "dice" else "left"
        title = SCORES[score] if score == "dice" else f"{SCORES[score]}, mm"
        drawing.style_axes(axes, theme, title, f"A − B, a dot a case; A is better on the {better} of 0")
        axes.axvline(0, color=theme.muted, linewidth=1.2, zorder=0)
        for each in (each for each in pairs if each.score == score):
            row = names.index(each.structure)
            values, color = each.differences, theme.series[row % len(theme.series)]
            jitter = np.random.default_rng(0).uniform(-0.16, 0.16, values.size)
            axes.scatter(values, row + jitter, s=22, color=color, alpha=0.65, linewidths=0)
            low, high = mean_interval(values.tolist())
            if low is not None:
                axes.plot((low, high), (row + 0.3, row + 0.3), color=color, linewidth=3)
            axes.plot(values.mean(), row + 0.3, "|", color=theme.ink, markersize=11, markeredgewidth=2)
            if np.abs(values).max() > _LONG_MM:
                axes.set_xscale("symlog", linthresh=1)
        axes.set_yticks(range(len(names)), [*map(shown_name, names)], color=theme.ink, fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return figure


def _page(compared: Comparison, rows: Sequence[dict], run: str, other: str) -> str:
    dice = [row for row in rows if row["score"] == SCORES["dice"]]
    tiles = [(f"{row_title(row)}, A − B", number(row["mean difference"]), interval(row)) for row in dice]
    marks = ["ours" if row["favors"] else "" for row in rows]
    table = markup.table(HEAD, map(cells, rows), marks)
    words = tag("p", "A: ", tag("code", run), markup.text("; B: "), tag("code", other))
    parts = [words, *map(markup.notice, notices(compared, rows)), table, tag("p", _RULE, class_="source")]
    summary = tag("div", markup.tiles(tiles), markup.section("Differences", *parts, anchor="differences"))
    alt = "Difference of every case in Dice and HD95, with mean and interval"
    figure = markup.section("Every case", curves.both_themes(differences_figure, alt, compared.pairs), anchor="figure")
    cases = ("cases", "Cases", _case_table(compared))
    sections = [("differences", "Differences", summary), ("figure", "Every case", figure), cases]
    return markup.page("Two runs compared", f"{len(compared.common)} cases that both scored", sections)


def _case_table(compared: Comparison) -> Html:
    shown = [pairs for pairs in compared.pairs if pairs.score in DRAWN]
    found = [
        dict(zip(each.cases, np.stack([each.ours, each.theirs, each.differences], axis=1).tolist(), strict=True))
        for each in shown
    ]
    rows = [
        (name, *((number(value), value) for values in found for value in values.get(name, (None,) * 3)))
        for name in compared.common
    ]
    titles = [f"{shown_name(each.structure)} {SCORES[each.score]}" for each in shown]
    head = [f"{title}, {part}" for title in titles for part in ("A", "B", "A − B")]
    hint = tag("p", "Click a heading to sort by it.", class_="source")
    return markup.section("Cases", markup.table(("case", *head), rows, sortable=True), hint, anchor="cases")
