"""The cases of a recipe: found on its disk or drawn, read, and split by patient."""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep import ircadb, layouts, phantom
from data_prep.layouts import Case, Incomplete
from data_prep.sources import HOW_TO_GET, PATTERNS
from raunet_jax import tasks
from raunet_jax.errors import NotFound, UserError
from raunet_jax.files import look_below
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Repair, Volume, load_mask, load_scan, log_repairs
from raunet_jax.names import natural

log = logging.getLogger("raunet_jax")

PHANTOM_CASES = 6


class DataNotFound(NotFound):
    """No usable case where the recipe looks; the message says what was looked for, where, and what to do."""


class Split(NamedTuple):
    test: tuple[Case, ...]
    folds: tuple[tuple[Case, ...], ...]  # of a stage with a single model: (train, validation)


def phantom_folder(config: ConfigDict) -> pathlib.Path:
    """Where the recipe's phantoms lie: a folder for each kind, size and seed."""
    size = "x".join(str(voxels) for voxels in config.data.phantom_size)
    prepared = pathlib.Path(config.data.prepared).expanduser()
    return prepared / f"phantom_{_phantom_kind(config)}_{size}_seed{config.seed}"


def _phantom_kind(config: ConfigDict) -> str:
    return "abdomen" if kind_of(config.data.modalities) == "ct" else "head"


def find_cases(config: ConfigDict, need_masks: bool = True) -> list[Case]:
    """The cases of `usable_cases`."""
    return usable_cases(config, need_masks)[0]


def usable_cases(config: ConfigDict, need_masks: bool = True) -> tuple[list[Case], list[Incomplete]]:
    """The usable cases of the recipe's source in natural order, and those that are incomplete.

    Phantoms that are missing are drawn first. What is incomplete is logged and left out; a case without a mask is kept
    when `need_masks` is False. Of `config.data`, `source`, `root`, `modalities` and `cases` are read (more than 0: at
    most so many cases), of phantoms `prepared` and `phantom_size` too, and `config.seed`.

    Raises:
        DataNotFound: no case is left.
        ValueError: a source or modalities that do not exist.
    """
    cases, incomplete = scan_cases(config)
    if need_masks:
        incomplete += [layouts.no_mask(case) for case in cases if case.mask is None]
        cases = [case for case in cases if case.mask is not None]
    for name, reason, remedy in incomplete:
        log.warning(f"{name} is left out: {reason}; {remedy}")
    if not cases:
        raise DataNotFound(_nothing_found(config, incomplete))
    return (cases[: config.data.cases] if config.data.cases > 0 else cases), incomplete


def scan_cases(config: ConfigDict) -> tuple[list[Case], list[Incomplete]]:
    """Every case there is, with or without a mask, and what is incomplete. Raises ValueError as `find_cases` does."""
    data = config.data
    modalities = tuple(data.modalities)
    if data.source != "phantom":
        return layouts.scan(data.source, pathlib.Path(data.root).expanduser(), modalities)
    kind, root = _phantom_kind(config), phantom_folder(config)
    if kind == "head" and not (modalities and set(modalities) <= set(layouts.MODALITIES)):
        raise UserError(
            f"config.data.modalities={modalities} cannot be drawn; choose ('ct',) or some of {layouts.MODALITIES}"
        )
    count = data.cases if data.cases > 0 else PHANTOM_CASES
    phantom.write_phantoms(root, kind, count, config.seed, tuple(data.phantom_size))
    cases, incomplete = layouts.scan("lits" if kind == "abdomen" else "brats", root, modalities)
    return cases[:count], incomplete  # an earlier run may have drawn more


def read_case(case: Case, config: ConfigDict) -> tuple[Volume, np.ndarray | None]:
    """What `read_image` and `read_labels` read of `case`; None for the mask of a case that has none."""
    volume = read_image(case, config)
    return volume, None if case.mask is None else read_labels(case, volume, config)


def read_image(case: Case, config: ConfigDict) -> Volume:
    """What `load_image` reads; what `config.data.repair` allows to be repaired is, and said as a warning."""
    volume = load_image(case, config, config.data.repair)
    log_repairs(volume.repairs)
    return volume


def read_labels(case: Case, volume: Volume, config: ConfigDict) -> np.ndarray:
    """What `load_labels` reads; what `config.data.repair` allows to be repaired is, and said as a warning."""
    labels, repairs = load_labels(case, volume, config, config.data.repair)
    log_repairs(repairs)
    return labels


def load_image(case: Case, config: ConfigDict, repair: bool) -> Volume:
    """The scan of `case`, its `repairs` unsaid; of `config` only `data.modalities` is read.

    Raises:
        VolumeError: as `raunet_jax.imaging.volume.load_scan` does.
    """
    volume = load_scan(case.images, kind_of(config.data.modalities), case.channels, repair)
    return dataclasses.replace(volume, name=case.name)


