"""One case of a run or of a prediction: what is on disk about it, and its pictures."""

import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import Volume, read_mask, read_nifti, read_scan
from raunet_jax.names import natural
from raunet_jax.report import markup
from raunet_jax.report.figures import BRAIN, CT_WINDOW_HU, LIVER, case_planes, modality_planes
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.report.surface import surface_views

_REFERENCE_LABELS = {"ct": (0, 1, 2), "mr": (0, 1, 2, 3, 4)}  # any label of a brain mask is whole tumor
_MAPS = ("liver", "tumor", "brain", "foreground", "probability")  # endings of the probability maps beside a mask


@dataclass(frozen=True)
class DisplaySettings:
    """What must be known about a recipe to show a case as it was seen."""

    kind: str = "ct"  # ct | mr
    structures: Mapping[str, int] | None = None  # name -> lowest label; None: those of the kind
    window_hu: tuple[float, float] = CT_WINDOW_HU
    modalities: tuple[str, ...] = ("ct",)

    @property
    def shown(self) -> Mapping[str, int]:
        return self.structures or (BRAIN if self.kind == "mr" else LIVER)


def look_up(values: dict | None, keys: tuple[str, ...]):
    """What stands in nested dictionaries under `keys`, one after the other; None where any of them is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def read_records(folder: pathlib.Path) -> list[dict]:
    """The CASE.json files of an evaluation folder in natural order; none when there is no such folder."""
    paths = sorted(folder.glob("*.json"), key=lambda path: natural(path.stem))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record | {"case": path.stem} for record, path in zip(records, paths, strict=True)]


def _box(record: dict) -> Box | None:
    box = record.get("box")
    return Box(tuple(box["start"]), tuple(box["stop"])) if box else None


@dataclass(frozen=True)
class Drawn:
    """The pictures of a case as PNG bytes, and what else the page draws from the same scan."""

    planes: bytes
    modalities: bytes | None
    surfaces: bytes | None
    volume: Volume
    reference: np.ndarray | None


def draw_case(record: dict, images: list[str], mask: str | None, folder: pathlib.Path, look: DisplaySettings) -> Drawn:
    """Draw a case from its scan, its reference `mask` (may be None) and CASE_seg.nii.gz and maps in `folder`.

    Raises:
        VolumeError, OSError: a file is gone, damaged or of another grid; the message names it.
    """
    volume = read_scan(images, look.kind, record.get("channels") or (), repair=True)
    name = pathlib.PurePath(record["case"]).name
    only_organ = max(look.shown.values()) == 1

    def labels(path, allowed) -> np.ndarray:
        read = read_mask(path, volume, allowed)
        return (read >= 1).astype(np.uint8) if only_organ else read

    reference = labels(mask, _REFERENCE_LABELS[look.kind]) if mask else None
    found = folder / f"{name}_seg.nii.gz"
    prediction = labels(found, (0, 1, 2)) if found.is_file() else None
    maps = {"brain": "whole tumor", "probability": next(reversed(look.shown))}
    probabilities = {}
    for ending in _MAPS:
        path = folder / f"{name}_{ending}.nii.gz"
        if path.is_file():
            probabilities[maps.get(ending, ending)] = read_nifti(path, "mr").voxels[..., 0]
    box = _box(record)
    planes = case_planes(volume, reference, prediction, box, probabilities, look.shown, look.kind, look.window_hu)
    modalities = surfaces = None
    channels = volume.voxels.shape[-1]
    if channels > 1:
        names = look.modalities if len(look.modalities) == channels else [f"channel {c}" for c in range(channels)]
        modalities = modality_planes(volume, tuple(names), reference, prediction)
    else:
        masks = {"reference": reference, "prediction": prediction}
        surfaces = surface_views({n: m for n, m in masks.items() if m is not None}, volume.spacing_mm)
    return Drawn(planes, modalities, surfaces, volume, reference)


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
