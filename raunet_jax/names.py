"""Names of cases and of the files that belong to them."""

import os
import pathlib
import re
from collections.abc import Iterable

NIFTI = re.compile(r"(.+)\.nii(?:\.gz)?", re.IGNORECASE)
MASK_ENDING = "_seg"  # of a predicted mask: CASE_seg.nii.gz
SCANNED_MASK_ENDING = "_seg_slices"  # of the mask on the slices that were scanned, where they are unevenly spaced
REFERENCE_ENDING = "_reference"
UNCERTAINTY_ENDING = "_uncertainty"
_CASE_PREFIX = re.compile(r"^(test-)?(volume-|segmentation-)|^liver_", re.IGNORECASE)
# What Macs, Windows, Synology's disks and file systems leave behind, besides names that begin with a dot.
_OF_SYSTEMS = frozenset(
    "__macosx thumbs.db ehthumbs.db desktop.ini $recycle.bin @eadir #recycle lost+found".split()
    + ["system volume information"]
)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorting key by which volume-10 comes after volume-2."""
    parts = re.split(r"(\d+)", name)
    return [(index % 2 == 1, int(part) if index % 2 else 0, part) for index, part in enumerate(parts)]


def stem(path: str | os.PathLike) -> str:
    """The file's name without .nii or .nii.gz, in small letters or capitals."""
    name = pathlib.Path(path).name
    match = NIFTI.fullmatch(name)
    return match[1] if match else name.removesuffix(".gz")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is an operating system's own and never anybody's data."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def case_name(path: str | os.PathLike) -> str:
    """The name under which a mask is matched: volume-12.nii, segmentation-12.nii.gz and 12_seg.nii are all "12"."""
    name = _CASE_PREFIX.sub("", stem(path))
    return name[: -len(MASK_ENDING)] if name.lower().endswith(MASK_ENDING) else name


def common_name(names: Iterable[str]) -> str:
    """What the names of one case's files begin with, less the separators before what tells them apart."""
    names = list(names)
    if len(names) == 1:
        return names[0]
    # CASE_t1 and CASE_t1ce share more than their case's name
    return re.sub(r"[-_. ]+[^-_. ]*$", "", os.path.commonprefix(names)) or names[0]
