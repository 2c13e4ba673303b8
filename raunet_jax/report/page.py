"""The page of a run: how it was trained, how it scores beside the paper, and every evaluated case in pictures."""

import json
import os
import pathlib

from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.files import write_text
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import VolumeError
from raunet_jax.names import natural
from raunet_jax.progress import progress
from raunet_jax.report import attribution, curves, markup, scores_section
from raunet_jax.report.cases import DisplaySettings, draw_case, lesion_rows, look_up, read_records
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.scores.tables import read_scores

STAGES = {
    "coarse": "liver localization",
    "voi": "liver",
    "tumor": "tumor",
    "brain": "whole brain tumor",
    "custom": "foreground",
}
_UNREAD = (VolumeError, OSError)

# Columns of the table of cases: heading -> where in a case of scores.json the value is, and its digits.
_LIVER_COLUMNS = {
    "liver Dice": (("liver", "dice"), 3),
    "liver RVD": (("liver", "rvd"), 3),
    "liver ASSD, mm": (("liver", "assd"), 2),
    "liver HD95, mm": (("liver", "hausdorff95"), 1),
    "tumor Dice": (("tumor", "dice"), 3),
    "tumor ASSD, mm": (("tumor", "assd"), 2),
    "lesions found": (("lesions", "detected"), 0),
    "lesions in reference": (("lesions", "reference"), 0),
    "lesions predicted": (("lesions", "prediction"), 0),
    "tumor burden": (("tumor_burden", "prediction"), 3),
    "burden in reference": (("tumor_burden", "reference"), 3),
}
_BRAIN_COLUMNS = {
    "Dice": (("whole_tumor", "dice"), 3),
    "sensitivity": (("whole_tumor", "sensitivity"), 3),
    "specificity": (("whole_tumor", "specificity"), 4),
    "HD95, mm": (("whole_tumor", "hausdorff95"), 1),
    "ASSD, mm": (("whole_tumor", "assd"), 2),
}
_CUSTOM_COLUMNS = {
    "Dice": (("foreground", "dice"), 3),
    "sensitivity": (("foreground", "sensitivity"), 3),
    "RVD": (("foreground", "rvd"), 3),
    "HD95, mm": (("foreground", "hausdorff95"), 1),
    "ASSD, mm": (("foreground", "assd"), 2),
}


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Write WORKDIR/report/index.html from whatever the run has left so far, and return its path.

    The page holds its own pictures and styles and needs no other file. A scan that cannot be read any more is named
    on the page in place of its pictures.

    Raises:
        FileNotFoundError: WORKDIR has no config.json, so it is no run folder.
    """
    workdir = pathlib.Path(workdir)
    config = recipe.load(workdir / "config.json")
    scores = read_scores(workdir / "scores.json") if (workdir / "scores.json").is_file() else None
    records = read_records(workdir / "evaluation")
    if scores:  # records of an earlier evaluation, of cases that this one has not scored, are left out
        scored = {case["case"] for case in scores["cases"]}
        records = [record for record in records if record["case"] in scored]
    anchors = {record["case"]: f"case-{index}" for index, record in enumerate(records)}
    look = display_settings(next(reversed(recipe.stages_of(config).values())))
    articles, histogram = _articles(records, scores, anchors, workdir / "evaluation", look)

    sections = [("scores", "Scores", scores_section.section(scores))]
    if records or scores:
        sections.append(("cases", "Cases", _case_table(records, scores, anchors)))
    lost = attribution.section(scores) if scores else None
    if lost:
        sections.append(("lost", "Where tumors were lost", lost))
    sections.append(("training", "Training", _training(workdir, config)))
    if histogram:
        sections.append(("intensities", "Intensities", histogram))
    if articles:
        sections.append(("pictures", "Pictures", tag("div", *articles, id="pictures")))
    sections.append(("recipe", "Recipe", _recipe(config)))

    stages = ", ".join(STAGES.get(stage, stage) for stage in recipe.stages_of(config))
    path = workdir / "report" / "index.html"
    write_text(path, markup.page(f"{config.get('name') or workdir.name}", f"RA-UNet: {stages}", sections))
    return path


def display_settings(stage: ConfigDict) -> DisplaySettings:
    """How a case is shown of which `stage`, the last of a recipe, made the labels."""
    structures = {"brain": None, "tumor": None, "custom": {"foreground": 1}}.get(stage.stage, {"liver": 1})
    modalities = tuple(stage.data.modalities)
    return DisplaySettings(kind_of(modalities), structures, tuple(stage.window_hu), modalities)


def _columns(scores: dict | None) -> dict:
    return {"brats": _BRAIN_COLUMNS, "custom": _CUSTOM_COLUMNS}.get(scores and scores["rule"], _LIVER_COLUMNS)


def _case_table(records: list[dict], scores: dict | None, anchors: dict[str, str]) -> Html:
    scored = {case["case"]: case for case in scores["cases"]} if scores else {}
    known = {record["case"]: record for record in records}
    names = sorted(scored.keys() | known.keys(), key=natural)
    columns = {
        title: where
        for title, where in _columns(scores).items()
        if any(look_up(case, where[0]) is not None for case in scored.values())
    }
    rows = []
    for name in names:
        cells = [(tag("a", name, href=f"#{anchors[name]}") if name in anchors else name, name)]
        for keys, digits in columns.values():
            value = look_up(scored.get(name), keys)
            cells.append((number(value, digits), value))
        record = known.get(name, {})
        warnings = len(record.get("warnings") or [])
        cells += [(number(record.get("seconds"), 1), record.get("seconds")), (warnings or "", warnings)]
        rows.append(cells)
    notices = [
        markup.notice(tag("a", record["case"], href=f"#{anchors[record['case']]}"), f": {warning}")
        for record in records
        for warning in record.get("warnings") or []
    ]
    head = ("case", *columns, "seconds", "warnings")
    hint = tag("p", "Click a heading to sort by it, a case to see it.", class_="source")
    return markup.section("Cases", *notices, markup.table(head, rows, sortable=True), hint, anchor="cases")


def _articles(records, scores, anchors, folder, look: DisplaySettings) -> tuple[list[Html], Html | None]:
    """A case an article, and the intensity figure drawn from the first CT that has a mask."""
    scored = {case["case"]: case for case in scores["cases"]} if scores else {}
    articles, histogram = [], None
    names = [record["case"] for record in records]
    with progress("drawing cases", total=len(records)) as bar:
        for index, record in enumerate(records):
            name = record["case"]
            parts = [tag("p", _facts(record, scored.get(name), _columns(scores)), class_="facts")]
            parts += [markup.notice(warning) for warning in record.get("warnings") or []]
            try:
                drawn = draw_case(record, record["images"], record.get("mask"), folder, look)
            except _UNREAD as error:
                parts.append(markup.notice(f"No pictures: {error}"))
            else:
                parts.append(markup.image(drawn.planes, f"{name}: three planes with outlines and probabilities"))
                if drawn.modalities:
                    parts.append(markup.image(drawn.modalities, f"{name}: every modality"))
                if drawn.surfaces:
                    parts.append(markup.image(drawn.surfaces, f"{name}: surfaces of what was found"))
                if histogram is None and look.kind == "ct":
                    histogram = _intensities(drawn, look, name)
            parts += lesion_rows(record.get("lesions"))
            links = [tag("a", "previous", href=f"#{anchors[names[index - 1]]}")] if index else []
            links += [tag("a", "next", href=f"#{anchors[names[index + 1]]}")] if index + 1 < len(names) else []
            links.append(tag("a", "all cases", href="#cases"))
            heading = tag("div", tag("h2", name), tag("span", *links), class_="heading")
            articles.append(tag("article", heading, *parts, id=anchors[name]))
            bar.advance(note=name)
    return articles, histogram


def _facts(record: dict, scored: dict | None, columns: dict) -> Html:
    facts = [(title, look_up(scored, keys), digits) for title, (keys, digits) in columns.items()]
    facts.append(("seconds", record.get("seconds"), 1))
    stages = record.get("stages")
    if isinstance(stages, dict):
        facts += [(f"{stage}, s", value, 1) for stage, value in stages.items() if isinstance(value, (int, float))]
    shown = [
        tag("span", f"{title} ", tag("b", number(value, digits))) for title, value, digits in facts if value is not None
    ]
    return markup.join(shown)


def _intensities(drawn, look: DisplaySettings, name: str) -> Html:
    low, high = (number(float(hu), 0) for hu in look.window_hu)
    words = f"{name}: the window from {low} to {high} HU is what the networks are given."
    alt = f"Intensities of {name} before and after windowing"
    figure = curves.both_themes(curves.intensity_histogram, alt, drawn.volume, drawn.reference, look.window_hu)
    return markup.section("Intensities", tag("p", words), figure, anchor="intensities")


def _read_metrics(path: pathlib.Path) -> list[dict]:
    """Rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if index + 1 < len(lines):
                raise ValueError(
                    f"{path}: line {index + 1} is not JSON; delete it, then make the report again"
                ) from None
    return rows


