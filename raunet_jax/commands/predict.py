"""Segmentation of anybody's scans: NIfTI files, folders of them, DICOM series and BraTS case folders."""

import dataclasses
import itertools
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping

from data_prep import layouts
from raunet_jax.commands.request import Request
from raunet_jax.files import write_csv, write_json
from raunet_jax.imaging.components import component_sizes
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Volume, is_dicom_folder, is_prediction, read_scan, write_map, write_mask
from raunet_jax.inference import lesion_table
from raunet_jax.inference.cascade import MAPS, Segmentation, StageModel, load_cascade, segment
from raunet_jax.inference.uncertainty import uncertainty_map
from raunet_jax.names import MASK_ENDING, NIFTI, stem
from raunet_jax.progress import progress
from raunet_jax.read_ahead import CASE_ERRORS, pipeline
from raunet_jax.report.page import display_settings
from raunet_jax.report.prediction_page import write_prediction_page

log = logging.getLogger("raunet_jax")

RESULT_ENDINGS = (*(f"_{name}" for name in set(MAPS.values())), "_reference", "_uncertainty")  # of files beside a mask
NAMED = 5  # files that are passed over, before the rest of them is but counted


def run(request: Request) -> int:
    inputs = [pathlib.Path(path) for path in request.needed("input")]
    output = pathlib.Path(request.needed("output"))
    models = load_cascade(request.run, request.config)
    summary = predict(models, inputs, output, probabilities=request.probabilities, uncertainty=request.uncertainty)
    print(f"{len(summary['cases'])} segmented, {len(summary['failed'])} failed; look at {output / 'index.html'}")
    for failure in summary["failed"]:
        log.warning(f"failed: {failure['input']}: {failure['reason']}")
    return 1 if summary["failed"] or not summary["cases"] else 0


@dataclasses.dataclass(frozen=True)
class Input:
    """One scan to segment: a NIfTI file, the folder of a DICOM series, or the files of a case's modalities."""

    name: str
    images: tuple[pathlib.Path, ...]
    channels: tuple[int, ...] = ()  # which of the volumes in a single file


def find_inputs(paths: Iterable[pathlib.Path], models: Mapping[str, StageModel]) -> tuple[list[Input], list[dict]]:
    """The scans below `paths`, and `{"input", "reason"}` for each path or case that cannot be used.

    Scans of one name are told apart by a number, so that no mask overwrites another.
    """
    last = list(models.values())[-1].config
    several = len(last.data.modalities) > 1
    find = _brain_cases if "brain" in models else _channel_cases if several else _scans
    found, failed = [], []
    for path in paths:
        if not path.exists():
            failed.append({"input": str(path), "reason": f"{path} does not exist; give a NIfTI file or a folder"})
            continue
        try:
            scans, problems = find(path, models)
        except (OSError, ValueError) as error:  # such as a folder that may not be read
            failed.append({"input": str(path), "reason": str(error)})
            continue
        if not scans and not problems:
            wanted = "a BraTS case (CASE_t1.nii.gz …)" if "brain" in models else "a NIfTI file or DICOM series"
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
    results = masks | {f"{mask.removesuffix(MASK_ENDING)}{ending}" for mask in masks for ending in RESULT_ENDINGS}
    results |= {name.replace("volume-", "segmentation-", 1) for name in there if name.startswith("volume-")}
    return {path for path, name in names.items() if name in results}


def _channel_cases(path: pathlib.Path, models: Mapping[str, StageModel]) -> tuple[list[Input], list[dict]]:
    """Scans of several channels: files that hold all of them, or NAME_0000.nii.gz, NAME_0001.nii.gz beside it."""
    count = len(list(models.values())[-1].config.data.modalities)
    groups: dict[pathlib.Path, dict[int, pathlib.Path]] = {}
    scans, problems = [], []
    for scan in _scans(path, models)[0]:
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


def _brain_cases(path: pathlib.Path, models: Mapping[str, StageModel]) -> tuple[list[Input], list[dict]]:
    config = models["brain"].config
    if path.is_file():
        wanted = ", ".join(config.data.modalities)
        return [], [
            {"input": str(path), "reason": f"{path} is one file; give the folder that holds {wanted} of a case"}
        ]
    cases, incomplete = layouts.scan("brats", path, config.data.modalities)
    problems = [{"input": item.name, "reason": f"{item.reason}; {item.remedy}"} for item in incomplete]
    return [Input(case.name, case.images) for case in cases], problems


def summarize(found: Segmentation, volume: Volume) -> dict:
    """Volumes in mL, lesion count (26-neighborhood), and tumor over liver of one segmentation."""
    voxel_ml = lesion_table.voxel_volume_mm3(volume.affine) / 1000
    for name, field in (("brain", "whole_tumor_ml"), ("foreground", "foreground_ml")):
        if name in found.probabilities:
            return {field: round(float((found.labels > 0).sum() * voxel_ml), 3)}
    liver, tumor = int((found.labels >= 1).sum()), int((found.labels == 2).sum())
    summary = {"liver_ml": round(liver * voxel_ml, 3)}
    if "tumor" in found.probabilities or not liver:
        summary["tumor_ml"] = round(tumor * voxel_ml, 3)
        summary["tumor_count"] = len(component_sizes(found.labels == 2))
        summary["tumor_burden"] = tumor / liver if liver else None
    return summary


def predict(
    models: Mapping[str, StageModel],
    paths: Iterable[pathlib.Path],
    output: pathlib.Path,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> dict:
    """Segment each scan below `paths` and write into `output`.

    CASE_seg.nii.gz (uint8, on the scan's own grid), with `probabilities` the float32 maps beside it, with `uncertainty`
    CASE_uncertainty.nii.gz (see `uncertainty_map`), summary.json, summary.csv and lesions.csv after every case, and at
    the end a PNG a case and index.html. A scan that fails is listed under "failed" in the summary, with the reason,
    and the others go on. Scans are read and results written while the device segments others, see `pipeline`.

    Returns:
        The summary: `{"cases": [...], "failed": [{"input", "reason"}, ...]}`; "lesions" of a case are those of
        `lesion_table.lesions_of`.
    """
    scans, failed = find_inputs(paths, models)
    for failure in failed:
        log.warning(f"cannot segment {failure['input']}: {failure['reason']}")
    last = list(models.values())[-1].config
    kind = kind_of(last.data.modalities)
    summary = {"cases": [], "failed": failed}

    def read(scan):
        begin = time.monotonic()
        mask = _mask_of(output, scan)
        if mask.exists() and not is_prediction(mask):
            raise ValueError(f"{mask} is there already and no prediction of ours; choose another --output")
        volume = read_scan(scan.images, kind, scan.channels, last.data.repair)
        return dataclasses.replace(volume, name=scan.name), time.monotonic() - begin

    def work(scan, held):
        (volume, seconds), begin = held, time.monotonic()
        found = segment(volume, models, announce=_announcer(bar, scan.name))
        return volume, found, seconds + time.monotonic() - begin

    def finish(scan, outcome, saving):
        begin = time.monotonic()
        try:
            volume, found, seconds = outcome.result()
            with saving():
                write_mask(_mask_of(output, scan), found.labels, volume)
            for name, values in found.probabilities.items() if probabilities else ():
                with saving():
                    write_map(output / f"{scan.name}_{name}.nii.gz", values, volume)
            if uncertainty:
                entropy = uncertainty_map(found, last.stage)
                with saving():
                    write_map(output / f"{scan.name}_uncertainty.nii.gz", entropy, volume)
            lesions = lesion_table.lesions_of(found, last.stage, volume.affine)
        except CASE_ERRORS as error:
            failed.append({"input": str(scan.images[0]), "reason": str(error) or type(error).__name__})
            log.warning(f"cannot segment {failed[-1]['input']}: {failed[-1]['reason']}")
        else:
            for warning in found.warnings:
                log.warning(f"warning: {warning}")
            seconds += time.monotonic() - begin
            summary["cases"].append(_entry(scan, _mask_of(output, scan), volume, found, seconds, lesions))
        with saving():
            _write_summary(output, summary)
        bar.advance(1, scan.name)

    with progress("predict", len(scans)) as bar:
        pipeline(scans, read, work, finish, lambda held: held[0].voxels.size)
    _write_summary(output, summary)
    write_prediction_page(output, display_settings(last))
    return summary


def _mask_of(output: pathlib.Path, scan: Input) -> pathlib.Path:
    return output / f"{scan.name}{MASK_ENDING}.nii.gz"


def _announcer(bar, name: str) -> Callable:
    """`segment`'s `announce`, which shows a case's windows beside the bar of the cases."""

    def announce(stage, windows):
        done = 0

        def advance(count):
            nonlocal done
            done += count
            bar.advance(0, f"{name} {stage} {done}/{windows}")

        return advance

    return announce


def _entry(
    scan: Input, mask: pathlib.Path, volume: Volume, found: Segmentation, seconds: float, lesions: list[dict] | None
) -> dict:
    """What the summary says of a case; `seconds` are those of reading, segmenting and writing it, waiting left out."""
    return {
        "case": scan.name,
        "input": str(scan.images[0].absolute()),
        "images": [str(path.absolute()) for path in scan.images],
        "channels": list(scan.channels),
        "mask": str(mask.absolute()),
        **summarize(found, volume),
        "box": found.box and {"start": found.box.start, "stop": found.box.stop},
        "seconds": round(seconds, 2),
        "warnings": found.warnings,
        "lesions": lesions,
    }


def _write_summary(output: pathlib.Path, summary: dict) -> None:
    write_json(output / "summary.json", summary)
    rows = [
        {name: value for name, value in case.items() if name not in ("box", "images", "channels", "lesions")}
        | {"warnings": "; ".join(case["warnings"])}
        for case in summary["cases"]
    ]
    write_csv(output / "summary.csv", rows, ["case"])
    tables = {case["case"]: case["lesions"] for case in summary["cases"] if case["lesions"] is not None}
    if tables:
        lesion_table.write_csv(output / "lesions.csv", tables)
