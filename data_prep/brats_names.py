"""What the files of a BraTS case are called, as the years and the containers of its challenges call them."""

import pathlib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from raunet_jax.names import NIFTI

SEG = "seg"
ROLES = {  # as a file calls it: what it is
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    SEG: SEG,
}
SINCE_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", SEG: SEG}
FILE = re.compile(rf"(?:(.+)([-_]))?({'|'.join(ROLES)})\.nii(?:\.gz)?", re.IGNORECASE | re.DOTALL)
# Brats18_CBICA_AAB_1: patient CBICA_AAB, visit 1; BraTS-GLI-00005-101: patient 00005, visit 101
VISIT = re.compile(r"(Brats1[789]_.+)_\d+|(BraTS-.+)-\d+", re.IGNORECASE)
MISNAMED = re.compile(r"seg", re.IGNORECASE)


class Part(NamedTuple):
    """One file of a case."""

    case: str
    role: str  # t1 | t1ce | t2 | flair | seg
    path: pathlib.Path

    def sibling(self, role: str) -> str:
        """What the file of another role of the same case is called."""
        _, between, word = FILE.fullmatch(self.path.name).groups()
        new = word.lower() in set(SINCE_2023.values()) - {SEG} or (between == "-" and word.lower() == SEG)
        wanted = SINCE_2023[role] if new else role
        return f"{self.case}{between}{wanted}" if between else wanted


def part_of(path: pathlib.Path) -> Part | None:
    """What the file is of which case; a file that bears the role alone is of the case that its folder is called."""
    match = FILE.fullmatch(path.name)
    return match and Part(match[1] or path.absolute().parent.name, ROLES[match[3].lower()], path)


def patient_of(case: str) -> str:
    """The patient of a case, several of whose visits may be cases of their own."""
    match = VISIT.fullmatch(case)
    return (match[1] or match[2]) if match else case


def misnamed_mask(beside: Iterable[pathlib.Path], case_files: Collection[pathlib.Path]) -> pathlib.Path | None:
    """The mask of a case without one: the one other NIfTI file of its folder that is called a segmentation.

    Such is W39_1998.09.19_Segm.nii of case 355 of BraTS 2020. None as well where the folder is shared with other cases.

    Args:
        beside: all files of the folder.
        case_files: those of the case.
    """
    others = [path for path in beside if path not in case_files and NIFTI.fullmatch(path.name)]
    masks = [path for path in others if MISNAMED.search(path.name)]
    return masks[0] if len(masks) == 1 and not any(map(part_of, others)) else None
