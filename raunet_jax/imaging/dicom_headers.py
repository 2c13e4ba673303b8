"""The headers of all DICOM files below a folder, each read once and without its pixels; nothing found is an error."""

import concurrent.futures
import dataclasses
import filecmp
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pydicom
from pydicom.datadict import tag_for_keyword

from raunet_jax.imaging.dicom_elements import items, number, numbers, parts, text, words
from raunet_jax.imaging.dicom_files import DICOM_SUFFIXES, begins_as_dicom, quiet, unreadable
from raunet_jax.imaging.dicom_slices import brief

TABLE_OF_CONTENTS = "table of contents"
_NO_IMAGE = {  # SOP class, or what it begins with, below 1.2.840.10008.: what such a file is (PS3.4 B.5)
    "1.3.10": TABLE_OF_CONTENTS,
    "5.1.4.1.1.7": "secondary capture",
    "5.1.4.1.1.9": "waveform",
    "5.1.4.1.1.11": "presentation state",
    "5.1.4.1.1.66.4": "segmentation",
    "5.1.4.1.1.66.5": "surface segmentation",
    "5.1.4.1.1.66": "registration or raw data",
    "5.1.4.1.1.67": "value mapping",
    "5.1.4.1.1.68": "surface scan",
    "5.1.4.1.1.77": "photograph",
    "5.1.4.1.1.88.59": "key object selection",
    "5.1.4.1.1.88.67": "dose report",
    "5.1.4.1.1.88": "structured report",
    "5.1.4.1.1.104": "encapsulated document",
    "5.1.4.1.1.481.1": "radiotherapy image",
    "5.1.4.1.1.481.2": "radiotherapy dose",
    "5.1.4.1.1.481.3": "radiotherapy structure set",
    "5.1.4.1.1.481": "radiotherapy plan or record",
    "5.1.4.38": "hanging protocol",
}
_NO_IMAGE_MODALITIES = {
    "SR": "structured report",
    "RTSTRUCT": "radiotherapy structure set",
    "RTDOSE": "radiotherapy dose",
    "RTPLAN": "radiotherapy plan or record",
    "RTIMAGE": "radiotherapy image",
    "SEG": "segmentation",
    "PR": "presentation state",
    "KO": "key object selection",
    "DOC": "encapsulated document",
    "SC": "secondary capture",
    "OT": "secondary capture",
    "REG": "registration or raw data",
}
_TAGS = [
    tag_for_keyword(name)
    for name in """SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID
    StudyDate StudyDescription SeriesNumber SeriesDescription ProtocolName Modality BodyPartExamined ImageType
    Rows Columns NumberOfFrames ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
    SpacingBetweenSlices FrameOfReferenceUID AcquisitionNumber AcquisitionTime TemporalPositionIdentifier EchoNumbers
    ConvolutionKernel ContrastBolusAgent ContrastBolusAgentSequence EchoTime RepetitionTime InversionTime
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence""".split()
]
_OF_UID = re.compile(r"\.\d+")  # the last part of a UID, as which many archives name their files
_THREADS = 8  # to wait for a network drive; parsing itself runs one at a time


class NotSeries(NamedTuple):
    """A file or folder that is no part of an image series."""

    path: pathlib.Path
    what: str  # what it is, in words, or why nobody can tell
    trouble: bool = False  # whether a scan may be lost by it: it is locked or damaged


