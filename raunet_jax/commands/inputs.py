"""What there is to be segmented: NIfTI files, DICOM series and BraTS cases, at any depth of folders and archives."""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from data_prep import brats_names, layouts
from data_prep.label_files import LABEL_FOLDERS, label_files
from raunet_jax import tasks
from raunet_jax.commands.passed_over import (
    EMPTY,
    MASK_FOLDERS,
    MASKS,
    NAMED,
    NESTED,
    PACKED,
    UNPACKED,
    PassedOver,
)
from raunet_jax.commands.scan_names import GENERIC, Place, tell_apart
from raunet_jax.commands.studies import find_studies
from raunet_jax.failures import explain
from raunet_jax.files import look_below
from raunet_jax.imaging.archives import ARCHIVE, UNPACK, UNREAD, Unpacked, is_archive
from raunet_jax.names import NIFTI, stem

log = logging.getLogger("raunet_jax")
CHANNEL_ZERO = re.compile(r"(.+)_0000")


@dataclasses.dataclass(frozen=True)
class Input:
    """One scan to segment: a NIfTI file, a DICOM series, or the files, or the series, of a case's modalities."""

    name: str
    images: tuple[pathlib.Path, ...]
    channels: tuple[int, ...] = ()  # which of the volumes in a single file
    series: tuple[str, ...] = ()  # which of the DICOM series below each folder of `images`


class _Scan(NamedTuple):
    place: Place
    images: tuple[pathlib.Path, ...]
    channels: tuple[int, ...] = ()
    series: tuple[str, ...] = ()


@dataclasses.dataclass
class _Found:
    """What one path holds.

    Attributes:
        failed: (path, why it cannot be used).
        passed_over: the files that are no scans.
        notes: of the choice of DICOM series.
    """

    scans: list[_Scan] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    passed_over: PassedOver = dataclasses.field(default_factory=PassedOver)
    notes: list[str] = dataclasses.field(default_factory=list)


def find_inputs(
    paths: Iterable[pathlib.Path], config: ConfigDict, unpacked: Unpacked | None = None, wanted: str = "auto"
) -> tuple[list[Input], list[dict]]:
    """The scans below `paths`, and `{"input", "reason"}` for each path, file or case that cannot be used.

    What is no scan is said in one warning a path. Scans are called as `scan_names.tell_apart` does, so that no mask
    overwrites another.

    Args:
        config: of the last stage; `stage` and `data.modalities` are read.
        unpacked: where archives are unpacked, as long as their scans are needed; without it they are passed over.
        wanted: which of a study's DICOM series.
    """
    scans, failed = [], []
    for path in paths:
        found = _Found()
        try:
            _find(path, config, unpacked, wanted, found)
        except Exception as error:  # of whatever kind: it is this path's, and the others go on
            found.failed.append((str(path), explain(error)))
        shown = unpacked.shown if unpacked else str
        for said in filter(None, [*map(shown, found.notes), found.passed_over.sentence(path, shown)]):
            log.warning(said)
        if not found.scans and not found.failed:
            found.failed.append((str(path), _nothing_found(path, config, found)))
        scans += found.scans
        failed += [{"input": shown(where), "reason": shown(why)} for where, why in found.failed]
    # a path may have been given twice
    scans = list({(*map(os.path.abspath, scan.images), *scan[2:]): scan for scan in scans}.values())
    names = tell_apart([scan.place for scan in scans])
    return [Input(name, *scan[1:]) for name, scan in zip(names, scans, strict=True)], failed


def _find(path: pathlib.Path, config: ConfigDict, unpacked: Unpacked | None, wanted: str, found: _Found) -> None:
    if path.is_dir():
        _find_below(path, _place_below(path), config, unpacked, wanted, found)
    elif not path.exists():
        found.failed.append((str(path), f"{path} does not exist; give a NIfTI file, an archive or a folder"))
    elif not path.is_file():
        found.failed.append((str(path), f"{path} is neither a file nor a folder; give one of these"))
    elif is_archive(path):
        _find_packed([path], config, unpacked, wanted, found)
    elif UNREAD.fullmatch(path.name):
        found.failed.append((str(path), f"{path} is an archive of a kind that is not unpacked; unpack it yourself"))
    elif _of_cases(config):
        wanted = ", ".join(config.data.modalities)
        found.failed.append((str(path), f"{path} is one file; give the folder that holds {wanted} of a case"))
    elif len(config.data.modalities) > 1:
        _add_channel_cases([path], _place_of_file, config, found)
    else:
        found.scans.append(_Scan(_place_of_file(path), (path,)))


