"""Whether a NIfTI header holds what a scan's size, place and sides are read from, and what is to be doubted of them.

nibabel mends many a broken field without a word: a voxel size of 0 becomes 1 mm. So the fields are looked at as stored.
"""

import io
import math

import nibabel as nib
import numpy as np

from raunet_jax.imaging.grid import GRID_TOLERANCE_MM, MM_PER_UNIT, Path, VolumeError

_CONVERT = "convert the scan again"
_ASK = "mm, mL and positions may be wrong: compare with the original DICOM series"
_SIZE_TOLERANCE = 0.01  # of a voxel's side
_LAST_CODE = 5  # of NIFTI_XFORM
_SMALLEST_MM, _LARGEST_MM = 0.05, 20.0  # a voxel's side
_LONGEST_MM = 2500.0  # a body
_SHEAR_DEGREES = 0.5  # rounding to float32 is far below, a tilted gantry above
_TIE = 0.95  # of two direction cosines: from 43.5 to 46.5 degrees
_SAME_COSINE = 1e-3


def read_header(content: bytes, path: Path) -> nib.Nifti1Header:
    """The header of a single-file NIfTI-1 or -2 as it is stored, nothing mended.

    Raises:
        VolumeError: these bytes are no NIfTI file, or the header cannot hold a 3D scan.
    """
    if content[344:348] == b"n+1\0":
        kind = nib.Nifti1Header
    elif content[4:8] == b"n+2\0":
        kind = nib.Nifti2Header
    else:
        raise VolumeError(
            path,
            f"not a NIfTI file (it begins with {content[:8]!r}, {len(content)} bytes)",
            "convert the scan to .nii or .nii.gz, or give the folder of its DICOM series",
        )
    length = kind.template_dtype.itemsize
    if len(content) < length:
        raise VolumeError(path, f"ends early: {len(content)} of the header's {length} bytes are there", _CONVERT)
    stored = kind.from_fileobj(io.BytesIO(content[:length]), check=False)
    if int(stored["sizeof_hdr"]) != length:
        raise _damaged(path, "sizeof_hdr", stored["sizeof_hdr"], f"it must be {length}")
    count = int(stored["dim"][0])
    if not 1 <= count <= 7:
        raise _damaged(path, "dim[0]", count, "a scan has 3 dimensions")
    shape = tuple(int(size) for size in stored["dim"][1 : count + 1])
    if len(shape) < 3 or min(shape) <= 0:
        raise VolumeError(path, f"its shape is {shape}, so it holds no 3D scan", _CONVERT)
    offset = float(stored["vox_offset"])
    first = kind.single_vox_offset
    if not (math.isfinite(offset) and offset == int(offset) and offset >= first):
        raise _damaged(path, "vox_offset", f"{offset:g}", f"the voxels begin at byte {first} or after it")
    return stored


def check_length(stored: nib.Nifti1Header, content: bytes, path: Path) -> tuple[str, ...]:
    """Compare the bytes that are there with those that the header tells of, before any memory is asked for.

    Returns:
        What is doubtful; see `Volume.warnings`.

    Raises:
        VolumeError: there are fewer, or more by a slice and more.
    """
    shape = tuple(int(size) for size in stored["dim"][1 : int(stored["dim"][0]) + 1])
    itemsize = stored.get_data_dtype().itemsize
    expected = int(stored["vox_offset"]) + math.prod(shape) * itemsize
    if len(content) < expected:
        problem = f"ends early: {len(content)} of the {expected} bytes of a {shape} image are there"
        raise VolumeError(path, problem, "copy or download the file again")
    beyond = len(content) - expected
    of_slice = shape[0] * shape[1] * itemsize
    if beyond >= of_slice:
        problem = (
            f"holds more than its header tells of: {beyond} bytes, {beyond / of_slice:.4g} slices, follow the last "
            f"voxel of a {shape} image"
        )
        raise VolumeError(path, problem, f"correct dim in its header, or {_CONVERT}")
    doubts = []
    if beyond:
        doubts.append(f"{beyond} bytes follow the last voxel; see that its last slices are whole, or {_CONVERT}")
    if int(stored["bitpix"]) != 8 * itemsize:
        doubts.append(
            f"bitpix is {int(stored['bitpix'])} for voxels of {8 * itemsize} bits; see that its intensities are right"
        )
    if stored.get("scl_slope") == 0 and stored["scl_inter"] != 0 and np.isfinite(stored["scl_inter"]):
        doubts.append(
            f"scl_slope is 0, so scl_inter={float(stored['scl_inter']):g} is not applied; see that its intensities are "
            "right"
        )
    return tuple(doubts)


