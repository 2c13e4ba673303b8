"""Whether a NIfTI file holds labels and not a scan, told by its values."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from raunet_jax.imaging.grid import Path
from raunet_jax.imaging.nifti_header import read_header

FEW_LABELS = 10
_CHUNK = 1 << 20
_FIRST_CHUNK = 1 << 14  # most scans show more values than a label map has in their first slice
_ENOUGH = 1 << 25  # bytes: a scan would have shown more values by then, though it began with empty slices


def is_label_map(path: Path, most: int = FEW_LABELS, empty: bool = False) -> bool:
    """Whether all voxels are whole numbers from 0 to 255, at most `most` different ones, 0 and others among them.

    With `empty` the others may be missing. Of a scan only the first voxels are read, until they have shown more values
    than that; of a label map all, or many. False for what cannot be read, or is no NIfTI file.
    """
    return _asked(path, lambda file, header: _few_values(file, header, most, empty))


def is_stored_in_bytes(path: Path) -> bool:
    """Whether the voxels of a NIfTI file are bytes, as those of most label maps are, by its header alone."""
    return _asked(path, lambda _, header: header.get_data_dtype() == np.uint8)


def _asked(path: Path, question: Callable[[BinaryIO, nib.Nifti1Header], bool]) -> bool:
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if zipped else file
            return question(content, read_header(content.read(nib.Nifti2Header.template_dtype.itemsize), path))
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError, HeaderDataError, WrapStructError):
        return False


def _few_values(file: BinaryIO, header: nib.Nifti1Header, most: int, empty: bool) -> bool:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        return False
    slope, intercept = header.get_slope_inter()
    file.seek(header.get_data_offset())
    stored: set[float] = set()
    read = 0
    for chunk in _chunks(file, int(np.prod(header.get_data_shape(), dtype=object)) * dtype.itemsize):
        stored.update(np.unique(np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)).tolist())
        read += len(chunk)
        if len(stored) > most:
            return False
        if len(stored) > 1 and read > _ENOUGH:
            break
    values = np.array(sorted(stored)) * (slope or 1) + (intercept or 0)
    labels = np.rint(values)
    good = np.abs(values - labels) < 0.01  # uint8 with a slope of 2/255 gives 0.996
    return bool((empty or len(values) > 1) and good.all() and labels.min() == 0 and labels.max() <= 255)


def _chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    size = _FIRST_CHUNK
    while count > 0:
        chunk = file.read(min(size, count))
        if len(chunk) < min(size, count):
            raise EOFError
        yield chunk
        count -= len(chunk)
        size = _CHUNK
