"""Two runs on the same cases: paired differences of their scores, with an interval and a test.

Differences are A - B of one case at a time, which removes how hard the case is for both; their spread is what says
whether the runs differ. The interval is the bootstrap's over cases, the test Wilcoxon's signed-rank test, two-sided.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.errors import UserError
from raunet_jax.names import natural
from raunet_jax.report.markup import number
from raunet_jax.report.structures import scored_structures, shown_name
from raunet_jax.scores.liver import PENALTY
from raunet_jax.scores.statistics import LEVEL, SIGNIFICANT, mean_interval, signed_rank

SCORES = {"dice": "Dice", "assd": "ASSD", "rmsd": "RMSD", "msd": "MSD", "hausdorff95": "HD95"}  # distances in mm
_MARKS = {
    "{} was trained on": lambda case: case.get("leak"),
    "Stage 1 of {} was trained on": lambda case: case.get("stage_1_trained_on_it"),
    "{} finds no liver, so there is no distance (LiTS's 9001 is none) in": lambda case: (
        (case.get("liver") or {}).get("assd") == PENALTY
    ),
}
HEAD = ("", "n", "A", "B", "A − B", "median", f"{LEVEL:.0%} interval", "p", "favors")  # of `cells`


class Pairs(NamedTuple):
    """One score of one structure on every case for which both runs have it."""

    structure: str
    score: str
    cases: tuple[str, ...]
    ours: np.ndarray  # (case,), run A
    theirs: np.ndarray  # (case,), run B

    @property
    def differences(self) -> np.ndarray:
        # Equal scores that were summed in another order must count as a tie in the test; + 0 turns -0 into 0.
        return np.round(self.ours - self.theirs, 12) + 0.0


class Comparison(NamedTuple):
    """What two scores.json have in common."""

    pairs: tuple[Pairs, ...]
    common: tuple[str, ...]  # cases that are compared
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    other_reference: tuple[str, ...]  # cases whose reference masks differ, which are not compared
    marked: tuple[str, ...]  # a sentence for each reason why some of the pairs are not like the others


def compare(ours: dict, theirs: dict, run: str = "A", other: str = "B") -> Comparison:
    """Pair two scores.json case by case. `run` and `other` name them in errors.

    Raises:
        ValueError: they are scored by different rules, or no case is in both.
    """
    if ours["rule"] != theirs["rule"]:
        raise UserError(
            f"{run} is scored by the rule {ours['rule']} and {other} by {theirs['rule']}; compare runs of one task"
        )
    here, there = ({case["case"]: case for case in scores["cases"]} for scores in (ours, theirs))
    both = sorted(here.keys() & there.keys(), key=natural)
    if not both:
        raise UserError(
            f"{run} scores {len(here)} cases and {other} {len(there)}, and none is in both; compare runs that were "
            "evaluated on the same cases"
        )
    changed = tuple(name for name in both if not _same_reference(here[name], there[name]))
    common = tuple(name for name in both if name not in changed)
    pairs = tuple(
        found
        for structure in scored_structures([*ours["cases"], *theirs["cases"]])
        for score in SCORES
        if (found := _pairs(structure, score, common, here, there)).cases
    )
    if not pairs:
        raise UserError(
            f"{run} and {other} share {len(both)} cases but not one score of the same reference mask; compare runs "
            "that were evaluated on the same data for the same structure"
        )
    marked = tuple(
        f"{words.format(place)}: {_named(names)}"
        for place, cases in (("A", here), ("B", there))
        for words, is_marked in _MARKS.items()
        if (names := [name for name in common if is_marked(cases[name])])
    )
    only_ours, only_theirs = (
        tuple(sorted(one.keys() - two.keys(), key=natural)) for one, two in ((here, there), (there, here))
    )
    return Comparison(pairs, common, only_ours, only_theirs, changed, marked)


def statistics(pairs: Pairs) -> dict:
    """Return n, both means, mean and median of A - B, the interval of that mean, and Wilcoxon's p or why there is none.

    "favors" names the run whose mean is better, where the interval leaves out 0 and p is below .05.
    """
    differences = pairs.differences
    low, high = mean_interval(differences.tolist())
    p, remark = signed_rank(differences)
    decided = p is not None and p < SIGNIFICANT and low is not None and (low > 0 or high < 0)
    better = "A" if (differences.mean() > 0) == (pairs.score == "dice") else "B"
    return {
        "structure": pairs.structure,
        "score": SCORES[pairs.score],
        "unit": "" if pairs.score == "dice" else "mm",
        "n": len(pairs.cases),
        "A": float(pairs.ours.mean()),
        "B": float(pairs.theirs.mean()),
        "mean difference": float(differences.mean()),
        "median difference": float(np.median(differences)),
        f"{LEVEL:.0%} from": low,
        f"{LEVEL:.0%} to": high,
        "Wilcoxon p": p,
        "favors": better if decided else "",
        "remark": remark,
    }


def _value(case: dict, structure: str, score: str) -> float | None:
    value = (case.get(structure) or {}).get(score)
    return None if value == PENALTY else value


def _same_reference(here: dict, there: dict) -> bool:
    """False where the voxels of the reference masks differ; only LiTS's rule keeps their number."""
    ours, theirs = here.get("voxels") or {}, there.get("voxels") or {}
    names = [f"{organ}_reference" for organ in ("liver", "tumor") if here.get(organ) and there.get(organ)]
    return all(ours.get(name) == theirs.get(name) for name in names)


def _pairs(structure: str, score: str, cases: Sequence[str], here: dict, there: dict) -> Pairs:
    known = [
        (name, ours, theirs)
        for name in cases
        if (ours := _value(here[name], structure, score)) is not None
        and (theirs := _value(there[name], structure, score)) is not None
    ]
    names, ours, theirs = zip(*known, strict=True) if known else ((), (), ())
    return Pairs(structure, score, tuple(names), np.array(ours, np.float64), np.array(theirs, np.float64))


def notices(compared: Comparison, rows: Sequence[dict]) -> list[str]:
    """A sentence each about cases that are not compared or not alike, and scores that are not tested."""
    lists = (
        ("Only A scores", compared.only_ours),
        ("Only B scores", compared.only_theirs),
        ("Not compared, since its reference mask is another in A than in B", compared.other_reference),
    )
    untested = [f"{row_title(row)}: {row['remark']}" for row in rows if row["remark"]]
    return [*(f"{words}: {_named(names)}" for words, names in lists if names), *compared.marked, *untested]


def _named(names: Sequence[str]) -> str:
    return f"{', '.join(names)} ({len(names)} case{'' if len(names) == 1 else 's'})"


def interval(row: dict) -> str:
    """The interval of a row of `statistics`, in words."""
    low, high = row[f"{LEVEL:.0%} from"], row[f"{LEVEL:.0%} to"]
    return "–" if low is None else f"{number(low)} to {number(high)}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< .001" if value < 0.001 else number(value)


def row_title(row: dict) -> str:
    """What a row of `statistics` is of: structure and score."""
    return f"{shown_name(row['structure'])} {row['score']}"


def cells(row: dict) -> tuple[str, ...]:
    """A row of `statistics` as it is read, under HEAD."""
    means = (number(row[name]) for name in ("A", "B", "mean difference", "median difference"))
    return (row_title(row), number(row["n"]), *means, interval(row), _p(row["Wilcoxon p"]), row["favors"])
