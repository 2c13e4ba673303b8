"""A DICOM series as a volume: CT or MR, in single slices or as multi-frame files."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from pydicom.uid import UID

from raunet_jax.files import look_below
from raunet_jax.imaging.dicom_files import (
    DICOM_SUFFIXES,
    Slice,
    looks_like_dicom,
    quiet,
    read_elements,
    read_slices,
    unreadable,
)
from raunet_jax.imaging.dicom_geometry import stack_slices
from raunet_jax.imaging.dicom_pixels import read_values, resample_slices
from raunet_jax.imaging.dicom_series import Series, find_series, listed
from raunet_jax.imaging.grid import Grid, Path, Volume, VolumeError

_MODALITY = {"ct": "CT", "mr": "MR"}


def is_dicom_folder(folder: Path) -> bool:
    """Whether `folder` directly holds a DICOM file (DICOMDIR, a mere table of contents, does not count)."""
    folder = pathlib.Path(folder)
    return folder.is_dir() and any(
        looks_like_dicom(path) for path in folder.iterdir() if path.is_file() and path.name.upper() != "DICOMDIR"
    )


@quiet()
def read_dicom_series(folder: Path, series: str = "", kind: str = "ct") -> Volume:
    """Read the slices of one series as one volume.

    Slices are ordered by their position along the slice normal, whatever their files are called. The grid's axes are
    (column, row, slice); a tilted gantry shears it. Unevenly spaced slices are resampled linearly to an even grid, see
    `stack_slices`; `Grid.on_scanned_slices` gives a mask of them on the slices that were scanned.

    Args:
        folder: that holds the files; or one multi-frame file.
        series: which of the series at any depth below `folder`, by its key; without it there must be one of `kind`
            directly in it.
        kind: "ct" gives int16 HU, "mr" float32.

    Returns:
        The volume; its `warnings` say what is doubtful about spacing, acquisitions and rescaling.

    Raises:
        VolumeError: slices are missing or doubled, of several series or acquisitions, of another modality, hold an
            element that cannot be, or cannot be decoded.
    """
    folder = pathlib.Path(folder)
    slices = series_slices(folder, series, kind)
    _check_one_volume(slices, folder)
    stack = stack_slices(slices, folder)
    values, doubts = read_values(slices, kind, folder)
    if stack.scanned:
        values = resample_slices(values, stack.scanned, stack.count)
    grid = Grid(values.shape, stack.affine, None, stack.scanned)
    doubts = _doubts_of_series(slices) + stack.warnings + doubts
    warnings = tuple(f"{folder.resolve().name}: {doubt}" for doubt in doubts)
    name = folder.resolve().name if folder.is_dir() else folder.stem
    return Volume(grid.to_canonical(values)[..., None], grid.canonical_affine, grid, name, warnings=warnings)


@quiet()
def series_slices(folder: Path, series: str = "", kind: str = "ct") -> list[Slice]:
    """The slices of the one series in `folder`, in the order of the third axis of its grid; no pixel is read.

    `series` is the key of one at any depth below; without it, slices of other modalities are passed over.

    Raises:
        VolumeError: there is none, they are of several series or several sizes, or are no CT (MR).
    """
    folder = pathlib.Path(folder)
    slices = _find_slices(folder, series)
    if not series and folder.is_dir():
        slices = _of_one_series(slices, folder, _MODALITY[kind])
    _check_series(slices, kind)
    normal = slices[0].normal
    return sorted(slices, key=lambda one: float(one.position @ normal))


def _find_slices(folder: pathlib.Path, series: str = "") -> list[Slice]:
    if folder.is_file():
        slices = read_slices(folder)
        if not slices or slices[0].frame is None:
            raise VolumeError(folder, "is one slice of a series, or none", "give the folder that holds all its slices")
        return slices
    if not folder.is_dir():
        raise VolumeError(folder, "not a folder", "give the folder that holds the files of one DICOM series")
    slices, faulty = [], []
    for path in files_of(folder, series) if series else sorted(path for path in folder.iterdir() if path.is_file()):
        if not looks_like_dicom(path):
            if path.suffix.lower() in DICOM_SUFFIXES:
                raise unreadable(path)
            continue
        data = read_elements(path, stop_before_pixels=True)
        try:
            slices += read_slices(data)
        except VolumeError as error:
            faulty.append((error, _series_of(data)))
    if not slices and not faulty:
        raise VolumeError(
            folder, "holds no slice of a CT or MR scan", "give the folder that holds the files of one series"
        )
    for error, of_series in faulty:
        if series or not slices or of_series == slices[0].series or not UID(of_series).is_valid:
            raise error
    return slices


def files_of(folder: Path, key: str) -> tuple[pathlib.Path, ...]:
    """The files of the series `key` at any depth below `folder`.

    Raises:
        VolumeError: there is no such series.
    """
    series = _known_series(tuple(_stamped(look_below(folder).files)))
    found = [one for one in series if one.key == key]
    for one in found:
        if one.folder == pathlib.Path(folder) or len(found) == 1:
            return one.files
    problem = f"holds no series {key}" + (f"; there is {listed(series)}" if series else "")
    raise VolumeError(folder, problem, "choose one of these with --series, or see that its files are there")


@lru_cache(maxsize=2)  # the headers of a folder of many series are read once, not once a series
def _known_series(files: tuple[tuple[pathlib.Path, int, int], ...]) -> list[Series]:
    """The series of files, each given with its size and time of change."""
    return find_series("", files=[path for path, *_ in files])[0]


def _stamped(files: Iterable[pathlib.Path]) -> Iterator[tuple[pathlib.Path, int, int]]:
    for path in files:
        with contextlib.suppress(OSError):  # a link that leads nowhere
            status = path.stat()
            yield path, status.st_size, status.st_ctime_ns


def _series_of(data) -> str:
    try:
        return str(data.get("SeriesInstanceUID") or "")
    except Exception:  # damaged like the rest of the file
        return ""


def _of_one_series(slices: list[Slice], folder: pathlib.Path, modality: str) -> list[Slice]:
    """Those of the only series that lies directly in `folder`, or the only one of `modality` there."""
    if len({one.series for one in slices}) == 1:
        return slices
    series, _ = find_series(folder, deep=False)
    fit = [one for one in series if one.modality == modality]
    if len(fit) == 1:
        return [one for one in slices if one.path in fit[0].files]
    problem = f"holds {len(series)} series: {listed(series)}"
    remedy = "choose one with --series (--list shows them), or put each into a folder of its own"
    raise VolumeError(folder, problem, remedy)


def _doubts_of_series(slices: list[Slice]) -> tuple[str, ...]:
    count = len({one.series for one in slices})
    return () if count == 1 else (f"{len(slices)} slices of {count} SeriesInstanceUIDs are read as one series",)


def _check_series(slices: list[Slice], kind: str) -> None:
    first, wanted = slices[0], _MODALITY[kind]
    for one in slices:
        if one.modality != wanted:
            problem = f"its modality is {one.modality:.20}, not {wanted}" + (
                ", so its intensities are not HU" if kind == "ct" else ""
            )
            raise VolumeError(one.path, problem, f"give the folder of a {wanted} series")
        for what, same in (
            ("size", one.shape == first.shape),
            ("orientation", np.allclose(one.orientation, first.orientation, atol=1e-3)),
            ("pixel spacing", np.allclose(one.spacing, first.spacing, rtol=1e-3)),
        ):
            if not same:
                raise VolumeError(
                    one.path,
                    f"its {what} differs from that of {first.path.name}",
                    "keep only slices of one reconstruction in the folder",
                )


def _check_one_volume(slices: list[Slice], folder: pathlib.Path) -> None:
    """Raise where a multi-frame file holds several volumes, such as echoes or time points."""
    parts = dict.fromkeys(one.part for one in slices)
    if len(parts) > 1:
        shown = "; ".join(f"{part:.80}" for part in list(parts)[:3]) + ("; …" if len(parts) > 3 else "")
        problem = f"{slices[0].path.name} holds {len(parts)} volumes in one series: {shown}"
        raise VolumeError(folder, problem, "save the wanted one by itself, as NIfTI with dcm2niix or as its own series")
