"""Rebuilds the figures and the page of a run, or compares its scores with another run's."""

import pathlib
from typing import TYPE_CHECKING

from raunet_jax.commands.request import Request

if TYPE_CHECKING:
    from raunet_jax.report.comparison_page import Written


def run(request: Request) -> int:
    if request.compare:
        from raunet_jax.report.comparison_page import write_comparison

        written = write_comparison(request.run, request.compare)
        print_comparison(written, request.run, pathlib.Path(request.compare))
        page = written.page
    else:
        from raunet_jax.report.page import write_report

        page = write_report(request.run)
    print(f"page: {page}")
    return 0


def print_comparison(written: "Written", run: pathlib.Path, other: pathlib.Path) -> None:
    """Print both runs' scores side by side, with the interval and the test of their differences."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from raunet_jax.report.comparison import HEAD, cells, notices

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in HEAD:
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    for row in written.rows:
        table.add_row(*cells(row))
    print(f"A: {run}\nB: {other}\n{len(written.compared.common)} cases that both runs scored; distances in mm")
    Console().print(table)
    for notice in notices(written.compared, written.rows):
        print(notice)
