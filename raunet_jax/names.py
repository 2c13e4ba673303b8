"""Names of cases and of the files that belong to them."""

import hashlib
import itertools
import os
import pathlib
import re
import unicodedata
from collections.abc import Container, Iterable

NIFTI = re.compile(r"(.+)\.nii(?:\.gz)?", re.IGNORECASE | re.DOTALL)
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


# Bytes of a case's name: a file's may have 255, its ending and the mark of a half-written one included.
LONGEST_NAME = 200


def safe_name(name: str) -> str:
    """`name` as a file's name on any disk can be, and as any text: itself where it is both already.

    Bytes that are no UTF-8 (in Python's surrogates), control characters, separators of folders and a leading dot or a
    leading character that shells or spreadsheets act upon are changed, each in a way that can be read; a name too long
    for the endings of our files ends in a hash of the whole.
    """
    readable = "".join(_escaped(character) for character in name)
    if readable[:1] in tuple("-=+@.~"):
        readable = f"_{readable}"
    if len(readable.encode()) > LONGEST_NAME:
        short = readable.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        readable = f"{short}-{hashlib.sha256(readable.encode()).hexdigest()[:8]}"
    return readable or "unnamed"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8, as `os.fsdecode` keeps it
        return f"%{ord(character) - 0xDC00:02X}"
    if character in "/\\" or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
    return character


def numbered(name: str, taken: Container[str]) -> str:
    """`name` or, where that is taken, the first of NAME-2, NAME-3 … that is not."""
    others = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], others) if name not in taken)
