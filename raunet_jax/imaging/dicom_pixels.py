"""The intensities of a DICOM series: stored pixels decoded, padding told from tissue, rescaled to HU."""

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from raunet_jax.imaging.components import label_components
from raunet_jax.imaging.dicom_files import read_pixels
from raunet_jax.imaging.dicom_slices import Slice
from raunet_jax.imaging.grid import Path, VolumeError

AIR_HU = -1024  # what padding is taken as
_JUMP_HU = 200  # by how much half of a slice's pixels cannot differ from those of the next
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_NOT_HU_UNLESS = ("", "HU", "HU_MOD", "US")  # US: unspecified
_FORMAT = "BitsAllocated BitsStored HighBit PixelRepresentation PhotometricInterpretation".split()
_AGAIN = "export the series again"


def read_values(slices: list[Slice], kind: str, folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The intensities of `slices`, in their order, and what is doubtful about them.

    Each is stored value * RescaleSlope + RescaleIntercept (PS3.3 C.11.1.1.2) of its own slice; in MR both may be
    absent. Pixels of PixelPaddingValue that touch a CT slice's edge are air. Files are decoded once each.

    Args:
        kind: "ct" gives int16 HU, "mr" float32.

    Returns:
        (columns, rows, slices) in Fortran order; the warnings.

    Raises:
        VolumeError: pixels cannot be decoded, or cannot be HU by what the headers say.
    """
    doubts = _check_rescale(slices, kind)
    rows, columns = slices[0].shape
    values = None
    indices: dict[Path, list[int]] = {}
    for index, one in enumerate(slices):
        indices.setdefault(one.path, []).append(index)
    masked: list[Path] = []
    for path, of_file in indices.items():
        data, stored = _stored(path, [slices[index] for index in of_file])
        if values is None:  # only now is it sure that so many pixels are there
            values = np.empty((columns, rows, len(slices)), np.int16 if kind == "ct" else np.float32, order="F")
        if _has_higher_bits(data, stored):
            masked.append(path)
        for index in of_file:
            pixels = stored[slices[index].frame or 0]
            values[:, :, index] = _intensities(pixels, data, slices[index], kind).T
    if masked:
        doubts += (
            f"bits above BitsStored are set in {len(masked)} of {len(indices)} files, such as {masked[0].name}; they "
            "were left out, as the standard wants",
        )
    if kind == "ct":
        _check_missing_rescale(slices, values, folder)
        _check_jumps(slices, values)
    return values, doubts


def resample_slices(values: np.ndarray, scanned: tuple[float, ...], count: int) -> np.ndarray:
    """`values` (columns, rows, slices), whose slices lie at `scanned`, linearly interpolated at 0, 1, … `count` - 1."""
    places = np.array(scanned)
    result = np.empty((*values.shape[:2], count), values.dtype, order="F")
    for index in range(count):
        below = int(np.clip(np.searchsorted(places, index, side="right") - 1, 0, len(places) - 2))
        weight = (index - places[below]) / (places[below + 1] - places[below])
        between = (1 - weight) * values[:, :, below] + weight * values[:, :, below + 1]
        result[:, :, index] = np.rint(between) if values.dtype.kind == "i" else between
    return result


def _check_rescale(slices: list[Slice], kind: str) -> tuple[str, ...]:
    doubts = []
    for place, name in enumerate(_RESCALE):
        missing = [one for one in slices if one.rescale[place] is None]
        if missing and len(missing) < len(slices):
            problem = (
                f"{missing[0].place} has no {name}, which {len(slices) - len(missing)} of {len(slices)} slices have"
            )
            raise VolumeError(missing[0].path, problem, _AGAIN)
        if missing and kind == "ct":
            doubts.append(f"its slices have no {name}: stored values are taken for HU as they are")
        if kind == "ct" and not missing and len({one.rescale[place] for one in slices}) > 1:
            ends = [one.rescale[place] for one in slices]
            doubts.append(
                f"{name} differs between its slices ({min(ends):g} to {max(ends):g}); each has its own applied"
            )
    for one in slices:
        if kind == "ct" and one.unit.upper() not in _NOT_HU_UNLESS:
            problem = f"RescaleType is {one.unit:.20}, so its intensities are not HU"
            raise VolumeError(one.path, problem, "give the folder of a CT series in HU")
    for name in _FORMAT:
        seen = dict.fromkeys(one.facts[name] for one in slices if name in one.facts)
        if len(seen) > 1:
            doubts.append(
                f"{name} differs between its slices ({', '.join(f'{value:.20}' for value in list(seen)[:3])})"
            )
    return tuple(doubts)


def _stored(path: Path, slices: list[Slice]) -> tuple[pydicom.Dataset, np.ndarray]:
    """A file's elements, and its pixels (frames, rows, columns) as stored."""
    data, stored = read_pixels(path)
    rows, columns = slices[0].shape
    if stored.ndim == 2:
        stored = stored[None]
    if stored.ndim != 3 or stored.shape[1:] != (rows, columns) or len(stored) <= max(one.frame or 0 for one in slices):
        problem = f"its pixels have shape {stored.shape} where {(rows, columns)} is expected"
        raise VolumeError(path, problem, "export it again")
    stored_bits, high = slices[0].facts.get("BitsStored"), slices[0].facts.get("HighBit")
    if stored_bits and high and stored_bits.isdigit() and high != str(int(stored_bits) - 1):
        problem = f"HighBit is {high:.20} where BitsStored is {stored_bits}: no pixel is stored so"
        raise VolumeError(path, problem, _AGAIN)
    return data, stored


def _intensities(stored: np.ndarray, data: pydicom.Dataset, one: Slice, kind: str) -> np.ndarray:
    """(rows, columns)."""
    slope, intercept = one.rescale
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    padding = _padding(stored, data)
    with np.errstate(over="ignore"):
        values = stored * np.float64(slope) + np.float64(intercept)
    if padding is not None and kind == "mr" and not padding.all():
        values[padding] = values[~padding].min()
    elif padding is not None and kind == "ct":
        too_high = padding & (values > AIR_HU)
        if too_high.any():
            values[_touching_edge(too_high)] = AIR_HU
    if kind == "ct":
        return np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    if np.abs(values).max() > np.finfo(np.float32).max:
        problem = f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g} make intensities that do not fit float32"
        raise VolumeError(one.path, problem, _AGAIN)
    return values.astype(np.float32)


