"""Text that a spreadsheet would compute is shown as text, and numbers stay numbers."""

import csv

import pytest

from raunet_jax.files import write_csv


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_that_would_be_a_formula_begins_with_an_apostrophe(tmp_path, text):
    write_csv(tmp_path / "a.csv", [{"case": text, "liver_ml": -1.5, text: "-0.25"}], ["case"])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert head == ["case", "liver_ml", f"'{text}"] and row == [f"'{text}", "-1.5", "-0.25"]


def test_other_text_stays_as_it_is(tmp_path):
    write_csv(tmp_path / "a.csv", [{"case": "volume-1", "warnings": "a = b; c", "none": None}])
    assert (tmp_path / "a.csv").read_bytes() == b"case,warnings,none\r\nvolume-1,a = b; c,\r\n"
