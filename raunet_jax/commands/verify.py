"""Checks every file of a recipe's data source, and the patch sets that it has, and prints what is wrong."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.faults import REPAIRED
from data_prep.verify import Verified, verify
from raunet_jax.commands.request import Request
from raunet_jax.imaging.checks import UNUSABLE, WARNING

STYLES = {UNUSABLE: "red", REPAIRED: "yellow", WARNING: "yellow"}


def run(request: Request) -> int:
    """Print the findings: a table, or where standard output is no terminal a line each, or JSON (`request.json`).

    Returns:
        The exit status: 1 if a case is unusable, a patch set damaged or the recipe without a plan, else 0.
    """
    verified = verify(request.recipe)
    (_print_json if request.json else _print_table)(verified)
    return 1 if any(finding.fatal for finding in verified.findings) else 0


def _print_json(verified: Verified) -> None:
    cases, unusable = len(verified.cases), len(verified.unusable)
    counts = {"cases": cases, "usable": cases - unusable, "unusable": unusable}
    levels = [finding.level for finding in verified.findings]
    facts = {
        "recipe": verified.name,
        "source": verified.source,
        "root": verified.root,
        "counts": counts | {"repaired": levels.count(REPAIRED), "warnings": levels.count(WARNING)},
        "findings": [finding._asdict() for finding in verified.findings],
    }
    print(json.dumps(facts, indent=2, allow_nan=False))


def _print_table(verified: Verified) -> None:
    console = Console()
    if not console.is_terminal:
        for case, check, value, remedy, level in verified.findings:
            print(f"{case}: {level}: {check}: {value}; {remedy}")
    elif verified.findings:
        table = Table("case", "", "check", "found", "what to do", title=f"{verified.source} data of {verified.name}")
        for case, check, value, remedy, level in verified.findings:
            table.add_row(Text(case), Text(level, style=STYLES[level]), *map(Text, (check, value, remedy)))
        console.print(table)
    cases, unusable = len(verified.cases), len(verified.unusable)
    console.print(f"{cases} cases, {cases - unusable} usable, {unusable} unusable", highlight=False)
