"""The page of a prediction: volumes, tumor burden and pictures of every scan that was segmented."""

import json
import os
import pathlib

from raunet_jax.files import replacing, write_text
from raunet_jax.imaging.volume import VolumeError, is_dicom_folder
from raunet_jax.progress import progress
from raunet_jax.report import markup
from raunet_jax.report.cases import DisplaySettings, draw_case, lesion_rows
from raunet_jax.report.markup import Html, number, tag

# Fields of a case in summary.json that the table shows, in this order, where any case has them: heading, digits.
_COLUMNS = {
    "liver_ml": ("liver, mL", 0),
    "tumor_ml": ("tumor, mL", 1),
    "foreground_ml": ("foreground, mL", 2),
    "whole_tumor_ml": ("whole tumor, mL", 1),
    "tumor_count": ("tumors", 0),
    "tumor_burden": ("tumor burden, %", 2),
    "seconds": ("seconds", 1),
}


def write_prediction_page(output: str | os.PathLike, look: DisplaySettings | None = None) -> pathlib.Path:
    """Write OUTPUT/index.html and a CASE.png beside each mask from OUTPUT/summary.json; return the page's path.

    A case's scan is read from its "images" (a list of files, or one DICOM folder), or from "input" when it has none.

    Args:
      look: kind, window and modalities of the recipe; by default a CT in its usual window, or an MR where a case has
        several images.

    Raises:
        FileNotFoundError: there is no summary.json.
    """
    output = pathlib.Path(output)
    path = output / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: predict writes it, so run --mode=predict with this --output first")
    summary = json.loads(path.read_text(encoding="utf-8"))
    cases, failed = summary["cases"], summary.get("failed", [])
    anchors = {case["case"]: f"case-{index}" for index, case in enumerate(cases)}

    sections = [("cases", "Cases", _table(cases, anchors))]
    if failed:
        rows = [(str(failure["input"]), str(failure["reason"])) for failure in failed]
        table = tag("div", markup.table(("input", "why"), rows), class_="wrap")
        notice = markup.notice(f"{len(failed)} of {len(failed) + len(cases)} inputs could not be segmented.")
        sections.insert(0, ("failed", "Failed", markup.section("Failed", notice, table, anchor="failed")))
    articles = []
    with progress("drawing cases", total=len(cases)) as bar:
        for case in cases:
            articles.append(_article(case, anchors[case["case"]], output, look))
            bar.advance(note=case["case"])
    if articles:
        sections.append(("pictures", "Pictures", tag("div", *articles, id="pictures")))
    count = f"{len(cases)} scan{'' if len(cases) == 1 else 's'} segmented by RA-UNet; for research, not for diagnosis"
    write_text(output / "index.html", markup.page("Segmentation", count, sections))
    return output / "index.html"


def _value(case: dict, field: str):
    value = case.get(field)
    return 100 * value if field == "tumor_burden" and value is not None else value


def _table(cases: list[dict], anchors: dict[str, str]) -> Html:
    if not cases:
        return markup.section("Cases", tag("p", "No scan was segmented."), anchor="cases")
    columns = {field: look for field, look in _COLUMNS.items() if any(case.get(field) is not None for case in cases)}
    rows, notices = [], []
    for case in cases:
        link = tag("a", case["case"], href=f"#{anchors[case['case']]}")
        warnings = case.get("warnings") or []
        values = [(_value(case, field), digits) for field, (_, digits) in columns.items()]
        cells = [(number(value, digits), value) for value, digits in values]
        rows.append([(link, case["case"]), *cells, (len(warnings) or "", len(warnings))])
        notices += [markup.notice(link, f": {warning}") for warning in warnings]
    head = ("case", *(title for title, _ in columns.values()), "warnings")
    hint = tag("p", "Click a heading to sort by it, a case to see it.", class_="source")
    return markup.section("Cases", *notices, markup.table(head, rows, sortable=True), hint, anchor="cases")


def _images(case: dict) -> list[str]:
    images = case.get("images") or case["input"]
    images = [images] if isinstance(images, str) else list(images)
    folder = pathlib.Path(images[0])
    if len(images) == 1 and folder.is_dir() and not is_dicom_folder(folder):
        raise FileNotFoundError(f'{folder} is a folder of several files; summary.json names none of them in "images"')
    return images


def _article(case: dict, anchor: str, output: pathlib.Path, look: DisplaySettings | None) -> Html:
    name = case["case"]
    facts = [(title, _value(case, field), digits) for field, (title, digits) in _COLUMNS.items()]
    facts = [tag("span", f"{title} ", tag("b", number(v, digits))) for title, v, digits in facts if v is not None]
    parts = [tag("p", *facts, class_="facts")]
    parts += [markup.notice(warning) for warning in case.get("warnings") or []]
    try:
        images = _images(case)
        kind = "mr" if len(images) > 1 else "ct"
        drawn = draw_case(case, images, None, output, look or DisplaySettings(kind=kind))
    except (VolumeError, OSError) as error:
        parts.append(markup.notice(f"No pictures: {error}"))
    else:
        with replacing(output / f"{pathlib.PurePath(name).name}.png") as temporary:
            temporary.write_bytes(drawn.planes)
        parts.append(markup.image(drawn.planes, f"{name}: three planes with the outlines of what was found"))
        parts += [
            markup.image(png, f"{name}: {what}")
            for png, what in ((drawn.modalities, "every modality"), (drawn.surfaces, "surfaces of what was found"))
            if png
        ]
    parts += lesion_rows(case.get("lesions"))
    heading = tag("div", tag("h2", name), tag("span", tag("a", "all cases", href="#cases")), class_="heading")
    source = [case["input"]] if isinstance(case["input"], str) else case["input"]
    source = tag("p", tag("code", ", ".join(map(str, source))))
    return tag("article", heading, source, *parts, id=anchor)
