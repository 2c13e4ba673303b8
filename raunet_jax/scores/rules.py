"""By which rules results are scored: a row a rule, which `tasks.Task.rule` and "rule" in scores.json name.

A new rule is one more row of RULES; all that scores, summarizes, tabulates or draws results asks the row.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.errors import UserError
from raunet_jax.scores.brats import WHOLE_TUMOR, score_brain_case, summarize_brain
from raunet_jax.scores.custom import FOREGROUND, score_custom_case, summarize_custom
from raunet_jax.scores.liver import score_liver_case, summarize_liver
from raunet_jax.scores.published import BRATS, IRCAD_LIVER, IRCAD_TUMOR, LITS_BOTH, LITS_LIVER, LITS_TUMOR, Row

CaseColumns = Mapping[str, tuple[tuple[str, str], int]]  # heading -> where in a case the value is, and its digits


class Group(NamedTuple):
    """A group of scores of a set of cases: means over cases, and where there is "dice_global" that."""

    name: str  # in scores.json
    structure: str  # name in each case of what is scored
    over_lesions: bool = False  # all but the Dice are means over the detected lesions of all cases
    lits2017_quirks: bool = False  # which of them are detected, and their score when none is, by the LiTS program


class Table(NamedTuple):
    """Which of our scores stand beside which published ones."""

    title: str
    columns: Mapping[str, str]  # heading -> name of the score
    groups: Mapping[str, str]  # our rows: name of the group -> what our label says of it
    published: tuple[Row, ...]
    note: str  # how empty masks are scored
    external: bool = False  # the published rows are of another data set, which drawn phantoms have nothing to do with


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule of scoring.

    What is a function of `structure` takes the name of the structure that a task with a single one seeks, as
    `tasks.Stage.structure` has it: its group of scores is called so. LiTS's rule scores liver and tumor always.

    Attributes:
        labels: values that a mask to be scored may hold.
        structure: the name where results do not say one; "" for a rule of several structures.
        score_case: (prediction, reference, spacing_mm, structure) -> scores of one case; masks are (z, y, x) of one
            shape, `spacing_mm` the distance of neighboring voxel centers along (z, y, x).
        summarize: (cases, structure) -> scores.json of cases, each what `score_case` gave with its name under "case".
        groups: (structure) -> the groups of scores that `summarize` gives.
        tables: (structure) -> the tables to show.
        case_columns: (structure) -> columns of a table with a row a case.
        mean_dice: groups that only intervals and tables have -> the structures whose Dice it is the mean of.
    """

    labels: tuple[int, ...]
    structure: str
    score_case: Callable[[np.ndarray, np.ndarray, tuple[float, float, float], str], dict]
    summarize: Callable[[Sequence[dict], str], dict]
    groups: Callable[[str], tuple[Group, ...]]
    tables: Callable[[str], tuple[Table, ...]]
    case_columns: Callable[[str], CaseColumns]
    mean_dice: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


LIVER_COLUMNS = {
    "DC": "dice_per_case",
    "DG": "dice_global",
    "Jaccard": "jaccard",
    "VOE": "voe",
    "RVD": "rvd",
    "ASSD": "assd",
    "MSD": "msd",
}
BOTH_COLUMNS = {"DC": "dice_per_case"}
BRAIN_COLUMNS = {"Dice": "dice", "Sensitivity": "sensitivity", "Specificity": "specificity", "HD95": "hausdorff95"}
CUSTOM_COLUMNS = {
    "Dice": "dice",
    "Jaccard": "jaccard",
    "Sensitivity": "sensitivity",
    "RVD": "rvd",
    "ASSD": "assd",
    "HD95": "hausdorff95",
}
LIVER_NOTE = (
    "LiTS's rule: liver is label 1 or 2; a case predicted without any voxel of label 1 scores Dice 0, VOE 1, RVD and "
    "distances 9001."
)
TUMOR_NOTE = (
    "LiTS's rule: tumor Dice of a case is 1 when both masks are empty, 0 when one is. DG pools all voxels. Jaccard to "
    "MSD are means over detected lesions (overlap > 0.5), 9001 for RVD and distances when none is."
)
IRCAD_SLIP = "The paper's own Jaccard here is a slip: 1 - VOE is .955."
BOTH_NOTE = (
    "The mean of the Dice of liver and tumor, each by its rule above; nnU-Net leaves out a case without tumor in "
    "either mask, where LiTS's rule counts 1."
)
BRAIN_NOTE = "BraTS's rule: both masks empty: Dice 1, HD95 0; one empty: Dice 0, HD95 373.13."
CUSTOM_NOTE = (
    "Means over cases. Both masks empty: Dice 1; one empty: Dice 0, and no distance, which its mean leaves out."
)

