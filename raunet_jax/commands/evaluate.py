"""Segments and scores the cases that a run's models never saw."""

import dataclasses
import logging
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from data_prep.cases import read_case
from data_prep.layouts import Case
from raunet_jax import recipe, scores, tasks
from raunet_jax.commands import report
from raunet_jax.commands.held_out import HeldOut, contents_of, held_out
from raunet_jax.commands.request import Request
from raunet_jax.commands.score_tables import print_tables
from raunet_jax.disk import check_writable
from raunet_jax.errors import UserError
from raunet_jax.files import write_json
from raunet_jax.imaging.checks import admit
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference import attribution, lesion_table
from raunet_jax.inference.cascade import Segmentation, segment
from raunet_jax.inference.models import StageModel, load_cascade
from raunet_jax.inference.results import Result, result_file, write_case
from raunet_jax.names import REFERENCE_ENDING
from raunet_jax.progress import progress
from raunet_jax.read_ahead import keep_result, pipeline
from raunet_jax.run_folder import TRAIN, RunFolder
from raunet_jax.scores.attribution import summarize as summarize_attribution

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    output = pathlib.Path(request.output).expanduser() if request.output else request.run
    check_writable(output, "--output" if request.output else "--workdir")
    summary, failed = evaluate(request.planned_recipe(), request.run, output, request.uncertainty)
    print_tables(summary, Console())
    print(f"scores: {RunFolder(output).scores}")
    if output == request.run:
        report.run(request)
    for line in failed:
        log.warning(f"not scored: {line}")
    return 1 if failed else 0


def evaluate(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None, uncertainty: bool = False
) -> tuple[dict, list[str]]:
    """Segment and score the cases that the run in `workdir` holds out, or all of another data set; see `held_out`.

    Stage 1 of a cascade is a single model, as in the paper: a case it was trained on is marked "stage_1_trained_on_it"
    in the scores, which give the mean Dice of the others beside that of all. Scans that the run trained on under
    another name are marked "leak". A stage that was trained alone is given the reference liver in place of what the
    stages before it would find.

    Writes below `output` (by default `workdir`) evaluation/CASE.json and what `results.write_case` writes of a case,
    lesions.csv with every lesion found or missed (see `lesion_table.lesions_of`), and scores.json with scores.csv.

    Returns:
        The scores, and a sentence for each case that could not be scored.

    Raises:
        FileNotFoundError: no data, or a model or split.json is missing.
        ValueError: no case is held out, or none could be scored.
    """
    output = output or workdir
    last = recipe.last_stage(config)
    held = held_out(config, workdir)
    if held.external and output == workdir:
        raise UserError(
            f"{last.data.root} is not the data set that {workdir} was trained on; name a folder for its scores with "
            "--output"
        )
    folder, marks = RunFolder(output).evaluation, _marks(config, workdir, held)
    cases, lesions, failed = [], {}, list(held.failed)
    with progress("evaluate", sum(len(group.cases) for group in held.groups)) as bar:
        for group in held.groups:
            models = load_cascade(workdir, config, group.fold)
            evaluation = _Evaluation(last, models, folder, marks, uncertainty, bar)
            voxels = lambda read: read.volume.voxels.size  # noqa: E731
            pipeline(group.cases, evaluation.read, evaluation.segment, evaluation.finish, voxels)
            cases += evaluation.cases
            lesions |= evaluation.lesions
            failed += evaluation.failed
    if not cases:
        raise UserError("not one case could be scored:\n" + "\n".join(failed))
    if tasks.stage_of(last.stage).lesions:
        lesion_table.write_csv(folder / "lesions.csv", lesions)
    summary = _summary(cases, last.stage, models.keys()) | {
        "source": last.data.source,
        "failed": failed,
    }
    scores.write_scores(RunFolder(output).scores, summary)
    return summary, failed


def _marks(config: ConfigDict, workdir: pathlib.Path, held: HeldOut) -> dict[str, dict[str, bool]]:
    """What is to be said in the scores of cases that a model was trained on, by name."""
    seen = set()
    if recipe.is_cascade(config):
        splits = [folder.read_split() for folder in RunFolder(workdir).stages(config).values()]
        seen = contents_of(split[TRAIN] for split in splits if TRAIN in split)
    marks = {name: {"stage_1_trained_on_it": True} for name, content in held.contents.items() if content in seen}
    for name in held.leaks:
        marks[name] = marks.get(name, {}) | {"leak": True}
    return marks