def _place_of_file(path: pathlib.Path) -> Place:
    """Of a file that was named itself: it is called as it is called."""
    return Place((_without_channel(path), *reversed(path.absolute().parts[1:-1])))


def _place_below(root: pathlib.Path) -> Callable[[pathlib.Path], Place]:
    """What makes the places of scans below `root`, where a name that says nothing yields to that of a folder."""
    whole = root.resolve()
    around = tuple(reversed(whole.parts[1:]))

    def place(path: pathlib.Path) -> Place:
        inside = tuple(reversed(path.relative_to(root).parts))
        if inside and path.is_file():
            inside = (_without_channel(path), *inside[1:])
        return Place((*inside, *around), len(inside) + 1 if inside else 2)

    return place


def _without_channel(path: pathlib.Path) -> str:
    """The scan's name: P1 of P1_0000.nii.gz, unless that is one of P1_0000, P1_0001 …"""
    name = stem(path)
    match = CHANNEL_ZERO.fullmatch(name)
    if not match or any(path.with_name(f"{match[1]}_0001{end}").exists() for end in (".nii", ".nii.gz")):
        return name
    return match[1]


def _find_below(
    root: pathlib.Path,
    place: Callable[[pathlib.Path], Place],
    config: ConfigDict,
    unpacked: Unpacked | None,
    wanted: str,
    found: _Found,
) -> None:
    """Add what lies at any depth below the folder `root`."""
    tree, before = look_below(root), len(found.scans)
    if _of_cases(config):
        labels, used = set(), _add_brain_cases(root, tree.files, config, found)
    else:
        labels, used = label_files(tree.files, root), set()
        for folder, why in tree.locked:
            found.failed.append((str(folder), f"{folder} cannot be looked into ({why}); see that you may read it"))
    masks = {path for path in labels if NIFTI.fullmatch(path.name) or is_archive(path)}
    found.passed_over.add(MASKS, sorted(masks))
    folders = {folder for path in labels - masks for folder in path.parents if folder.is_relative_to(root)}
    found.passed_over.add(MASK_FOLDERS, sorted(one for one in folders if LABEL_FOLDERS.fullmatch(one.name)))
    rest = [path for path in tree.files if path not in labels and path not in used]
    rest = _add_series(root, rest, place, config, wanted, found)
    scans = [] if _of_cases(config) else [path for path in rest if NIFTI.fullmatch(path.name)]
    if len(config.data.modalities) > 1:
        _add_channel_cases(scans, place, config, found)
    else:
        found.scans += [_Scan(place(path), (path,)) for path in scans]
    found.scans[before:] = sorted(found.scans[before:], key=lambda scan: scan.images[0].parts)
    others = sorted(set(rest) - set(scans))
    archives = [path for path in others if is_archive(path)]
    twice = [path for path in archives if _is_unpacked(path)]
    found.passed_over.add(UNPACKED, twice)
    if unpacked and unpacked.holds(root):
        found.passed_over.add(NESTED, [path for path in archives if path not in twice])
    else:
        _find_packed([path for path in archives if path not in twice], config, unpacked, wanted, found)
    found.passed_over.sort(path for path in others if not is_archive(path))


def _add_series(
    root: pathlib.Path, files: Sequence[pathlib.Path], place: Callable, config: ConfigDict, wanted: str, found: _Found
) -> list[pathlib.Path]:
    """Add the DICOM series of `files`, all of those below `root` that may be DICOM; return the files that are none."""
    maybe = [path for path in files if not any(kind.fullmatch(path.name) for kind in (NIFTI, ARCHIVE, UNREAD))]
    studies = find_studies(root, config, wanted, maybe)
    for name, images, series in studies.chosen:
        at = place(images[0])
        if name not in at.parts:  # one of several scans of a study
            at = Place((name, *at.parts))
        elif at.parts.index(name) < at.depth:
            at = Place(at.parts[at.parts.index(name) :])
        found.scans.append(_Scan(at, images, (), series))
    found.failed += [(failure["input"], failure["reason"]) for failure in studies.failed]
    found.notes += studies.notes
    return [path for path in files if path not in studies.dicom_files]