def load_labels(case: Case, volume: Volume, config: ConfigDict, repair: bool) -> tuple[np.ndarray, tuple[Repair, ...]]:
    """The mask of `case`, which has one, and what was repaired in it, unsaid.

    Args:
        volume: the scan of the case.
        config: `stage` and `data.foreground` are read.

    Returns:
        uint8 (z, y, x): the labels of the stage's task; where these are merged, 1 for every label, or for those of
        `config.data.foreground` if there are any.

    Raises:
        VolumeError: the mask cannot be read, is on another grid than the scan, or holds other labels.
    """
    labels, repairs = _stored_labels(case, volume, config, repair)
    if not case.mask.is_dir() and tasks.task_of(config.stage).merged:
        foreground = tuple(config.data.foreground)
        labels = (np.isin(labels, foreground) if foreground else labels > 0).astype(np.uint8)
    return labels, repairs


def labels_present(case: Case, volume: Volume, config: ConfigDict) -> tuple[int, ...]:
    """The label values above 0 that the mask of `case`, which has one, holds, before any are merged.

    Raises:
        VolumeError: as `load_labels` does, but where `config.data.repair` allows a repair.
    """
    labels, _ = _stored_labels(case, volume, config, config.data.repair)
    present = set().union(*(np.unique(plane).tolist() for plane in labels))  # slice by slice: it sorts a copy
    return tuple(sorted(int(label) for label in present if label > 0))


def _stored_labels(
    case: Case, volume: Volume, config: ConfigDict, repair: bool
) -> tuple[np.ndarray, tuple[Repair, ...]]:
    if case.mask.is_dir():
        return ircadb.read_labels(case.mask, case.images[0], volume), ()
    task = tasks.task_of(config.stage)
    return load_mask(case.mask, volume, case.labels if task.merged else task.labels or case.labels, repair)


def join_copies(cases: Sequence[Case], contents: Mapping[str, str | None], quiet: bool = False) -> list[Case]:
    """The cases, where cases of one content (`contents` by case name) have become cases of one patient; logged."""
    first: dict[str, Case] = {}
    same: dict[str, str] = {}  # patient: the patient it turns out to be

    def settled(patient: str) -> str:
        while patient in same:
            patient = same[patient]
        return patient

    for case in cases:
        content = contents[case.name]
        original = first.setdefault(content, case) if content else case
        if original is not case:
            if not quiet:
                log.warning(f"{case.name} is the same scan as {original.name}; the two never fall into different folds")
            ours, theirs = settled(case.patient), settled(original.patient)
            if ours != theirs:
                same[ours] = theirs
    return [dataclasses.replace(case, patient=settled(case.patient)) for case in cases]


def split_cases(cases: Sequence[Case], config: ConfigDict) -> Split:
    """Split the patients, shuffled by `config.seed`: `config.data.test_cases` held out, the rest into folds.

    Folds differ by at most one patient; of a stage with a single model they are (train, validation), by
    `config.data.validation_share`. The test cases are the same for every stage, so that no stage of a cascade has
    trained on them.

    Raises:
        ValueError: too few patients, or fewer than two folds (`config.data.folds`).
    """
    data = config.data
    single_model = tasks.stage_of(config.stage).single_model
    if not single_model and data.folds < 2:
        raise UserError(f"config.data.folds={data.folds} leaves nothing to train on; use at least 2")
    by_patient: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: natural(case.name)):
        by_patient.setdefault(case.patient, []).append(case)
    names = list(by_patient)
    patients = [by_patient[names[index]] for index in np.random.default_rng(config.seed).permutation(len(names))]

    held_out = 0
    while held_out < len(patients) and sum(map(len, patients[:held_out])) < data.test_cases:
        held_out += 1
    test, rest = patients[:held_out], patients[held_out:]
    parts = 2 if single_model else data.folds
    if len(rest) < parts or sum(map(len, test)) < data.test_cases:
        raise UserError(
            f"{len(patients)} patients are too few for {data.test_cases} test cases (config.data.test_cases) and "
            f"{parts} {'parts' if single_model else 'folds (config.data.folds)'}; lower these, or add cases"
        )
    if single_model:
        validation = min(len(rest) - 1, max(1, round(data.validation_share * len(rest))))
        groups = [rest[validation:], rest[:validation]]
    else:
        groups = [rest[fold::parts] for fold in range(parts)]
    return Split(_in_order(test), tuple(_in_order(group) for group in groups))


def _in_order(patients: Iterable[Sequence[Case]]) -> tuple[Case, ...]:
    return tuple(sorted((case for cases in patients for case in cases), key=lambda case: natural(case.name)))


def _nothing_found(config: ConfigDict, incomplete: Sequence[Incomplete]) -> str:
    source = config.data.source
    if source == "phantom":
        return f"no phantom was drawn in {phantom_folder(config).resolve()}"
    root = pathlib.Path(config.data.root).expanduser().resolve()
    if not root.is_dir():
        there = "that folder does not exist"
    else:
        files = look_below(root).files
        volumes = [path.name for path in files if layouts.NIFTI.fullmatch(path.name)]
        there = f"found {len(files)} files there, {len(volumes)} of them NIfTI"
        if volumes:
            there += f" ({', '.join(volumes[:3])}{', ...' if len(volumes) > 3 else ''})"
        if incomplete:
            there += f", and {len(incomplete)} incomplete cases (first: {incomplete[0].reason})"
    return (
        f"no usable {source} case below {root} (config.data.root): looked for {PATTERNS[source]}; {there}. "
        f"{HOW_TO_GET[source]}. To run without any download: --config.data.source=phantom"
    )
