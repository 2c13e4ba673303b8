"""The DICOM series below a folder that are segmented, and what is said of the choice."""

import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from raunet_jax import tasks
from raunet_jax.imaging.dicom_series import TABLE_OF_CONTENTS, NotSeries, Series, find_series, listed
from raunet_jax.imaging.dicomdir import missing_files
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.mr_choice import choose_mr
from raunet_jax.imaging.series_choice import AUTO, Choice, by_study, choose_ct, is_uid
from raunet_jax.imaging.series_words import plain

_COPY = "export or copy it again, and see that you may read it"
_NAMED = 6  # series that are passed over, before the rest of them is but counted
_LONGEST_DESCRIPTION = 40  # bytes of one in a name
_OF_NOBODY = re.compile(  # names of folders that say what they hold, and not of whom
    r"(ct|mri?|scans?|images?|data|series|study|patient_dicom|dicom|dicomobj|dcm|export)[-_ ]?\d{0,3}"
    r"|(pa|pat|pt|st|stu|se|ser|sr|im|s|i)?[-_ ]?\d{5,}|[\d.]{12,}",
    re.IGNORECASE,
)


Scan = tuple[str, tuple[pathlib.Path, ...], tuple[str, ...]]


class Studies(NamedTuple):
    """What DICOM there is at one path.

    Attributes:
        chosen: (name, images, series keys) of each scan; images are folders, one a key, for `volume.load_scan`.
        notes: sentences: what was chosen where there was a choice, what was passed over and why.
        failed: `{"input", "reason"}` of each study without a scan, and of files and folders that cannot be read.
        dicom_files: every file of which this says something.
    """

    chosen: list[Scan]
    notes: list[str]
    failed: list[dict]
    dicom_files: set[pathlib.Path]


def find_studies(
    path: pathlib.Path, config: ConfigDict, wanted: str = AUTO, files: Iterable[pathlib.Path] | None = None
) -> Studies:
    """The scans to segment among the DICOM files at any depth below `path`: of each study one, or those wanted.

    Args:
        config: of the last stage; `stage` and `data.modalities` are read.
        wanted: auto | all | a SeriesNumber, a SeriesInstanceUID or its beginning, or a description with * and ?.
        files: of these below `path` alone; None: of all but hidden ones.
    """
    series, others = find_series(path, files=[path] if files is None and path.is_file() else files)
    choices = choices_of(series, config, wanted)
    seen = {file for one in series for file in one.files} | {one.path for one in others}
    chosen, notes, failed = [], [], []
    for choice in choices:
        for name, scan in zip(_names(path, choice), choice.scans, strict=True):
            chosen.append((name, tuple(one.folder for one in scan), tuple(one.key for one in scan)))
        notes += _choice_notes(choice)
    for choice in (one for one in choices if one.problem):
        folder = folder_of(choice)
        if chosen and is_uid(wanted):  # which is of one study, and no other lacks it
            continue
        if chosen and _is_of_another_kind(choice, config):
            notes.append(f"{folder}: passed over: {listed(choice.study)}")
        else:
            failed.append({"input": str(folder), "reason": f"{folder} {choice.problem}"})
    failed += [{"input": str(place), "reason": f"{place}: {what}; {_COPY}"} for place, what in _troubles(others)]
    if len(chosen) > 1:
        notes.append(f"{path}: {_shown_of_studies(choices)}")
    passed_over = counted(others, path)
    notes += [f"{path}: passed over: {passed_over}"] if passed_over else []
    for table in (one.path for one in others if one.what == TABLE_OF_CONTENTS):
        notes += missing_files(table, seen)
    return Studies(_told_apart(chosen, choices), notes, failed, seen)


def choices_of(series: Iterable[Series], config: ConfigDict, wanted: str) -> list[Choice]:
    """What is segmented of each study."""
    if kind_of(config.data.modalities) != "ct":
        return [choose_mr(study, wanted, config.data.modalities) for study in by_study(series)]
    of_liver = tasks.task_of(config.stage).rule == "lits2017"
    return [choose_ct(study, wanted, of_liver) for study in by_study(series)]


def folder_of(choice: Choice) -> pathlib.Path:
    """The deepest folder that holds the whole study."""
    return pathlib.Path(os.path.commonpath([file.parent for one in choice.study for file in one.files]))


