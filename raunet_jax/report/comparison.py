"""Two runs on the same cases: paired differences of their scores, with an interval and a test, as page and CSV.

Differences are A - B of one case at a time, which removes how hard the case is for both; their spread is what says
whether the runs differ. The interval is the bootstrap's over cases, the test Wilcoxon's signed-rank test, two-sided.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from raunet_jax.files import write_csv, write_text
from raunet_jax.names import natural
from raunet_jax.report import curves, drawing, markup
from raunet_jax.report.drawing import Theme
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.scores.liver import PENALTY
from raunet_jax.scores.statistics import LEVEL, SIGNIFICANT, mean_interval, signed_rank

STRUCTURES = ("liver", "tumor", "whole_tumor", "foreground")
SCORES = {"dice": "Dice", "assd": "ASSD", "rmsd": "RMSD", "msd": "MSD", "hausdorff95": "HD95"}  # distances in mm
DRAWN = ("dice", "hausdorff95")  # HD95: the one distance that is the same under every rule
_MARKS = {
    "{} was trained on": lambda case: case.get("leak"),
    "Stage 1 of {} was trained on": lambda case: case.get("stage_1_trained_on_it"),
    "{} finds no liver, so there is no distance (LiTS's 9001 is none) in": lambda case: (
        (case.get("liver") or {}).get("assd") == PENALTY
    ),
}
_LONG_MM = 100.0  # a longer difference, such as BraTS's 373.13 mm for a missed tumor, makes the scale logarithmic


class Pairs(NamedTuple):
    """One score of one structure on every case for which both runs have it."""

    structure: str
    score: str
    cases: tuple[str, ...]
    ours: np.ndarray  # (case,), run A
    theirs: np.ndarray  # (case,), run B

    @property
    def differences(self) -> np.ndarray:
        # Equal scores that were summed in another order must count as a tie in the test; + 0 turns -0 into 0.
        return np.round(self.ours - self.theirs, 12) + 0.0


class Comparison(NamedTuple):
    """What two scores.json have in common."""

    pairs: tuple[Pairs, ...]
    common: tuple[str, ...]  # cases that are compared
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    other_reference: tuple[str, ...]  # cases whose reference masks differ, which are not compared
    marked: tuple[str, ...]  # a sentence for each reason why some of the pairs are not like the others


def write_comparison(run: str | os.PathLike, other: str | os.PathLike) -> pathlib.Path:
    """Compare the scores of two run folders, A = `run` and B = `other`; print a table and return the page's path.

    Writes RUN/report/compare.html, which needs no other file, and RUN/report/compare.csv, a row a score.

    Raises:
        FileNotFoundError: a run has no scores.json. ValueError: it cannot be read, the two are scored by different
        rules, or no case is in both.
    """
    run, other = pathlib.Path(run), pathlib.Path(other)
    compared = compare(_read_scores(run), _read_scores(other), str(run), str(other))
    rows = [statistics(pairs) for pairs in compared.pairs]
    path = run / "report" / "compare.html"
    write_text(path, _page(compared, rows, str(run), str(other)))
    write_csv(path.with_suffix(".csv"), rows)
    _print(compared, rows, run, other)
    return path


def compare(ours: dict, theirs: dict, run: str = "A", other: str = "B") -> Comparison:
    """Pair two scores.json case by case. `run` and `other` name them in errors.

    Raises:
        ValueError: they are scored by different rules, or no case is in both.
    """
    if ours["rule"] != theirs["rule"]:
        raise ValueError(
            f"{run} is scored by the rule {ours['rule']} and {other} by {theirs['rule']}; compare runs of one task"
        )
    here, there = ({case["case"]: case for case in scores["cases"]} for scores in (ours, theirs))
    both = sorted(here.keys() & there.keys(), key=natural)
    if not both:
        raise ValueError(
            f"{run} scores {len(here)} cases and {other} {len(there)}, and none is in both; compare runs that were "
            "evaluated on the same cases"
        )
    changed = tuple(name for name in both if not _same_reference(here[name], there[name]))
    common = tuple(name for name in both if name not in changed)
    pairs = tuple(
        found
        for structure in STRUCTURES
        for score in SCORES
        if (found := _pairs(structure, score, common, here, there)).cases
    )
    if not pairs:
        raise ValueError(
            f"{run} and {other} share {len(both)} cases but not one score of the same reference mask; compare runs "
            "that were evaluated on the same data for the same structure"
        )
    marked = tuple(
        f"{words.format(place)}: {_named(names)}"
        for place, cases in (("A", here), ("B", there))
        for words, is_marked in _MARKS.items()
        if (names := [name for name in common if is_marked(cases[name])])
    )
    only_ours, only_theirs = (
        tuple(sorted(one.keys() - two.keys(), key=natural)) for one, two in ((here, there), (there, here))
    )
    return Comparison(pairs, common, only_ours, only_theirs, changed, marked)


def statistics(pairs: Pairs) -> dict:
    """Return n, both means, mean and median of A - B, the interval of that mean, and Wilcoxon's p or why there is none.

    "favors" names the run whose mean is better, where the interval leaves out 0 and p is below .05.
    """
    differences = pairs.differences
    low, high = mean_interval(differences.tolist())
    p, remark = signed_rank(differences)
    decided = p is not None and p < SIGNIFICANT and low is not None and (low > 0 or high < 0)
    better = "A" if (differences.mean() > 0) == (pairs.score == "dice") else "B"
    return {
        "structure": pairs.structure,
        "score": SCORES[pairs.score],
        "unit": "" if pairs.score == "dice" else "mm",
        "n": len(pairs.cases),
        "A": float(pairs.ours.mean()),
        "B": float(pairs.theirs.mean()),
        "mean difference": float(differences.mean()),
        "median difference": float(np.median(differences)),
        f"{LEVEL:.0%} from": low,
        f"{LEVEL:.0%} to": high,
        "Wilcoxon p": p,
        "favors": better if decided else "",
        "remark": remark,
    }


def differences_figure(pairs: Sequence[Pairs], theme: Theme = drawing.LIGHT) -> bytes:
    """PNG with a dot a case, A - B, a row a structure and a column each for Dice and HD95; mean and its interval."""
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
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], color=theme.ink, fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return drawing.png_bytes(figure)


def _read_scores(run: pathlib.Path) -> dict:
    path = run / "scores.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: score that run first, with --mode=evaluate --workdir={run}")
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        scores = None
    if not isinstance(scores, dict) or not {"cases", "rule"} <= scores.keys():
        raise ValueError(f"{path} does not hold scores; make it again with --mode=evaluate --workdir={run}")
    return scores


def _value(case: dict, structure: str, score: str) -> float | None:
    value = (case.get(structure) or {}).get(score)
    return None if value == PENALTY else value


def _same_reference(here: dict, there: dict) -> bool:
    """False where the voxels of the reference masks differ; only LiTS's rule keeps their number."""
    ours, theirs = here.get("voxels") or {}, there.get("voxels") or {}
    names = [f"{organ}_reference" for organ in ("liver", "tumor") if here.get(organ) and there.get(organ)]
    return all(ours.get(name) == theirs.get(name) for name in names)


