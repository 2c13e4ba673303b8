"""Find the cases of a data set by the file names its makers gave, read one, and split them by patient."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep import phantom
from raunet_jax.progress import say
from raunet_jax.volume import Volume, read_mask, read_modalities, read_nifti

SOURCES = ("lits", "brats", "phantom")
PHANTOM_CASES = 6
CT_LABELS = (0, 1, 2)
BRATS_LABELS = (0, 1, 2, 4)
PATTERNS = {
    "lits": "volume-N.nii[.gz] with segmentation-N.nii[.gz], at any depth",
    "brats": "CASE_{t1,t1ce,t2,flair,seg}.nii[.gz], a folder a case, at any depth",
}
HOW_TO_GET = {
    "lits": "LiTS is free after registration at https://competitions.codalab.org/competitions/17094; the same cases "
    "are in Task03_Liver of the Medical Segmentation Decathlon (http://medicaldecathlon.com), under other names",
    "brats": "BraTS is free after registration at https://www.med.upenn.edu/sbia/brats2018/registration.html or, for "
    "later years, at https://www.synapse.org/brats",
}
LITS_FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(?:\.gz)?")
BRATS_FILE = re.compile(r"(.+)_(t1|t1ce|t2|flair|seg)\.nii(?:\.gz)?", re.IGNORECASE)
BRATS_VISIT = re.compile(r"(Brats1[78]_.+)_\d+", re.IGNORECASE)  # Brats18_CBICA_AAB_1: patient CBICA_AAB, visit 1


class DataNotFound(FileNotFoundError):
    """No usable case where the recipe looks; the message says what was looked for, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    images: tuple[pathlib.Path, ...]  # a file a modality, in the recipe's order
    mask: pathlib.Path | None
    patient: str  # cases of one patient never fall into different folds


class Incomplete(NamedTuple):
    """Files that belong to a case which cannot be used as it lies."""

    name: str
    reason: str
    remedy: str


class Split(NamedTuple):
    test: tuple[Case, ...]
    folds: tuple[tuple[Case, ...], ...]  # of stage coarse: (train, validation)


def phantom_folder(config: ConfigDict) -> pathlib.Path:
    """Where the recipe's phantoms lie: a folder for each kind, size and seed."""
    size = "x".join(str(voxels) for voxels in config.data.phantom_size)
    return pathlib.Path(config.data.prepared) / f"phantom_{_phantom_kind(config)}_{size}_seed{config.seed}"


def _phantom_kind(config: ConfigDict) -> str:
    return "abdomen" if tuple(config.data.modalities) == ("ct",) else "head"


def find_cases(config: ConfigDict, need_masks: bool = True) -> list[Case]:
    """The usable cases of the recipe's source in natural order, at most `config.data.cases` of them when that is > 0.

    Phantoms that are missing are drawn first. What is incomplete is reported on standard error and left out; a case
    without a mask is kept when `need_masks` is False. Raises DataNotFound when none is left, ValueError for a source or
    modalities that do not exist, or when two files claim to be the same case.
    """
    cases, incomplete = scan_cases(config)
    if need_masks:
        incomplete += [no_mask(case) for case in cases if case.mask is None]
        cases = [case for case in cases if case.mask is not None]
    for name, reason, remedy in incomplete:
        say(f"{name} is left out: {reason}; {remedy}")
    if not cases:
        raise DataNotFound(_nothing_found(config, incomplete))
    return cases[: config.data.cases] if config.data.cases > 0 else cases


