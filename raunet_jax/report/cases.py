"""One case of a run or of a prediction: what is on disk about it, its pictures and its lesions."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.errors import FileError
from raunet_jax.files import read_json
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import VolumeError, read_mask, read_nifti, read_scan
from raunet_jax.names import MASK_ENDING, natural
from raunet_jax.report import markup
from raunet_jax.report.display import CaseImages, DisplaySettings
from raunet_jax.report.drawing import png_bytes
from raunet_jax.report.figures import case_planes, modality_planes
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.report.surface import surface_views
from raunet_jax.shapes import CORNER, NUMBER

_BOX = {"start": CORNER, "stop": CORNER}
SEGMENTED = {  # what CASE.json and a case of summary.json hold of a case
    "channels?": (None, [int]),
    "box?": (None, _BOX),
    "warnings?": (None, [str]),
    "lesions?": (None, [{str: (*NUMBER, bool, str, [NUMBER])}]),
    "seconds?": NUMBER,
}
_RECORD = SEGMENTED | {"images": [str], "mask?": (None, str), "stages?": (None, dict)}
UNREADABLE = (VolumeError, OSError)  # what `read_case` raises


class Pictures(NamedTuple):
    """PNG bytes; None where there is nothing to draw, or where one channel or several ask for other pictures."""

    planes: bytes
    modalities: bytes | None
    surfaces: bytes | None


def look_up(values: dict | None, keys: tuple[str, ...]):
    """What stands in nested dictionaries under `keys`, one after the other; None where any of them is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def read_records(folder: pathlib.Path) -> list[dict]:
    """The CASE.json files of an evaluation folder in natural order; none when there is no such folder.

    Raises:
        FileError: one does not hold what evaluation writes.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: natural(path.stem))
    remedy = "delete it, or make it again with --mode=evaluate"
    records = [read_json(path, remedy, _RECORD) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if not record["images"]:
            raise FileError(path, "names no file in images", remedy)
    return [record | {"case": path.stem} for record, path in zip(records, paths, strict=True)]


def read_case(
    record: dict, images: Sequence[str], mask: str | None, folder: pathlib.Path, settings: DisplaySettings
) -> CaseImages:
    """Read a case's scan, its reference `mask` (may be None), and CASE_seg.nii.gz and probability maps in `folder`.

    Raises:
        VolumeError, OSError: a file is gone, damaged or of another grid; the message names it.
    """
    channels, series = record.get("channels") or (), record.get("series") or ()
    volume = read_scan(images, settings.modality, channels, repair=True, series=series)
    name = pathlib.PurePath(record["case"]).name

    def labels(path, allowed) -> np.ndarray:
        return np.minimum(read_mask(path, volume, allowed), np.uint8(settings.highest_label))

    predicted = folder / f"{name}{MASK_ENDING}.nii.gz"
    maps = {structure: folder / f"{name}_{ending}.nii.gz" for ending, structure in settings.maps.items()}
    box = record.get("box")
    return CaseImages(
        volume,
        labels(mask, settings.reference_labels) if mask else None,
        labels(predicted, settings.predicted_labels) if predicted.is_file() else None,
        Box(tuple(box["start"]), tuple(box["stop"])) if box else None,
        {name: read_nifti(path, "mr").voxels[..., 0] for name, path in maps.items() if path.is_file()},
    )


def draw_case(case: CaseImages, settings: DisplaySettings) -> Pictures:
    """Planes of every case, each channel of one that has several, surfaces of one that has a single one."""
    planes = png_bytes(case_planes(case, settings), palette=True)
    if case.volume.voxels.shape[-1] > 1:
        return Pictures(planes, png_bytes(modality_planes(case, settings), palette=True), None)
    surfaces = surface_views(case.masks, case.spacing_mm, settings.structures)
    return Pictures(planes, None, surfaces and png_bytes(surfaces))


def show_pictures(name: str, pictures: Pictures) -> list[Html]:
    """The pictures of a case as elements of its article."""
    words = ("three planes with outlines and probabilities", "every modality", "surfaces of what was found")
    return [markup.image(png, f"{name}: {what}") for what, png in zip(words, pictures, strict=True) if png]


def lesion_rows(lesions: list[dict] | None) -> list[Html]:
    """A table of a case's lesions, as CASE.json and summary.json list them, with the numbers of lesions.csv."""
    if not lesions:
        return []
    fields = list(lesions[0])
    rows = [[f"{index}", *(_cell(lesion.get(f)) for f in fields)] for index, lesion in enumerate(lesions, start=1)]
    units = {"_mm3": ", mm³", "_mm": ", mm", "_ml": ", mL", "_": " "}
    titles = fields
    for written, read in units.items():
        titles = [title.replace(written, read) for title in titles]
    return [tag("h3", "Lesions"), markup.table(("", *titles), rows, sortable=True)]


def _cell(value) -> tuple[str, object]:
    """What is shown of a value, and what it is sorted by."""
    if isinstance(value, list):
        return ", ".join(number(part, 1) for part in value), None
    if isinstance(value, bool):
        return "yes" if value else "no", None
    return number(value, 2), value