def _pairs(structure: str, score: str, cases: Sequence[str], here: dict, there: dict) -> Pairs:
    known = [
        (name, ours, theirs)
        for name in cases
        if (ours := _value(here[name], structure, score)) is not None
        and (theirs := _value(there[name], structure, score)) is not None
    ]
    names, ours, theirs = zip(*known, strict=True) if known else ((), (), ())
    return Pairs(structure, score, tuple(names), np.array(ours, np.float64), np.array(theirs, np.float64))


def _notices(compared: Comparison, rows: list[dict]) -> list[str]:
    lists = (
        ("Only A scores", compared.only_ours),
        ("Only B scores", compared.only_theirs),
        ("Not compared, since its reference mask is another in A than in B", compared.other_reference),
    )
    untested = [f"{_title(row)}: {row['remark']}" for row in rows if row["remark"]]
    return [*(f"{words}: {_named(names)}" for words, names in lists if names), *compared.marked, *untested]


def _named(names: Sequence[str]) -> str:
    return f"{', '.join(names)} ({len(names)} case{'' if len(names) == 1 else 's'})"


def _interval(row: dict) -> str:
    low, high = row[f"{LEVEL:.0%} from"], row[f"{LEVEL:.0%} to"]
    return "–" if low is None else f"{number(low)} to {number(high)}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< .001" if value < 0.001 else number(value)


def _title(row: dict) -> str:
    return f"{row['structure'].replace('_', ' ')} {row['score']}"


def _cells(row: dict) -> tuple[str, ...]:
    means = (number(row[name]) for name in ("A", "B", "mean difference", "median difference"))
    return (_title(row), number(row["n"]), *means, _interval(row), _p(row["Wilcoxon p"]), row["favors"])


_HEAD = ("", "n", "A", "B", "A − B", "median", f"{LEVEL:.0%} interval", "p", "favors")
_RULE = (
    "n: cases for which both runs have the score; distances in mm. A, B, A − B: means over these; then the median of "
    f"the differences, and the {LEVEL:.0%} interval of their mean (percentile bootstrap over cases). p: Wilcoxon's "
    "signed-rank test, two-sided, each row by itself. Favors: the run whose mean is better, where the interval leaves "
    "out 0 and p is below .05."
)


def _print(compared: Comparison, rows: list[dict], run: pathlib.Path, other: pathlib.Path) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in _HEAD:
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    for row in rows:
        table.add_row(*_cells(row))
    print(f"A: {run}\nB: {other}\n{len(compared.common)} cases that both runs scored; distances in mm")
    Console().print(table)
    for notice in _notices(compared, rows):
        print(notice)


def _page(compared: Comparison, rows: list[dict], run: str, other: str) -> str:
    dice = [row for row in rows if row["score"] == SCORES["dice"]]
    tiles = [(f"{_title(row)}, A − B", number(row["mean difference"]), _interval(row)) for row in dice]
    marks = ["ours" if row["favors"] else "" for row in rows]
    table = markup.table(_HEAD, map(_cells, rows), marks)
    words = tag("p", "A: ", tag("code", run), markup.text("; B: "), tag("code", other))
    parts = [words, *map(markup.notice, _notices(compared, rows)), table, tag("p", _RULE, class_="source")]
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
    titles = [_title({"structure": each.structure, "score": SCORES[each.score]}) for each in shown]
    head = [f"{title}, {part}" for title in titles for part in ("A", "B", "A − B")]
    hint = tag("p", "Click a heading to sort by it.", class_="source")
    return markup.section("Cases", markup.table(("case", *head), rows, sortable=True), hint, anchor="cases")
