import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from configs import liver_tumor
from raunet_jax.commands.score_tables import print_tables
from raunet_jax.recipe import to_json
from raunet_jax.report.page import write_report
from raunet_jax.scores import (
    comparison_tables,
    published,
    read_scores,
    score_brain_case,
    score_liver_case,
    summarize_brain,
    summarize_liver,
    write_scores,
)
from raunet_jax.scores.tables import seen_before

UNIT = (1.0, 1.0, 1.0)


def liver_scores():
    labels = np.zeros((2, 3, 8), np.uint8)
    labels[0, 0, :6] = 1
    healthy = labels.copy()
    labels[0, 0, 2:4] = 2
    cases = [("a", labels, labels), ("b", healthy, labels)]
    return summarize_liver([{"case": name} | score_liver_case(p, r, UNIT) for name, p, r in cases])


def brain_scores():
    tumor = np.ones((2, 2, 2), np.uint8)
    return summarize_brain([{"case": "a"} | score_brain_case(tumor, tumor, UNIT)])


def printed(scores):
    console = Console(file=io.StringIO(), width=160)
    print_tables(scores, console)
    return console.file.getvalue()


def test_the_papers_rows_stand_beside_ours_with_their_source_and_the_empty_mask_rule():
    text = printed(liver_scores())
    assert "ours (2 cases)" in text and "RA-UNet (paper)" in text
    for value in ("26.948", "6.775", "19.705", "152.350"):
        assert value in text
    assert "Table VI" in text and "3DIRCADb" in text and "9001" in text and "both masks are empty" in text
    assert "without" in text and "recall" in text


def seen(marks, stage_1_unseen=None):
    return seen_before({"cases": [dict.fromkeys(names, True) for names in marks], "stage_1_unseen": stage_1_unseen})


STAGE_1, LEAK = ("stage_1_trained_on_it",), ("leak",)
TRAINED = "Stage 1, a single model as in the paper, was trained on"


@pytest.mark.parametrize(
    "marks, unseen, sentences",
    [
        ([()] * 3, None, []),
        (
            [STAGE_1] * 14 + [()] * 6,
            {"cases": 6, "liver_dice": 0.93, "tumor_dice": 0.61},
            [
                f"{TRAINED} 14 of these 20 cases; over the 6 it had not seen the Dice is 0.930 (liver) "
                "and 0.610 (tumor)."
            ],
        ),
        (
            [STAGE_1, ()],
            {"cases": 1, "liver_dice": 0.5, "tumor_dice": None},
            [f"{TRAINED} 1 of these 2 cases; over the 1 it had not seen the Dice is 0.500 (liver)."],
        ),
        ([STAGE_1] * 5, None, [f"{TRAINED} all of these 5 cases."]),
        ([STAGE_1], None, [f"{TRAINED} this case."]),
        (
            [LEAK] * 3 + [()],
            None,
            ["3 of these 4 cases are scans that the run was trained on (config.data.on_leak=warn)."],
        ),
        ([LEAK] * 2, None, ["All of these 2 cases are scans that the run was trained on (config.data.on_leak=warn)."]),
        ([LEAK], None, ["This case is a scan that the run was trained on (config.data.on_leak=warn)."]),
    ],
)
def test_what_a_model_was_trained_on_is_told_with_counts(marks, unseen, sentences):
    assert seen(marks, unseen) == sentences


def test_what_a_model_was_trained_on_is_printed_above_the_tables():
    scores = liver_scores()
    scores["cases"][0]["leak"] = True
    text = printed(scores)
    assert text.startswith("1 of these 2 cases is a scan that the run was trained on (config.data.on_leak=warn).")
    assert seen_before(liver_scores()) == seen_before(brain_scores()) == []


def test_drawn_phantoms_are_called_so_and_are_no_external_test():
    text = printed(liver_scores() | {"source": "phantom"})
    assert "ours (2 drawn cases)" in text and "3DIRCADb" not in text


def test_our_rows_have_their_deviation_and_interval_and_every_published_row_its_source():
    liver = comparison_tables(liver_scores())[0]
    statistics = ["", "standard deviation", "95% interval from", "95% interval to"]
    assert [row.statistic for row in liver.ours] == statistics
    # Dice of the liver is 1 in both cases, as is the global one, which has no deviation over cases.
    assert [row.values[:2] for row in liver.ours] == [(1, 1), (0, None), (1, 1), (1, 1)]
    numbers = {liver.source_number(row): row.source for row in liver.published}
    assert [numbers[str(index)] for index in range(1, len(numbers) + 1)] == list(liver.sources)
    text = printed(liver_scores())
    for source in ("arXiv 1811.01328, Tables V and VI", "Tables IV and VII", "arXiv 2404.09556", "LiTS leaderboard"):
        assert source in text
    assert "percentile bootstrap over cases" in text