def check_place(stored: nib.Nifti1Header, affine: np.ndarray, path: Path) -> tuple[str, ...]:
    """What is doubtful about the place, size and sides of the voxels that are read with `affine` (4, 4).

    Returns:
        Sentences; see `Volume.warnings`.

    Raises:
        VolumeError: the affine is made from voxel sizes that the header does not hold.
    """
    codes = {form: int(stored[f"{form}_code"]) for form in ("sform", "qform")}
    doubts = [
        f"{form}_code is {code}, which is none of 0 to {_LAST_CODE}, so its {form} is not used; {_ASK}"
        for form, code in codes.items()
        if not 0 <= code <= _LAST_CODE
    ]
    codes = {form: code if 0 <= code <= _LAST_CODE else 0 for form, code in codes.items()}
    pixdim = np.asarray(stored["pixdim"][1:4], np.float64)
    mm = MM_PER_UNIT.get(int(stored["xyzt_units"]) % 8, 1.0)
    by_sform = codes["sform"] > 0
    if not by_sform and not (np.isfinite(pixdim).all() and (pixdim != 0).all()):
        shown = ", ".join(f"{size:g}" for size in pixdim)
        raise VolumeError(
            path,
            f"its header holds no voxel sizes (pixdim is {shown}, and there is no sform), so mm and mL are not known",
            "restore them, such as from the original DICOM series with dcm2niix",
        )
    if not any(codes.values()):
        doubts.append(
            "neither its qform nor its sform is set, so which side is left, and how the scan lies, is not known; "
            "compare with the original DICOM series before anything is read off by side"
        )
    elif not by_sform and (pixdim < 0).any():
        doubts.append(f"pixdim is negative, and sides may be swapped; {_ASK}")
    if int(stored["xyzt_units"]) % 8 > 3:
        doubts.append(f"xyzt_units={int(stored['xyzt_units'])} names no unit of length, mm are assumed; {_ASK}")
    if np.array_equal(np.abs(affine), np.eye(4)):
        doubts.append(
            "identity affine, 1 x 1 x 1 mm, as files have it whose sizes were lost, such as LiTS's volumes 28 to 47; "
            "restore the true spacing, such as from the Decathlon's Task03_Liver, 3DIRCADb or the DICOM series: unless "
            "it is just this, mm and mL are wrong, and sides may be swapped"
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if by_sform and not np.allclose(np.abs(pixdim), sizes, rtol=_SIZE_TOLERANCE, atol=1e-6):
        doubts.append(
            f"its header contradicts itself: voxels of {_mm(sizes * mm)} mm by the sform, which is taken, and of "
            f"{_mm(pixdim * mm)} mm by pixdim; {_ASK}"
        )
    elif by_sform and codes["qform"] > 0:
        doubts += _compare_forms(stored, affine, mm, codes)
    return tuple(doubts + _check_axes(affine, sizes * mm, stored["dim"][1:4]))


def _compare_forms(stored: nib.Nifti1Header, affine: np.ndarray, mm: float, codes: dict[str, int]) -> list[str]:
    which = f"its sform (code {codes['sform']}), which is taken, and its qform (code {codes['qform']})"
    with_sizes = stored.copy()
    with_sizes["pixdim"][1:4] = np.abs(stored["pixdim"][1:4])
    try:
        with np.errstate(all="ignore"):
            qform = with_sizes.get_qform()
    except Exception:  # whatever nibabel makes of these numbers, they are no rotation
        return [f"{which} contradict each other: the qform holds no rotation; {_ASK}"]
    last = np.asarray(stored["dim"][1:4], np.float64) - 1
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * last
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(corners @ (affine - qform)[:3, :3].T + (affine - qform)[:3, 3], axis=1).max() * mm
    if apart <= GRID_TOLERANCE_MM:
        return []
    return [f"{which} contradict each other, by up to {apart:.3g} mm; {_ASK}"]


def _check_axes(affine: np.ndarray, sizes_mm: np.ndarray, dim: np.ndarray) -> list[str]:
    """Doubts about voxels of `sizes_mm` (x, y, z) and about angles."""
    doubts = []
    sides = [size for size, count in zip(sizes_mm, dim, strict=True) if count > 1] or list(sizes_mm)
    if not all(_SMALLEST_MM <= size <= _LARGEST_MM for size in sides):
        doubts.append(
            f"voxels of {_mm(sizes_mm)} mm, which no scanner measures: unit or sizes in its header are wrong; {_ASK}"
        )
    elif max(sizes_mm * dim) > _LONGEST_MM:
        doubts.append(f"{_mm(sizes_mm * dim)} mm of extent, longer than a body: sizes in its header are wrong; {_ASK}")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1)))
    if skew > _SHEAR_DEGREES:
        doubts.append(
            f"its axes are {skew:.1f} degrees off right angles; nothing if the gantry was tilted, else distances in mm "
            "may be wrong: compare with the original DICOM series"
        )
    cosines = np.sort(np.abs(axes), axis=0)
    if (cosines[1] > _TIE * cosines[2]).any():
        doubts.append(
            "an axis lies halfway between two of the body's, at about 45 degrees, so which of them it is is a guess; "
            "the mask lies where the scan does, but a network trained on axial scans may not know what it sees"
        )
    return doubts


def _mm(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _damaged(path: Path, field: str, value, wanted: str) -> VolumeError:
    return VolumeError(path, f"the NIfTI header is damaged ({field} is {value}; {wanted})", _CONVERT)
