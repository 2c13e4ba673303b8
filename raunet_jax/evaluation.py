"""Whole-volume inference on the cases that a run's models never saw, and all scores."""

import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from data_prep.cases import find_cases, read_case
from data_prep.fingerprints import fingerprints
from data_prep.layouts import Case
from raunet_jax import attribution, lesion_table, recipe, scores
from raunet_jax.cascade import WHOLE_VOLUME, Segmentation, load_cascade, segment
from raunet_jax.files import write_json
from raunet_jax.progress import progress, say
from raunet_jax.uncertainty import uncertainty_map
from raunet_jax.volume import Volume, write_map, write_mask

SPLIT = "split.json"  # in the folder of each stage: which cases were trained on, written by train
SUMMARISE = {"brain": scores.summarise_brain, "custom": scores.summarise_custom}

Parts = Mapping[str, Mapping[str, str | None]]  # of a split: content hash of each case by name


class Group(NamedTuple):
    """Cases that one choice of models has not seen."""

    fold: int | None  # whose model segments them; None: all folds together
    cases: tuple[Case, ...]


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
    groups, leaks, failed = held_out(config, workdir)
    folder = output / "evaluation"
    seen_by_stage_1 = read_split(workdir / "coarse")["train"] if "stages" in config else ()
    cases, lesions = [], {}
    with progress("evaluate", sum(len(group.cases) for group in groups)) as bar:
        for group in groups:
            models = load_cascade(workdir, config, group.fold)
            for case in group.cases:
                bar.advance(0, case.name)
                try:
                    volume, mask = read_case(case, last)
                    reference_liver = None if "coarse" in models or last.stage in WHOLE_VOLUME else mask > 0
                    found = segment(volume, models, reference_liver)
                    record = {"case": case.name} | _score(found, mask, volume, set(models))
                    if models.keys() == {"coarse", "voi", "tumor"}:
                        record["attribution"] = attribution.attribute(volume, mask, found, models)
                    if case.name in seen_by_stage_1:
                        record["stage_1_trained_on_it"] = True
                    if case.name in leaks:
                        record["leak"] = True
                    found_and_missed = lesion_table.lesions_of(found, last.stage, volume.affine, mask)
                    _write(folder, case, volume, mask, found, found_and_missed)
                    if uncertainty:
                        path = folder / f"{case.name}_uncertainty.nii.gz"
                        write_map(path, uncertainty_map(found, last.stage), volume)
                except (OSError, ValueError, MemoryError, JaxRuntimeError) as error:
                    failed.append(f"{case.name}: {error}")
                    say(failed[-1])
                else:
                    cases.append(record)
                    lesions[case.name] = found_and_missed
                bar.advance(1, case.name)
    if not cases:
        raise ValueError("not one case could be scored:\n" + "\n".join(failed))
    if last.stage in lesion_table.STAGES:
        lesion_table.write_csv(folder / "lesions.csv", lesions)
    summary = SUMMARISE.get(last.stage, scores.summarise_liver)(cases)
    if last.stage not in WHOLE_VOLUME:
        for beginning in _unseen(set(models)):
            for values in (summary, *summary["cases"]):
                values |= {name: None for name in values if name.startswith(beginning)}
    summary |= {"attribution": attribution.summarise(cases), "stage_1_unseen": _stage_1_unseen(cases)}
    summary["source"] = last.data.source
    summary["failed"] = failed
    scores.write_scores(output / "scores.json", summary)
    return summary, failed


def held_out(config: ConfigDict, workdir: pathlib.Path) -> tuple[list[Group], set[str], list[str]]:
    """Who is to segment which cases; the names of cases that leak; a sentence for each held-out case that is missing.

    Raises:
        FileNotFoundError: no data, or no split.json. ValueError: no case is left to evaluate on.
    """
    stages = recipe.stages_of(config)
    splits = {name: read_split(workdir / name if "stages" in config else workdir) for name in stages}
    last = list(stages.values())[-1]
    cases = {case.name: case for case in find_cases(last)}
    contents = {name: print_.content for name, print_ in fingerprints(list(cases.values()), last).items()}
    trained = [part for split in splits.values() for name, part in split.items() if name != "test"]
    everything = [*trained, *(split["test"] for split in splits.values())]
    same_data_set = any(part.get(name, "") == content for name, content in contents.items() for part in everything)
    if not same_data_set:
        seen = {content for part in trained for content in part.values()} - {None}
        leaks = {name for name, content in contents.items() if content in seen}
        for name in leaks:
            say(f"{name} is a scan that this run has trained on; config.data.on_leak={last.data.on_leak}")
        if last.data.on_leak == "exclude":
            cases = {name: case for name, case in cases.items() if name not in leaks}
        elif last.data.on_leak != "warn":
            raise ValueError(f"config.data.on_leak is {last.data.on_leak!r}; choose exclude or warn")
        if not cases:
            raise ValueError("the run has trained on every case of this data set; choose another config.data.root")
        return [Group(None, tuple(cases.values()))], leaks, []

    groups = _groups(stages, splits)
    wanted = [name for _, names in groups for name in names]
    for name in cases.keys() - {name for part in everything for name in part}:
        say(f"{name} is left out: it is not among the cases that this run was trained with")
    missing = [f"{name}: this run holds it out, and it is no longer there" for name in wanted if name not in cases]
    groups = [Group(fold, tuple(cases[name] for name in names if name in cases)) for fold, names in groups]
    return [group for group in groups if group.cases], set(), missing


def _groups(stages: Mapping[str, ConfigDict], splits: Mapping[str, Parts]) -> list[tuple[int | None, list[str]]]:
    """(fold, names of the cases that its model has not seen)."""
    last = list(stages.values())[-1]
    split = list(splits.values())[-1]
    if split["test"]:
        return [(None, list(split["test"]))]
    if last.stage == "coarse":
        return [(None, list(split["validation"]))]
    return [(fold, list(split.get(f"fold_{fold}", ()))) for fold in last.folds]


def read_split(run: pathlib.Path) -> Parts:
    """What `train` wrote beside a stage's models. Raises FileNotFoundError with the remedy."""
    path = run / SPLIT
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it says which cases the models saw; run --mode=train again first")
    return json.loads(path.read_text(encoding="utf-8"))


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
    folder: pathlib.Path, case: Case, volume: Volume, mask: np.ndarray, found: Segmentation, lesions: list[dict] | None
) -> None:
    reference = folder / f"{case.name}_reference.nii.gz"
    write_mask(folder / f"{case.name}_seg.nii.gz", found.labels, volume)
    write_mask(reference, mask, volume)
    for name, probabilities in found.probabilities.items():
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
    write_json(folder / f"{case.name}.json", record)
