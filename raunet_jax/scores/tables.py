"""Our scores beside published ones (`raunet_jax.scores.published`), and scores on disk as JSON and CSV."""

import dataclasses
import os
import pathlib

from rich import box
from rich.console import Console
from rich.table import Table

from raunet_jax.files import write_csv, write_json
from raunet_jax.scores.published import BRATS, IRCAD_LIVER, IRCAD_TUMOR, LITS_BOTH, LITS_LIVER, LITS_TUMOR, Row
from raunet_jax.scores.statistics import LEVEL, score_intervals

LIVER_COLUMNS = {
    "DC": "dice_per_case",
    "DG": "dice_global",
    "Jaccard": "jaccard",
    "VOE": "voe",
    "RVD": "rvd",
    "ASSD": "assd",
    "MSD": "msd",
}
BOTH_COLUMNS = {"DC": "dice_per_case"}
BRAIN_COLUMNS = {"Dice": "dice", "Sensitivity": "sensitivity", "Specificity": "specificity", "HD95": "hausdorff95"}
CUSTOM_COLUMNS = {
    "Dice": "dice",
    "Jaccard": "jaccard",
    "Sensitivity": "sensitivity",
    "RVD": "rvd",
    "ASSD": "assd",
    "HD95": "hausdorff95",
}

LIVER_RULE = (
    "LiTS's rule: liver is label 1 or 2; a case predicted without any voxel of label 1 scores Dice 0, VOE 1, RVD and "
    "distances 9001."
)
TUMOR_RULE = (
    "LiTS's rule: tumor Dice of a case is 1 when both masks are empty, 0 when one is. DG pools all voxels. Jaccard to "
    "MSD are means over detected lesions (overlap > 0.5), 9001 for RVD and distances when none is."
)
IRCAD_SLIP = "The paper's own Jaccard here is a slip: 1 - VOE is .955."
CUSTOM_RULE = (
    "Means over cases. Both masks empty: Dice 1; one empty: Dice 0, and no distance, which its mean leaves out."
)
BRAIN_RULE = "BraTS's rule: both masks empty: Dice 1, HD95 0; one empty: Dice 0, HD95 373.13."


