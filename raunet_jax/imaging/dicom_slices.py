"""Where a DICOM file's slices lie and what their values mean, by the elements of its header (PS3.3 C.7.6, C.8.2)."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pydicom
from pydicom import uid
from pydicom.datadict import tag_for_keyword

from raunet_jax.imaging.grid import VolumeError

_MODALITY_OF = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
    uid.PositronEmissionTomographyImageStorage: "PT",
    uid.EnhancedPETImageStorage: "PT",
    uid.LegacyConvertedEnhancedPETImageStorage: "PT",
}
_NO_SLICES = (uid.RTDoseStorage, uid.SegmentationStorage, uid.ParametricMapStorage, uid.RTImageStorage)
# what tells apart two acquisitions or reconstructions that one series holds
_FACTS = (
    "InstanceNumber AcquisitionNumber AcquisitionTime ConvolutionKernel KVP EchoTime TemporalPositionIdentifier "
    "DiffusionBValue BitsAllocated BitsStored HighBit PixelRepresentation PhotometricInterpretation"
).split()
# and the volumes that one multi-frame file holds
_PARTS = "StackID TemporalPositionIndex EffectiveEchoTime DiffusionBValue ComplexImageComponent".split()
_AGAIN = "export the series again"


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice of a file: where it puts its pixels, and what turns them into intensities."""

    path: pathlib.Path
    series: str
    description: str
    modality: str
    shape: tuple[int, int]  # rows, columns
    position: np.ndarray  # (3,) mm, LPS: center of the first pixel
    orientation: np.ndarray  # (2, 3): unit vectors along a row and along a column, LPS
    spacing: np.ndarray  # (2,) mm: between rows, between columns
    thickness: float | None  # mm
    frame: int | None = None  # of a multi-frame file; None where the file is the slice
    part: str = ""  # which of the volumes of a multi-frame file that holds several
    rescale: tuple[float | None, float | None] = (None, None)  # RescaleSlope, RescaleIntercept
    unit: str = ""  # RescaleType
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of `_FACTS` those that are there

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.orientation)

    @property
    def place(self) -> str:
        """The name by which messages call it."""
        return self.path.name if self.frame is None else f"frame {self.frame + 1} of {self.path.name}"


class _Elements:
    """Elements by name, from the first of several data sets that has them; what cannot be read is named."""

    def __init__(self, path: pathlib.Path, *sources: pydicom.Dataset):
        self.path, self.sources = path, sources

    def get(self, name: str):
        """The value; None where it is absent or empty."""
        for source in self.sources:
            try:
                value = source.get(name)
                empty = value is None or (hasattr(value, "__len__") and len(value) == 0)
            except Exception as error:  # pydicom converts on access, and raises its own kind for each type
                raise self.error(f"{name} cannot be read: {_raw(source, name)}") from error
            if not empty:
                return value
        return None

    def text(self, name: str) -> str:
        try:
            value = self.get(name)
        except VolumeError:
            return ""  # no text decides where a voxel lies
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return "\\".join(map(str, value))
        return "" if value is None else str(value).strip()

    def numbers(self, name: str, count: int) -> np.ndarray:
        value = self.get(name)
        if value is None:
            raise self.error(f"has no {name}")
        shown = brief(self.text(name), 60)
        try:
            numbers = np.array(value, float).reshape(-1)
        except (ValueError, TypeError) as error:
            raise self.error(f"{name} cannot be read: {shown}") from error
        if numbers.size != count:
            raise self.error(f"{name} holds {numbers.size} numbers where {count} are expected: {shown}")
        if not np.isfinite(numbers).all():
            raise self.error(f"{name} is {shown}")
        return numbers

    def number(self, name: str) -> float | None:
        return None if self.get(name) is None else float(self.numbers(name, 1)[0])

    def count(self, name: str) -> int:
        number = self.numbers(name, 1)[0]
        if number != int(number) or number < 1:
            raise self.error(f"{name} is {number:g}")
        return int(number)

    def error(self, problem: str, remedy: str = _AGAIN) -> VolumeError:
        return VolumeError(self.path, problem, remedy)


