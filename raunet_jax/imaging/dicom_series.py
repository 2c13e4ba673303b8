"""Which DICOM files below a folder make up which series: told by their headers, wherever the files lie."""

import dataclasses
import math
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property

import numpy as np

from raunet_jax.files import look_below
from raunet_jax.imaging.dicom_elements import text
from raunet_jax.imaging.dicom_headers import (
    TABLE_OF_CONTENTS,
    Facts,
    Header,
    NotSeries,
    facts_of,
    read_headers,
    without_copies,
)
from raunet_jax.imaging.grid import Path
from raunet_jax.names import natural

__all__ = ["TABLE_OF_CONTENTS", "NotSeries", "Series", "find_series", "listed", "orientation_name"]

_SAME_PLACE_MM = 0.01
_OBLIQUE = 0.9  # cosine of the angle from which an axis of the patient no longer gives a plane its name
_FOLDER = "folder"
_TELL_APART = {  # what may tell stacks at the same place apart, by which a series is split where positions double
    "ImageType": lambda header: header.image_type,
    "EchoNumbers": lambda header: text(header.data, "EchoNumbers"),
    "TemporalPositionIdentifier": lambda header: text(header.data, "TemporalPositionIdentifier"),
    "AcquisitionNumber": lambda header: text(header.data, "AcquisitionNumber"),
    "AcquisitionTime": lambda header: text(header.data, "AcquisitionTime"),
    "StudyInstanceUID": lambda header: header.study,
    _FOLDER: lambda header: str(header.path.parent),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The files of one stack of slices.

    Attributes:
        study: its StudyInstanceUID; a folder where files have none, or share one UID with other folders' stacks.
        key: its SeriesInstanceUID, with "/2" and so on for further stacks of the same UID; "-" where files have none.
        folder: the deepest that holds every file of that UID; the key is found again below it.
        files: ordered by position along the slice normal.
        slices: how many places along the normal there are, over all frames of all files.
        spacing_mm: between slices, the median.
        extent_mm: from the first slice's lower face to the last one's upper face.
        head: of the first file.
        facts: what that file says of the series.
        ends: (3,) mm, LPS, of the first and the last slice.
        part: what tells it from other stacks of its UID, such as "AcquisitionNumber 2"; "" where it is the only one.
        warnings: what is doubtful about it.
    """

    study: str
    key: str
    folder: pathlib.Path
    files: tuple[pathlib.Path, ...]
    slices: int
    spacing_mm: float
    extent_mm: float
    head: Header
    facts: Facts
    ends: tuple[tuple[float, ...], tuple[float, ...]]
    part: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        return self.head.uid

    @property
    def number(self) -> int | None:
        return self.facts.number

    @property
    def description(self) -> str:
        return self.facts.description or self.facts.protocol

    @property
    def modality(self) -> str:
        return self.head.modality or "CT"  # anonymizers leave it out, and readers take CT

    @cached_property
    def plane(self) -> str:
        """axial | coronal | sagittal | oblique."""
        return orientation_name(self.head.orientation)

    def __str__(self) -> str:
        number = "" if self.number is None else f"{self.number} "
        description = f"'{self.description}'" if self.description else "without description"
        part = f", {self.part}" if self.part else ""
        return f"{number}{description} ({self.modality}, {self.slices} slice{'s' * (self.slices != 1)}{part})"


def find_series(
    root: Path, deep: bool = True, files: Iterable[pathlib.Path] | None = None
) -> tuple[list[Series], list[NotSeries]]:
    """The image series at any depth below `root` (directly in it where not `deep`), and everything else of DICOM.

    Files are grouped by patient, series and geometry across folders; where positions double, by what else tells the
    stacks apart, such as AcquisitionNumber. A file that is there twice, byte for byte, counts once. Slices that carry a
    SeriesInstanceUID each are one series where study, number, description and geometry are one.

    Args:
        files: look at no others; None: all but hidden ones.

    Returns:
        The series in natural order of their folders and numbers, and what is no part of one. Nothing is raised for a
        file or folder that cannot be read: it is listed.
    """
    locked = []
    if files is None:
        tree = look_below(root, deep)
        files = tree.files
        locked = [NotSeries(folder, f"cannot be read ({why})", True) for folder, why in tree.locked]
    headers, others = read_headers(files)
    headers, copies = without_copies(headers)
    series, lost = [], []
    for group in _grouped(headers, _identity):
        if all(header.lacking for header in group):
            whole = len(group) > 2 and group[0].modality in ("CT", "MR")  # more than a screenshot or two
            lost += [NotSeries(one.path, f"image without {' and '.join(one.lacking)}", whole) for one in group]
        else:
            series += _series_of(group)
    series = _one_a_slice(series)
    series.sort(key=lambda one: (natural(str(one.folder)), one.number or 0, natural(one.key)))
    return series, locked + others + copies + lost


def listed(series: Sequence[Series], most: int = 6) -> str:
    """The series in a few words each, for a sentence."""
    words = "; ".join(str(one) for one in series[:most])
    return words + (f"; and {len(series) - most} more" if len(series) > most else "")


def orientation_name(orientation: Sequence[float]) -> str:
    """The plane of slices whose rows and columns run along `orientation` (6,): axial, coronal, sagittal or oblique."""
    normal = np.abs(_normal(orientation))
    axis = int(np.argmax(normal))
    return ("sagittal", "coronal", "axial")[axis] if normal[axis] >= _OBLIQUE else "oblique"


def _identity(header: Header) -> Hashable:
    return header.patient, header.uid or header.path.parent  # a bad anonymizer makes a study of every file


def _grouped(headers: Iterable[Header], key: Callable[[Header], Hashable]) -> list[list[Header]]:
    groups = defaultdict(list)
    for header in headers:
        groups[key(header)].append(header)
    return list(groups.values())


def _series_of(group: Sequence[Header]) -> list[Series]:
    """The stacks of one SeriesInstanceUID; files that do not say where they lie stay with the largest."""
    placed = [header for header in group if not header.lacking]
    stacks = [stack for same in _by_geometry(placed) for stack in _told_apart(same)]
    if len(stacks) > 1 and _a_folder_each([headers for headers, _ in stacks]):  # one UID for several patients
        stacks = [(headers, _FOLDER) for headers, _ in stacks]
    stacks.sort(key=lambda stack: (-len(stack[0]), stack[1], natural(str(stack[0][0].path))))
    folder = _common_folder(group)
    series = []
    for index, (headers, part) in enumerate(stacks):
        unplaced = [header for header in group if header.lacking] if index == 0 else []
        key = group[0].uid or "-"
        series.append(_series(headers, unplaced, key if index == 0 else f"{key}/{index + 1}", folder, part))
    study = series[0].study  # a series belongs to one, whatever its files say
    return [one if one.part == _FOLDER else dataclasses.replace(one, study=study) for one in series]


def _a_folder_each(stacks: Sequence[Sequence[Header]]) -> bool:
    folders = [{header.path.parent for header in stack} for stack in stacks]
    return (
        all(len(one) == 1 for one in folders)
        and len(set.union(*folders)) == len(stacks)
        and (min(map(len, stacks)) > 1)
    )


def _by_geometry(headers: Iterable[Header]) -> list[list[Header]]:
    groups: list[list[Header]] = []
    for header in headers:
        same = next((group for group in groups if _same_geometry(group[0], header)), None)
        if same is None:
            groups.append([header])
        else:
            same.append(header)
    return groups


def _same_geometry(one: Header, other: Header) -> bool:
    return (
        (one.rows, one.columns) == (other.rows, other.columns)
        and all(abs(a - b) <= 1e-3 for a, b in zip(one.orientation, other.orientation, strict=True))
        and all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(one.spacing, other.spacing, strict=True))
    )


def _told_apart(headers: Sequence[Header]) -> list[tuple[list[Header], str]]:
    """Stacks without a position that is there twice, and by what they were told apart; one stack if nothing does."""
    if not _doubled(headers):
        return [(list(headers), "")]
    for name, value in _TELL_APART.items():
        parts = _grouped(headers, value)
        if len(parts) > 1 and not any(_doubled(part) for part in parts) and min(map(len, parts)) > 1:
            return [(part, name if name == _FOLDER else f"{name} {_shown(value(part[0]))}") for part in parts]
    return [(list(headers), "")]


def _doubled(headers: Sequence[Header]) -> bool:
    return len(_places(headers)) < sum(len(header.positions) for header in headers)


def _places(headers: Sequence[Header]) -> np.ndarray:
    """(n,) mm: the places along the slice normal, each once."""
    normal = _normal(headers[0].orientation)
    return np.unique([np.rint(np.dot(one, normal) / _SAME_PLACE_MM) for header in headers for one in header.positions])


def _normal(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def _shown(value) -> str:
    return "\\".join(value) if isinstance(value, tuple) else value or "missing"


def _series(headers, unplaced, key: str, folder: pathlib.Path, part: str = "", warnings=()) -> Series:
    normal = _normal(headers[0].orientation)
    headers = sorted(headers, key=lambda header: (float(np.dot(header.positions[0], normal)), str(header.path)))
    places = _places(headers) * _SAME_PLACE_MM
    ends = sorted(
        (position for header in headers for position in header.positions), key=lambda one: np.dot(one, normal)
    )
    head = headers[0]
    facts = facts_of(head.data)
    spacing = float(np.median(np.diff(places))) if len(places) > 1 else facts.between or facts.thickness or 0.0
    return Series(
        study=str(head.path.parent) if part == _FOLDER else head.study or str(folder),
        key=key,
        folder=folder,
        files=tuple(header.path for header in [*headers, *unplaced]),
        slices=len(places),
        spacing_mm=abs(spacing),
        extent_mm=float(places[-1] - places[0]) + abs(spacing),
        head=head,
        facts=facts,
        ends=(ends[0], ends[-1]),
        part=part,
        warnings=tuple(warnings),
    )


def _common_folder(headers: Iterable[Header]) -> pathlib.Path:
    return pathlib.Path(os.path.commonpath([header.path.parent for header in headers]))


def _one_a_slice(series: Sequence[Series]) -> list[Series]:
    """`series`, those joined whose exporter gave every slice a SeriesInstanceUID of its own."""
    single = [one for one in series if len(one.files) == one.slices == 1]
    studies = Counter(one.head.study for one in single)
    alike = defaultdict(list)
    for one in single:
        head = one.head
        place = head.study if studies[head.study] > 1 else one.folder
        geometry = (head.rows, head.columns, *np.round(head.orientation, 3), *np.round(head.spacing, 3))
        alike[head.patient, place, head.modality, one.number, one.description, geometry].append(head)
    joined = {}
    for heads in alike.values():
        if len(heads) > 2 and not _doubled(heads):
            said = f"each of its {len(heads)} slices carries a SeriesInstanceUID of its own; read as one series"
            whole = _series(heads, [], "", _common_folder(heads), warnings=[said])
            joined |= {head.path: dataclasses.replace(whole, key=whole.uid) for head in heads}
    others = [one for one in series if one.files[0] not in joined or len(one.files) != 1]
    return others + list({whole.key: whole for whole in joined.values()}.values())
