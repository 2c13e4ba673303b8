"""Whole-volume inference on the cases that a run's models never saw, and all scores."""

import pathlib
from collections.abc import Iterator

import numpy as np
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from data_prep import layouts
from raunet_jax import recipe, scores
from raunet_jax.cascade import Segmentation, load_cascade, segment
from raunet_jax.files import write_json
from raunet_jax.progress import progress, say
from raunet_jax.volume import Volume, write_map, write_mask


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> tuple[dict, list[str]]:
    """Segment and score the held-out cases of the run in `workdir`.

    With `data.test_cases` these are the test cases, segmented by all folds together; without, each case of a trained
    fold is segmented by the one model that never saw it. Stage coarse has a single model, so that a run with this stage
    is evaluated on the coarse validation cases alone.
    A stage that was trained alone is given the reference liver in place of what the stages before it would find.

    Writes evaluation/CASE.json, CASE_seg.nii.gz and probability maps, and scores.json with scores.csv.

    Returns:
        The scores, and a sentence for each case that could not be scored.

    Raises:
        FileNotFoundError: no data, or a model is missing. ValueError: no case is held out, or none could be scored.
    """
    last = list(recipe.stages_of(config).values())[-1]
    groups = list(_held_out(recipe.stages_of(config)))
    folder = workdir / "evaluation"
    cases, failed = [], []
    with progress("evaluate", sum(len(group) for _, group in groups)) as bar:
        for fold, group in groups:
            models = load_cascade(workdir, config, fold)
            for case in group:
                bar.advance(0, case.name)
                try:
                    volume, mask = layouts.read_case(case, last)
                    reference_liver = None if "coarse" in models or "brain" in models else mask > 0
                    found = segment(volume, models, reference_liver)
                    record = {"case": case.name} | _score(found, mask, volume, set(models))
                    _write(folder, case, volume, found)
                except (OSError, ValueError, MemoryError, JaxRuntimeError) as error:
                    failed.append(f"{case.name}: {error}")
                    say(failed[-1])
                else:
                    cases.append(record)
                bar.advance(1, case.name)
    if not cases:
        raise ValueError("not one case could be scored:\n" + "\n".join(failed))
    summary = (scores.summarise_brain if "brain" in models else scores.summarise_liver)(cases)
    if "brain" not in models:
        for beginning in _unseen(set(models)):
            for values in (summary, *summary["cases"]):
                values |= {name: None for name in values if name.startswith(beginning)}
    summary["source"] = last.data.source
    scores.write_scores(workdir / "scores.json", summary)
    return summary, failed


def _held_out(stages: dict[str, ConfigDict]) -> Iterator[tuple[int | None, tuple[layouts.Case, ...]]]:
    """(fold whose model segments them, or None for all of them together; cases)."""
    last = list(stages.values())[-1]
    cases = layouts.find_cases(last)
    split = layouts.split_cases(cases, last)
    if split.test:
        yield None, split.test
        return
    if last.stage == "coarse":
        yield None, split.folds[1]
        return
    groups = {fold: split.folds[fold] for fold in last.folds}
    if "coarse" in stages:
        unseen = set(layouts.split_cases(cases, stages["coarse"]).folds[1])
        groups = {fold: tuple(case for case in group if case in unseen) for fold, group in groups.items()}
        if not any(groups.values()):
            raise ValueError(
                f"stage coarse was trained on every case of folds {tuple(last.folds)}, so none is left to evaluate "
                "on; evaluate more folds, or train with config.data.test_cases above 0"
            )
    yield from ((fold, group) for fold, group in groups.items() if group)


def _score(found: Segmentation, mask: np.ndarray, volume: Volume, stages: set[str]) -> dict:
    (labels, spacing_mm), (reference, _) = (scores.as_stored(array, volume.grid) for array in (found.labels, mask))
    if "brain" in stages:
        return scores.score_brain_case(labels, reference, spacing_mm)
    if "tumor" not in stages:
        reference = np.minimum(reference, 1)
    return scores.score_liver_case(labels, reference, spacing_mm)


def _unseen(stages: set[str]) -> list[str]:
    """Beginnings of the score names that these stages say nothing about."""
    if "tumor" not in stages:
        return ["tumor", "detection", "lesions"]
    return ["liver"] if stages == {"tumor"} else []


def _write(folder: pathlib.Path, case: layouts.Case, volume: Volume, found: Segmentation) -> None:
    write_mask(folder / f"{case.name}_seg.nii.gz", found.labels, volume)
    for name, probabilities in found.probabilities.items():
        write_map(folder / f"{case.name}_{name}.nii.gz", probabilities, volume)
    record = {
        "case": case.name,
        "images": [str(path.absolute()) for path in case.images],
        "mask": str(case.mask.absolute()),
        "box": found.box and {"start": found.box.start, "stop": found.box.stop},
        "seconds": sum(found.seconds.values()),
        "stages": found.seconds,
        "warnings": found.warnings,
    }
    write_json(folder / f"{case.name}.json", record)
