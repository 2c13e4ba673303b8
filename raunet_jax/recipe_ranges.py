"""Which values a recipe's fields may have, so that nonsense is said before anything is read or written."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from raunet_jax import recipe, tasks
from raunet_jax.errors import UserError


class Range(NamedTuple):
    """What one number may be: from `least` to `most`, these included unless said otherwise."""

    least: float
    most: float = math.inf
    above: bool = False  # least is excluded
    below: bool = False  # most is excluded

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        return (value > self.least if self.above else value >= self.least) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        least = f"{'more than' if self.above else 'at least'} {self.least:,}"
        if math.isinf(self.most):
            return f"a number of {least}"
        return f"a number of {least} and {'less than' if self.below else 'at most'} {self.most:,}"


COUNT, COUNT_OR_NONE = Range(1), Range(0)
SHARE = Range(0, 1)
NUMBERS = {
    "seed": Range(0, 2**32, below=True),
    "data.cases": COUNT_OR_NONE,
    "data.test_cases": COUNT_OR_NONE,
    "data.validation_share": Range(0, 1, below=True),
    "data.patches_per_case": COUNT_OR_NONE,
    "data.foreground_fraction": SHARE,
    "data.workers": COUNT_OR_NONE,
    "box_margin": COUNT_OR_NONE,
    "network.momentum": Range(0, 1, below=True),
    "augment.rotation": Range(0, 180),
    "augment.scale": Range(0, 0.5),
    "augment.intensity": SHARE,
    "epochs": COUNT,
    "batch_size": COUNT,
    "learning_rate": Range(0, above=True),
    "plateau_patience": COUNT_OR_NONE,
    "folds_at_once": COUNT,
    "checkpoint_minutes": COUNT_OR_NONE,
    "window.batch_size": COUNT_OR_NONE,
    "threshold": Range(0, 1, above=True),
}
CHOICES = {
    "data.on_leak": ("exclude", "warn"),
    "precision": ("float32", "highest", "bfloat16"),
    "network.remat": ("none", "blocks", "all"),
    "window.weights": ("uniform", "gaussian"),
    "vote": ("mean", "majority"),
}
THREE = {  # fields of three whole numbers (x, y, z): what each must be
    "patch_size": COUNT,
    "window.step": COUNT_OR_NONE,
    "data.phantom_size": COUNT,
}
WIDTHS = {"network.width": 1, "network.stem_width": 0, "network.bottom_width": 0}  # field -> the least it may be
BOTTLENECK = 4  # widths are multiples of it, see networks/raunet.py
OPEN = {"batch_size": 0, "patch_size": (0, 0, 0), "window_hu": (0, 0), "data.modalities": ()}  # of planned tasks


def check(config: ConfigDict) -> None:
    """Raise UserError, which names the field, for a value that no field of its name can have; of a cascade too."""
    for name, stage in recipe.stages_of(config).items():
        tasks.stage_of(stage.stage)
        _check_stage(stage, f"config.stages.{name}" if recipe.is_cascade(config) else "config")


def _check_stage(config: ConfigDict, prefix: str) -> None:
    open_fields = OPEN if tasks.task_of(config.stage).planned else {}

    def demand(field: str, allowed: Any, holds: Callable[[Any], bool]) -> None:
        value = _value(config, field)
        if not (field in open_fields and value == open_fields[field]) and not holds(value):
            raise UserError(f"{prefix}.{field} is {value!r}; it must be {allowed}")

    for field, allowed in NUMBERS.items():
        demand(field, allowed, allowed.holds)
    for field, choices in CHOICES.items():
        demand(field, " or ".join(choices), lambda value, choices=choices: value in choices)
    for field, allowed in THREE.items():
        demand(field, f"three whole numbers (x, y, z), each {allowed}", lambda value, one=allowed: _three(value, one))
    for field, least in WIDTHS.items():
        allowed = f"a multiple of {BOTTLENECK}{'' if least else ', or 0'}"
        demand(field, allowed, lambda value, least=least: value >= least and value % BOTTLENECK == 0)
    if tasks.stage_of(config.stage).sampler == "slices":
        demand("patch_size", f"(x, y, 1): stage {config.stage} is shown single slices", lambda size: size[2] == 1)
    demand("window_hu", "two numbers of HU, the smaller one first", _rising)
    demand("data.modalities", "one or more names, each once, such as ('ct',)", _names)
    demand("data.foreground", "label values above 0, such as (2,), or () for all", _labels)
    demand("folds", "numbers of folds, each once, such as (0,)", _once)
    if not tasks.stage_of(config.stage).single_model:
        demand("data.folds", "a number of at least 2, as a model is trained on all folds but one", Range(2).holds)


def check_folds(config: ConfigDict) -> None:
    """Raise UserError where a stage, of a cascade too, is to train a fold that there is none of."""
    for name, stage in recipe.stages_of(config).items():
        count = 1 if tasks.stage_of(stage.stage).single_model else stage.data.folds
        field = f"config.stages.{name}.folds" if recipe.is_cascade(config) else "config.folds"
        if max(stage.folds) >= count:
            there = "a single model, fold 0" if count == 1 else f"{count} folds, 0 to {count - 1} (config.data.folds)"
            raise UserError(f"{field} is {tuple(stage.folds)}, and stage {name} has {there}; name some of these")


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _three(value: Any, one: Range) -> bool:
    return len(value) == 3 and all(_whole(side) and one.holds(side) for side in value)


def _rising(window: Any) -> bool:
    return len(window) == 2 and all(map(Range(-math.inf).holds, window)) and window[0] < window[1]


def _names(modalities: Any) -> bool:
    return len(modalities) == len(set(modalities)) > 0 and all(isinstance(name, str) and name for name in modalities)


def _labels(labels: Any) -> bool:
    return all(_whole(label) and label > 0 for label in labels)


def _once(folds: Any) -> bool:
    return len(folds) == len(set(folds)) > 0 and all(_whole(fold) and fold >= 0 for fold in folds)