def _touching_edge(mask: np.ndarray) -> np.ndarray:
    """The components of `mask` (rows, columns) that reach the edge: tissue inside may have the value of padding too."""
    numbers = label_components(mask[None], connectivity=6)[0][0]
    edge = np.unique(np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]]))
    return mask & np.isin(numbers, edge)


def _padding(stored: np.ndarray, data: pydicom.Dataset) -> np.ndarray | None:
    """Where a pixel is no measurement (PS3.3 C.7.5.1.1.2); None where nothing says so.

    The value is compared by its stored bits, as writers disagree about its sign.
    """
    try:
        first = int(data.PixelPaddingValue)
        last = int(data.get("PixelPaddingRangeLimit") or first)
        bits = (1 << int(data.BitsStored)) - 1
    except Exception:  # absent, or damaged: then nothing is known to be padding
        return None
    there = stored.astype(np.int64) & bits
    if first == last:
        padding = there == first & bits
    else:
        low, high = sorted((first, last))
        padding = (stored >= low) & (stored <= high)
    return padding if padding.any() else None


def _has_higher_bits(data: pydicom.Dataset, stored: np.ndarray) -> bool:
    """Whether bits above BitsStored, which the decoder cleared, held anything but padding."""
    if data.file_meta.TransferSyntaxUID not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return False
    if data.BitsAllocated != 8 * stored.dtype.itemsize or data.BitsStored == data.BitsAllocated:
        return False
    raw = np.frombuffer(data.PixelData, stored.dtype, count=stored.size).reshape(stored.shape)
    changed = raw != stored
    if not changed.any():
        return False
    padding = _padding(stored, data)
    return bool((changed if padding is None else changed & ~padding).any())


def _check_missing_rescale(slices: list[Slice], values: np.ndarray, folder: Path) -> None:
    if slices[0].rescale[1] is None and values.min() >= 0:
        raise VolumeError(
            folder,
            f"its slices have no RescaleIntercept, and values from {values.min()} to {values.max()} are stored values, "
            "not HU, which are -1000 in air",
            "export the series again with RescaleSlope and RescaleIntercept, or convert it to HU",
        )


def _check_jumps(slices: list[Slice], values: np.ndarray) -> None:
    """Where the rescaling changes from a slice to the next, HU must go on as before."""
    for index, (one, other) in enumerate(zip(slices, slices[1:], strict=False)):
        if one.rescale == other.rescale:
            continue
        jump = float(np.median(values[:, :, index + 1].astype(np.int32) - values[:, :, index]))
        if abs(jump) > _JUMP_HU:
            changes = ", ".join(
                f"{name} from {before:g} to {after:g}"
                for name, before, after in zip(_RESCALE, one.rescale, other.rescale, strict=True)
                if before != after
            )
            problem = f"its values lie {jump:+g} HU from those of {one.place} beside it, where {changes} changes"
            raise VolumeError(other.path, problem, _AGAIN)