_LITS_GROUPS = (
    Group("liver", "liver"),
    Group("tumor", "tumor", over_lesions=True, lits2017_quirks=True),
    Group("tumor_corrected", "tumor", over_lesions=True),
)
_TUMOR_ROWS = {"tumor": "", "tumor_corrected": "corrected for LiTS's quirks"}
_LITS_TABLES = (
    Table("Liver", LIVER_COLUMNS, {"liver": ""}, LITS_LIVER, LIVER_NOTE),
    Table(
        "Liver, external test", LIVER_COLUMNS, {"liver": ""}, IRCAD_LIVER, f"{LIVER_NOTE} {IRCAD_SLIP}", external=True
    ),
    Table("Tumor", LIVER_COLUMNS, _TUMOR_ROWS, LITS_TUMOR, TUMOR_NOTE),
    Table("Tumor, external test", LIVER_COLUMNS, _TUMOR_ROWS, IRCAD_TUMOR, TUMOR_NOTE, external=True),
    Table("Liver and tumor, mean of both", BOTH_COLUMNS, {"liver_and_tumor": ""}, LITS_BOTH, BOTH_NOTE),
)
_LITS_CASE_COLUMNS = {
    "liver Dice": (("liver", "dice"), 3),
    "liver RVD": (("liver", "rvd"), 3),
    "liver ASSD, mm": (("liver", "assd"), 2),
    "liver HD95, mm": (("liver", "hausdorff95"), 1),
    "tumor Dice": (("tumor", "dice"), 3),
    "tumor ASSD, mm": (("tumor", "assd"), 2),
    "lesions found": (("lesions", "detected"), 0),
    "lesions in reference": (("lesions", "reference"), 0),
    "lesions predicted": (("lesions", "prediction"), 0),
    "tumor burden": (("tumor_burden", "prediction"), 3),
    "burden in reference": (("tumor_burden", "reference"), 3),
}


def _brats_tables(structure: str) -> tuple[Table, ...]:
    return (Table("Brain, whole tumor", BRAIN_COLUMNS, {structure: ""}, BRATS, BRAIN_NOTE),)


def _custom_tables(structure: str) -> tuple[Table, ...]:
    title = f"{structure.replace('_', ' ').capitalize()} (nothing published to compare with)"
    return (Table(title, CUSTOM_COLUMNS, {structure: ""}, (), CUSTOM_NOTE),)


RULES: dict[str, Rule] = {
    "lits2017": Rule(
        labels=(0, 1, 2),
        structure="",
        score_case=lambda prediction, reference, spacing_mm, _: score_liver_case(prediction, reference, spacing_mm),
        summarize=lambda cases, _: summarize_liver(cases),
        groups=lambda _: _LITS_GROUPS,
        tables=lambda _: _LITS_TABLES,
        case_columns=lambda _: _LITS_CASE_COLUMNS,
        mean_dice={"liver_and_tumor": ("liver", "tumor")},
    ),
    "brats": Rule(
        labels=(0, 1, 2, 3, 4),
        structure=WHOLE_TUMOR,
        score_case=score_brain_case,
        summarize=summarize_brain,
        groups=lambda structure: (Group(structure, structure),),
        tables=_brats_tables,
        case_columns=lambda structure: {
            "Dice": ((structure, "dice"), 3),
            "sensitivity": ((structure, "sensitivity"), 3),
            "specificity": ((structure, "specificity"), 4),
            "HD95, mm": ((structure, "hausdorff95"), 1),
            "ASSD, mm": ((structure, "assd"), 2),
        },
    ),
    "custom": Rule(
        labels=tuple(range(256)),
        structure=FOREGROUND,
        score_case=score_custom_case,
        summarize=summarize_custom,
        groups=lambda structure: (Group(structure, structure),),
        tables=_custom_tables,
        case_columns=lambda structure: {
            "Dice": ((structure, "dice"), 3),
            "sensitivity": ((structure, "sensitivity"), 3),
            "RVD": ((structure, "rvd"), 3),
            "HD95, mm": ((structure, "hausdorff95"), 1),
            "ASSD, mm": ((structure, "assd"), 2),
        },
    ),
}


def rule_named(name: str) -> Rule:
    """The row of that name. Raises ValueError when there is none."""
    if name not in RULES:
        raise UserError(f'rule is "{name}"; it can be {" or ".join(RULES)}')
    return RULES[name]


def groups_of(scores: dict) -> tuple[Group, ...]:
    """The groups of scores that a scores.json may hold; one is None there where the run has no stage for it."""
    return RULES[scores["rule"]].groups(_structure(scores))


def tables_of(scores: dict) -> tuple[Table, ...]:
    """The tables in which a scores.json is shown."""
    return RULES[scores["rule"]].tables(_structure(scores))


def case_columns_of(scores: dict) -> CaseColumns:
    """The columns of a table of a scores.json's cases."""
    return RULES[scores["rule"]].case_columns(_structure(scores))


def _structure(scores: dict) -> str:
    return scores.get("structure") or RULES[scores["rule"]].structure
