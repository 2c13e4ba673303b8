"""The command line of one run, as every mode is given it."""

import dataclasses
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from raunet_jax import recipe, recipe_ranges, tasks
from raunet_jax.errors import UserError
from raunet_jax.run_folder import RunFolder


class UsageError(UserError):
    """The command line lacks something that the mode needs."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The recipe, and the flags beside it."""

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
    cost: bool = False
    series: str = "auto"

    def __post_init__(self) -> None:
        """Raise UserError for a value that a field of the recipe cannot have."""
        if self.config is not None:
            recipe_ranges.check(self.config)

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
        config = RunFolder(self.workdir).load_recipe()
        recipe_ranges.check(config)
        return config

    @property
    def deterministic(self) -> bool:
        """Whether a stage of the recipe asks for the same bits in every run; of none that can be read, it does not."""
        try:
            return any(stage.get("deterministic", False) for stage in recipe.stages_of(self.recipe).values())
        except UserError:
            return False  # the mode says what is wrong, if it needs the recipe

    def planned_recipe(self) -> ConfigDict:
        """The recipe, with what it may leave open worked out from the scans."""
        config = self.recipe
        if recipe.is_cascade(config) or not tasks.task_of(config.stage).planned:
            return config
        from data_prep.planning import plan  # with it comes all that reads scans

        return plan(config)

    def needed(self, flag: str) -> str:
        value = getattr(self, flag)
        if not value:
            raise UsageError(f"--{flag} is needed in this mode; python run.py --help says what it takes")
        return value