def _shown_of_studies(choices: Sequence[Choice]) -> str:
    """What is segmented of several studies, or of one that gives several scans."""
    scans = [(choice, scan) for choice in choices for scan in choice.scans]
    shown = "; ".join(f"{folder_of(choice)}: series {', '.join(map(str, scan))}" for choice, scan in scans[:_NAMED])
    more = f"; and {len(scans) - _NAMED} more, which --list shows" if len(scans) > _NAMED else ""
    return f"{len(scans)} scans of {len({id(choice) for choice, _ in scans})} studies are segmented: {shown}{more}"


def counted(others: Sequence[NotSeries], root: pathlib.Path) -> str:
    """How many there are of what, of files below `root` that are no image series."""
    alike = defaultdict(list)
    for one in others:
        if not one.trouble and one.what != TABLE_OF_CONTENTS:
            folder = one.path.parent
            alike[one.what].append(one.path.name if folder == root else f"{folder.name}/{one.path.name}")
    return ", ".join(
        f"{len(names)} {'times ' * (len(names) > 1)}{what} ({names[0]}{', …' * (len(names) > 1)})"
        for what, names in alike.items()
    )


def _troubles(others: Sequence[NotSeries]) -> list[tuple[pathlib.Path, str]]:
    """(file or folder, what is wrong), where many files of a folder share a fault, once."""
    alike = defaultdict(list)
    for one in others:
        if one.trouble:
            alike[one.path.parent, one.what].append(one.path)
    return [
        (paths[0], what) if len(paths) == 1 else (folder, f"{len(paths)} times {what}, such as {paths[0].name}")
        for (folder, what), paths in alike.items()
    ]


def _is_of_another_kind(choice: Choice, config: ConfigDict) -> bool:
    """Whether a study holds nothing that could be meant, such as a PET beside the CT."""
    modality = kind_of(config.data.modalities).upper()
    return all(one.modality != modality for one in choice.study)


def _choice_notes(choice: Choice) -> list[str]:
    chosen = [one for scan in choice.scans for one in scan]
    doubts = [f"{one.folder}: series {one}: {warning}" for one in chosen for warning in one.warnings]
    if not choice.passed_over or not chosen:
        return doubts
    named = "; ".join(f"{one}: {why}" for one, why in choice.passed_over[:_NAMED])
    more = len(choice.passed_over) - _NAMED
    named += f"; and {more} more, which --list shows" if more > 0 else ""
    shown = ", ".join(map(str, chosen))
    return [f"{folder_of(choice)}: segmented is series {shown}; passed over: {named}", *doubts]


def _names(root: pathlib.Path, choice: Choice) -> list[str]:
    """Of the study's scans: the folder's, with the series where there are several."""
    base = _name_of(folder_of(choice), root, choice)
    return [base] if len(choice.scans) == 1 else [f"{base}_{_slug(scan[0])}" for scan in choice.scans]


def _slug(one: Series) -> str:
    """Number and description as a part of a file's name."""
    words = re.sub(r"[^\w.+-]+", "_", one.description).strip("_.").encode()[:_LONGEST_DESCRIPTION]
    return f"{'' if one.number is None else one.number}_{words.decode(errors='ignore')}".strip("_")


def _told_apart(chosen: list[Scan], choices: Sequence[Choice]) -> list[Scan]:
    """`chosen`, those of one name (studies that lie in one folder) by their series too, and by a number at last."""
    counts = Counter(name for name, *_ in chosen)
    scans = [scan for choice in choices for scan in choice.scans]
    named, taken = [], Counter()
    for (name, *rest), scan in zip(chosen, scans, strict=True):
        name = f"{name}_{_slug(scan[0])}".rstrip("_") if counts[name] > 1 else name
        taken[name] += 1
        named.append((name if taken[name] == 1 else f"{name}-{taken[name]}", *rest))
    return named


def _name_of(folder: pathlib.Path, root: pathlib.Path, choice: Choice) -> str:
    """The folder's name; where that says what is in it and not of whom, those around it too, up to `root`.

    A folder called as its study is called gives a part of the name, one called as its series or by its kind none.
    """
    folder, root = folder.resolve(), root.resolve()
    facts, names = choice.study[0].facts, []
    for one in (one.name for one in (folder, *folder.parents) if one.is_relative_to(root)):
        if _OF_NOBODY.fullmatch(one) or any(_says(one, series.description) for series in choice.study):
            continue
        names.insert(0, one)
        if not _says(one, facts.study_description) and not _says(one, facts.study_date):
            break
    above = root.parent.name
    if not names and _OF_NOBODY.fullmatch(root.name) and above and not above.isdigit():  # as archives' are unpacked to
        names = [above]
    return "_".join(names) or root.name or folder.name


def _says(name: str, words: str) -> bool:
    return len(words) > 2 and plain(words) in plain(name)
