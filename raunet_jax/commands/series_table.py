"""The table of DICOM series below paths: which are segmented, and why the others are not."""

import pathlib

from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raunet_jax import recipe, tasks
from raunet_jax.commands.request import Request
from raunet_jax.commands.studies import choices_of, counted, folder_of
from raunet_jax.errors import NotFound
from raunet_jax.imaging.dicom_series import Series, find_series
from raunet_jax.imaging.series_choice import Choice
from raunet_jax.imaging.series_words import mr_contrast, phase

CHOSEN = "segmented"
_COLUMNS = ("series", "description", "kind", "plane", "slices", "mm", "kernel", "contrast", "body part", "choice")


def run(request: Request) -> int:
    """Print a table a study, aligned text where standard output is no terminal; the choice is `request.series`'.

    Without a recipe or run folder the choice is that of the liver recipes.
    """
    config = _stage(request)
    console = Console()
    for path in map(pathlib.Path, request.needed("input")):
        if not path.exists():
            raise NotFound(f"{path} does not exist; give a folder of DICOM files")
        series, others = find_series(path, files=[path] if path.is_file() else None)
        for choice in choices_of(series, config, request.series):
            (_print_table if console.is_terminal else _print_text)(choice, console)
        if counted(others, path):
            print(f"{path}: no image series: {counted(others, path)}")
        for one in others:
            if one.trouble:
                print(f"{one.path}: {one.what}")
        if not series:
            print(f"{path} holds no DICOM series")
    return 0


def _stage(request: Request) -> ConfigDict:
    if request.config is None and request.workdir is None:
        return ConfigDict({"stage": list(tasks.TASKS["liver"].stages)[-1], "data": {"modalities": ("ct",)}})
    return recipe.last_stage(request.recipe)


def _title(choice: Choice) -> str:
    facts = choice.study[0].facts
    date = facts.study_date
    date = f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else date
    return f"{folder_of(choice)}: " + " ".join(word for word in ("study", date, facts.study_description) if word)


def _rows(choice: Choice) -> list[tuple[str, ...]]:
    why = dict(choice.passed_over)
    return [
        (
            "" if one.number is None else str(one.number),
            " ".join(word for word in (one.description, one.part) if word),
            one.modality,
            one.plane,
            str(one.slices),
            f"{one.spacing_mm:.2f}",
            one.facts.kernel,
            _contrast(one),
            one.facts.body_part,
            why.get(one) or ("" if one in why else CHOSEN),
        )
        for one in choice.study
    ]


def _contrast(one: Series) -> str:
    return mr_contrast(one) if one.modality == "MR" else phase(one) if one.modality == "CT" else ""


def _print_table(choice: Choice, console: Console) -> None:
    table = Table(title=_title(choice), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in ("series", "slices", "mm") else "left")
    for row in _rows(choice):
        table.add_row(*map(Text, row), style="bold" if row[-1] == CHOSEN else "")
    console.print(table)
    if choice.problem:
        console.print(f"{folder_of(choice)} {choice.problem}", highlight=False, markup=False)


def _print_text(choice: Choice, _) -> None:
    """Aligned columns, with the series' keys, which --series takes, as the last."""
    rows = [(*_COLUMNS, "UID"), *((*row, one.key) for row, one in zip(_rows(choice), choice.study, strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(_title(choice))
    for row in rows:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
    print(f"{folder_of(choice)} {choice.problem}\n" if choice.problem else "")