BOTH_RULE = (
    "The mean of the Dice of liver and tumor, each by its rule above; nnU-Net leaves out a case without tumor in "
    "either mask, where LiTS's rule counts 1."
)
SPREAD_RULE = (
    f"Intervals: {LEVEL:.0%}, percentile bootstrap over cases. Standard deviations: over cases, or over lesions where "
    "the score is a mean over lesions."
)
_COMPACT = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}  # to fit 80 characters
_STATISTICS = {"standard deviation": "std", f"{LEVEL:.0%} interval from": "low", f"{LEVEL:.0%} interval to": "high"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table to print or draw; every row has a value (or None) for each of `columns`."""

    title: str
    columns: tuple[str, ...]
    ours: tuple[Row, ...]  # a row of scores, then a row for each statistic of them
    published: tuple[Row, ...]
    note: str  # how empty masks are scored, and what the statistics are

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
    drawn = "drawn " if scores.get("source") == "phantom" else ""
    ours = f"ours ({number} {drawn}case{'' if number == 1 else 's'})"
    intervals = scores.get("intervals") or score_intervals(scores)

    def rows(columns: dict[str, str], group: str, label: str = ours) -> tuple[Row, ...]:
        spread = [intervals[group][name] for name in columns.values()]
        statistics = (
            Row(label, tuple(values[key] for values in spread), statistic=statistic)
            for statistic, key in _STATISTICS.items()
        )
        return (Row(label, tuple(values["mean"] for values in spread)), *statistics)

    def table(title: str, columns: dict[str, str], own: tuple[Row, ...], published: tuple[Row, ...], rule: str):
        return Comparison(title, tuple(columns), own, published, f"{rule} {SPREAD_RULE}")

    if scores["rule"] == "brats":
        own = rows(BRAIN_COLUMNS, "whole_tumor")
        return [table("Brain, whole tumor", BRAIN_COLUMNS, own, BRATS, BRAIN_RULE)]
    if scores["rule"] == "custom":
        own = rows(CUSTOM_COLUMNS, "foreground")
        return [table("Foreground (nothing published to compare with)", CUSTOM_COLUMNS, own, (), CUSTOM_RULE)]

    tables = []
    if scores["liver"]:
        own = rows(LIVER_COLUMNS, "liver")
        tables.append(table("Liver", LIVER_COLUMNS, own, LITS_LIVER, LIVER_RULE))
        if not drawn:
            rule = f"{LIVER_RULE} {IRCAD_SLIP}"
            tables.append(table("Liver, external test", LIVER_COLUMNS, own, IRCAD_LIVER, rule))
    if scores["tumor"]:
        own = rows(LIVER_COLUMNS, "tumor")
        own += rows(LIVER_COLUMNS, "tumor_without_habits", "ours, without LiTS's habits")
        tables.append(table("Tumor", LIVER_COLUMNS, own, LITS_TUMOR, TUMOR_RULE))
        if not drawn:
            tables.append(table("Tumor, external test", LIVER_COLUMNS, own, IRCAD_TUMOR, TUMOR_RULE))
    if "liver_and_tumor" in intervals:
        own = rows(BOTH_COLUMNS, "liver_and_tumor")
        tables.append(table("Liver and tumor, mean of both", BOTH_COLUMNS, own, LITS_BOTH, BOTH_RULE))
    return tables


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
        dice = " and ".join(f"{_shown(value)} ({organ})" for organ, value in organs.items() if value is not None)
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


def print_tables(scores: dict, console: Console) -> None:
    """Print our scores beside the published ones, the rule for empty masks under each table, detection and burden.

    Above them stands what `seen_before` says.
    """
    for sentence in seen_before(scores):
        console.print(sentence, end="\n\n", highlight=False, style="bold")
    for comparison in comparison_tables(scores):
        table = Table(title=comparison.title, title_justify="left", **_COMPACT)
        for column in ("", *comparison.columns, "source"):
            table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
        for row in comparison.ours:
            label = f"  {row.statistic}" if row.statistic else row.label
            table.add_row(label, *map(_shown, row.values), "", style="dim" if row.statistic else "bold")
        table.add_section()
        for row in comparison.published:
            table.add_row(row.label, *map(_shown, row.values), comparison.source_number(row))
        console.print(table)
        for number, source in enumerate(comparison.sources, 1):
            console.print(f"({number}) {source}", highlight=False)
        console.print(comparison.note, end="\n\n", highlight=False)
    if scores.get("detection"):
        table = Table(title="Lesion detection and tumor burden", title_justify="left", **_COMPACT)
        for column in ("", "as LiTS's program", "without its habits"):
            table.add_column(column, justify="right" if column else "left")
        for group, title in (("detection", "lesion"), ("tumor_burden", "burden error")):
            for name, value in scores[group].items():
                label = f"{title} {name}".replace("_greater_zero", " (overlap > 0)").replace("_", " ")
                table.add_row(label, _shown(value), _shown(scores[f"{group}_without_habits"][name]))
        console.print(table)


def write_scores(path: str | os.PathLike, scores: dict) -> None:
    """Write `scores` as strict JSON to `path`, and as CSV (undefined = empty) a row a case, and the tables' rows.

    `scores` gains "intervals" (see `score_intervals`) on the way. For scores.json the CSV files are scores.csv and
    tables.csv, for NAME.json they are NAME.csv and NAME_tables.csv.
    """
    path = pathlib.Path(path)
    if path.suffix == ".csv":
        raise ValueError(f"{path}: scores are written as JSON with a .csv beside it; give a name that ends in .json")
    scores["intervals"] = score_intervals(scores)
    write_json(path, scores)
    cases = [_flat(case) for case in scores["cases"]]
    write_csv(path.with_suffix(".csv"), cases, ["case"])
    tables = "tables.csv" if path.stem == "scores" else f"{path.stem}_tables.csv"
    write_csv(path.with_name(tables), _table_rows(scores, path.name))


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


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
