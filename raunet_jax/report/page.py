"""The page of a run: how it was trained, how it scores beside the paper, and every evaluated case in pictures."""

import os
import pathlib

from ml_collections import ConfigDict

from raunet_jax import recipe, tasks
from raunet_jax.files import write_text
from raunet_jax.progress import progress
from raunet_jax.report import attribution, case_table, curves, markup, scores_section, training_section
from raunet_jax.report.cases import UNREADABLE, draw_case, lesion_rows, read_case, read_records, show_pictures
from raunet_jax.report.display import CaseImages, DisplaySettings, display_settings
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.run_folder import RunFolder
from raunet_jax.scores.tables import read_scores


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Write WORKDIR/report/index.html from whatever the run has left so far, and return its path.

    The page holds its own pictures and styles and needs no other file. A scan that cannot be read any more is named
    on the page in place of its pictures.

    Raises:
        FileNotFoundError: WORKDIR has no config.json, so it is no run folder.
        ValueError: a metrics.jsonl is damaged, or scores.json does not hold scores.
    """
    run = RunFolder(pathlib.Path(workdir))
    config = run.load_recipe()
    scores = read_scores(run.scores) if run.scores.is_file() else None
    records = read_records(run.evaluation)
    if scores:  # records of an earlier evaluation, of cases that this one has not scored, are left out
        scored = {case["case"] for case in scores["cases"]}
        records = [record for record in records if record["case"] in scored]
    anchors = {record["case"]: f"case-{index}" for index, record in enumerate(records)}
    settings = display_settings(recipe.last_stage(config))
    articles, histogram = _articles(records, scores, anchors, run.evaluation, settings)

    sections = [("scores", "Scores", scores_section.section(scores))]
    if records or scores:
        sections.append(("cases", "Cases", case_table.section(records, scores, anchors)))
    lost = attribution.section(scores) if scores else None
    if lost:
        sections.append(("lost", "Where tumors were lost", lost))
    sections.append(("training", "Training", training_section.section(run, config)))
    if histogram:
        sections.append(("intensities", "Intensities", histogram))
    if articles:
        sections.append(("pictures", "Pictures", tag("div", *articles, id="pictures")))
    sections.append(("recipe", "Recipe", _recipe(config)))

    titles = ", ".join(tasks.stage_of(stage).title for stage in recipe.stages_of(config))
    write_text(run.page, markup.page(config.get("name") or run.path.name, f"RA-UNet: {titles}", sections))
    return run.page


def _articles(
    records: list[dict],
    scores: dict | None,
    anchors: dict[str, str],
    folder: pathlib.Path,
    settings: DisplaySettings,
) -> tuple[list[Html], Html | None]:
    """A case an article, and the intensity figure drawn from the first CT that can be read."""
    scored = {case["case"]: case for case in scores["cases"]} if scores else {}
    columns = case_table.columns_of(scores)
    articles, histogram = [], None
    names = [record["case"] for record in records]
    with progress("drawing cases", total=len(records)) as bar:
        for index, record in enumerate(records):
            name = record["case"]
            parts = [case_table.facts(record, scored.get(name), columns)]
            parts += [markup.notice(warning) for warning in record.get("warnings") or []]
            try:
                case = read_case(record, record["images"], record.get("mask"), folder, settings)
            except UNREADABLE as error:
                parts.append(markup.notice(f"No pictures: {error}"))
            else:
                parts += show_pictures(name, draw_case(case, settings))
                if histogram is None and settings.modality == "ct":
                    histogram = _intensities(name, case, settings)
            parts += lesion_rows(record.get("lesions"))
            links = [tag("a", "previous", href=f"#{anchors[names[index - 1]]}")] if index else []
            links += [tag("a", "next", href=f"#{anchors[names[index + 1]]}")] if index + 1 < len(names) else []
            links.append(tag("a", "all cases", href="#cases"))
            heading = tag("div", tag("h2", name), tag("span", *links), class_="heading")
            articles.append(tag("article", heading, *parts, id=anchors[name]))
            bar.advance(note=name)
    return articles, histogram


def _intensities(name: str, case: CaseImages, settings: DisplaySettings) -> Html:
    low, high = (number(float(hu), 0) for hu in settings.window_hu)
    words = f"{name}: the window from {low} to {high} HU is what the networks are given."
    alt = f"Intensities of {name} before and after windowing"
    figure = curves.both_themes(curves.intensity_histogram, alt, case, settings)
    return markup.section("Intensities", tag("p", words), figure, anchor="intensities")


def _recipe(config: ConfigDict) -> Html:
    """A row a stage with the fields that are asked for most, and all of them below.

    Args:
        config: recipe of a stage or a cascade.
    """
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
        title = tasks.stage_of(stage).title
        rows.append((title, *map(str, cells), part.precision, part.data.source, str(part.seed)))
    text = tag("details", tag("summary", "every field (config.json)"), tag("pre", recipe.to_json(config)))
    return markup.section("Recipe", markup.table(head, rows), text, anchor="recipe")
