"""Two runs compared case by case: the numbers, what is left out and said so, the page, and what is refused."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from raunet_jax.commands import report
from raunet_jax.commands.request import Request
from raunet_jax.report import drawing
from raunet_jax.report.comparison import compare, statistics
from raunet_jax.report.comparison_page import differences_figure, write_comparison
from test_report_figures import has_color, pixels

DICE_A = (0.90, 0.80, 0.95, 0.70, 0.88, 0.91, 0.77, 0.60)
DICE_B = (0.85, 0.82, 0.85, 0.55, 0.80, 0.90, 0.74, 0.39)
HD95_A = (3.0, 4.0, 2.5, 9.0, 4.0, 5.0, 6.0, 7.0)
HD95_B = (4.0, 3.5, 4.5, 12.0, 4.25, 8.5, 7.25, 11.0)


def custom(names, dice, distance) -> dict:
    cases = [
        {"case": name, "foreground": {"dice": one, "hausdorff95": two, "assd": None}}
        for name, one, two in zip(names, dice, distance, strict=True)
    ]
    return {"rule": "custom", "cases": cases, "foreground": {}}


def lits(*cases) -> dict:
    """Cases are (name, Dice, ASSD, voxels of the reference liver), or with marks as a dict at the end."""
    records = [
        {"case": name, "liver": {"dice": dice, "assd": assd}, "tumor": None, "voxels": {"liver_reference": voxels}}
        | (marks[0] if marks else {})
        for name, dice, assd, voxels, *marks in cases
    ]
    return {"rule": "lits2017", "cases": records}


def runs(tmp_path, ours, theirs):
    for name, scores in (("a", ours), ("b", theirs)):
        (tmp_path / name).mkdir(exist_ok=True)
        if scores is not None:
            (tmp_path / name / "scores.json").write_text(json.dumps(scores))
    return tmp_path / "a", tmp_path / "b"


def report_comparison(ours, theirs):
    """Run the command, which prints a table, and return the path of the page."""
    assert report.run(Request(None, ours, compare=str(theirs))) == 0
    return ours / "report" / "compare.html"


NAMES = [f"case-{number}" for number in range(1, 9)]


def test_statistics_of_the_pairs_are_those_counted_by_hand():
    shuffled = custom(NAMES[::-1], DICE_B[::-1], HD95_B[::-1])  # paired by name, not by place
    dice, distance = compare(custom(NAMES, DICE_A, HD95_A), shuffled).pairs
    row = statistics(dice)
    # .05 -.02 .10 .15 .08 .01 .03 .21
    assert (row["structure"], row["score"], row["n"]) == ("foreground", "Dice", 8)
    assert row["mean difference"] == pytest.approx(0.61 / 8)
    assert row["median difference"] == pytest.approx(0.065)
    assert (row["A"], row["B"]) == (pytest.approx(6.51 / 8), pytest.approx(5.90 / 8))
    # The only negative difference has rank 2: rank sums of 0, 1, 2 and their mirror images among 2**8 choices of signs.
    ranks = [sum(chosen) for size in range(9) for chosen in itertools.combinations(range(1, 9), size)]
    assert row["Wilcoxon p"] == pytest.approx(2 * sum(rank <= 2 for rank in ranks) / 2**8)
    assert 0 < row["95% from"] < 0.61 / 8 < row["95% to"] < 0.21
    assert (row["favors"], row["unit"]) == ("A", "")
    # -1 .5 -2 -3 -.25 -3.5 -1.25 -4: less is better
    row = statistics(distance)
    assert row["mean difference"] == pytest.approx(-14.5 / 8) and row["95% to"] < 0
    assert (row["favors"], row["unit"]) == ("A", "mm")
    assert statistics(compare(shuffled, custom(NAMES, DICE_A, HD95_A)).pairs[1])["favors"] == "B"


def test_no_run_is_favored_where_the_interval_holds_0():
    ours, theirs = (0.5, 0.6, 0.7, 0.8, 0.4, 0.3, 0.9), (0.6, 0.52, 0.73, 0.7, 0.5, 0.25, 0.85)
    row = statistics(compare(custom(NAMES[:7], ours, ours), custom(NAMES[:7], theirs, theirs)).pairs[0])
    assert row["95% from"] < 0 < row["95% to"] and row["favors"] == ""


@pytest.mark.parametrize("cases", [1, 2, 8])
def test_equal_runs_and_few_cases_are_said_not_tested(tmp_path, capsys, cases):
    scores = custom(NAMES[:cases], DICE_A[:cases], HD95_A[:cases])
    path = report_comparison(*runs(tmp_path, scores, scores))
    assert "foreground Dice: no test: all differences are 0" in capsys.readouterr().out
    with open(path.with_suffix(".csv"), newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["mean difference"], row["Wilcoxon p"]) == ("0.0", "")
    assert row["95% from"] == ("" if cases == 1 else "0.0")
    assert "−0.000" not in path.read_text()


def test_three_pairs_are_too_few_for_a_test(tmp_path, capsys):
    ours, theirs = (custom(NAMES[:3], each[:3], each[:3]) for each in (DICE_A, DICE_B))
    report_comparison(*runs(tmp_path, ours, theirs))
    assert "no test: 3 pairs differ, too few" in capsys.readouterr().out


def test_cases_of_one_run_alone_are_named_and_a_score_needs_both(tmp_path, capsys):
    ours = custom(["only-a", *NAMES], (0.1, *DICE_A), (50.0, *HD95_A))
    theirs = custom([*NAMES, "z-1", "z-2"], (*DICE_B, 0.2, 0.3), (None, *HD95_B[1:], 1.0, 2.0))
    path = report_comparison(*runs(tmp_path, ours, theirs))
    printed, page = capsys.readouterr().out, path.read_text()
    for text in ("Only A scores: only-a (1 case)", "Only B scores: z-1, z-2 (2 cases)"):
        assert text in printed and text in page
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = {row["score"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"Dice", "HD95"}
    assert (rows["Dice"]["n"], rows["HD95"]["n"]) == ("8", "7")
    assert float(rows["HD95"]["mean difference"]) == pytest.approx(-13.5 / 7)


def test_a_case_whose_reference_is_another_is_no_pair():
    found = compare(
        lits(("volume-1", 0.9, 1.0, 100), ("volume-2", 0.8, 2.0, 70)),
        lits(("volume-1", 0.7, 2.5, 100), ("volume-2", 0.8, 2.0, 71)),
    )
    assert found.common == ("volume-1",) and found.other_reference == ("volume-2",)
    assert [(each.score, each.cases) for each in found.pairs] == [("dice", ("volume-1",)), ("assd", ("volume-1",))]


def test_lits_penalty_is_no_distance_and_cases_that_were_trained_on_are_named():
    found = compare(
        lits(("v1", 0.9, 1.0, 9), ("v2", 0.8, 2.0, 9)),
        lits(("v1", 0.0, 9001.0, 9), ("v2", 0.7, 2.5, 9, {"leak": True})),
    )
    dice, distance = found.pairs
    assert dice.cases == ("v1", "v2") and distance.cases == ("v2",)
    assert any("B finds no liver" in text and "v1 (1 case)" in text for text in found.marked)
    assert any("B was trained on: v2" in text for text in found.marked)
    assert not any("A " in text for text in found.marked)


def test_the_page_needs_no_other_file_and_names_both_runs(tmp_path, capsys):
    ours, theirs = custom(["<b>", *NAMES[1:]], DICE_A, HD95_A), custom(["<b>", *NAMES[1:]], DICE_B, HD95_B)
    path = report_comparison(*runs(tmp_path, ours, theirs))
    assert path == tmp_path / "a" / "report" / "compare.html"
    page = path.read_text()
    assert not re.search(r"https?://|url\(|@import|<b>", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src(?:set)?="([^"]+)', page))
    assert "prefers-color-scheme: dark" in page and str(tmp_path / "b") in page and "0.076" in page
    assert "0.076" in capsys.readouterr().out
    assert sorted(each.name for each in path.parent.iterdir()) == ["compare.csv", "compare.html"]


@pytest.mark.parametrize("theme", [drawing.LIGHT, drawing.DARK])
def test_dots_of_better_cases_lie_right_of_zero_for_dice_and_left_for_distances(theme):
    """All differences have one sign, so that in each half of the picture the dots lie on one side of the zero line."""
    pairs = compare(custom(NAMES, np.add(DICE_B, 0.05), HD95_A), custom(NAMES, DICE_B, np.add(HD95_A, 1))).pairs
    picture = pixels(differences_figure(pairs, theme))
    assert has_color(picture, theme.series[0], 60)
    for half, right in zip(np.split(picture, [picture.shape[1] // 2], axis=1), (True, False), strict=True):
        dots = np.nonzero(_near(half, theme.series[0]))[1]
        line = np.argmax(_near(half, theme.muted).sum(axis=0))
        assert (dots.min() > line) == right and (dots.max() < line) != right


def _near(picture, color):
    return np.abs(picture - np.array(to_rgb(color)) * 255).max(axis=-1) < 40


def test_a_missed_brain_tumor_is_drawn_on_a_logarithmic_scale_not_dropped():
    pairs = compare(custom(NAMES, DICE_A, HD95_A), custom(NAMES, DICE_B, (373.13, *HD95_B[1:]))).pairs
    assert statistics(pairs[1])["n"] == 8
    dice, distance = differences_figure(pairs).axes
    assert (dice.get_xscale(), distance.get_xscale()) == ("linear", "symlog")
    (dots,) = distance.findobj(PathCollection)
    assert dots.get_offsets()[:, 0].tolist() == pytest.approx(pairs[1].differences.tolist())
    left, right = distance.get_xlim()
    assert left < 3 - 373.13 < right


def test_runs_that_cannot_be_compared_are_refused_in_words(tmp_path):
    scores = custom(NAMES, DICE_A, HD95_A)
    with pytest.raises(FileNotFoundError, match=r"b/scores.json is missing: score that run first.*--mode=evaluate"):
        write_comparison(*runs(tmp_path, scores, None))
    with pytest.raises(ValueError, match=r"rule custom and .*b by lits2017; compare runs of one task"):
        write_comparison(*runs(tmp_path, scores, lits(("case-1", 0.9, 1.0, 9))))
    with pytest.raises(ValueError, match=r"a scores 8 cases and .*b 8, and none is in both"):
        write_comparison(*runs(tmp_path, scores, custom([f"x{name}" for name in NAMES], DICE_B, HD95_B)))
    with pytest.raises(ValueError, match="not one score of the same reference mask"):
        write_comparison(*runs(tmp_path, lits(("v", 0.9, 1.0, 9)), lits(("v", 0.9, 1.0, 8))))
    (tmp_path / "b" / "scores.json").write_text('{"rule": "cus')
    with pytest.raises(ValueError, match=r"b/scores.json: does not hold scores: .*; make it again"):
        write_comparison(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "a" / "report").exists()


def test_report_compares_when_it_is_told_with_what(tmp_path, capsys):
    ours, theirs = runs(tmp_path, custom(NAMES, DICE_A, HD95_A), custom(NAMES, DICE_B, HD95_B))
    written = write_comparison(ours, theirs)
    assert capsys.readouterr().out == ""
    assert written.page == report_comparison(ours, theirs)
    printed = capsys.readouterr().out
    assert printed.startswith(f"A: {ours}\nB: {theirs}\n8 cases that both runs scored")
    assert printed.endswith(f"page: {ours / 'report' / 'compare.html'}\n")


def test_whatever_structures_both_runs_score_are_compared_those_of_the_tasks_first():
    one, two = {"dice": 0.5, "assd": 1.0}, {"dice": 0.75, "assd": 2.0}
    ours = {"case": "a", "spleen": one, "foreground": one, "left_kidney": one, "liver": one, "burden": {"error": 0.1}}
    theirs = {"case": "a", "left_kidney": two, "liver": two, "spleen": two, "tumor": two, "foreground": two}
    found = compare(*({"rule": "custom", "cases": [case]} for case in (ours, theirs)))
    assert [(pairs.structure, pairs.score) for pairs in found.pairs] == [
        (structure, score)
        for structure in ("liver", "foreground", "spleen", "left_kidney")
        for score in ("dice", "assd")
    ]