def test_one_case_has_no_interval_to_print():
    table = comparison_tables(brain_scores())[0]
    assert [row.values[0] for row in table.ours] == [1, None, None, None]


def test_the_paper_s_rows_agree_with_each_other():
    """VOE is 1 - Jaccard; the paper rounds to three digits, and its one slip is said under that table."""
    tables = comparison_tables(liver_scores())
    slips = []
    for table in tables:
        for row in table.published:
            values = dict(zip(table.columns, row.values, strict=True))
            if values.get("Jaccard") and values.get("VOE") and abs(values["Jaccard"] + values["VOE"] - 1) > 0.0021:
                slips.append((table.title, row.label))
    assert slips == [("Liver, external test", "RA-UNet (paper)")]


def test_the_papers_own_rows_are_marked():
    tables = [value for name, value in vars(published).items() if name.isupper() and isinstance(value, tuple)]
    marked = [row for table in tables for row in table if row.paper]
    assert [row for table in tables for row in table if "RA-UNet" in row.label] == marked and len(marked) == 6
    assert {row.source.partition(", Table")[0] for row in marked} == {"RA-UNet, Jin et al., arXiv 1811.01328"}


def test_an_organ_without_scores_has_no_table():
    text = printed(liver_scores() | {"tumor": None, "tumor_corrected": None, "detection": None})
    assert "Kaluva" in text and "Tumor" not in text and "recall" not in text


def test_brain_scores_print_their_own_table():
    text = printed(brain_scores())
    assert "ours (1 case)" in text and "Table IX" in text and "373.13" in text and "5.872" in text


@pytest.mark.parametrize("scores", [liver_scores(), brain_scores(), summarize_liver([]), summarize_brain([])])
def test_every_row_has_a_value_for_every_column(scores):
    for table in comparison_tables(scores):
        for row in (*table.ours, *table.published):
            assert len(row.values) == len(table.columns)
            assert row.label
        assert all(row.source for row in table.published)
    printed(scores)


def test_scores_are_written_as_strict_json_with_a_row_a_case_beside(tmp_path):
    scores = liver_scores()
    write_scores(tmp_path / "run" / "scores.json", scores)
    assert json.loads((tmp_path / "run" / "scores.json").read_text()) == scores
    with open(tmp_path / "run" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[0]["tumor_dice"]) == 1 and float(rows[1]["tumor_dice"]) == 0
    assert rows[1]["tumor_assd"] == ""
    assert rows[0]["lesions_reference"] == "1"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["scores.csv", "scores.json", "tables.csv"]


def test_scores_without_the_programs_quirks_keep_their_first_names_in_the_file(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, liver_scores())
    stored = json.loads(path.read_text())
    for group in ("tumor", "detection", "tumor_burden"):
        assert stored[f"{group}_without_habits"] == stored[f"{group}_corrected"] is not None
    assert stored["intervals"]["tumor_without_habits"] == stored["intervals"]["tumor_corrected"]
    (match,) = stored["cases"][0]["lesions"]["matches"]
    assert match["detected_without_habits"] is match["detected_corrected"] is True
    assert read_scores(path) == stored


def old_scores():
    """As a version wrote them that knew the first names alone: a case, a lesion, found."""
    surface = {"assd": 0.5, "rmsd": 0.6, "msd": 2.0}
    overlap = {"jaccard": 0.6, "voe": 0.4, "rvd": 0.25}
    tumor = {"dice_per_case": 0.75, "dice_global": 0.75, "dice_per_lesion": 0.75} | overlap | surface
    detection = dict.fromkeys(("precision", "recall", "precision_greater_zero", "recall_greater_zero"), 1.0)
    lesion = {"reference_lesions": [1], "predicted_lesions": [1], "reference_voxels": 5, "predicted_voxels": 3}
    lesion |= {"detected": True, "detected_without_habits": True, "dice": 0.75} | overlap | surface
    case = {
        "case": "a",
        "liver": {"dice": 1.0, "jaccard": 1.0, "voe": 0.0, "rvd": 0.0, "assd": 0.0, "rmsd": 0.0, "msd": 0.0},
        "tumor": {"dice": 0.75} | overlap | surface,
        "voxels": {
            "liver_prediction": 20,
            "liver_reference": 20,
            "liver_intersection": 20,
            "tumor_prediction": 3,
            "tumor_reference": 5,
            "tumor_intersection": 3,
        },
        "tumor_burden": {"prediction": 0.15, "reference": 0.25},
        "lesions": {"reference": 1, "prediction": 1, "detected": 1, "matches": [lesion]},
    }
    liver = {"dice_per_case": 1.0, "dice_global": 1.0} | {name: case["liver"][name] for name in overlap | surface}
    return {
        "liver": liver,
        "tumor": tumor,
        "tumor_without_habits": tumor | {"jaccard": 0.625},
        "detection": detection,
        "detection_without_habits": detection | {"recall": 0.375},
        "tumor_burden": {"rmse": 0.1, "max": 0.1},
        "tumor_burden_without_habits": {"rmse": 0.1, "max": 0.125},
        "cases": [case],
        "rule": "lits2017",
    }


