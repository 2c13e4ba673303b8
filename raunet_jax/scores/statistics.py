"""How far our scores would move with other cases: standard deviations, bootstrap intervals, and a test of pairs.

Every score of the tables is a sum over cases divided by another one: a mean over cases, or over the lesions of all
cases, or the global Dice, 2 * intersections / (predictions + references). A resample of the cases therefore needs only
how often each case was drawn. Intervals are the percentile bootstrap's (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13), over cases, since voxels and lesions of one patient are not independent.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from raunet_jax.scores.liver import WORST
from raunet_jax.scores.rules import RULES, Group, groups_of

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
SIGNIFICANT = 0.05
SMALLEST_TEST = 6  # differences: with five the smallest two-sided p there can be is 2 / 2**5 = .0625
_BLOCK = 1000  # resamples at once, which bounds the memory


class _Score(NamedTuple):
    """A score as the ratio of two sums over cases."""

    numerators: np.ndarray  # (case,)
    denominators: np.ndarray  # (case,); 0 for a case that says nothing about this score
    values: Sequence[float]  # whose spread the standard deviation is; none for a pooled score
    over: str
    otherwise: float | None = None  # the score of a resample whose denominators are all 0


def score_intervals(scores: dict, resamples: int = RESAMPLES, seed: int = SEED) -> dict:
    """Return the spread of every score in the summary that one of the `summarize_*` functions made.

    Returns:
        {"level", "resamples", "seed", "unit": "case", GROUP: {NAME: {"mean", "std", "low", "high", "n", "over"}}} with
        the groups and names of `scores`, and where liver and tumor are both scored "liver_and_tumor", the mean of both
        Dice (`rules.Rule.mean_dice`). `mean` is the score as it stands in `scores`; `std` the standard deviation
        (n - 1) over the `n` cases or lesions that `over` says, None for a pooled score or for n < 2; `low` and `high`
        the ends of the interval, None where fewer than two cases have the score.
    """
    cases = scores["cases"]
    named = {
        group.name: {name: score for name in scores[group.name] if (score := _score(cases, group, name)) is not None}
        for group in groups_of(scores)
        if scores.get(group.name)
    }
    means = {group: scores[group] for group in named}
    for joint, structures in RULES[scores["rule"]].mean_dice.items():
        if named.keys() >= set(structures):
            dice = [sum(case[structure]["dice"] for structure in structures) / len(structures) for case in cases]
            named[joint] = {"dice_per_case": _over_cases(dice)}
            means[joint] = {"dice_per_case": sum(dice) / len(dice) if dice else None}

    listed = [score for group in named.values() for score in group.values()]
    columns = np.array([column for score in listed for column in score[:2]], np.float64)
    sums = iter(bootstrap_sums(columns.T, resamples, seed).T if cases and listed else np.zeros((2 * len(listed), 0)))
    spread = {"level": LEVEL, "resamples": resamples, "seed": seed, "unit": "case"}
    for group, members in named.items():
        spread[group] = {}
        for name, score in members.items():
            low, high = _interval(next(sums), next(sums), score)
            spread[group][name] = {
                "mean": means[group][name],
                "std": float(np.std(score.values, ddof=1)) if len(score.values) > 1 else None,
                "low": low,
                "high": high,
                "n": len(score.values) or int(np.count_nonzero(score.denominators)),
                "over": score.over,
            }
    return spread


def mean_interval(
    values: Sequence[float], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float | None, float | None]:
    """Return the ends of the bootstrap interval of the mean of one value a case; None for fewer than two cases."""
    score = _over_cases(values)
    if len(values) < 2:
        return None, None
    sums = bootstrap_sums(np.stack(score[:2], axis=1), resamples, seed)
    return _interval(*sums.T, score)


def signed_rank(differences: np.ndarray) -> tuple[float | None, str]:
    """Return the two-sided p of Wilcoxon's signed-rank test without the zeros, or None and the reason in words."""
    changed = differences[differences != 0]
    if not changed.size:
        return None, "no test: all differences are 0"
    if changed.size < SMALLEST_TEST:
        verb = "pair differs" if changed.size == 1 else "pairs differ"
        return None, f"no test: {changed.size} {verb}, too few; p can fall below .05 from {SMALLEST_TEST} on"
    from scipy import stats  # slow to import: a sixth of a start

    return float(stats.wilcoxon(changed).pvalue), ""


def bootstrap_sums(columns: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Sum (case, column) values over as many cases, drawn with replacement: (resample, column), the same each time."""
    cases = columns.shape[0]
    random = np.random.default_rng(seed)
    blocks = []
    for first in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - first)
        drawn = random.integers(cases, size=(rows, cases)) + cases * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * cases).reshape(rows, cases)
        blocks.append(times.astype(np.float64) @ columns)
    return np.concatenate(blocks)


def _interval(numerators: np.ndarray, denominators: np.ndarray, score: _Score) -> tuple[float | None, float | None]:
    """Ends of the interval from the resampled sums of `score`; a resample that leaves it undefined is left out."""
    if np.count_nonzero(score.denominators) < 2:
        return None, None
    defined = denominators > 0
    ratios = numerators[defined] / denominators[defined]
    if score.otherwise is not None:
        ratios = np.concatenate([ratios, np.full(np.count_nonzero(~defined), score.otherwise)])
    low, high = np.quantile(ratios, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def _score(cases: Sequence[dict], group: Group, name: str) -> _Score | None:
    """The parts of one score of a summary, or None where it is no mean and no ratio over cases."""
    if name == "dice_global":
        return _global_dice(cases, group.structure)
    if name == "dice_per_case":
        return _over_cases([case[group.structure]["dice"] for case in cases])
    if group.over_lesions:
        name = name.removesuffix("_per_lesion")
        return _over_lesions(cases, name, group.lits2017_quirks) if name in WORST else None
    if all(name in case[group.structure] for case in cases):
        return _over_cases([case[group.structure][name] for case in cases])
    return None


def _over_cases(values: Iterable[float | None]) -> _Score:
    values = list(values)
    known = [value for value in values if value is not None]
    numerators = np.array([0.0 if value is None else value for value in values])
    return _Score(numerators, np.array([float(value is not None) for value in values]), known, "cases")


def _over_lesions(cases: Sequence[dict], name: str, lits2017_quirks: bool) -> _Score:
    """A mean over the detected lesions of all cases; with LiTS's quirks, 9001 and the like where there is none."""
    flag = "detected" if lits2017_quirks else "detected_corrected"
    found = [
        [
            match[name]
            for match in case["lesions"]["matches"]
            if match[flag] and not (lits2017_quirks and case["lesions"]["detected"] <= 0)
        ]
        for case in cases
    ]
    numerators = np.array([sum(values) for values in found], np.float64)
    counts = np.array([len(values) for values in found], np.float64)
    values = [value for values in found for value in values]
    return _Score(numerators, counts, values, "lesions", WORST[name] if lits2017_quirks else None)


def _global_dice(cases: Sequence[dict], organ: str) -> _Score:
    """As LiTS's program pools it: of a case without any voxel of label 1 only the reference liver counts."""
    voxels = [case["voxels"] for case in cases]
    counted = [organ == "tumor" or case["liver_prediction"] > case["tumor_prediction"] for case in voxels]
    both = [2.0 * case[f"{organ}_intersection"] * used for case, used in zip(voxels, counted, strict=True)]
    total = [
        case[f"{organ}_reference"] + case[f"{organ}_prediction"] * used
        for case, used in zip(voxels, counted, strict=True)
    ]
    return _Score(np.array(both), np.array(total, np.float64), (), "voxels of all cases")
