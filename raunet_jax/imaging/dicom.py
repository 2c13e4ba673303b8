"""A CT series of single-slice DICOM files as a volume."""

import pathlib

import numpy as np
import pydicom

from raunet_jax.imaging.dicom_files import (
    Slice,
    describe_slice,
    looks_like_dicom,
    quiet,
    read_elements,
    read_pixels,
    unreadable,
)
from raunet_jax.imaging.dicom_series import files_of, find_series, listed
from raunet_jax.imaging.grid import Grid, Path, Volume, VolumeError, check_affine

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM counts toward left and back, NIfTI toward right and front
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def is_dicom_folder(folder: Path) -> bool:
    """Whether `folder` directly holds a DICOM file (DICOMDIR, a mere table of contents, does not count)."""
    folder = pathlib.Path(folder)
    return folder.is_dir() and any(
        looks_like_dicom(path) for path in folder.iterdir() if path.is_file() and path.name.upper() != "DICOMDIR"
    )


@quiet()
def read_dicom_series(folder: Path, series: str = "") -> Volume:
    """Read the CT slices of one series, whatever their names, as one volume of int16 HU.

    `series` is the key of one at any depth below `folder`; without it there must be one directly in `folder`.

    Slices are ordered by their position along the slice normal. Files that are no image slice (reports, structure
    sets, localizers, other files) are passed over. The grid's axes are (column, row, slice); a tilted gantry shears it.

    Raises:
        VolumeError: slices are missing, doubled, unevenly spaced or of several series, are no CT, or cannot be decoded.
    """
    folder = pathlib.Path(folder)
    slices = series_slices(folder, series)
    affine = _affine(slices, folder)
    rows, columns = slices[0].shape
    values = np.empty((columns, rows, len(slices)), np.int16, order="F")
    for index, one in enumerate(slices):
        values[:, :, index] = _hounsfield(one).T
    grid = Grid(values.shape, affine, None)
    name, doubts = folder.resolve().name, _doubts_of_series(slices)
    return Volume(grid.to_canonical(values)[..., None], grid.canonical_affine, grid, name, warnings=doubts)


@quiet()
def series_slices(folder: Path, series: str = "") -> list[Slice]:
    """The slices of the one CT series in `folder`, in the order of the third axis of its grid; no pixel is read.

    `series` is the key of one at any depth below; without it, slices of other modalities are passed over.

    Raises:
        VolumeError: there is none, they are of several series or several sizes, or are no CT.
    """
    folder = pathlib.Path(folder)
    slices = _find_slices(folder, series)
    if not series:
        slices = _of_one_series(slices, folder, "CT")
    _check_series(slices, folder)
    normal = slices[0].normal
    return sorted(slices, key=lambda one: float(one.position @ normal))


def _find_slices(folder: pathlib.Path, series: str = "") -> list[Slice]:
    if not folder.is_dir():
        raise VolumeError(folder, "not a folder", "give the folder that holds the files of one DICOM series")
    slices, unplaced = [], []
    for path in files_of(folder, series) if series else sorted(path for path in folder.iterdir() if path.is_file()):
        if not looks_like_dicom(path):
            if path.suffix.lower() in _DICOM_SUFFIXES:
                raise unreadable(path)
            continue
        data = read_elements(path, stop_before_pixels=True)
        if "Rows" not in data or "LOCALIZER" in (data.get("ImageType") or ()):
            continue
        if data.get("ImagePositionPatient") and data.get("ImageOrientationPatient") and data.get("PixelSpacing"):
            slices.append(describe_slice(data, path))
        else:
            unplaced.append((path, str(data.get("SeriesInstanceUID", "")), int(data.get("NumberOfFrames") or 1)))
    if not slices:
        frames = [path.name for path, _, count in unplaced if count > 1]
        hint = " (images without a position)" if unplaced else ""
        if frames:
            hint = f" ({frames[0]} is a multi-frame file: convert it to NIfTI with dcm2niix)"
        raise VolumeError(folder, f"holds no CT slice{hint}", "give the folder that holds the files of one series")
    for path, series, _ in unplaced:
        if series == slices[0].series:
            raise VolumeError(path, "a slice of the series without ImagePositionPatient", "export the series again")
    return slices


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