@pytest.mark.parametrize("with_intervals", [False, True])
def test_scores_that_an_earlier_version_wrote_are_shown(tmp_path, with_intervals):
    stored = old_scores()
    if with_intervals:
        spread = dict.fromkeys(("std", "low", "high"))
        stored["intervals"] = {
            group: {name: {"mean": mean} | spread for name, mean in stored[group].items()}
            for group in ("liver", "tumor", "tumor_without_habits")
        }
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(stored))
    scores = read_scores(path)
    assert scores["cases"][0]["lesions"]["matches"][0]["detected_corrected"] is True
    tumor = next(table for table in comparison_tables(scores) if table.title == "Tumor")
    (corrected,) = (row for row in tumor.ours if "corrected" in row.label and not row.statistic)
    assert corrected.values[:3] == (0.75, 0.75, 0.625)
    text = printed(scores)
    assert "0.375" in text and "0.125" in text  # detection and burden, corrected


def test_the_page_of_a_run_that_an_earlier_version_scored_has_every_table(tmp_path):
    (tmp_path / "config.json").write_text(to_json(liver_tumor.get_config()))
    (tmp_path / "scores.json").write_text(json.dumps(old_scores()))
    page = write_report(tmp_path).read_text()
    for title in ("Liver", "Tumor", "Liver and tumor, mean of both", "Lesion detection and tumor burden"):
        assert f"<h3>{title}</h3>" in page
    assert "0.375" in page  # recall, corrected


@pytest.mark.parametrize("text", ["", "[]", '{"cases": []}', '{"cases": [], "rule": "kidney"}'])
def test_a_file_that_holds_no_scores_is_refused(tmp_path, text):
    with pytest.raises(FileNotFoundError, match=r"scores\.json is missing; --mode=evaluate"):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ValueError, match=r"scores\.json: does not hold scores: .*; make it again"):
        read_scores(tmp_path / "scores.json")


def test_the_tables_are_written_as_csv_a_row_a_row_each_with_its_source(tmp_path):
    scores = liver_scores()
    write_scores(tmp_path / "scores.json", scores)
    with open(tmp_path / "tables.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["table", "row", "DC", "DG", "Jaccard", "VOE", "RVD", "ASSD", "MSD", "source"]
    tables = comparison_tables(scores)
    assert len(rows) == sum(len(table.ours) + len(table.published) for table in tables)
    assert all(row["source"] for row in rows)
    yuan = [row for row in rows if row["row"] == "Yuan"]
    assert [row["table"] for row in yuan] == ["Liver", "Tumor"] and yuan[1]["MSD"] == "6.269"
    assert "Table VI" in yuan[0]["source"]
    ours = {row["row"]: row for row in rows if row["table"] == "Tumor" and row["source"] == "scores.json"}
    assert float(ours["ours (2 cases)"]["DC"]) == 0.5  # 1 and 0
    assert float(ours["ours (2 cases): standard deviation"]["DC"]) == pytest.approx(0.5**0.5)
    assert ours["ours (2 cases): standard deviation"]["DG"] == ""
    assert float(ours["ours (2 cases): 95% interval from"]["DC"]) == 0
    # Only one of the cases has a lesion that is found.
    assert ours["ours (2 cases): 95% interval to"]["MSD"] == ""


def test_scores_of_another_name_have_tables_of_that_name(tmp_path):
    for name in ("one", "two"):
        write_scores(tmp_path / f"{name}.json", brain_scores())
    names = ["one.csv", "one.json", "one_tables.csv", "two.csv", "two.json", "two_tables.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_intervals_in_the_file_are_those_of_its_cases(tmp_path):
    scores = liver_scores() | {"intervals": "of another day"}
    write_scores(tmp_path / "scores.json", scores)
    assert json.loads((tmp_path / "scores.json").read_text())["intervals"]["tumor"]["dice_per_case"]["n"] == 2


def test_json_is_not_overwritten_by_its_own_csv(tmp_path):
    with pytest.raises(ValueError, match=r"scores\.csv.*\.json"):
        write_scores(tmp_path / "scores.csv", liver_scores())


def test_nan_never_reaches_a_file(tmp_path):
    scores = liver_scores()
    scores["liver"]["assd"] = float("nan")
    with pytest.raises(ValueError):
        write_scores(tmp_path / "scores.json", scores)
    assert list(tmp_path.iterdir()) == []
