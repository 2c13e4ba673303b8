"""What `run.py --mode=…` does, one function a mode; each returns the exit status."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict
from rich.console import Console

from data_prep import patch_dataset
from data_prep.planning import plan
from data_prep.verify import main as verify_sources
from raunet_jax import (
    augmentation,
    evaluation,
    files,
    inspection,
    out_of_fold,
    prediction,
    recipe,
    scores,
    side_by_side,
    training,
)
from raunet_jax.cascade import check_inference, load_cascade
from raunet_jax.progress import say
from raunet_jax.report.comparison import write_comparison
from raunet_jax.report.page import write_report


class UsageError(ValueError):
    """The command line lacks something that the mode needs."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The command line: the recipe, and the flags beside it."""

    config: ConfigDict | None
    workdir: pathlib.Path | None  # as given; `run` is the recipe's own place if it was not
    input: Sequence[str] = ()
    output: str = ""
    prediction: str = ""
    reference: str = ""
    compare: str = ""
    probabilities: bool = False
    uncertainty: bool = False
    json: bool = False

    @property
    def run(self) -> pathlib.Path:
        return self.workdir or pathlib.Path("runs") / self.recipe.name

    @property
    def recipe(self) -> ConfigDict:
        """The recipe given, or else the one saved in the run folder."""
        if self.config is not None:
            return self.config
        if self.workdir is None:
            raise UsageError("name a recipe, such as --config=configs/demo.py, or a run folder with --workdir")
        return recipe.load(self.workdir / "config.json")

    def needed(self, flag: str) -> str:
        value = getattr(self, flag)
        if not value:
            raise UsageError(f"--{flag} is needed in this mode; python run.py --help says what it takes")
        return value


def verify(request: Request) -> int:
    return verify_sources(request.recipe, request.json)


def prepare(request: Request) -> int:
    status = 0
    for stage in recipe.stages_of(plan(request.recipe)).values():
        if stage.voi == "predicted":
            print(f"{stage.name}: its patches are cut around what stages 1 and 2 find, once train has made these")
            continue
        patches = patch_dataset.prepare(stage)
        counts = ", ".join(f"{split} {count}" for split, count in patches.counts.items())
        print(f"{stage.name}: {sum(patches.counts.values())} patches ({counts}) in {patches.folder}")
        status = 1 if patches.failed else status
    return status


def train(request: Request) -> int:
    """Train every fold of every stage; a cascade is then evaluated. Case failures along the way make the status 1."""
    config, run = plan(request.recipe), request.run
    cascade = "stages" in config
    places = {name: run / name if cascade else run for name in recipe.stages_of(config)}
    for name, stage in recipe.stages_of(config).items():  # before anything is written over what is there
        for fold in stage.folds:
            begun = places[name] / f"fold_{fold}" / "config.json"
            if begun.is_file():
                training.check_same_recipe(begun.parent, recipe.load(begun), stage)
    for stage in recipe.stages_of(config).values():
        augmentation.from_recipe(stage)  # these raise, before days of training, where a field does not fit
        check_inference(stage)
        if stage.folds_at_once > 1:  # the folds' processes need the memory that this one would keep for itself
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    failed: list[str] = []
    for name, stage in recipe.stages_of(config).items():
        place = places[name]
        patches = patch_dataset.prepare(stage, _boxes(config, run, stage))
        failed += [f"{case}: {reason}" for case, reason in patches.failed]
        training.keep_split(place, patches.split)
        files.write_text(place / "config.json", recipe.to_json(stage) + "\n")
        files.write_text(run / "config.json", recipe.to_json(config) + "\n")
        with training.stop_requests() as asked:
            if min(stage.folds_at_once, len(stage.folds)) > 1:
                side_by_side.train_folds(patches.folder, place, stage.folds, stage.folds_at_once, asked)
            else:
                for fold in stage.folds:
                    training.train_fold(stage, patches.folder, place / f"fold_{fold}", fold, asked)
    status = evaluate(request) if cascade else report(request)
    for line in dict.fromkeys(failed):
        say(f"not trained on {line}")
    return 1 if failed else status


def _boxes(config: ConfigDict, run: pathlib.Path, stage: ConfigDict) -> dict:
    """The out-of-fold liver boxes that the patches of `stage` are cut around, or none: those of the reference."""
    if stage.voi == "reference" or stage.stage != "tumor":
        return {}
    if stage.voi != "predicted":
        raise UsageError(f"config.voi is {stage.voi!r}; choose predicted or reference")
    if "stages" not in config:
        raise UsageError("config.voi=predicted needs the stages before: train a cascade, such as configs/liver.py")
    if set(stage.folds) < set(range(stage.data.folds)):
        say(f"{stage.name}: config.voi=reference is used, as out-of-fold livers need all folds")
        return {}
    return out_of_fold.liver_boxes(config, run, evaluation.read_split(run / "voi"))


def evaluate(request: Request) -> int:
    output = pathlib.Path(request.output).expanduser() if request.output else request.run
    summary, failed = evaluation.evaluate(plan(request.recipe), request.run, output, request.uncertainty)
    scores.print_tables(summary, Console())
    print(f"scores: {output / 'scores.json'}")
    if output == request.run:
        report(request)
    for line in failed:
        say(f"not scored: {line}")
    return 1 if failed else 0


def predict(request: Request) -> int:
    inputs = [pathlib.Path(path) for path in request.needed("input")]
    output = pathlib.Path(request.needed("output"))
    models = load_cascade(request.run, request.config)
    summary = prediction.predict(
        models, inputs, output, probabilities=request.probabilities, uncertainty=request.uncertainty
    )
    print(f"{len(summary['cases'])} segmented, {len(summary['failed'])} failed; look at {output / 'index.html'}")
    for failure in summary["failed"]:
        say(f"failed: {failure['input']}: {failure['reason']}")
    return 1 if summary["failed"] or not summary["cases"] else 0


def score(request: Request) -> int:
    stage = request.config.get("stage") if request.config is not None else None
    rule = stage if stage in ("brain", "custom") else "liver"
    output = request.needed("output")
    folders = request.needed("prediction"), request.needed("reference")
    summary, problems = scores.score_folders(*folders, output, rule)
    scores.print_tables(summary, Console())
    print(f"scores: {output}")
    for problem in problems:
        say(f"not scored: {problem}")
    return 1 if problems else 0


def inspect(request: Request) -> int:
    config = request.config and plan(request.config)
    return inspection.main(config, request.workdir, request.compare or None, request.json)


def report(request: Request) -> int:
    page = write_comparison(request.run, request.compare) if request.compare else write_report(request.run)
    print(f"page: {page}")
    return 0


MODES: dict[str, Callable[[Request], int]] = {
    "train": train,
    "verify": verify,
    "prepare": prepare,
    "evaluate": evaluate,
    "predict": predict,
    "score": score,
    "inspect": inspect,
    "report": report,
}
