"""Spread of the scores: against scipy, against every resample there can be, and by how often an interval is right."""

import collections
import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from raunet_jax.scores import (
    score_brain_case,
    score_custom_case,
    score_liver_case,
    summarize_brain,
    summarize_custom,
    summarize_liver,
)
from raunet_jax.scores.statistics import bootstrap_sums, mean_interval, score_intervals, signed_rank

UNIT = (1.0, 1.0, 1.0)
LITS = ("liver", "tumor", "tumor_corrected")


def liver_cases() -> list[dict]:
    """Good; a missed tumor; all tumor and no liver; one of two lesions; no tumor; one of three, the others bridged."""
    reference = np.zeros((3, 6, 16), np.uint8)
    reference[:, 1:5, 1:15] = 1
    healthy = reference.copy()
    reference[1, 2:4, 2:6] = 2
    two = reference.copy()
    two[1, 2:4, 9:12] = 2
    shifted, one_of_two = np.roll(reference, 1, axis=2), two.copy()
    one_of_two[1, 2:4, 9:11] = 1
    one_of_two[1, 2:4, 5] = 1
    bridge, three = healthy.copy(), healthy.copy()
    bridge[1, 1, 2:13] = three[1, 1, 2] = three[1, 1, 12] = 2
    bridge[1, 4, 5:9] = three[1, 4, 5:9] = 2
    pairs = [(shifted, reference), (healthy, reference), (healthy * 2, two), (one_of_two, two), (healthy, healthy)]
    pairs.append((bridge, three))
    return [{"case": str(i)} | score_liver_case(ours, theirs, UNIT) for i, (ours, theirs) in enumerate(pairs)]


