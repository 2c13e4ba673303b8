"""Where the slices of a DICOM series lie: the affine of their stack, and what is wrong with their positions."""

import dataclasses
import math
import pathlib

import numpy as np

from raunet_jax.imaging.dicom_slices import Slice
from raunet_jax.imaging.grid import VolumeError, check_affine

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM counts toward left and back, NIfTI toward right and front
_AGAIN = "export the whole series again, or resample it to NIfTI"
_ZONE = 3  # equal wide steps in a row that are a zone of wider spacing, not slices lost one by one
_WIDEST = 2.5  # usual steps across which may be interpolated where no zone of wider spacing begins
_SHOWN = 3  # gaps that are named
_OBLONG = 2  # the longer side of a pixel over the shorter
_FEW = 4  # slices of which no order says anything


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """The even grid that the slices of a series lie on, or are resampled to."""

    affine: np.ndarray  # (4, 4): (column, row, slice, 1) -> mm, RAS+
    count: int  # slices of the grid
    scanned: tuple[float, ...] = ()  # where they are unevenly spaced: the place of each on the grid's third axis
    warnings: tuple[str, ...] = ()


def stack_slices(slices: list[Slice], folder: pathlib.Path) -> Stack:
    """The grid of `slices`, which are of one size and orientation and in the order of their positions.

    The affine is that of PS3.3 C.7.6.2.1.1; a tilted gantry shears it. Unevenly spaced slices get an even grid from the
    first to the last, its step the smallest of theirs, or half the median one where that is larger.

    Raises:
        VolumeError: slices are missing or doubled, two acquisitions interleave, or the table moved.
    """
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        if first.thickness is None:
            problem = f"{first.place} is a single slice without SliceThickness, so it has no extent"
            raise VolumeError(first.path, problem, "export it again")
        return Stack(_affine(first, first.normal * first.thickness, folder), 1)
    doubts = _check_acquisitions(slices, folder)
    if first.spacing.max() > _OBLONG * first.spacing.min():
        doubts += (f"PixelSpacing {first.spacing.tolist()} makes oblong pixels, which hardly any scanner does",)
    places = np.array([one.position @ first.normal for one in slices])
    even = _is_even(slices, places, folder)
    whole = last.position - first.position
    fractions = (places - places[0]) / (places[-1] - places[0])
    if even:
        fractions = np.arange(len(slices)) / (len(slices) - 1)
        count, scanned = len(slices), ()
    else:
        steps = np.diff(places)
        wanted = max(float(steps.min()), float(np.median(steps)) / 2)
        count = math.ceil((places[-1] - places[0]) / wanted - 1e-3) + 1
        scanned = tuple((fractions * (count - 1)).tolist())
    step = whole / (count - 1)
    _check_line(slices, fractions, even)
    if not even:
        doubts += (
            f"{len(slices)} slices are unevenly spaced (steps of {np.diff(places).min():.2f} to "
            f"{np.diff(places).max():.2f} mm): they were resampled linearly to {count} slices "
            f"{np.linalg.norm(step):.2f} mm apart, on which masks and volumes in mL are given",
        )
    return Stack(_affine(first, step, folder), count, scanned, doubts)


