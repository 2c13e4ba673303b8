"""3DIRCADb: which folders belong to which patient, and the labels of its mask series, a folder of DICOM a structure."""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.imaging.dicom import series_slices
from raunet_jax.imaging.dicom_files import Slice, looks_like_dicom, read_pixels, unreadable
from raunet_jax.imaging.grid import GRID_TOLERANCE_MM, Volume, VolumeError

IMAGE, MASKS, WHOLE = "PATIENT_DICOM", "MASKS_DICOM", "patient"
PATIENT = re.compile(r"3Dircadb1\.(\d+)", re.IGNORECASE)
# The makers count no liver tumor in patients 5 and 7, whose `leftsurretumor`, `rightsurretumor` and `tumor` are of the
# adrenal glands; `livercyst`, `liverkyst`, `liverkyste` and `metastasectomie` (a scar) are no tumors either.
LIVER = re.compile(r"liver", re.IGNORECASE)
TUMOR = re.compile(r"livertumou?rs?[-_ ]?\d*", re.IGNORECASE)
MASK_VALUES = ({0, 1}, {0, 255})


class Patient(NamedTuple):
    number: int  # N of 3Dircadb1.N
    image: pathlib.Path | None  # the folder of the CT slices
    masks: pathlib.Path | None  # the folder that holds a folder of slices a structure
    problem: str  # what is wrong and how to correct it; "" when nothing is, or when only the masks were never there


def find_patients(files: Sequence[pathlib.Path]) -> dict[str, Patient]:
    """The patients that `files` belong to, by name (3Dircadb1.N) in the order of N, complete or not.

    Folders may lie at any depth, and archives may have been extracted into a folder of their own name.
    """
    folders: dict[int, dict[str, pathlib.Path]] = {}
    archives: dict[int, dict[str, pathlib.Path]] = {}
    doubled: dict[int, str] = {}
    for folder in dict.fromkeys(path.parent for path in files):
        if folder.name.upper() == IMAGE:
            _claim(folders, doubled, IMAGE, folder)
        elif folder.parent.name.upper() == MASKS and folder.name.upper() != MASKS:
            _claim(folders, doubled, MASKS, folder.parent)
    for path in (path for path in files if path.suffix.lower() == ".zip"):
        number = _number_of(path.with_suffix(""))
        part = WHOLE if PATIENT.fullmatch(path.stem) else path.stem.upper()
        if number is not None and part in (IMAGE, MASKS, WHOLE):
            archives.setdefault(number, {}).setdefault(part, path)
    patients = {}
    for number in sorted(folders | archives):
        there = folders.get(number, {})
        if number in doubled:
            patients[f"3Dircadb1.{number}"] = Patient(number, None, None, doubled[number])
            continue
        problem = _problem(there, archives.get(number, {}))
        patients[f"3Dircadb1.{number}"] = Patient(number, there.get(IMAGE), there.get(MASKS), problem)
    return patients


def read_labels(masks: pathlib.Path, image: pathlib.Path, like: Volume) -> np.ndarray:
    """The labels in folder `masks`: uint8 (z, y, x) on the grid of `like`; 0 neither, 1 liver, 2 tumor of the liver.

    Args:
        masks: a patient's MASKS_DICOM; all its livertumor folders are merged, and where they lie outside the liver the
            label is tumor all the same.
        image: the patient's PATIENT_DICOM.
        like: the scan read from `image`.

    Raises:
        VolumeError: there is no liver; or a mask lacks slices or has too many, is of another size than the scan, has
            other values than 0 and 1 or 0 and 255, or is damaged.
    """
    subfolders = sorted(path for path in masks.iterdir() if path.is_dir())
    livers = [folder for folder in subfolders if LIVER.fullmatch(folder.name)]
    tumors = [folder for folder in subfolders if TUMOR.fullmatch(folder.name)]
    if not livers:
        there = ", ".join(folder.name for folder in subfolders) or "no folder at all"
        raise VolumeError(masks, f"has no folder liver, but {there}", f"extract the patient's {MASKS}.zip again")
    slices = series_slices(image)
    labels = np.zeros((*like.grid.shape_xyz[:2], len(slices)), np.uint8, order="F")
    for label, folders in ((1, livers), (2, tumors)):
        for folder in folders:
            labels[_read_mask(folder, slices)] = label
    return like.grid.from_scanned_slices(labels)


def _number_of(path: pathlib.Path) -> int | None:
    """N of the innermost folder 3Dircadb1.N on the way to `path`, itself included."""
    matches = [match for part in path.absolute().parts if (match := PATIENT.fullmatch(part))]
    return int(matches[-1][1]) if matches else None


