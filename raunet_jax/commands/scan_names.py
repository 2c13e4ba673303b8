"""What scans are called: by what tells them apart, in names that can be those of files."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from raunet_jax.names import numbered, safe_name

# Names that say what a file or folder holds, and not of whom.
GENERIC = re.compile(
    r"(ct|cta|mri?|pet|scans?|images?|imagest[rs]|imagesva|imaging|img|volumes?|vol|data|input|original|raw|"
    r"(patient[-_])?(dicom|dcm)|dicomobj|export|series|study|nifti|nii|t1|t1ce|t1c|t2|flair)",
    re.IGNORECASE,
)


class Place(NamedTuple):
    """Where a scan lies: the name of its file or folder, then those of the folders around it, the innermost first.

    Attributes:
        parts: these names; the file's without its ending.
        depth: how many of them may give the scan its name: those within the folder that was asked for.
    """

    parts: tuple[str, ...]
    depth: int = 1

    @property
    def own(self) -> int:
        """Which of the parts is the scan's name: the innermost that says more than what kind of thing it is."""
        candidates = range(min(self.depth, len(self.parts)))
        return next((level for level in candidates if not GENERIC.fullmatch(self.parts[level])), 0)


def tell_apart(places: Sequence[Place]) -> list[str]:
    """A name for each scan, no two the same, and each fit to be a file's.

    Its own name; where several share that, with it those of the folders around it that differ, the outer ones first;
    where nothing differs they are numbered.
    """
    alike = defaultdict(list)
    for index, place in enumerate(places):
        alike[safe_name(place.parts[place.own])].append(index)
    names = [""] * len(places)
    for name, group in alike.items():
        for index, longer in zip(group, _names([places[index] for index in group]), strict=True):
            names[index] = name if len(group) == 1 else safe_name(longer)
    taken: set[str] = set()
    for index, name in enumerate(names):
        names[index] = numbered(name, taken)
        taken.add(names[index])
    return names


def _names(places: Sequence[Place]) -> list[str]:
    """The names of places whose own names are the same."""
    levels: list[set[int]] = [{place.own} for place in places]
    told = [_joined(place, used) for place, used in zip(places, levels, strict=True)]
    for level in range(max(len(place.parts) for place in places)):
        longer = [used | {level} for used in levels]
        names = [_joined(place, used) for place, used in zip(places, longer, strict=True)]
        if len(set(names)) > len(set(told)):
            levels, told = longer, names
        if len(set(told)) == len(places):
            break
    return told


def _joined(place: Place, levels: set[int]) -> str:
    return "_".join(place.parts[level] for level in sorted(levels, reverse=True) if level < len(place.parts))