def _affine(first: Slice, step: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    between_rows, between_columns = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ first.orientation[0] * between_columns
    affine[:3, 1] = _LPS_TO_RAS @ first.orientation[1] * between_rows
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ first.position
    check_affine(affine, folder)
    return affine


def _check_line(slices: list[Slice], fractions: np.ndarray, even: bool) -> None:
    """Each slice must lie where its fraction of the way from the first to the last puts it."""
    whole = slices[-1].position - slices[0].position
    step = np.linalg.norm(whole) / (len(slices) - 1)
    for one, fraction in zip(slices, fractions, strict=True):
        off = np.linalg.norm(slices[0].position + fraction * whole - one.position)
        if off > 0.5 + 0.1 * step:
            shown = ", ".join(f"{x:.2f}" for x in one.position)
            raise VolumeError(
                one.path,
                f"its position [{shown}] lies {off:.2f} mm off the line of the others: the table or field of view "
                "moved",
                "reconstruct the series again or resample it to NIfTI",
            )


def _is_even(slices: list[Slice], places: np.ndarray, folder: pathlib.Path) -> bool:
    """Whether all steps are alike.

    Raises:
        VolumeError: two slices lie at one position, or slices are missing.
    """
    steps = np.diff(places)
    for index in np.flatnonzero(steps < 1e-3)[:1]:
        one, other = slices[index], slices[index + 1]
        raise VolumeError(
            folder,
            f"{one.place} and {other.place} lie at the same position {places[index]:.2f} mm along the slice normal"
            f"{_difference(one, other)}: a copy or a second phase is mixed in",
            "remove it",
        )
    # where slices are missing every step is a multiple of the true one, which need not be the commonest
    usual = float(steps.min())
    multiples = (np.abs(steps - np.rint(steps / usual) * usual) <= _tolerance_mm(usual)).all()
    if not multiples:
        usual = float(np.median(steps))
    wide = np.abs(steps - usual) > _tolerance_mm(usual)
    if not wide.any():
        return True
    too_wide = steps > (1.5 if multiples else _WIDEST) * usual
    gaps = np.flatnonzero(too_wide & ~_in_zone(steps))
    if not gaps.size:
        return False
    shown = []
    for index in gaps[:_SHOWN]:
        missing = max(round(steps[index] / usual) - 1, 1)
        shown.append(
            f"{steps[index]:.2f} mm between {slices[index].place} (at {places[index]:.2f} mm) and "
            f"{slices[index + 1].place} (at {places[index + 1]:.2f} mm), {missing} missing"
        )
    more = f"; and {len(gaps) - _SHOWN} more gaps" if len(gaps) > _SHOWN else ""
    raise VolumeError(
        folder,
        f"slices are missing: {len(slices)} slices, usual spacing {usual:.2f} mm, but {'; '.join(shown)}{more}",
        _AGAIN,
    )


def _in_zone(steps: np.ndarray) -> np.ndarray:
    """Which of `steps` are of a run of at least `_ZONE` alike."""
    zone = np.zeros(len(steps), bool)
    begin = 0
    for end in range(1, len(steps) + 1):
        if end == len(steps) or abs(steps[end] - steps[begin]) > _tolerance_mm(steps[begin]):
            zone[begin:end] = end - begin >= _ZONE
            begin = end
    return zone


def _tolerance_mm(step: float) -> float:
    """Scanners that write positions with one decimal make steps of 0.625 mm look like 0.6 and 0.7."""
    return min(0.1 * step + 0.1, 0.4 * step)


def _check_acquisitions(slices: list[Slice], folder: pathlib.Path) -> tuple[str, ...]:
    """Warn, or raise VolumeError, where acquisitions of one series lie between each other's slices."""
    if slices[0].modality == "CT":
        names = ("AcquisitionNumber", "ConvolutionKernel", "KVP")
    else:  # MR may scan every second slice first
        names = ("TemporalPositionIdentifier", "DiffusionBValue")
    for name in names:
        labels = [one.facts[name] for one in slices if name in one.facts]
        kinds = dict.fromkeys(labels)
        if 1 < len(kinds) < _runs(labels):
            raise VolumeError(folder, *_interleaved(f"{name} {' and '.join(list(kinds)[:3])}", slices))
    if slices[0].modality != "CT":
        return ()
    times = [_number(one, "AcquisitionTime") for one in slices]
    if _interleave(times, by_gap=True):
        raise VolumeError(folder, *_interleaved("two spans of AcquisitionTime", slices))
    if _interleave([_number(one, "InstanceNumber") for one in slices], by_gap=False):
        return (
            "its slices lie between each other in two groups of InstanceNumber: perhaps two acquisitions were joined; "
            "look whether neighboring slices fit",
        )
    return ()


def _interleaved(what: str, slices: list[Slice]) -> tuple[str, str]:
    problem = f"two acquisitions are mixed: along the stack of {len(slices)} slices those of {what} alternate"
    return problem, "export each acquisition as a series of its own"


def _runs(labels: list) -> int:
    return 1 + sum(one != other for one, other in zip(labels, labels[1:], strict=False))


def _interleave(values: list[float | None], by_gap: bool) -> bool:
    """Whether the slices are two groups of `values`, cut at the widest gap or at the middle, that alternate in place.

    Each must be in order by itself: anonymizers leave numbers behind that mean nothing.
    """
    if None in values or len(set(values)) < 2:
        return False
    ordered = sorted(values)
    cut = int(np.argmax(np.diff(ordered))) if by_gap else len(ordered) // 2 - 1
    late = [value > ordered[cut] for value in values]
    if _runs(late) < 5:
        return False
    groups = [[value for value, is_late in zip(values, late, strict=True) if is_late == which] for which in (0, 1)]
    return all(len(group) >= _FEW and group in (sorted(group), sorted(group, reverse=True)) for group in groups)


def _number(one: Slice, name: str) -> float | None:
    try:
        return float(one.facts[name])
    except (KeyError, ValueError):
        return None


def _difference(one: Slice, other: Slice) -> str:
    """What of their facts tells two slices apart."""
    if one.part != other.part:
        return f" ({one.part}; {other.part})"
    names = [name for name, value in one.facts.items() if other.facts.get(name, value) != value]
    shown = ", ".join(f"{name} {one.facts[name]:.20} and {other.facts[name]:.20}" for name in names[:3])
    return f" ({shown})" if shown else ""
