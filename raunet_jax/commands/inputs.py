"""What there is to be segmented: NIfTI files, folders of them, DICOM series and BraTS case folders."""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable

from ml_collections import ConfigDict

from data_prep import layouts
from raunet_jax import tasks
from raunet_jax.imaging.volume import is_dicom_folder, is_prediction
from raunet_jax.names import MASK_ENDING, NIFTI, REFERENCE_ENDING, SCANNED_MASK_ENDING, UNCERTAINTY_ENDING, stem

log = logging.getLogger("raunet_jax")
NAMED = 5  # files that are passed over, before the rest of them is but counted


@dataclasses.dataclass(frozen=True)
class Input:
    """One scan to segment: a NIfTI file, the folder of a DICOM series, or the files of a case's modalities."""

    name: str
    images: tuple[pathlib.Path, ...]
    channels: tuple[int, ...] = ()  # which of the volumes in a single file


def find_inputs(paths: Iterable[pathlib.Path], config: ConfigDict) -> tuple[list[Input], list[dict]]:
    """The scans below `paths`, and `{"input", "reason"}` for each path or case that cannot be used.

    Scans of one name are told apart by a number, so that no mask overwrites another.

    Args:
        config: of the last stage; `stage` and `data.modalities` are read.
    """
    of_cases = tasks.task_of(config.stage).rule == "brats"
    find = _brain_cases if of_cases else _channel_cases if len(config.data.modalities) > 1 else _scans
    found, failed = [], []
    for path in paths:
        if not path.exists():
            failed.append({"input": str(path), "reason": f"{path} does not exist; give a NIfTI file or a folder"})
            continue
        try:
            scans, problems = find(path, config)
        except (OSError, ValueError) as error:  # such as a folder that may not be read
            failed.append({"input": str(path), "reason": str(error)})
            continue
        if not scans and not problems:
            wanted = "a BraTS case (CASE_t1.nii.gz …)" if of_cases else "a NIfTI file or DICOM series"
            problems = [{"input": str(path), "reason": f"{path} holds no scan; looked for {wanted} at any depth"}]
        found += scans
        failed += problems
    unique, taken = [], set()
    for scan in found:
        numbered = (f"{scan.name}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([scan.name], numbered) if name not in taken)
        taken.add(name)
        unique.append(dataclasses.replace(scan, name=name))
    return unique, failed


def _scans(path: pathlib.Path, _) -> tuple[list[Input], list[dict]]:
    if path.is_file():
        return [Input(stem(path), (path,))], []
    scans, results = _look_through(path, set())
    if results:
        named = ", ".join(result.name for result in results[:NAMED]) + (", …" if len(results) > NAMED else "")
        log.warning(
            f"{path}: passed over as results, not scans: {len(results)} ({named}); name a file itself to segment it"
        )
    return scans, []


def _look_through(folder: pathlib.Path, seen: set[pathlib.Path]) -> tuple[list[Input], list[pathlib.Path]]:
    """The scans at any depth below `folder`, and the files that are results."""
    if folder.resolve() in seen:  # links may lead back to a folder
        return [], []
    seen.add(folder.resolve())
    if is_dicom_folder(folder):
        return [Input(folder.resolve().name, (folder,))], []
    children = [child for child in sorted(folder.iterdir()) if not child.name.startswith(".")]
    results = _results(child for child in children if not child.is_dir())
    scans, passed_over = [], sorted(results)
    for child in children:
        if child.is_dir():
            deeper, passed_over_there = _look_through(child, seen)
            scans += deeper
            passed_over += passed_over_there
        elif NIFTI.fullmatch(child.name) and child not in results:
            scans.append(Input(stem(child), (child,)))
    return scans, passed_over


def _results(files: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Which NIfTI files of one folder are no scans but lie beside the scan, or the mask, that they belong to.

    NAME_seg beside NAME (or its first channel, NAME_0000), or written by predict; NAME_liver, NAME_uncertainty and the
    like beside such a NAME_seg; segmentation-N beside volume-N. A lone P1_brain is a scan: skull-stripped MR are called
    so.
    """
    names = {path: match[1].lower() for path in files if (match := NIFTI.fullmatch(path.name))}
    there = set(names.values())
    masks = set()
    for path, name in names.items():
        scan = name.removesuffix(MASK_ENDING)
        if scan != name and (there & {scan, f"{scan}_0000"} or is_prediction(path)):
            masks.add(name)
    maps = (f"_{name}" for name in tasks.map_names())
    endings = (*maps, SCANNED_MASK_ENDING, REFERENCE_ENDING, UNCERTAINTY_ENDING)  # beside a mask
    results = masks | {f"{mask.removesuffix(MASK_ENDING)}{ending}" for mask in masks for ending in endings}
    results |= {name.replace("volume-", "segmentation-", 1) for name in there if name.startswith("volume-")}
    return {path for path, name in names.items() if name in results}


def _channel_cases(path: pathlib.Path, config: ConfigDict) -> tuple[list[Input], list[dict]]:
    """Scans of several channels: files that hold all of them, or NAME_0000.nii.gz, NAME_0001.nii.gz beside it."""
    count = len(config.data.modalities)
    groups: dict[pathlib.Path, dict[int, pathlib.Path]] = {}
    scans, problems = [], []
    for scan in _scans(path, config)[0]:
        file = scan.images[0]
        part = layouts.CHANNEL_FILE.fullmatch(stem(file))
        if part:
            groups.setdefault(file.with_name(part[1]), {})[int(part[2])] = file
        else:
            scans.append(dataclasses.replace(scan, channels=tuple(range(count))))
    for place, files in groups.items():
        missing = [f"{place.name}_{channel:04d}.nii[.gz]" for channel in range(count) if channel not in files]
        if missing:
            problems.append({"input": str(place), "reason": f"{place.parent} lacks {', '.join(missing)}"})
        else:
            scans.append(Input(place.name, tuple(files[channel] for channel in range(count))))
    return scans, problems


def _brain_cases(path: pathlib.Path, config: ConfigDict) -> tuple[list[Input], list[dict]]:
    if path.is_file():
        wanted = ", ".join(config.data.modalities)
        return [], [
            {"input": str(path), "reason": f"{path} is one file; give the folder that holds {wanted} of a case"}
        ]
    cases, incomplete = layouts.scan("brats", path, config.data.modalities)
    problems = [{"input": item.name, "reason": f"{item.reason}; {item.remedy}"} for item in incomplete]
    return [Input(case.name, case.images) for case in cases], problems