def brain_cases() -> list[dict]:
    tumor, smaller = np.ones((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    smaller[0] = 1
    masks = [(smaller, tumor), (tumor, tumor), (tumor * 0, tumor)]
    return [{"case": str(i)} | score_brain_case(*pair, UNIT) for i, pair in enumerate(masks)]


def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).exponential(1, 40)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert mean_interval(values.tolist()) == pytest.approx(tuple(theirs), abs=0.015)


@pytest.mark.parametrize("group", LITS)
def test_intervals_are_the_quantiles_of_the_summary_over_all_resamples(group):
    """All 6**6 ways to draw six cases, each summarized as a set of its own: nothing is shared with the code's sums."""
    cases = liver_cases()
    # LiTS's program counts a found lesion and a bridge of two that fails as 2 - 2 = 0, and then looks at neither.
    assert cases[5]["lesions"]["detected"] == 0 and any(match["detected"] for match in cases[5]["lesions"]["matches"])
    found = score_intervals(summarize_liver(cases))[group]
    samples: dict[str, list[float]] = {name: [] for name in found}
    # The order of drawing does not matter to the summary, so each multiset is summarized once.
    counts = collections.Counter(tuple(sorted(drawn)) for drawn in itertools.product(range(6), repeat=6))
    for drawn, times in counts.items():
        summary = summarize_liver([cases[index] for index in drawn])[group]
        for name in found:
            if summary[name] is not None:
                samples[name] += [summary[name]] * times
    checked = 0
    for name, spread in found.items():
        if spread["low"] is None:
            continue
        # 10,000 draws find the quantiles of 2.5 % and 97.5 % to within 0.16 % of the draws, one standard error.
        around = np.quantile(samples[name], (0.018, 0.032, 0.968, 0.982))
        slack = 1e-9 * max(1, abs(around).max())
        assert around[0] - slack <= spread["low"] <= around[1] + slack, name
        assert around[2] - slack <= spread["high"] <= around[3] + slack, name
        checked += 1
    assert checked >= 7


def test_a_95_percent_interval_holds_the_truth_about_95_percent_of_the_time():
    """Of normal values of mean 0; for 30 of them the percentile bootstrap is known to be a little too narrow."""
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        low, high = mean_interval(random.normal(size=30).tolist(), resamples=1000)
        hits += low <= 0 <= high
    assert 0.90 <= hits / 400 <= 0.97


def test_a_resample_draws_as_many_cases_as_there_are_and_each_about_as_often():
    """Column k counts how often case k was drawn."""
    times = bootstrap_sums(np.eye(7), resamples=2500)
    assert times.shape == (2500, 7)
    np.testing.assert_array_equal(times.sum(axis=1), 7)
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(times.var(axis=0), 6 / 7, atol=0.1)  # binomial of 7 draws with 1/7
    np.testing.assert_array_equal(times, bootstrap_sums(np.eye(7), resamples=2500))
    assert (times != bootstrap_sums(np.eye(7), resamples=2500, seed=1)).any()


def test_means_are_the_summarys_and_deviations_those_of_cases_or_lesions():
    cases = liver_cases()
    summary = summarize_liver(cases)
    found = score_intervals(summary)
    for group in LITS:
        assert {name: spread["mean"] for name, spread in found[group].items()} == summary[group]
    liver = found["liver"]["dice_per_case"]
    assert liver["std"] == pytest.approx(statistics.stdev(case["liver"]["dice"] for case in cases))
    assert (liver["n"], liver["over"]) == (6, "cases")
    pooled = found["liver"]["dice_global"]
    assert pooled["std"] is None and pooled["low"] < pooled["mean"] < pooled["high"]
    lesions = [match for case in cases for match in case["lesions"]["matches"] if match["detected_corrected"]]
    jaccard = found["tumor_corrected"]["jaccard"]
    assert (jaccard["n"], jaccard["over"]) == (len(lesions), "lesions") and len(lesions) > 1
    assert jaccard["std"] == pytest.approx(statistics.stdev(match["jaccard"] for match in lesions))
    both = [(case["liver"]["dice"] + case["tumor"]["dice"]) / 2 for case in cases]
    assert found["liver_and_tumor"]["dice_per_case"]["mean"] == pytest.approx(statistics.mean(both))


@pytest.mark.parametrize("cases", [0, 1])
def test_fewer_than_two_cases_have_no_spread(cases):
    for summary in (summarize_liver(liver_cases()[:cases]), summarize_brain(brain_cases()[:cases])):
        found = score_intervals(summary)
        assert found["unit"] == "case"
        for group in found.values():
            for spread in group.values() if isinstance(group, dict) else ():
                assert spread["std"] is spread["low"] is spread["high"] is None or spread["over"] == "lesions"
                assert spread["low"] is None


def test_a_score_that_one_case_alone_has_has_no_interval():
    """Only one of these cases has a surface to measure from; resamples of one value would not differ."""
    tumor = np.ones((2, 2, 2), np.uint8)
    cases = [
        {"case": "a"} | score_custom_case(tumor, tumor, UNIT),
        {"case": "b"} | score_custom_case(0 * tumor, tumor, UNIT),
    ]
    found = score_intervals(summarize_custom(cases))["foreground"]
    assert (found["assd"]["n"], found["assd"]["low"]) == (1, None)
    assert (found["dice"]["low"], found["dice"]["mean"], found["dice"]["high"]) == (0, 0.5, 1)
    assert "dice_std" not in found


def test_an_organ_without_scores_has_no_intervals():
    found = score_intervals(summarize_liver(liver_cases()) | {"tumor": None, "tumor_corrected": None})
    assert "liver" in found and not {"tumor", "tumor_corrected", "liver_and_tumor"} & found.keys()


def test_the_signed_rank_test_counts_signs_and_says_why_it_does_not():
    # Six differences of one sign: 2 of the 2**6 choices of signs are that extreme. Zeros change nothing.
    assert signed_rank(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0, 0])) == (pytest.approx(2 / 64), "")
    # With the smallest rank against the others: rank sums 0 and 1, on either side.
    assert signed_rank(np.array([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))[0] == pytest.approx(4 / 64)
    assert signed_rank(np.zeros(9)) == (None, "no test: all differences are 0")
    p, remark = signed_rank(np.array([0, 1.0, 2, 3, 4, 5]))
    assert p is None and "5 pairs differ" in remark and "from 6 on" in remark
    assert "1 pair differs" in signed_rank(np.array([0, 1.0]))[1]
