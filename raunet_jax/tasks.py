"""What there is to be segmented, a row a task, and which networks do it, a row a stage. Data only.

A new task is one more row of TASKS and a recipe whose `config.stage` names its stage.
"""

import dataclasses
from collections.abc import Mapping
from fractions import Fraction

from raunet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Structure:
    """A structure of a task's label map."""

    label: int  # smallest label value that counts as it: structures are nested, the inner ones have the larger values
    color: str  # of its surface on pages


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one network sees and finds; `config.stage` names it."""

    title: str
    structure: str  # what it finds: name of its group of scores, and of its volume in summaries (STRUCTURE_ml)
    foreground: int  # smallest label value of the reference that counts as foreground
    region: str  # volume | liver box: what it is shown of a scan
    resized: bool  # whether the region is resized in plane to the patch
    sampler: str  # slices | successive | centered: how its training patches are drawn, see `sampling.SAMPLERS`
    patches_per_case: Fraction | None = None  # the paper's mean; None: the sampler's own rule, or the recipe, decides
    map: str = ""  # ending of its probability maps, CASE_MAP.nii.gz; "" = structure
    single_model: bool = False  # one model, trained and validated on a part of the cases each, in place of folds
    lesions: bool = False  # whether each component of what it finds is a lesion, to be listed by itself

    @property
    def map_name(self) -> str:
        return self.map or self.structure


@dataclasses.dataclass(frozen=True)
class Task:
    """Structures to be segmented, by one stage or by a cascade."""

    structures: Mapping[str, Structure]  # of the label map that is written, the outer one first
    labels: tuple[int, ...] | None  # values that a reference may hold; None: those that the data set names
    rule: str  # lits2017 | brats | custom: by which results are scored
    stages: Mapping[str, Stage]  # in the order in which they run
    merged: bool = False  # whether all label values of a reference (or config.data.foreground) are one structure
    planned: bool = False  # whether a recipe may leave channels, patch and batch open, see `data_prep.planning`


LIVER = Structure(1, "#e0a08a")
TUMOR = Structure(2, "#ffe14d")

TASKS: dict[str, Task] = {
    "liver": Task(
        structures={"liver": LIVER, "tumor": TUMOR},
        labels=(0, 1, 2),
        rule="lits2017",
        stages={
            "coarse": Stage("liver localization", "liver", 1, "volume", True, "slices", single_model=True),
            "voi": Stage("liver", "liver", 1, "liver box", True, "successive", Fraction(5096, 130)),
            "tumor": Stage("tumor", "tumor", 2, "liver box", False, "centered", Fraction(150), lesions=True),
        },
    ),
    "brain": Task(
        structures={"whole tumor": Structure(1, "#ffe14d")},
        labels=(0, 1, 2, 3, 4),  # 3 until 2015 and in the Decathlon's numbering
        rule="brats",
        stages={
            "brain": Stage(
                "whole brain tumor",
                "whole_tumor",
                1,
                "volume",
                False,
                "centered",
                Fraction(400),
                map="brain",
                lesions=True,
            )
        },
        merged=True,
    ),
    "custom": Task(
        structures={"foreground": Structure(1, "#7fd0c0")},
        labels=None,
        rule="custom",
        stages={"custom": Stage("foreground", "foreground", 1, "volume", False, "centered", lesions=True)},
        merged=True,
        planned=True,
    ),
}


def task_of(stage: str) -> Task:
    """The task that has `stage`. Raises ValueError when none has."""
    for task in TASKS.values():
        if stage in task.stages:
            return task
    raise UserError(f"config.stage is {stage!r}; choose {', '.join(stage_names())}")


def stage_of(name: str) -> Stage:
    """The row of one stage. Raises ValueError when there is none of that name."""
    return task_of(name).stages[name]


def stage_names() -> list[str]:
    """Those of all tasks, in the order in which they run."""
    return [name for task in TASKS.values() for name in task.stages]


def map_names() -> list[str]:
    """The endings of all stages' probability maps, each once."""
    return list(dict.fromkeys(stage.map_name for task in TASKS.values() for stage in task.stages.values()))
