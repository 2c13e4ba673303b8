"""Single DICOM files: what they are, where they put their pixels, and the pixels as stored."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom.uid import ImplicitVRLittleEndian

from raunet_jax.imaging.grid import VolumeError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Values that bend the standard a little are in every archive: one warning a slice helps nobody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


@dataclasses.dataclass(frozen=True)
class Slice:
    """Where a single-slice file puts its pixels."""

    path: pathlib.Path
    series: str
    description: str
    modality: str
    shape: tuple[int, int]  # rows, columns
    position: np.ndarray  # (3,) mm, LPS: center of the first pixel
    orientation: np.ndarray  # (2, 3): unit vectors along a row and along a column, LPS
    spacing: np.ndarray  # (2,) mm: between rows, between columns
    thickness: float | None  # mm

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.orientation)


@quiet()
def read_pixels(path: pathlib.Path) -> tuple[pydicom.Dataset, np.ndarray]:
    """One file's elements, and its pixels (rows, columns) as stored.

    Raises:
        VolumeError: they cannot be decoded.
    """
    data = read_elements(path)
    if getattr(data, "file_meta", None) is None or "TransferSyntaxUID" not in data.file_meta:
        data.ensure_file_meta()
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the standard's default
    try:
        return data, data.pixel_array
    except Exception as error:  # each decoder raises its own kind
        raise VolumeError(
            path,
            f"its pixels cannot be decoded (transfer syntax {data.file_meta.TransferSyntaxUID.name}: {error})",
            "copy the file again if it is cut short, else decompress it (gdcmconv --raw)",
        ) from error


def looks_like_dicom(path: pathlib.Path) -> bool:
    """Whether the file begins as DICOM does, whatever its name."""
    with path.open("rb") as file:
        start = file.read(132)
    # files of old archives lack the preamble and begin with the first element of group 8, little endian
    return start[128:] == b"DICM" or start[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def unreadable(path: pathlib.Path) -> VolumeError:
    """What to raise for a file that should be DICOM, by its name, and does not begin as DICOM does."""
    return VolumeError(path, f"not a readable DICOM file ({path.stat().st_size} bytes)", "copy it again")


def read_elements(path: pathlib.Path, **options) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, force=True, **options)
    except Exception as error:  # pydicom raises whatever a damaged element makes it stumble over
        raise VolumeError(path, f"damaged DICOM file ({error})", "copy it again") from error


def describe_slice(data: pydicom.Dataset, path: pathlib.Path) -> Slice:
    try:
        thickness = data.get("SpacingBetweenSlices") or data.get("SliceThickness")
        return Slice(
            path=path,
            series=str(data.get("SeriesInstanceUID", "")),
            description=str(data.get("SeriesDescription", "")),
            modality=str(data.get("Modality") or "CT"),
            shape=(int(data.Rows), int(data.Columns)),
            position=np.array(data.ImagePositionPatient, float).reshape(3),
            orientation=np.array(data.ImageOrientationPatient, float).reshape(2, 3),
            spacing=np.array(data.PixelSpacing, float).reshape(2),
            thickness=abs(float(thickness)) if thickness else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        problem = f"its position or size cannot be read ({error})"
        raise VolumeError(path, problem, "export the series again") from error