@dataclasses.dataclass(frozen=True, eq=False)
class Header:
    """What tells a file's series and place; texts are "" where it does not say."""

    path: pathlib.Path
    data: pydicom.Dataset  # the elements that were read, for `facts_of` and `text`
    sop: str
    patient: str  # PatientID: to tell patients apart, never printed
    study: str
    uid: str  # of the series
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    orientation: tuple[float, ...] | None  # (6,) directions along a row and along a column, LPS
    spacing: tuple[float, ...] | None  # (2,) mm, between rows and between columns
    positions: tuple[tuple[float, ...], ...]  # (3,) mm, LPS, a frame; () where any is not known

    @property
    def lacking(self) -> list[str]:
        """The elements that it lacks, or that cannot be, of those that say where in space its pixels lie."""
        places = {
            "ImagePositionPatient": self.positions,
            "ImageOrientationPatient": self.orientation,
            "PixelSpacing": self.spacing,
        }
        return [name for name, value in places.items() if not value]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file says of the series it belongs to; texts are "" and numbers None where it does not say."""

    number: int | None
    description: str
    protocol: str
    body_part: str
    kernel: str
    agent: str  # contrast agent
    thickness: float | None  # mm
    between: float | None  # mm: SpacingBetweenSlices
    frame_of_reference: str
    echo_time: float | None  # ms, as the next two
    repetition_time: float | None
    inversion_time: float | None
    study_date: str
    study_description: str


def read_headers(files: Iterable[pathlib.Path]) -> tuple[list[Header], list[NotSeries]]:
    """The header of each image among `files`, and what else of DICOM is there.

    Files that are no DICOM are left out, unless their name says that they should be; an image that does not say where
    it lies is a Header too.
    """
    with quiet(), concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = [one for one in pool.map(_read, files) if one is not None]
    return [one for one in found if isinstance(one, Header)], [one for one in found if isinstance(one, NotSeries)]


def _read(path: pathlib.Path) -> Header | NotSeries | None:
    """None: no DICOM file."""
    named_so = path.suffix.lower() in DICOM_SUFFIXES
    try:
        with path.open("rb") as file:
            start = file.read(132)
            marked = start[128:] == b"DICM"
            if not begins_as_dicom(start):
                return NotSeries(path, unreadable(path).problem, True) if named_so else None
            if path.name.upper() == "DICOMDIR":
                return NotSeries(path, TABLE_OF_CONTENTS)
            file.seek(0)
            data = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
            header = _header(path, data)
            what = _what(data, header)
    except OSError as error:
        if path.suffix and not named_so and not _OF_UID.fullmatch(path.suffix):
            return None
        return NotSeries(path, f"cannot be read ({error.strerror})", True)
    except Exception as error:  # pydicom raises whatever a damaged element makes it stumble over
        return NotSeries(path, f"damaged DICOM file ({brief(error)})", True) if marked or named_so else None
    if not (header.sop or header.rows or header.modality):
        return NotSeries(path, "damaged DICOM file (nothing in it says what it is)", True) if marked else None
    return NotSeries(path, what) if what else header


def _what(data: pydicom.Dataset, header: Header) -> str:
    """What a file is that is no image of a series, else ""."""
    sop_class = text(data, "SOPClassUID").removeprefix("1.2.840.10008.")
    for start, what in _NO_IMAGE.items():
        if sop_class == start or sop_class.startswith(f"{start}."):
            return what
    if header.modality in _NO_IMAGE_MODALITIES:
        return _NO_IMAGE_MODALITIES[header.modality]
    if not header.rows or not header.columns:
        return "file without an image"
    if "LOCALIZER" in header.image_type:
        return "localizer"
    return ""


def _header(path: pathlib.Path, data: pydicom.Dataset) -> Header:
    return Header(
        path=path,
        data=data,
        sop=text(data, "SOPInstanceUID"),
        patient=text(data, "PatientID"),
        study=text(data, "StudyInstanceUID"),
        uid=text(data, "SeriesInstanceUID"),
        modality=text(data, "Modality").upper() or _modality(data),
        image_type=tuple(part.strip().upper() for part in parts(data, "ImageType")),
        rows=int(number(data, "Rows") or 0),
        columns=int(number(data, "Columns") or 0),
        orientation=numbers(data, "ImageOrientationPatient", 6),
        spacing=numbers(data, "PixelSpacing", 2),
        positions=_positions(data),
    )


def facts_of(data: pydicom.Dataset) -> Facts:
    """What a file says of its series."""
    series = number(data, "SeriesNumber")
    agent = text(data, "ContrastBolusAgent")
    for one in items(data, "ContrastBolusAgentSequence")[:1] if not agent else ():
        agent = text(one, "CodeMeaning") or "yes"
    return Facts(
        number=None if series is None else int(series),
        description=words(data, "SeriesDescription"),
        protocol=words(data, "ProtocolName"),
        body_part=text(data, "BodyPartExamined"),
        kernel=" ".join(parts(data, "ConvolutionKernel")).strip(),
        agent="" if agent.lower() in ("no", "none", "0", "n") else agent,
        thickness=number(data, "SliceThickness"),
        between=number(data, "SpacingBetweenSlices"),
        frame_of_reference=text(data, "FrameOfReferenceUID"),
        echo_time=number(data, "EchoTime") or number(data, "EffectiveEchoTime"),
        repetition_time=number(data, "RepetitionTime"),
        inversion_time=number(data, "InversionTime") or number(data, "InversionTimes"),
        study_date=text(data, "StudyDate"),
        study_description=words(data, "StudyDescription"),
    )


def _modality(data: pydicom.Dataset) -> str:
    """By the SOP class, where an anonymizer left Modality out; "" where that says nothing either."""
    sop_class = text(data, "SOPClassUID").removeprefix("1.2.840.10008.5.1.4.1.1.")
    kinds = {"2": "CT", "4": "MR", "20": "NM", "3": "US", "6": "US", "128": "PT", "130": "PT"}
    return kinds.get(sop_class.partition(".")[0], "")


def _positions(data: pydicom.Dataset) -> tuple[tuple[float, ...], ...]:
    frames = max(int(number(data, "NumberOfFrames") or 1), 1)
    if frames == 1:
        position = numbers(data, "ImagePositionPatient", 3)
        return (position,) if position else ()
    planes = [items(one, "PlanePositionSequence") for one in items(data, "PerFrameFunctionalGroupsSequence")]
    positions = tuple(numbers(plane[0], "ImagePositionPatient", 3) if plane else None for plane in planes)
    return positions if len(positions) == frames and all(positions) else ()


def without_copies(headers: Sequence[Header]) -> tuple[list[Header], list[NotSeries]]:
    """`headers` without those of files that are there twice, byte for byte under one SOPInstanceUID, and these."""
    kept, copies = [], []
    first: dict[str, Header] = {}
    for header in sorted(headers, key=lambda header: len(str(header.path))):  # "IM1", not "IM1 copy", is the original
        other = first.setdefault(header.sop, header) if header.sop else header
        if other is not header and _same_bytes(other.path, header.path):
            copies.append(NotSeries(header.path, "copy of another file"))
        else:
            kept.append(header)
    return kept, copies


def _same_bytes(one: pathlib.Path, other: pathlib.Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
