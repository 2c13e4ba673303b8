"""The DICOM series below a folder that are segmented, and what is said of the choice."""

import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from raunet_jax import tasks
from raunet_jax.imaging.dicom_series import NotSeries, Series, find_series
from raunet_jax.imaging.series_choice import AUTO, Choice, by_study, choose_ct


class Studies(NamedTuple):
    """What DICOM there is at one path.

    Attributes:
        chosen: (name, images, series keys) of each scan; images are folders, one a key, for `volume.load_scan`.
        notes: sentences: what was chosen, what was passed over and why.
        failed: `{"input", "reason"}` of each study without a scan, file or folder that cannot be read.
        dicom_files: every DICOM file that was seen.
    """

    chosen: list[tuple[str, tuple[pathlib.Path, ...], tuple[str, ...]]]
    notes: list[str]
    failed: list[dict]
    dicom_files: set[pathlib.Path]


def find_studies(path: pathlib.Path, config: ConfigDict, wanted: str = AUTO) -> Studies:
    """The scans to segment among the DICOM files at any depth below `path`.

    Args:
        config: of the last stage; `stage` and `data.modalities` are read.
        wanted: auto | all | a SeriesInstanceUID, number or pattern of descriptions; see `series_choice`.
    """
    series, others = find_series(path)
    choices = choices_of(series, config, wanted)
    chosen, notes, failed = [], [], []
    names = _names(path, choices)
    for choice in choices:
        for scan in choice.scans:
            folders, keys = tuple(one.folder for one in scan), tuple(one.key for one in scan)
            chosen.append((names[keys], folders, keys))
            notes.append(f"{names[keys]}: {', '.join(map(str, scan))}")
        if choice.problem:
            failed.append({"input": str(_folder(choice)), "reason": f"{_folder(choice)} {choice.problem}"})
    failed += [{"input": str(one.path), "reason": f"{one.path}: {one.what}"} for one in others if one.trouble]
    seen = {file for one in series for file in one.files} | {one.path for one in others if one.dicom}
    return Studies(chosen, notes + _others_notes(path, others), failed, seen)


def choices_of(series: Sequence[Series], config: ConfigDict, wanted: str) -> list[Choice]:
    of_liver = tasks.task_of(config.stage).rule == "lits2017"
    return [choose_ct(study, wanted, of_liver) for study in by_study(series)]


def _folder(choice: Choice) -> pathlib.Path:
    import os

    return pathlib.Path(os.path.commonpath([one.folder for one in choice.study]))


def _names(path, choices):
    return {
        tuple(one.key for one in scan): _folder(choice).resolve().name for choice in choices for scan in choice.scans
    }


def _others_notes(path: pathlib.Path, others: Sequence[NotSeries]) -> list[str]:
    counts = Counter(one.what for one in others if not one.trouble)
    if not counts:
        return []
    return [f"{path}: passed over: {', '.join(f'{count} {what}' for what, count in counts.items())}"]
