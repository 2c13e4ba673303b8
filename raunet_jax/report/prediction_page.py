"""The page of a prediction: volumes, tumor burden and pictures of every scan that was segmented."""

import os
import pathlib
from collections.abc import Container
from contextlib import nullcontext

from raunet_jax.errors import NotFound
from raunet_jax.files import read_json, replacing, write_text
from raunet_jax.imaging.archives import Unpacked
from raunet_jax.imaging.volume import is_dicom_folder
from raunet_jax.progress import progress
from raunet_jax.report import markup
from raunet_jax.report.cases import SEGMENTED, UNREADABLE, Pictures, draw_case, lesion_rows, read_case, show_pictures
from raunet_jax.report.display import DisplaySettings
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.report.structures import shown_name

_CASE = SEGMENTED | {"case": str, "input": (str, [str]), "images?": (None, str, [str])}
SUMMARY = {"cases": [_CASE], "failed?": [{"input": str, "reason": str}]}
_VOLUME = "_ml"  # ending of a field of summary.json: the volume of the structure that it is named after
_VOLUME_DIGITS = {"liver": 0, "tumor": 1, "whole_tumor": 1}  # of other structures, which may be small: 2
_OTHER_COLUMNS = {
    "tumor_count": ("tumors", 0),
    "tumor_burden": ("tumor burden, %", 2),
    "seconds": ("seconds", 1),
}


def write_prediction_page(
    output: str | os.PathLike,
    settings: DisplaySettings,
    fresh: Container[str] | None = None,
    unpacked: Unpacked | None = None,
) -> pathlib.Path:
    """Write OUTPUT/index.html and a CASE.png beside each mask from OUTPUT/summary.json; return the page's path.

    A case's scan is read from its "images" (a list of files, or one DICOM folder), or from "input" when it has none.

    Args:
        fresh: the cases to draw; of others the CASE.png that is there is shown. None: all.
        unpacked: where archives are unpacked already.

    Raises:
        FileNotFoundError: there is no summary.json.
    """
    output = pathlib.Path(output)
    remedy = "predict writes it, so run --mode=predict with this --output first"
    summary = read_json(output / "summary.json", remedy, SUMMARY)
    cases, failed = summary["cases"], summary.get("failed", [])
    anchors = {case["case"]: f"case-{index}" for index, case in enumerate(cases)}
    columns = _columns(cases)

    sections = [("cases", "Cases", _table(cases, columns, anchors))]
    if failed:
        rows = [(str(failure["input"]), str(failure["reason"])) for failure in failed]
        table = tag("div", markup.table(("input", "why"), rows), class_="wrap")
        notice = markup.notice(f"{len(failed)} of {len(failed) + len(cases)} inputs could not be segmented.")
        sections.insert(0, ("failed", "Failed", markup.section("Failed", notice, table, anchor="failed")))
    articles = []
    with (
        progress("drawing cases", total=len(cases)) as bar,
        nullcontext(unpacked) if unpacked else Unpacked() as places,
    ):
        for case in cases:
            drawn = None if fresh is None or case["case"] in fresh else _drawn_before(case, output)
            articles.append(_article(case, columns, anchors[case["case"]], output, settings, places, drawn))
            bar.advance(note=case["case"])
    if articles:
        sections.append(("pictures", "Pictures", tag("div", *articles, id="pictures")))
    count = f"{len(cases)} scan{'' if len(cases) == 1 else 's'} segmented by RA-UNet; for research, not for diagnosis"
    write_text(output / "index.html", markup.page("Segmentation", count, sections))
    return output / "index.html"


def _columns(cases: list[dict]) -> dict[str, tuple[str, int]]:
    """Field of a case in summary.json -> heading and digits, of those that any case has."""
    fields = dict.fromkeys(field for case in cases for field, value in case.items() if value is not None)
    structures = [field.removesuffix(_VOLUME) for field in fields if field.endswith(_VOLUME)]
    columns = {
        f"{structure}{_VOLUME}": (f"{shown_name(structure)}, mL", _VOLUME_DIGITS.get(structure, 2))
        for structure in structures
    }
    return columns | {field: column for field, column in _OTHER_COLUMNS.items() if field in fields}


def _value(case: dict, field: str):
    value = case.get(field)
    return 100 * value if field == "tumor_burden" and value is not None else value


def _table(cases: list[dict], columns: dict[str, tuple[str, int]], anchors: dict[str, str]) -> Html:
    if not cases:
        return markup.section("Cases", tag("p", "No scan was segmented."), anchor="cases")
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


def _picture(case: dict, output: pathlib.Path) -> pathlib.Path:
    return output / f"{pathlib.PurePath(case['case']).name}.png"


def _drawn_before(case: dict, output: pathlib.Path) -> Pictures | None:
    try:
        return Pictures(_picture(case, output).read_bytes(), None, None)
    except OSError:
        return None


def _images(case: dict, places: Unpacked) -> list[str]:
    images = case.get("images") or case["input"]
    images = [places.real(image) for image in ([images] if isinstance(images, str) else images)]
    folder = pathlib.Path(images[0])
    if len(images) == 1 and folder.is_dir() and not case.get("series") and not is_dicom_folder(folder):
        raise NotFound(f'{folder} is a folder of several files; summary.json names none of them in "images"')
    return images


def _article(
    case: dict,
    columns: dict[str, tuple[str, int]],
    anchor: str,
    output: pathlib.Path,
    settings: DisplaySettings,
    places: Unpacked,
    pictures: Pictures | None,
) -> Html:
    name = case["case"]
    facts = [(title, _value(case, field), digits) for field, (title, digits) in columns.items()]
    facts = [tag("span", f"{title} ", tag("b", number(v, digits))) for title, v, digits in facts if v is not None]
    parts = [tag("p", *facts, class_="facts")]
    parts += [markup.notice(warning) for warning in case.get("warnings") or []]
    try:
        if pictures is None:
            pictures = draw_case(read_case(case, _images(case, places), None, output, settings), settings)
            with replacing(_picture(case, output)) as temporary:
                temporary.write_bytes(pictures.planes)
        parts += show_pictures(name, pictures)
    except UNREADABLE as error:
        parts.append(markup.notice(f"No pictures: {error}"))
    parts += lesion_rows(case.get("lesions"))
    heading = tag("div", tag("h2", name), tag("span", tag("a", "all cases", href="#cases")), class_="heading")
    source = [case["input"]] if isinstance(case["input"], str) else case["input"]
    source = tag("p", tag("code", ", ".join(map(str, source))))
    return tag("article", heading, source, *parts, id=anchor)