def _claim(found: dict[int, dict[str, pathlib.Path]], doubled: dict[int, str], part: str, folder: pathlib.Path) -> None:
    number = _number_of(folder)
    if number is None:
        return
    other = found.setdefault(number, {}).setdefault(part, folder)
    if other != folder:
        doubled[number] = (
            f"{other} and {folder} both claim to be {part} of 3Dircadb1.{number}: move one away, or point "
            "config.data.root at the folder of one copy"
        )


def _problem(folders: dict[str, pathlib.Path], archives: dict[str, pathlib.Path]) -> str:
    packed = [archives[part] for part in (IMAGE, MASKS) if part in archives and part not in folders]
    if not folders and not packed:
        packed = [archives[WHOLE]]
    if packed:
        return "; ".join(f"{path} is an archive: extract it" for path in packed)
    if IMAGE not in folders:
        return f"{folders[MASKS].parent} has no {IMAGE} folder beside {MASKS}: download the patient again"
    return ""


def _read_mask(folder: pathlib.Path, slices: list[Slice]) -> np.ndarray:
    """(columns, rows, slices) bool: one structure, slice for slice in the order of the scan's `slices`."""
    names = {one.path.stem.lower() for one in slices}
    paths, positions, values = [], [], {}
    mask = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if not looks_like_dicom(path):
            if path.stem.lower() in names:
                raise unreadable(path)
            continue
        data, stored = read_pixels(path)
        if stored.shape != slices[0].shape:
            raise VolumeError(
                path,
                f"its pixels have shape {stored.shape}, those of {slices[0].path} {slices[0].shape} (rows, columns): "
                "the mask is of another scan, or was resampled",
                "extract both again",
            )
        values |= dict.fromkeys(np.unique(stored).tolist())
        if not any(values.keys() <= allowed for allowed in MASK_VALUES):
            seen = ", ".join(map(str, sorted(values)[:5])) + (", …" if len(values) > 5 else "")
            raise VolumeError(
                path,
                f"with it the mask has the values {seen} where 0 and 255, or 0 and 1, are expected: it was changed or "
                "resampled",
                "extract it again",
            )
        paths.append(path)
        positions.append(_position(data))
        mask.append(stored > 0)
    order = _match(folder, paths, positions, slices)
    return np.stack([mask[index] for index in order]).T


def _position(data) -> np.ndarray | None:
    try:
        return np.array(data.ImagePositionPatient, float).reshape(3)
    except (AttributeError, ValueError, TypeError):
        return None


def _match(
    folder: pathlib.Path, paths: list[pathlib.Path], positions: list[np.ndarray | None], slices: list[Slice]
) -> list[int]:
    """For every slice of the scan the index of its file in `paths`.

    Positions decide when every file has one that is of a slice of its own; else (masks are derived images, and some
    writers leave the scan's geometry out) the file names do.

    Raises:
        VolumeError: a slice has no file, or a file no slice.
    """
    places = _places_by_position(positions, slices)
    if places is None:
        by_name = {one.path.stem.lower(): index for index, one in enumerate(slices)}
        places = [by_name.get(path.stem.lower()) for path in paths]
    of_slice: dict[int, int] = {}
    for index, (path, place) in enumerate(zip(paths, places, strict=True)):
        if place is None or of_slice.setdefault(place, index) != index:
            raise VolumeError(
                path,
                f"a mask slice too many: the scan in {slices[0].path.parent} has no slice of its name or position that "
                "is not taken",
                "remove it, or extract scan and masks again",
            )
    missing = [one.path.name for index, one in enumerate(slices) if index not in of_slice]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise VolumeError(
            folder,
            f"has no mask for {len(missing)} of the scan's {len(slices)} slices ({shown} of {slices[0].path.parent})",
            "extract the masks again",
        )
    return [of_slice[place] for place in range(len(slices))]


def _places_by_position(positions: list[np.ndarray | None], slices: list[Slice]) -> list[int] | None:
    """The slice that each position is of; None unless each is of one, and no two are of the same."""
    if not positions or any(position is None for position in positions):
        return None
    apart = np.linalg.norm(np.array(positions)[:, None] - np.array([one.position for one in slices]), axis=-1)
    places = apart.argmin(axis=1)
    if (apart.min(axis=1) > GRID_TOLERANCE_MM).any() or len(set(places.tolist())) < len(places):
        return None
    return places.tolist()
