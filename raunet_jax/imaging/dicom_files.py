"""Single DICOM files: what they are, and the pixels as stored."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom.uid import UID, ImplicitVRLittleEndian

from raunet_jax.imaging.dicom_slices import Slice, brief, slices_of
from raunet_jax.imaging.grid import VolumeError

__all__ = [
    "DICOM_SUFFIXES",
    "Slice",
    "begins_as_dicom",
    "looks_like_dicom",
    "quiet",
    "read_elements",
    "read_pixels",
    "read_slices",
    "unreadable",
]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

pydicom.config.logger.propagate = False  # it logs each of its warnings too, to our users' screens


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Values that bend the standard a little are in every archive: one warning a slice helps nobody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


@quiet()
def read_slices(source: pathlib.Path | pydicom.Dataset) -> list[Slice]:
    """The slices that one file holds, in its own order, by its header alone: one, or of a multi-frame file many.

    Args:
        source: the file, or what `read_elements` read of it.

    Returns:
        None for what is no slice of a volume: reports, structure sets, localizers, dose grids, segmentations, and
        screenshots that have no position.

    Raises:
        VolumeError: it is an image, but one of its elements is missing, or holds what no slice can have.
    """
    if isinstance(source, pydicom.Dataset):
        return slices_of(source, pathlib.Path(source.filename))
    return slices_of(read_elements(source, stop_before_pixels=True), pathlib.Path(source))


@quiet()
def read_pixels(path: pathlib.Path) -> tuple[pydicom.Dataset, np.ndarray]:
    """One file's elements, and its pixels (rows, columns), or (frames, rows, columns), as stored.

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
        syntax = UID(str(data.file_meta.TransferSyntaxUID))
        raise VolumeError(
            path,
            f"its pixels cannot be decoded (transfer syntax {brief(syntax.name, 60)}: {brief(error)})",
            "copy the file again if it is cut short, else decompress it (gdcmconv --raw)",
        ) from error


def looks_like_dicom(path: pathlib.Path) -> bool:
    """Whether the file begins as DICOM does, whatever its name.

    Raises:
        VolumeError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise _locked(path, error) from error
    return begins_as_dicom(start)


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file of which these are the first 132 bytes begins as DICOM does."""
    # files of old archives lack the preamble and begin with the first element of group 8, little endian
    return start[128:] == b"DICM" or start[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def unreadable(path: pathlib.Path) -> VolumeError:
    """What to raise for a file that should be DICOM, by its name, and does not begin as DICOM does."""
    return VolumeError(path, f"not a readable DICOM file ({path.stat().st_size} bytes)", "copy it again")


def read_elements(path: pathlib.Path, **options) -> pydicom.Dataset:
    """The file's elements; `options` are those of `pydicom.dcmread`.

    Raises:
        VolumeError: the file cannot be opened, or ends or is damaged before them.
    """
    try:
        return pydicom.dcmread(path, force=True, **options)
    except OSError as error:
        raise _locked(path, error) from error
    except Exception as error:  # pydicom raises whatever a damaged element makes it stumble over
        raise VolumeError(path, f"damaged DICOM file ({brief(error)})", "copy it again") from error


def _locked(path: pathlib.Path, error: OSError) -> VolumeError:
    problem = f"cannot be read ({brief(error.strerror or error)})"
    return VolumeError(path, problem, "make it readable (chmod a+r), or copy it again")