def brief(text: object, length: int = 160) -> str:
    """`text` in one line of at most `length` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def slices_of(data: pydicom.Dataset, path: pathlib.Path) -> list[Slice]:
    """As `dicom_files.read_slices`."""
    top = _Elements(path, data)
    kind = _class_of(data)
    if "Rows" not in data and not _is_known(kind) and not top.text("Modality"):
        raise top.error("damaged DICOM file (nothing in it says what it is)", "copy it again")
    if kind in _NO_SLICES or (kind not in _MODALITY_OF and "Rows" not in data):
        return []
    if "LOCALIZER" in top.text("ImageType").split("\\"):
        return []
    if "PerFrameFunctionalGroupsSequence" in data:
        return _frames(data, path, kind)
    frames = top.number("NumberOfFrames") or 1
    if frames > 1:
        problem = f"is a multi-frame file ({frames:g} frames) that gives none of them a position"
        raise top.error(problem, "export the series as single slices or as Enhanced CT or MR")
    if kind not in _MODALITY_OF and top.get("ImagePositionPatient") is None:
        return []
    return [_describe(top, kind)]


def _class_of(data: pydicom.Dataset) -> str:
    meta = getattr(data, "file_meta", None) or pydicom.Dataset()
    stated = _Elements(pathlib.Path(), data).text("SOPClassUID")
    kinds = [stated, _Elements(pathlib.Path(), meta).text("MediaStorageSOPClassUID")]
    return next((kind for kind in kinds if _is_known(kind)), stated)


def _is_known(kind: str) -> bool:
    return kind in uid.UID_dictionary


def _describe(elements: _Elements, kind: str, frame: int | None = None, part: str = "") -> Slice:
    modality = elements.text("Modality") or _MODALITY_OF.get(kind, "")
    if not modality:
        raise elements.error("has no Modality, and its SOPClassUID is of no CT, MR or PET image")
    samples, colors = elements.number("SamplesPerPixel"), elements.text("PhotometricInterpretation")
    if (samples or 1) != 1 or colors not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise elements.error(
            f"is a picture in colors (PhotometricInterpretation {brief(colors, 30)}, SamplesPerPixel "
            f"{samples or 1:g}), whose pixels are no intensities",
            "leave it out, or export the original series",
        )
    if elements.get("ModalityLUTSequence") is not None:
        raise elements.error("its values are given by a table (ModalityLUTSequence), which is not read")
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope == 0:
        raise elements.error("RescaleSlope is 0, so all its intensities are alike")
    facts = {name: value for name in _FACTS if (value := elements.text(name))}
    if other := elements.text("FrameAcquisitionNumber"):
        facts["AcquisitionNumber"] = other
    return Slice(
        path=elements.path,
        series=elements.text("SeriesInstanceUID"),
        description=elements.text("SeriesDescription"),
        modality=modality,
        shape=(elements.count("Rows"), elements.count("Columns")),
        position=elements.numbers("ImagePositionPatient", 3),
        orientation=_orientation(elements),
        spacing=_spacing(elements),
        thickness=_thickness(elements),
        frame=frame,
        part=part,
        rescale=(slope, intercept),
        unit=elements.text("RescaleType"),
        facts=facts,
    )


def _orientation(elements: _Elements) -> np.ndarray:
    axes = elements.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        shown = brief(axes.ravel().tolist(), 100)
        raise elements.error(f"ImageOrientationPatient {shown} describes no pixel grid: no two unit vectors at 90°")
    return axes


def _spacing(elements: _Elements) -> np.ndarray:
    if elements.get("PixelSpacing") is None:
        # PS3.3 10.7.1: both are measured elsewhere than in the patient
        for name, where in (("ImagerPixelSpacing", "at the detector"), ("NominalScannedPixelSpacing", "on a film")):
            if (value := elements.text(name)) != "":
                raise elements.error(
                    f"has no PixelSpacing; its {name} {brief(value, 40)} is measured {where}, not in the patient",
                    "export the series again, or convert it to NIfTI with the right spacing",
                )
    spacing = elements.numbers("PixelSpacing", 2)
    if spacing.min() <= 0:
        raise elements.error(f"PixelSpacing {spacing.tolist()} describes no pixel grid")
    return spacing


def _thickness(elements: _Elements) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        with_value = elements.text(name)
        try:
            thickness = abs(float(with_value or 0))
        except ValueError:
            continue
        if 0 < thickness < np.inf:
            return thickness
    return None


def _frames(data: pydicom.Dataset, path: pathlib.Path, kind: str) -> list[Slice]:
    """The frames of an Enhanced or Legacy Converted Enhanced file (PS3.3 C.7.6.16), localizers left out."""
    top = _Elements(path, data)
    try:
        shared = _groups((data.get("SharedFunctionalGroupsSequence") or [None])[0])
        of_frames = [_groups(item) for item in data.PerFrameFunctionalGroupsSequence]
    except Exception as error:  # as in `_Elements.get`
        raise top.error(f"its functional groups cannot be read ({brief(error)})") from error
    count = int(top.number("NumberOfFrames") or 1)
    if count != len(of_frames):
        raise top.error(f"NumberOfFrames is {count}, but PerFrameFunctionalGroupsSequence is of {len(of_frames)}")
    frames = [_Elements(path, *groups, *shared, data) for groups in of_frames]
    wanted = [index for index, one in enumerate(frames) if "LOCALIZER" not in one.text("FrameType").split("\\")]
    values = {name: [frames[index].text(name) for index in wanted] for name in _PARTS}
    differing = [name for name, of_each in values.items() if len(set(of_each)) > 1]
    return [
        _describe(frames[index], kind, index, ", ".join(f"{name} {values[name][row] or '-'}" for name in differing))
        for row, index in enumerate(wanted)
    ]


def _groups(item: pydicom.Dataset | None) -> list[pydicom.Dataset]:
    """The functional groups of one item, each a sequence of one item."""
    return [] if item is None else [element.value[0] for element in item if element.VR == "SQ" and element.value]


def _raw(source: pydicom.Dataset, name: str) -> str:
    try:
        value = source.get_item(tag_for_keyword(name)).value
        return brief(value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else value, 60)
    except Exception:  # it is only shown
        return "its value is damaged"