def _check_series(slices: list[Slice], folder: pathlib.Path) -> None:
    first = slices[0]
    for one in slices:
        if one.modality != "CT":
            problem = f"its modality is {one.modality}, not CT, so its intensities are not HU"
            raise VolumeError(one.path, problem, "give the folder of a CT series")
        if not np.allclose(one.orientation @ one.orientation.T, np.eye(2), atol=1e-3) or one.spacing.min() <= 0:
            raise VolumeError(
                one.path,
                f"ImageOrientationPatient {one.orientation.ravel().tolist()} or PixelSpacing {one.spacing.tolist()} "
                "describes no pixel grid",
                "export the series again",
            )
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


def _affine(slices: list[Slice], folder: pathlib.Path) -> np.ndarray:
    """(4, 4): (column, row, slice, 1) -> mm, RAS+, from DICOM PS3.3 C.7.6.2.1.1; checks the slices' positions."""
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        if first.thickness is None:
            raise VolumeError(first.path, "a single slice without SliceThickness has no extent", "export it again")
        step = first.normal * first.thickness
    else:
        _check_spacing(slices, folder)
        step = (last.position - first.position) / (len(slices) - 1)
        for index, one in enumerate(slices):
            off = np.linalg.norm(first.position + index * step - one.position)
            if off > 0.5 + 0.1 * np.linalg.norm(step):
                raise VolumeError(
                    one.path,
                    f"its position {one.position.tolist()} lies {off:.2f} mm off the line of the others: the table or "
                    "field of view moved",
                    "reconstruct the series again or resample it to NIfTI",
                )
    between_rows, between_columns = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ first.orientation[0] * between_columns
    affine[:3, 1] = _LPS_TO_RAS @ first.orientation[1] * between_rows
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ first.position
    check_affine(affine, folder)
    return affine


def _check_spacing(slices: list[Slice], folder: pathlib.Path) -> None:
    places = np.array([one.position @ slices[0].normal for one in slices])
    steps = np.diff(places)
    for index in np.flatnonzero(steps < 1e-3)[:1]:
        raise VolumeError(
            folder,
            f"{slices[index].path.name} and {slices[index + 1].path.name} lie at the same position "
            f"{places[index]:.2f} mm along the slice normal: a copy or a second phase is mixed in",
            "remove it",
        )
    # where slices are missing every step is a multiple of the true one, which need not be the commonest
    usual = float(steps.min())
    if (np.abs(steps - np.rint(steps / usual) * usual) > _tolerance_mm(usual)).any():
        usual = float(np.median(steps))
    tolerance = _tolerance_mm(usual)
    gaps = []
    for index in np.flatnonzero(np.abs(steps - usual) > tolerance):
        missing = round(steps[index] / usual) - 1
        gaps.append(
            f"{steps[index]:.2f} mm between {slices[index].path.name} (at {places[index]:.2f} mm) and "
            f"{slices[index + 1].path.name} (at {places[index + 1]:.2f} mm)"
            + (f", {missing} missing" if missing > 0 else "")
        )
    if gaps:
        shown = "; ".join(gaps[:5]) + ("; …" if len(gaps) > 5 else "")
        raise VolumeError(
            folder,
            f"slices are missing or unevenly spaced: {len(slices)} slices, usual spacing {usual:.2f} mm, but {shown}",
            "export the whole series again, or resample it to NIfTI",
        )


def _tolerance_mm(step: float) -> float:
    """Scanners that write positions with one decimal make steps of 0.625 mm look like 0.6 and 0.7."""
    return min(0.1 * step + 0.1, 0.4 * step)


def _hounsfield(one: Slice) -> np.ndarray:
    """(rows, columns) int16 HU = stored value * RescaleSlope + RescaleIntercept (PS3.3 C.11.1.1.2)."""
    data, stored = read_pixels(one.path)
    try:
        slope, intercept = _number(data, "RescaleSlope", 1.0), _number(data, "RescaleIntercept", 0.0)
    except (ValueError, TypeError) as error:
        raise VolumeError(one.path, f"its rescaling to HU cannot be read ({error})", "export it again") from error
    if stored.shape != one.shape:
        problem = f"its pixels have shape {stored.shape} where {one.shape} is expected"
        raise VolumeError(one.path, problem, "export it again")
    return np.clip(np.rint(stored * slope + intercept), -32768, 32767).astype(np.int16)


def _number(data: pydicom.Dataset, name: str, default: float) -> float:
    value = data.get(name)
    return default if value is None else float(value)  # anonymizers leave an element behind without its value