def _training(workdir: pathlib.Path, config: ConfigDict) -> Html:
    stages = recipe.stages_of(config)
    folders = [(stage, workdir / stage) for stage in stages] if "stages" in config else [("", workdir)]
    runs = {}
    for stage, folder in folders:
        for path in sorted(folder.glob("fold_*/metrics.jsonl"), key=lambda path: natural(path.parent.name)):
            rows = _read_metrics(path)
            if rows:
                runs[f"{stage} fold {path.parent.name.removeprefix('fold_')}".strip()] = rows
    if not runs:
        return markup.section("Training", tag("p", "No epoch has been finished yet."), anchor="training")
    table = []
    for name, rows in runs.items():
        measured = [(row["validation_dice"], row["epoch"]) for row in rows if row.get("validation_dice") is not None]
        best, epoch = max(measured, default=(None, None))
        last = rows[-1]
        hours = (last.get("seconds") or 0) / 3600  # counted from the run's first start
        speed = number(last.get("patches_per_second"), 1)
        cells = (number(last["epoch"]), number(last["step"]), number(last.get("loss")), number(best), number(epoch))
        table.append((name, *cells, f"{last['learning_rate']:.1e}", speed, number(hours, 2)))
    head = (
        "",
        "epochs",
        "steps",
        "last loss",
        "best validation Dice",
        "at epoch",
        "learning rate",
        "patches/s",
        "hours",
    )
    curves_figure = curves.both_themes(curves.training_curves, "Loss and validation Dice by epoch", runs)
    words = tag("p", "Dotted lines: the learning rate was lowered.", class_="source")
    return markup.section("Training", curves_figure, words, markup.table(head, table), anchor="training")


def _recipe(config: ConfigDict) -> Html:
    head = (
        "stage",
        "patch (x, y, z)",
        "width",
        "batch",
        "epochs",
        "learning rate",
        "folds",
        "precision",
        "source",
        "seed",
    )
    rows = []
    for stage, part in recipe.stages_of(config).items():
        patch = " × ".join(map(str, part.patch_size))
        folds = ", ".join(map(str, part.folds))
        cells = (patch, part.network.width, part.batch_size, part.epochs, f"{part.learning_rate:g}", folds)
        rows.append((STAGES.get(stage, stage), *map(str, cells), part.precision, part.data.source, str(part.seed)))
    text = tag("details", tag("summary", "every field (config.json)"), tag("pre", recipe.to_json(config)))
    return markup.section("Recipe", markup.table(head, rows), text, anchor="recipe")