def _add_channel_cases(files: Iterable[pathlib.Path], place: Callable, config: ConfigDict, found: _Found) -> None:
    """Scans of several channels: files that hold all of them, or NAME_0000.nii.gz, NAME_0001.nii.gz beside it."""
    count = len(config.data.modalities)
    groups: dict[pathlib.Path, dict[int, pathlib.Path]] = {}
    for file in files:
        part = layouts.CHANNEL_FILE.fullmatch(stem(file))
        if part:
            groups.setdefault(file.with_name(part[1]), {})[int(part[2])] = file
        else:
            found.scans.append(_Scan(place(file), (file,), tuple(range(count))))
    for case, channels in groups.items():
        missing = [f"{case.name}_{channel:04d}.nii[.gz]" for channel in range(count) if channel not in channels]
        if missing:
            found.failed.append((str(case), f"{case.parent} lacks {', '.join(missing)}"))
        else:
            images = tuple(channels[channel] for channel in range(count))
            around = place(images[0])
            found.scans.append(_Scan(around._replace(parts=(case.name, *around.parts[1:])), images))


def _add_brain_cases(
    root: pathlib.Path, files: Iterable[pathlib.Path], config: ConfigDict, found: _Found
) -> set[pathlib.Path]:
    """Add the BraTS cases; return the files that belong to one, complete or not."""
    cases, incomplete = layouts.scan("brats", root, config.data.modalities)
    found.failed += [(item.name, f"{item.reason}; {item.remedy}") for item in incomplete]
    around = tuple(reversed(root.resolve().parts[1:]))
    for case in cases:
        folders = tuple(reversed(case.images[0].parent.relative_to(root).parts))
        found.scans.append(_Scan(Place((case.name, *folders, *around)), case.images))
    return {path for path in files if brats_names.part_of(path)} | {case.mask for case in cases if case.mask}


def _find_packed(
    archives: Iterable[pathlib.Path], config: ConfigDict, unpacked: Unpacked | None, wanted: str, found: _Found
) -> None:
    for archive in archives:
        if unpacked is None:
            found.passed_over.add(PACKED, [archive])
            continue
        try:
            folder, left_out = unpacked.unpack(archive)
        except ValueError as error:
            found.failed.append((str(archive), str(error)))
            continue
        for member, why in left_out[:NAMED]:
            found.failed.append((f"{archive}!{member}", f"{archive}: {member} is left out: {why}"))
        if left_out[NAMED:]:
            found.failed.append((str(archive), f"{archive}: {len(left_out) - NAMED} more are left out; {UNPACK}"))
        around = tuple(reversed(archive.absolute().parts[1:-1]))

        def place(path: pathlib.Path, folder=folder, around=around) -> Place:
            inside = _place_below(folder)(path)
            own = inside.parts[: len(path.relative_to(folder).parts) + 1]
            return Place((*own, *around), len(own) + bool(GENERIC.fullmatch(folder.name)))

        before = len(found.scans), len(found.failed)
        _find_below(folder, place, config, unpacked, wanted, found)
        if (len(found.scans), len(found.failed)) == before:
            found.passed_over.add(EMPTY, [archive])


def _is_unpacked(archive: pathlib.Path) -> bool:
    return archive.with_name(ARCHIVE.fullmatch(archive.name)[1]).is_dir()


def _nothing_found(path: pathlib.Path, config: ConfigDict, found: _Found) -> str:
    wanted = "a BraTS case (CASE_t1.nii.gz …)" if _of_cases(config) else "a NIfTI file or DICOM series"
    there = found.passed_over.counted()
    return f"{path} holds no scan; looked for {wanted} at any depth{there and f'; there are {there}'}"


def _of_cases(config: ConfigDict) -> bool:
    return tasks.task_of(config.stage).rule == "brats"
