"""Where a run keeps what: every path below a run folder, its split of the cases, and whether it can be gone on with.

config.json             recipe
split.json              of a single stage: which cases each fold leaves out
fold_K/                 of a single stage: see FoldFolder
coarse/ voi/ tumor/     of a cascade: a run folder a stage, with split.json and fold_K/
evaluation/             mask, maps and CASE.json of each scored case
scores.json             with scores.csv and tables.csv
report/                 index.html, compare.html
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.errors import FileError, NotFound, UserError
from raunet_jax.files import read_json, read_json_lines, write_json
from raunet_jax.shapes import NUMBER

SPLIT = "split.json"  # also in a patch set
TEST, TRAIN, VALIDATION = "test", "train", "validation"  # parts of a split; of a stage of folds also each `fold_part`
Parts = Mapping[str, Mapping[str, str | None]]  # of a split: content hash of each case by name
SPLIT_SHAPE = {str: {str: (str, None)}}
METRICS_SHAPE = {
    "step": int,
    "epoch": int,
    "learning_rate": NUMBER,
    "loss?": NUMBER,
    "validation_dice?": NUMBER,
    "patches_per_second?": NUMBER,
    "seconds?": NUMBER,
}


def fold_part(number: int) -> str:
    """Name of the part of a split that a fold leaves out, and of the folder that it is trained in."""
    return f"fold_{number}"


class RunError(UserError):
    """A run cannot begin or go on; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class FoldFolder:
    """The folder of one fold's training."""

    path: pathlib.Path

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("fold_"))

    @property
    def recipe(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> pathlib.Path:
        return self.path / "tensorboard"

    def read_metrics(self, shape: dict = METRICS_SHAPE) -> tuple[list[dict], dict[int, FileError]]:
        """The rows of metrics.jsonl, none where there is no such file, and what is wrong with each line that is none.

        Args:
            shape: what a row must hold, see `shapes`.

        Raises:
            FileError: it cannot be read.
        """
        if not self.metrics.exists():
            return [], {}
        return read_json_lines(self.metrics, "delete this line", shape)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of one stage of a cascade's run."""

    path: pathlib.Path

    @property
    def recipe(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def split(self) -> pathlib.Path:
        return self.path / SPLIT

    @property
    def boxes(self) -> pathlib.Path:
        """The out-of-fold liver boxes, in the folder of stage voi."""
        return self.path / "boxes.json"

    @property
    def evaluation(self) -> pathlib.Path:
        return self.path / "evaluation"

    @property
    def scores(self) -> pathlib.Path:
        return self.path / "scores.json"

    @property
    def page(self) -> pathlib.Path:
        return self.path / "report" / "index.html"

    @property
    def comparison(self) -> pathlib.Path:
        return self.path / "report" / "compare.html"

    def load_recipe(self) -> ConfigDict:
        """The recipe that the run was started with. Raises FileNotFoundError with the remedy when this is no run."""
        return recipe.load(self.recipe)

    def fold(self, number: int) -> FoldFolder:
        return FoldFolder(self.path / fold_part(number))

    def folds(self) -> list[FoldFolder]:
        """Those that are there, by number."""
        there = (path for path in self.path.glob("fold_*") if re.fullmatch(r"fold_\d+", path.name))
        return sorted(map(FoldFolder, there), key=lambda fold: fold.number)

    def stages(self, config: ConfigDict) -> dict[str, "RunFolder"]:
        """Where each stage of the recipe is trained: a cascade's in a folder of its own, a single one here."""
        cascade = recipe.is_cascade(config)
        return {name: RunFolder(self.path / name) if cascade else self for name in recipe.stages_of(config)}

    def read_split(self) -> Parts:
        """What `train` wrote beside a stage's models.

        Raises:
            NotFound, FileError: it is missing, or holds no split; the message says what to do.
        """
        if not self.split.is_file():
            raise NotFound(f"{self.split} is missing: it says which cases the models saw; run --mode=train again first")
        return read_json(self.split, "put it back as it was, or train the stage anew in another --workdir", SPLIT_SHAPE)

    def keep_split(self, split: Parts) -> None:
        """Write which cases each fold leaves out; RunError when the run was started with other cases or scans."""
        if self.split.is_file():
            before = self.read_split()
            parts = before.keys() | split.keys()
            moved = {
                case for part in parts for case in dict(before.get(part, {}).items() ^ split.get(part, {}).items())
            }
            if moved:
                raise RunError(
                    f"{self.split}: the run was started with other cases, or these scans have changed since: "
                    f"{', '.join(sorted(moved))}. Name another --workdir, or put them back"
                )
        write_json(self.split, split)


def check_same_recipe(folder: pathlib.Path, before: ConfigDict, config: ConfigDict) -> None:
    """Raise RunError when the run in `folder`, started with recipe `before`, cannot go on with `config`."""
    changed = recipe.differences(before, config)
    if changed:
        raise RunError(
            f"{folder} was started with another recipe (there, here): {'; '.join(changed)}. Name another --workdir"
        )
