"""Which files make up which case: the layouts that data sets come in, told by the names their makers gave.

Every `_scan_*` is pure: paths in, cases and incomplete cases out. No path is taken from inside a file.
"""

import dataclasses
import logging
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep import brats_names, ircadb
from data_prep.description import Description, read_description
from raunet_jax.errors import UserError
from raunet_jax.files import look_below
from raunet_jax.names import NIFTI, natural, numbered, safe_name
from raunet_jax.tasks import TASKS

log = logging.getLogger("raunet_jax")

CT_LABELS, BRATS_LABELS = (TASKS[name].labels for name in ("liver", "brain"))
MODALITIES = ("t1", "t1ce", "t2", "flair")
SOURCES = ("lits", "decathlon", "ircadb", "brats", "custom", "phantom")
CHANNEL_FILE = re.compile(r"(.+)_(\d{4})")
LITS_FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(?:\.gz)?", re.IGNORECASE)
IMAGE_FOLDERS = {"images": "labels", "imagesTr": "labelsTr"}
WHOLE, MASK = "whole", "mask"  # roles of files in these folders, beside the number of a channel


@dataclasses.dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        name: of the case, one of its own in the data set.
        images: a file a modality in the recipe's order; or one file, or one DICOM folder.
        mask: a file, or the folder of 3DIRCADb's mask series; None: there is none.
        patient: cases of one patient never fall into different folds.
        channels: which channels of a single file that holds several, in the recipe's order.
        labels: the values its mask may hold.
    """

    name: str
    images: tuple[pathlib.Path, ...]
    mask: pathlib.Path | None
    patient: str
    channels: tuple[int, ...] = ()
    labels: tuple[int, ...] = CT_LABELS


class Incomplete(NamedTuple):
    """Files that belong to a case which cannot be used as it lies."""

    name: str
    reason: str
    remedy: str


Found = tuple[list[Case], list[Incomplete]]
Role = Hashable  # what a file is of its case


def scan(source: str, root: pathlib.Path, modalities: Sequence[str]) -> Found:
    """Every case of `source` below `root`, with or without a mask, and what is incomplete, both in natural order.

    Raises:
        ValueError: a source that does not exist or that does not hold these modalities; a dataset.json that cannot be
            used.
    """
    if source not in SCANS:
        raise UserError(f"config.data.source={source!r} is not known; choose {', '.join(SOURCES)}")
    tree = look_below(root)
    cases, incomplete = SCANS[source](tree.files, tuple(modalities))
    if source == "brats":
        incomplete += _empty_cases(cases, tree.empty)
    incomplete += [
        Incomplete(str(folder), f"{folder} cannot be looked into ({why})", "see that you may read it")
        for folder, why in tree.locked
    ]
    cases, incomplete = _safely_named(cases), [item._replace(name=_readable(item.name)) for item in incomplete]
    return sorted(cases, key=lambda case: natural(case.name)), sorted(incomplete, key=lambda one: natural(one.name))


def _safely_named(cases: Sequence[Case]) -> list[Case]:
    """The cases under names that files can have and any text can hold."""
    safe, taken = [], {case.name for case in cases if safe_name(case.name) == case.name}
    for case in cases:
        name = case.name
        if safe_name(name) != name:
            name = numbered(safe_name(name), taken)
            taken.add(name)
        safe.append(dataclasses.replace(case, name=name, patient=safe_name(case.patient)))
    return safe


def _readable(name: str) -> str:
    return name if "/" in name else safe_name(name)  # a folder's path is shown as it is


def no_mask(case: Case) -> Incomplete:
    """What to say of a case whose mask is not there."""
    image, name = case.images[0], case.name
    if image.is_dir():
        return Incomplete(name, f"{image.parent} has no MASKS_DICOM folder", "extract its MASKS_DICOM.zip there")
    lits = LITS_FILE.fullmatch(image.name)
    if lits:
        wanted = f"segmentation-{lits[2]}"
    elif image.parent.name in IMAGE_FOLDERS:
        wanted = f"{IMAGE_FOLDERS[image.parent.name]}/{name}"
    else:
        part = brats_names.part_of(image)
        wanted = part.sibling(brats_names.SEG) if part else f"{name}_seg"
    return Incomplete(name, f"{image} has no mask {wanted}.nii[.gz]", "copy that file under config.data.root")


class _FileIndex:
    """Files keyed by (case, role), and duplicates.

    Attributes:
        duplicates: why a case is left out of which two files have one role, by case.
    """

    def __init__(self) -> None:
        self._files: dict[str, dict[Role, pathlib.Path]] = {}
        self.duplicates: dict[str, Incomplete] = {}

    def add(self, case: str, role: Role, path: pathlib.Path) -> None:
        other = self._files.setdefault(case, {}).setdefault(role, path)
        if other is not path:
            reason = f"{other} and {path} claim to be the same file of one case"
            self.duplicates[case] = Incomplete(case, reason, "move one away, or point config.data.root at one copy")

    def cases(self) -> Iterator[tuple[str, dict[Role, pathlib.Path]]]:
        """(case, its files by role) of each case without duplicates."""
        return ((case, files) for case, files in self._files.items() if case not in self.duplicates)


def _scan_lits(files: Sequence[pathlib.Path], modalities: tuple[str, ...]) -> Found:
    _only_ct("lits", modalities)
    index = _FileIndex()
    for path in files:
        match = LITS_FILE.fullmatch(path.name)
        if match:
            index.add(f"volume-{int(match[2])}", match[1].lower(), path)
    cases, incomplete = [], list(index.duplicates.values())
    for name, roles in index.cases():
        mask = roles.get("segmentation")
        if "volume" in roles:
            cases.append(Case(name, (roles["volume"],), mask, patient=name))
        else:
            reason, remedy = f"{mask} has no {name}.nii[.gz]", "copy that file under config.data.root"
            incomplete.append(Incomplete(name.replace("volume", "segmentation"), reason, remedy))
    return cases, incomplete


def _scan_brats(files: Sequence[pathlib.Path], modalities: tuple[str, ...]) -> Found:
    if not modalities or not set(modalities) <= set(MODALITIES):
        raise UserError(
            f"config.data.modalities={modalities} are not in source brats, which holds {MODALITIES}; choose some of "
            "these, or another config.data.source"
        )
    index, there, folders = _FileIndex(), defaultdict(list), defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    for part in filter(None, map(brats_names.part_of, files)):
        index.add(part.case, part.role, part.path)
        there[part.case].append(part)
    cases, incomplete = [], list(index.duplicates.values())
    for name, roles in index.cases():
        like = there[name][0]
        missing = [f"{like.sibling(modality)}.nii[.gz]" for modality in modalities if modality not in roles]
        if missing:
            remedy = "copy that again, or leave it out of config.data.modalities"
            incomplete.append(Incomplete(name, f"{like.path.parent} lacks {', '.join(missing)}", remedy))
            continue
        mask = roles.get(brats_names.SEG) or brats_names.misnamed_mask(folders[like.path.parent], roles.values())
        if mask and brats_names.SEG not in roles:
            log.warning(
                f"{name}: {mask} is taken for its mask, as there is no {like.sibling(brats_names.SEG)}.nii[.gz]"
            )
        images = tuple(roles[modality] for modality in modalities)
        cases.append(Case(name, images, mask, brats_names.patient_of(name), labels=BRATS_LABELS))
    return cases, incomplete


def _empty_cases(cases: Sequence[Case], empty: Sequence[pathlib.Path]) -> list[Incomplete]:
    """The empty ones among the folders that lie where those of the cases do."""
    places = {case.images[0].parent.parent for case in cases}
    remedy = "copy its files again, or remove it"
    return [Incomplete(path.name, f"{path} is empty", remedy) for path in empty if path.parent in places]


def _scan_ircadb(files: Sequence[pathlib.Path], modalities: tuple[str, ...]) -> Found:
    _only_ct("ircadb", modalities)
    cases, incomplete = [], []
    for name, patient in ircadb.find_patients(files).items():
        if patient.image is None:
            incomplete.append(Incomplete(name, patient.problem, "until then the patient is left out"))
        else:
            cases.append(Case(name, (patient.image,), patient.masks, patient=name))
    return cases, incomplete


def _scan_described(files: Sequence[pathlib.Path], modalities: tuple[str, ...]) -> Found:
    """Folders with a dataset.json: the Decathlon's tasks, and anybody's in the same format."""
    cases, incomplete = [], []
    for path in (path for path in files if path.name == "dataset.json"):
        description = read_description(path)
        here, missing = _scan_task(files, path.parent, description, description.channels(modalities))
        cases += here
        incomplete += missing
    for name in [name for name, count in Counter(case.name for case in cases).items() if count > 1]:
        paths = " and ".join(str(case.images[0]) for case in cases if case.name == name)
        reason, remedy = f"{paths} are cases of one name", "rename one, or point config.data.root at one data set"
        incomplete.append(Incomplete(name, reason, remedy))
        cases = [case for case in cases if case.name != name]
    return cases, incomplete


def _scan_task(
    files: Sequence[pathlib.Path], folder: pathlib.Path, description: Description, channels: tuple[int, ...]
) -> Found:
    """The cases of one data set, whose dataset.json lies in `folder`."""
    here = [
        (path, match[1]) for path in files if path.parent.parent == folder and (match := NIFTI.fullmatch(path.name))
    ]
    masks = [(path, name) for path, name in here if path.parent.name in IMAGE_FOLDERS.values()]
    masked = {(path.parent.name, name) for path, name in masks}
    index = _FileIndex()
    for path, name in here:
        labels = IMAGE_FOLDERS.get(path.parent.name)
        channel = CHANNEL_FILE.fullmatch(name)
        if labels and channel and (labels, name) not in masked:  # the mask of amos_0001 says that it is no channel's
            index.add(channel[1], (labels, int(channel[2])), path)
        elif labels:
            index.add(name, (labels, WHOLE), path)
    for path, name in masks:
        index.add(name, (path.parent.name, MASK), path)
    cases, incomplete = [], list(index.duplicates.values())
    for name, roles in index.cases():
        for labels in IMAGE_FOLDERS.values():
            mine = {role: path for (place, role), path in roles.items() if place == labels}
            if mine:
                found = _described_case(name, mine, folder, description, channels)
                (cases if isinstance(found, Case) else incomplete).append(found)
    return cases, incomplete


def _described_case(
    name: str,
    files: Mapping[int | str, pathlib.Path],
    folder: pathlib.Path,
    description: Description,
    channels: tuple[int, ...],
) -> Case | Incomplete:
    """A case from its files, by WHOLE, MASK or the number of a channel that is a file of its own."""
    mask = files.get(MASK)
    if files.keys() == {MASK}:
        return Incomplete(name, f"{mask} has no image of that name", "copy that file again")
    if WHOLE in files:
        inside = channels if len(description.modalities) > 1 else ()
        return Case(name, (files[WHOLE],), mask, name, inside, description.labels)
    missing = [f"{name}_{channel:04d}" for channel in channels if channel not in files]
    if missing:
        return Incomplete(name, f"{folder} lacks {', '.join(missing)}.nii[.gz]", "copy that file again")
    return Case(name, tuple(files[channel] for channel in channels), mask, name, (), description.labels)


def _only_ct(source: str, modalities: tuple[str, ...]) -> None:
    if modalities != ("ct",):
        raise UserError(
            f"config.data.source={source!r} holds CT, and this recipe reads config.data.modalities={modalities}; "
            "choose brats, decathlon or custom"
        )


SCANS: dict[str, Callable[[Sequence[pathlib.Path], tuple[str, ...]], Found]] = {
    "lits": _scan_lits,
    "decathlon": _scan_described,
    "ircadb": _scan_ircadb,
    "brats": _scan_brats,
    "custom": _scan_described,
}
