"""Our scores beside published ones (`raunet_jax.scores.published`), and scores on disk as JSON and CSV."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from raunet_jax.errors import FileError, NotFound, UserError
from raunet_jax.files import read_json, write_csv, write_json
from raunet_jax.scores.published import Row
from raunet_jax.scores.rules import Table, tables_of
from raunet_jax.scores.statistics import LEVEL, score_intervals
from raunet_jax.scores.stored import misfit_of_tables

SPREAD_NOTE = (
    f"Intervals: {LEVEL:.0%}, percentile bootstrap over cases. Standard deviations: over cases, or over lesions where "
    "the score is a mean over lesions."
)
_STATISTICS = {"standard deviation": "std", f"{LEVEL:.0%} interval from": "low", f"{LEVEL:.0%} interval to": "high"}
_CORRECTED, _OLD = "_corrected", "_without_habits"  # how names of scores without LiTS's quirks end, and ended once


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table to print or draw; every row has a value (or None) for each of `columns`."""

    title: str
    columns: tuple[str, ...]
    ours: tuple[Row, ...]  # a row of scores, then a row for each statistic of them
    published: tuple[Row, ...]
    note: str  # how empty masks are scored, and what the statistics are
    external: bool = False  # the published rows are of another data set than ours may be

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the published rows come from, each once."""
        return tuple(dict.fromkeys(row.source for row in self.published))

    def source_number(self, row: Row) -> str:
        """The place of a published row's source in `sources`, from 1; empty for a row of ours."""
        return str(self.sources.index(row.source) + 1) if row.source else ""


def comparison_tables(scores: dict) -> list[Comparison]:
    """Return our rows beside the published ones for the dict that one of the `summarize_*` functions made.

    An organ whose scores are None, because the run has no stage for it, has no table. `source` in `scores`, the
    recipe's data source where it is known, marks rows of drawn phantoms, which no published row compares with.
    """
    number = len(scores["cases"])
    drawn = scores.get("source") == "phantom"
    ours = f"ours ({number} {'drawn ' if drawn else ''}case{'' if number == 1 else 's'})"
    intervals = scores.get("intervals") or score_intervals(scores)

    def rows(table: Table, group: str, remark: str) -> list[Row]:
        label = f"ours, {remark}" if remark else ours
        spread = [intervals[group][name] for name in table.columns.values()]
        statistics = {"": "mean"} | _STATISTICS
        return [
            Row(label, tuple(values[key] for values in spread), statistic=statistic)
            for statistic, key in statistics.items()
        ]

    return [
        Comparison(
            table.title,
            tuple(table.columns),
            tuple(row for group, remark in table.groups.items() for row in rows(table, group, remark)),
            table.published,
            f"{table.note} {SPREAD_NOTE}",
            table.external,
        )
        for table in tables_of(scores)
        if any(group in intervals for group in table.groups) and not (drawn and table.external)
    ]


def seen_before(scores: dict) -> list[str]:
    """A sentence each about the scored cases that a model was trained on: stage 1 of a cascade, or the whole run.

    Reads of `scores` "stage_1_trained_on_it" and "leak" of its cases, and "stage_1_unseen": over how many "cases"
    that stage 1 was not trained on "liver_dice" and "tumor_dice" are the means. Any of them may be missing or None.
    """
    cases, sentences = scores["cases"], []
    by_stage_1, leaks = (sum(bool(case.get(mark)) for case in cases) for mark in ("stage_1_trained_on_it", "leak"))

    def these(count: int) -> str:
        if len(cases) == 1:
            return "this case"
        return f"{count if count < len(cases) else 'all'} of these {len(cases)} cases"

    if by_stage_1:
        sentence = f"Stage 1, a single model as in the paper, was trained on {these(by_stage_1)}"
        unseen = scores.get("stage_1_unseen") or {}
        organs = {organ: unseen.get(f"{organ}_dice") for organ in ("liver", "tumor")}
        dice = " and ".join(f"{shown(value)} ({organ})" for organ, value in organs.items() if value is not None)
        sentences.append(
            f"{sentence}; over the {unseen['cases']} it had not seen the Dice is {dice}." if dice else f"{sentence}."
        )
    if leaks:
        subject = these(leaks)
        are = "is a scan" if leaks == 1 else "are scans"
        sentences.append(
            f"{subject[0].upper()}{subject[1:]} {are} that the run was trained on (config.data.on_leak=warn)."
        )
    return sentences


def write_scores(path: str | os.PathLike, scores: dict) -> None:
    """Write `scores` as strict JSON to `path`, and as CSV (undefined = empty) a row a case, and the tables' rows.

    `scores` gains "intervals" (see `score_intervals`) on the way, and names ending in _corrected are joined by the ones
    that they had first (tumor_corrected: tumor_without_habits). For scores.json the CSV files are scores.csv and
    tables.csv, for NAME.json they are NAME.csv and NAME_tables.csv.
    """
    path = pathlib.Path(path)
    if path.suffix == ".csv":
        raise UserError(f"{path}: scores are written as JSON with a .csv beside it; give a name that ends in .json")
    scores["intervals"] = score_intervals(scores)
    _add_old_names(scores)
    write_json(path, scores)
    cases = [_flat(case) for case in scores["cases"]]
    write_csv(path.with_suffix(".csv"), cases, ["case"])
    tables = "tables.csv" if path.stem == "scores" else f"{path.stem}_tables.csv"
    write_csv(path.with_name(tables), _table_rows(scores, path.name))


def read_scores(path: str | os.PathLike, misfit: Callable[[dict], str] = misfit_of_tables) -> dict:
    """Read what `write_scores` wrote, now or when scores without LiTS's quirks still had other names.

    Args:
        misfit: says what is wrong with what is made use of; "" if nothing is.

    Raises:
        NotFound, FileError: there is no such file, or it does not hold scores.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise NotFound(f"{path} is missing; --mode=evaluate or --mode=score writes it")
    remedy = "make it again with --mode=evaluate or --mode=score"
    try:
        scores = read_json(path, remedy, object_hook=_with_new_names)
    except FileError as error:
        raise FileError(path, f"does not hold scores: {error.problem}", remedy) from None
    wrong = misfit(scores)
    if wrong:
        raise FileError(path, f"does not hold scores: it {wrong}", remedy)
    return scores


def shown(value: float | None) -> str:
    """A score with three digits, or a dash where it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def _add_old_names(values: dict | list) -> None:
    """Give all `values` whose name ends in _corrected their old name too, at any depth, for whoever reads by that."""
    for value in list(values.values()) if isinstance(values, dict) else values:
        if isinstance(value, dict | list):
            _add_old_names(value)
    if isinstance(values, dict):
        corrected = {name: value for name, value in values.items() if name.endswith(_CORRECTED)}
        values |= {name.removesuffix(_CORRECTED) + _OLD: value for name, value in corrected.items()}


def _with_new_names(values: dict) -> dict:
    """The values of one JSON object, those with an old name under today's too."""
    old = {name: value for name, value in values.items() if name.endswith(_OLD)}
    return {name.removesuffix(_OLD) + _CORRECTED: value for name, value in old.items()} | values


def _table_rows(scores: dict, source: str) -> list[dict]:
    """A dict a row of every table; `source` is said of our own."""
    return [
        {"table": comparison.title, "row": ": ".join(filter(None, (row.label, row.statistic)))}
        | dict(zip(comparison.columns, row.values, strict=True))
        | {"source": row.source or source}
        for comparison in comparison_tables(scores)
        for row in (*comparison.ours, *comparison.published)
    ]


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat
