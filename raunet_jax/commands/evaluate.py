"""Whole-volume inference on the cases that a run's models never saw, and all scores."""

import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from data_prep.cases import find_cases, read_case
from data_prep.fingerprints import fingerprints
from data_prep.layouts import Case
from data_prep.planning import plan
from raunet_jax import recipe, scores
from raunet_jax.commands import report
from raunet_jax.commands.request import Request
from raunet_jax.files import write_json
from raunet_jax.imaging.volume import Volume, write_map, write_mask
from raunet_jax.inference import attribution, lesion_table
from raunet_jax.inference.cascade import WHOLE_VOLUME, Segmentation, load_cascade, segment
from raunet_jax.inference.uncertainty import uncertainty_map
from raunet_jax.names import natural
from raunet_jax.progress import progress
from raunet_jax.read_ahead import CASE_ERRORS, Saving, pipeline
from raunet_jax.run_folder import Parts, RunFolder
from raunet_jax.scores.attribution import summarize as summarize_attribution

log = logging.getLogger("raunet_jax")

SUMMARIZE = {"brain": scores.summarize_brain, "custom": scores.summarize_custom}


class Group(NamedTuple):
    """Cases that one choice of models has not seen."""

    fold: int | None  # whose model segments them; None: all folds together
    cases: tuple[Case, ...]


class HeldOut(NamedTuple):
    groups: list[Group]
    contents: Mapping[str, str | None]  # hash of what each case holds, by name
    leaks: set[str]  # names of cases that the run trained on under another name
    failed: list[str]  # a sentence for each held-out case that is not there as it was
    external: bool  # the cases are of another data set than the run's


def run(request: Request) -> int:
    output = pathlib.Path(request.output).expanduser() if request.output else request.run
    summary, failed = evaluate(plan(request.recipe), request.run, output, request.uncertainty)
    scores.print_tables(summary, Console())
    print(f"scores: {output / 'scores.json'}")
    if output == request.run:
        report.run(request)
    for line in failed:
        log.warning(f"not scored: {line}")
    return 1 if failed else 0


def evaluate(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None, uncertainty: bool = False
) -> tuple[dict, list[str]]:
    """Segment and score the cases that the run in `workdir` holds out, or all of another data set.

    Which cases a run has trained on stands in its split.json. With test cases these are scored, by all folds together;
    without, each case of a trained fold is segmented by the one model that never saw it (cross-validation). Stage 1 of
    a cascade is a single model, as in the paper: a case it was trained on is marked "stage_1_trained_on_it" in the
    scores, which give the mean Dice of the others beside that of all. When `config` names another data set, all its
    cases are scored by all folds together, but for scans that the run trained on under another name:
    `config.data.on_leak` excludes them, or marks them "leak" in the scores.
    A stage that was trained alone is given the reference liver in place of what the stages before it would find.

    Writes below `output` (by default `workdir`) evaluation/CASE.json, CASE_seg.nii.gz, CASE_reference.nii.gz and
    probability maps, with `uncertainty` CASE_uncertainty.nii.gz (see `uncertainty_map`), lesions.csv with every lesion
    found or missed (see `lesion_table.lesions_of`), and scores.json with scores.csv.

    Returns:
        The scores, and a sentence for each case that could not be scored.

    Raises:
        FileNotFoundError: no data, or a model or split.json is missing. ValueError: no case is held out, or none could
        be scored.
    """
    output = output or workdir
    last = list(recipe.stages_of(config).values())[-1]
    groups, contents, leaks, failed, external = held_out(config, workdir)
    if external and output == workdir:
        raise ValueError(
            f"{last.data.root} is not the data set that {workdir} was trained on; name a folder for its scores with "
            "--output"
        )
    folder = output / "evaluation"
    seen_by_stage_1 = _contents([RunFolder(workdir / "coarse").read_split()["train"]]) if "stages" in config else ()
    cases, lesions = [], {}

    def work(case, held):
        (volume, mask) = held
        bar.advance(0, case.name)
        reference_liver = None if "coarse" in models or last.stage in WHOLE_VOLUME else mask > 0
        found = segment(volume, models, reference_liver)
        cascade = models.keys() == {"coarse", "voi", "tumor"}
        return volume, mask, found, attribution.attribute(volume, mask, found, models) if cascade else None

    def finish(case, outcome, saving):
        try:
            volume, mask, found, attributed = outcome.result()
            record = {"case": case.name} | _score(found, mask, volume, set(models))
            if attributed:
                record["attribution"] = attributed
            if contents[case.name] in seen_by_stage_1:
                record["stage_1_trained_on_it"] = True
            if case.name in leaks:
                record["leak"] = True
            found_and_missed = lesion_table.lesions_of(found, last.stage, volume.affine, mask)
            _write(folder, case, volume, mask, found, found_and_missed, saving)
            if uncertainty:
                entropy = uncertainty_map(found, last.stage)
                with saving():
                    write_map(folder / f"{case.name}_uncertainty.nii.gz", entropy, volume)
        except CASE_ERRORS as error:
            failed.append(f"{case.name}: {error}")
            log.warning(failed[-1])
        else:
            cases.append(record)
            lesions[case.name] = found_and_missed
        bar.advance(1, case.name)

    with progress("evaluate", sum(len(group.cases) for group in groups)) as bar:
        for group in groups:
            models = load_cascade(workdir, config, group.fold)
            pipeline(group.cases, lambda case: read_case(case, last), work, finish, lambda held: held[0].voxels.size)
    if not cases:
        raise ValueError("not one case could be scored:\n" + "\n".join(failed))
    if last.stage in lesion_table.STAGES:
        lesion_table.write_csv(folder / "lesions.csv", lesions)
    summary = SUMMARIZE.get(last.stage, scores.summarize_liver)(cases)
    if last.stage not in WHOLE_VOLUME:
        for beginning in _unseen(set(models)):
            for values in (summary, *summary["cases"]):
                values |= {name: None for name in values if name.startswith(beginning)}
    summary |= {"attribution": summarize_attribution(cases), "stage_1_unseen": _stage_1_unseen(cases)}
    summary["source"] = last.data.source
    summary["failed"] = failed
    scores.write_scores(output / "scores.json", summary)
    return summary, failed


def held_out(config: ConfigDict, workdir: pathlib.Path) -> HeldOut:
    """Who is to segment which cases.

    Raises:
        FileNotFoundError: no data, or no split.json. ValueError: no case is left to evaluate on, a stage has trained on
        cases that another holds out, or `config` reads other channels or labels than the run was trained with.
    """
    stages = recipe.stages_of(config)
    places = {name: workdir / name if "stages" in config else workdir for name in stages}
    splits = {name: RunFolder(place).read_split() for name, place in places.items()}
    for name, stage in stages.items():
        _check_reading(stage, recipe.load(places[name] / "config.json"))
    last = list(stages.values())[-1]
    cases = {case.name: case for case in find_cases(last)}
    contents = {name: print_.content for name, print_ in fingerprints(list(cases.values()), last).items()}
    everything = {
        name: content for split in splits.values() for part in split.values() for name, content in part.items()
    }
    if not any(name in everything and everything[name] == content for name, content in contents.items()):
        return _external(cases, contents, splits, last)

    groups = _groups(last, list(splits.values())[-1])
    for fold, names in groups:
        _check_unseen(fold, names, splits)
    for name in sorted(cases.keys() - everything.keys(), key=natural):
        log.warning(f"{name} is left out: it is not among the cases that this run was trained with")
    failed = []
    for name in (name for _, names in groups for name in names):
        if name not in cases:
            failed.append(f"{name}: this run holds it out, and it is no longer there")
        elif contents[name] != everything[name]:
            failed.append(f"{name}: another scan has this name than when the run was trained; put that one back")
            del cases[name]
    groups = [Group(fold, tuple(cases[name] for name in names if name in cases)) for fold, names in groups]
    return HeldOut([group for group in groups if group.cases], contents, set(), failed, external=False)


def _external(
    cases: dict[str, Case], contents: Mapping[str, str | None], splits: Mapping[str, Parts], config: ConfigDict
) -> HeldOut:
    """`held_out` for a data set that is not the run's own."""
    seen = _contents(part for split in splits.values() for name, part in split.items() if name != "test")
    leaks = {name for name, content in contents.items() if content in seen}
    for name in sorted(leaks, key=natural):
        log.warning(f"{name} is a scan that this run has trained on; config.data.on_leak={config.data.on_leak}")
    if config.data.on_leak == "exclude":
        cases = {name: case for name, case in cases.items() if name not in leaks}
    elif config.data.on_leak != "warn":
        raise ValueError(f"config.data.on_leak is {config.data.on_leak!r}; choose exclude or warn")
    if not cases:
        raise ValueError("the run has trained on every case of this data set; choose another config.data.root")
    return HeldOut([Group(None, tuple(cases.values()))], contents, leaks, [], external=True)


def _contents(parts: Iterable[Mapping[str, str | None]]) -> set[str]:
    return {content for part in parts for content in part.values()} - {None}


def _groups(last: ConfigDict, split: Parts) -> list[tuple[int | None, list[str]]]:
    """(fold, names of the cases that its model has not seen)."""
    if split["test"]:
        return [(None, list(split["test"]))]
    if last.stage == "coarse":
        return [(None, list(split["validation"]))]
    return [(fold, list(split.get(f"fold_{fold}", ()))) for fold in last.folds]


def _check_unseen(fold: int | None, names: Sequence[str], splits: Mapping[str, Parts]) -> None:
    """Raise ValueError when a stage of several models has trained on a case that this fold's model is to segment."""
    for stage, split in splits.items():
        if "train" in split:  # stage coarse is a single model; what it saw is marked
            continue
        unseen = split["test"] if fold is None else split["test"] | split.get(f"fold_{fold}", {})
        seen = sorted(set(names) - set(unseen), key=natural)
        if seen:
            raise ValueError(
                f"stage {stage} was trained on {', '.join(seen)}, which the last stage holds out: all stages must "
                "share config.seed, data.folds and data.test_cases; train one of them anew"
            )


def _check_reading(config: ConfigDict, trained: ConfigDict) -> None:
    """Raise ValueError where `config` would read scans otherwise than a stage was trained on."""
    for field in ("modalities", "foreground"):
        ours, theirs = tuple(config.data[field]), tuple(trained.data[field])
        if ours != theirs:
            raise ValueError(
                f"config.data.{field} is {ours}, and stage {config.stage} was trained with {theirs}; use that"
            )


def _score(found: Segmentation, mask: np.ndarray, volume: Volume, stages: set[str]) -> dict:
    (labels, spacing_mm), (reference, _) = (scores.as_stored(array, volume.grid) for array in (found.labels, mask))
    if "brain" in stages:
        return scores.score_brain_case(labels, reference, spacing_mm)
    if "custom" in stages:
        return scores.score_custom_case(labels, reference, spacing_mm)
    if "tumor" not in stages:
        reference = np.minimum(reference, 1)
    return scores.score_liver_case(labels, reference, spacing_mm)


def _stage_1_unseen(cases: list[dict]) -> dict | None:
    """Mean Dice over the cases that stage 1 was not trained on; None where it was trained on none or on all of them."""
    unseen = [case for case in cases if not case.get("stage_1_trained_on_it")]
    if len(unseen) in (0, len(cases)):
        return None
    means = {f"{organ}_dice": float(np.mean([case[organ]["dice"] for case in unseen])) for organ in ("liver", "tumor")}
    return {"cases": len(unseen)} | means


def _unseen(stages: set[str]) -> list[str]:
    """Beginnings of the score names that these stages say nothing about."""
    if "tumor" not in stages:
        return ["tumor", "detection", "lesions"]
    return ["liver"] if stages == {"tumor"} else []


def _write(
    folder: pathlib.Path,
    case: Case,
    volume: Volume,
    mask: np.ndarray,
    found: Segmentation,
    lesions: list[dict] | None,
    saving: Saving,
) -> None:
    reference = folder / f"{case.name}_reference.nii.gz"
    for path, labels in ((folder / f"{case.name}_seg.nii.gz", found.labels), (reference, mask)):
        with saving():
            write_mask(path, labels, volume)
    for name, probabilities in found.probabilities.items():
        with saving():
            write_map(folder / f"{case.name}_{name}.nii.gz", probabilities, volume)
    record = {
        "case": case.name,
        "images": [str(path.absolute()) for path in case.images],
        "channels": list(case.channels),
        "mask": str(reference.absolute()),
        "box": found.box and {"start": found.box.start, "stop": found.box.stop},
        "seconds": sum(found.seconds.values()),
        "stages": found.seconds,
        "warnings": found.warnings,
        "lesions": lesions,
    }
    with saving():
        write_json(folder / f"{case.name}.json", record)
