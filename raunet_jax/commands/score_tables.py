"""The tables of scores on a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from raunet_jax.scores.tables import comparison_tables, seen_before, shown

_COMPACT = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}  # to fit 80 characters


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
            table.add_row(label, *map(shown, row.values), "", style="dim" if row.statistic else "bold")
        table.add_section()
        for row in comparison.published:
            table.add_row(row.label, *map(shown, row.values), comparison.source_number(row))
        console.print(table)
        for number, source in enumerate(comparison.sources, 1):
            console.print(f"({number}) {source}", highlight=False)
        console.print(comparison.note, end="\n\n", highlight=False)
    if scores.get("detection"):
        table = Table(title="Lesion detection and tumor burden", title_justify="left", **_COMPACT)
        for column in ("", "official (LiTS's program)", "corrected (without its quirks)"):
            table.add_column(column, justify="right" if column else "left")
        for group, title in (("detection", "lesion"), ("tumor_burden", "burden error")):
            for name, value in scores[group].items():
                label = f"{title} {name}".replace("_greater_zero", " (overlap > 0)").replace("_", " ")
                table.add_row(label, shown(value), shown(scores[f"{group}_corrected"][name]))
        console.print(table)