def scan_cases(config: ConfigDict) -> tuple[list[Case], list[Incomplete]]:
    """Every case there is, with or without a mask, and what is incomplete. Raises ValueError as `find_cases` does."""
    data = config.data
    if data.source not in SOURCES:
        raise ValueError(f"config.data.source={data.source!r} is not known; choose {', '.join(SOURCES)}")
    modalities = tuple(data.modalities)
    if modalities != ("ct",) and not (modalities and set(modalities) <= set(phantom.MODALITIES)):
        raise ValueError(
            f"config.data.modalities={modalities} are not known; choose ('ct',) or some of {phantom.MODALITIES}"
        )
    layout = data.source
    root = pathlib.Path(data.root)
    if data.source == "phantom":
        layout = "lits" if modalities == ("ct",) else "brats"
        root = phantom_folder(config)
        count = data.cases if data.cases > 0 else PHANTOM_CASES
        phantom.write_phantoms(root, _phantom_kind(config), count, config.seed, tuple(data.phantom_size))
    if (layout == "lits") != (modalities == ("ct",)):
        raise ValueError(
            f"config.data.source={data.source!r} does not hold the modalities {modalities} that recipe "
            f"{config.name!r} reads; lits is CT, brats is MR"
        )
    files = _files_below(root)
    cases, incomplete = _scan_lits(files) if layout == "lits" else _scan_brats(files, modalities)
    cases.sort(key=lambda case: _natural(case.name))
    if data.source == "phantom":
        cases = cases[:count]  # an earlier run may have drawn more
    return cases, sorted(incomplete, key=lambda item: _natural(item.name))


def read_case(case: Case, config: ConfigDict) -> tuple[Volume, np.ndarray | None]:
    """The case's Volume and its mask (uint8 (z, y, x)); MR labels 1, 2 and 4 are merged to 1. Raises VolumeError."""
    volume = read_image(case, config)
    return volume, None if case.mask is None else read_labels(case, volume, config)


def read_image(case: Case, config: ConfigDict) -> Volume:
    if tuple(config.data.modalities) == ("ct",):
        volume = read_nifti(case.images[0], kind="ct")
    else:
        volume = read_modalities(case.images, kind="mr")
    return dataclasses.replace(volume, name=case.name)


def read_labels(case: Case, volume: Volume, config: ConfigDict) -> np.ndarray:
    if tuple(config.data.modalities) == ("ct",):
        return read_mask(case.mask, volume, labels=CT_LABELS)
    return (read_mask(case.mask, volume, labels=BRATS_LABELS) > 0).astype(np.uint8)


def split_cases(cases: Sequence[Case], config: ConfigDict) -> Split:
    """Deal the patients out, shuffled by `config.seed`: first `config.data.test_cases` held out, the rest into folds.

    Folds differ by at most one patient. Stage coarse has one model, so its folds are (train, validation). The test
    cases are the same for every stage, so that no stage of a cascade has trained on them. Raises ValueError for too few
    patients or fewer than two folds.
    """
    data = config.data
    coarse = config.stage == "coarse"
    if not coarse and data.folds < 2:
        raise ValueError(f"config.data.folds={data.folds} leaves nothing to train on; use at least 2")
    by_patient: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: _natural(case.name)):
        by_patient.setdefault(case.patient, []).append(case)
    names = list(by_patient)
    patients = [by_patient[names[index]] for index in np.random.default_rng(config.seed).permutation(len(names))]

    held_out = 0
    while held_out < len(patients) and sum(map(len, patients[:held_out])) < data.test_cases:
        held_out += 1
    test, rest = patients[:held_out], patients[held_out:]
    parts = 2 if coarse else data.folds
    if len(rest) < parts or sum(map(len, test)) < data.test_cases:
        raise ValueError(
            f"{len(patients)} patients are too few for {data.test_cases} test cases (config.data.test_cases) and "
            f"{parts} {'parts' if coarse else 'folds (config.data.folds)'}; lower these, or add cases"
        )
    if coarse:
        validation = min(len(rest) - 1, max(1, round(data.validation_share * len(rest))))
        groups = [rest[validation:], rest[:validation]]
    else:
        groups = [rest[fold::parts] for fold in range(parts)]
    return Split(_in_order(test), tuple(_in_order(group) for group in groups))


