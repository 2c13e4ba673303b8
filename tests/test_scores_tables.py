import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from raunet_jax.scores import (
    comparison_tables,
    print_tables,
    score_brain_case,
    score_liver_case,
    summarise_brain,
    summarise_liver,
    write_scores,
)

UNIT = (1.0, 1.0, 1.0)


def liver_scores():
    labels = np.zeros((2, 3, 8), np.uint8)
    labels[0, 0, :6] = 1
    healthy = labels.copy()
    labels[0, 0, 2:4] = 2
    cases = [("a", labels, labels), ("b", healthy, labels)]
    return summarise_liver([{"case": name} | score_liver_case(p, r, UNIT) for name, p, r in cases])


def brain_scores():
    tumor = np.ones((2, 2, 2), np.uint8)
    return summarise_brain([{"case": "a"} | score_brain_case(tumor, tumor, UNIT)])


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


def test_drawn_phantoms_are_called_so_and_are_no_external_test():
    text = printed(liver_scores() | {"source": "phantom"})
    assert "ours (2 drawn cases)" in text and "3DIRCADb" not in text


def test_an_organ_without_scores_has_no_table():
    text = printed(liver_scores() | {"tumor": None, "tumor_without_habits": None, "detection": None})
    assert "Kaluva" in text and "Tumor" not in text and "recall" not in text


def test_brain_scores_print_their_own_table():
    text = printed(brain_scores())
    assert "ours (1 case)" in text and "Table IX" in text and "373.13" in text and "5.872" in text


@pytest.mark.parametrize("scores", [liver_scores(), brain_scores(), summarise_liver([]), summarise_brain([])])
def test_every_row_has_a_value_for_every_column(scores):
    for table in comparison_tables(scores):
        for row in (*table.ours, *table.published):
            assert len(row) == 1 + len(table.columns)
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
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["scores.csv", "scores.json"]


def test_json_is_not_overwritten_by_its_own_csv(tmp_path):
    with pytest.raises(ValueError, match=r"scores\.csv.*\.json"):
        write_scores(tmp_path / "scores.csv", liver_scores())


def test_nan_never_reaches_a_file(tmp_path):
    scores = liver_scores()
    scores["liver"]["assd"] = float("nan")
    with pytest.raises(ValueError):
        write_scores(tmp_path / "scores.json", scores)
    assert list(tmp_path.iterdir()) == []