class _Read(NamedTuple):
    """A case in memory, and what was made of it so far."""

    volume: Volume
    mask: np.ndarray
    found: Segmentation | None = None
    attributed: dict | None = None


@dataclasses.dataclass
class _Evaluation:
    """The three steps of `pipeline` for each case of a group, and the scores that grow by them."""

    config: ConfigDict  # of the last stage
    models: Mapping[str, StageModel]
    folder: pathlib.Path
    marks: Mapping[str, Mapping[str, bool]]
    uncertainty: bool
    bar: Any  # of `progress`
    cases: list[dict] = dataclasses.field(default_factory=list)
    lesions: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
    failed: list[str] = dataclasses.field(default_factory=list)

    def read(self, case: Case) -> _Read:
        volume, mask = read_case(case, self.config)
        return _Read(admit(volume, case.images, self.config), mask)

    def segment(self, case: Case, read: _Read) -> _Read:
        self.bar.advance(0, case.name)
        needs_liver = tasks.stage_of(next(iter(self.models))).region == "liver box"
        found = segment(read.volume, self.models, read.mask > 0 if needs_liver else None)
        of_liver = self.models.keys() == tasks.TASKS["liver"].stages.keys()
        attributed = attribution.attribute(read.volume, read.mask, found, self.models) if of_liver else None
        return read._replace(found=found, attributed=attributed)

    def finish(self, case: Case, outcome, saving) -> None:
        reason = keep_result(outcome, lambda read: self._keep(case, read, saving))
        if reason:
            self.failed.append(f"{case.name}: {reason}")
            log.warning(self.failed[-1])
        self.bar.advance(1, case.name)

    def _keep(self, case: Case, read: _Read, saving) -> None:
        """Score the case, write what was found, and only then let it count."""
        record = {"case": case.name} | _score(read, self.config.stage)
        if read.attributed:
            record["attribution"] = read.attributed
        record |= self.marks.get(case.name, {})
        result = Result(
            case.name, case.images, case.channels, read.volume, read.found, self.config.stage, reference=read.mask
        )
        written = write_case(self.folder, result, saving, probabilities=True, uncertainty=self.uncertainty)
        written["mask"] = str(result_file(self.folder, case.name, REFERENCE_ENDING).absolute())
        written |= {"seconds": sum(read.found.seconds.values()), "stages": read.found.seconds}
        with saving():
            write_json(self.folder / f"{case.name}.json", written)
        self.cases.append(record)
        self.lesions[case.name] = written["lesions"]


def _score(read: _Read, stage: str) -> dict:
    """Scores of what the last `stage` found, by its task's rule; a stage that looks for liver alone knows no tumors."""
    task, structure = tasks.task_of(stage), tasks.stage_of(stage).structure
    reference = read.mask if task.merged else np.minimum(read.mask, task.structures[structure].label)
    grid = read.volume.grid
    (labels, spacing_mm), (reference, _) = (scores.as_stored(array, grid) for array in (read.found.labels, reference))
    return scores.RULES[task.rule].score_case(labels, reference, spacing_mm, structure)


def _summary(cases: list[dict], stage: str, ran: Collection[str]) -> dict:
    """The scores of all cases together; None stands for those of structures that none of the stages `ran` finds."""
    task = tasks.task_of(stage)
    summary = scores.RULES[task.rule].summarize(cases, tasks.stage_of(stage).structure)
    found = {tasks.stage_of(name).structure for name in ran}
    for prefix in () if task.merged else _unknown_scores(found):
        for values in (summary, *summary["cases"]):
            values |= {name: None for name in values if name.startswith(prefix)}
    return summary | {"attribution": summarize_attribution(cases), "stage_1_unseen": _stage_1_unseen(cases)}


def _unknown_scores(found: set[str]) -> list[str]:
    """Prefixes of scores that do not apply where no stage has looked for liver, or for tumor."""
    of_tumors = ["tumor", "detection", "lesions"]
    return (["liver"] if "liver" not in found else []) + (of_tumors if "tumor" not in found else [])


def _stage_1_unseen(cases: list[dict]) -> dict | None:
    """Mean Dice over the cases that stage 1 was not trained on; None where it was trained on none or on all of them."""
    unseen = [case for case in cases if not case.get("stage_1_trained_on_it")]
    if len(unseen) in (0, len(cases)):
        return None
    means = {f"{organ}_dice": float(np.mean([case[organ]["dice"] for case in unseen])) for organ in ("liver", "tumor")}
    return {"cases": len(unseen)} | means