def _in_order(patients: Iterable[Sequence[Case]]) -> tuple[Case, ...]:
    return tuple(sorted((case for cases in patients for case in cases), key=lambda case: _natural(case.name)))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _files_below(root: pathlib.Path) -> list[pathlib.Path]:
    """Every file below `root`, links followed, hidden ones (half-written, or a Mac's ._ companions) left out."""
    files, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            subfolders.clear()
            continue
        seen.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += [pathlib.Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files


def _scan_lits(files: Sequence[pathlib.Path]) -> tuple[list[Case], list[Incomplete]]:
    found: dict[tuple[str, int], pathlib.Path] = {}
    for path in files:
        match = LITS_FILE.fullmatch(path.name)
        if match:
            _claim(found, (match[1], int(match[2])), path)
    cases, incomplete = [], []
    for (role, number), path in found.items():
        if role == "volume":
            name = f"volume-{number}"
            cases.append(Case(name, (path,), found.get(("segmentation", number)), patient=name))
        elif ("volume", number) not in found:
            reason = f"{path} has no volume-{number}.nii[.gz]"
            incomplete.append(Incomplete(f"segmentation-{number}", reason, "copy that file under config.data.root"))
    return cases, incomplete


def _scan_brats(files: Sequence[pathlib.Path], modalities: Sequence[str]) -> tuple[list[Case], list[Incomplete]]:
    found: dict[str, dict[str, pathlib.Path]] = {}
    for path in files:
        match = BRATS_FILE.fullmatch(path.name)
        if match:
            _claim(found.setdefault(match[1], {}), match[2].lower(), path)
    cases, incomplete = [], []
    for name, roles in found.items():
        missing = [modality for modality in modalities if modality not in roles]
        if missing:
            wanted = ", ".join(f"{name}_{modality}.nii[.gz]" for modality in missing)
            reason = f"{next(iter(roles.values())).parent} lacks {wanted}"
            incomplete.append(Incomplete(name, reason, "copy that again, or leave it out of config.data.modalities"))
            continue
        visit = BRATS_VISIT.fullmatch(name)
        images = tuple(roles[modality] for modality in modalities)
        cases.append(Case(name, images, roles.get("seg"), patient=visit[1] if visit else name))
    return cases, incomplete


def _claim(found: dict, key, path: pathlib.Path) -> None:
    if key in found:
        raise ValueError(
            f"{found[key]} and {path} claim to be the same file of one case; move one away, or point config.data.root "
            "at the folder of one copy"
        )
    found[key] = path


def no_mask(case: Case) -> Incomplete:
    """What to say of a case whose mask is not there."""
    lits = LITS_FILE.fullmatch(case.images[0].name)
    wanted = f"segmentation-{lits[2]}" if lits else f"{case.name}_seg"
    reason = f"{case.images[0]} has no mask {wanted}.nii[.gz]"
    return Incomplete(case.name, reason, "copy that file under config.data.root")


def _nothing_found(config: ConfigDict, incomplete: Sequence[Incomplete]) -> str:
    source = config.data.source
    if source == "phantom":
        return f"no phantom was drawn in {phantom_folder(config).resolve()}"
    root = pathlib.Path(config.data.root).resolve()
    if not root.is_dir():
        there = "that folder does not exist"
    else:
        files = _files_below(root)
        volumes = [path.name for path in files if path.name.endswith((".nii", ".nii.gz"))]
        there = f"found {len(files)} files there, {len(volumes)} of them NIfTI"
        if volumes:
            there += f" ({', '.join(volumes[:3])}{', ...' if len(volumes) > 3 else ''})"
        if incomplete:
            there += f", and {len(incomplete)} incomplete cases (first: {incomplete[0].reason})"
    return (
        f"no usable {source} case below {root} (config.data.root): looked for {PATTERNS[source]}; {there}. "
        f"{HOW_TO_GET[source]}. To run without any download: --config.data.source=phantom"
    )
