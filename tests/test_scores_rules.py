"""The table of rules: what a row says of results is what results hold, and a new task needs no more than its row."""

import json
import subprocess
import sys

import numpy as np
import pytest

from configs import custom
from raunet_jax.commands import score
from raunet_jax.commands.request import Request
from raunet_jax.imaging.volume import write_nifti
from raunet_jax.scores.rules import RULES, case_columns_of, groups_of, rule_named, tables_of
from raunet_jax.scores.statistics import score_intervals
from raunet_jax.tasks import TASKS, Stage, Structure, Task

UNIT = (1.0, 1.0, 1.0)


def summary(rule, structure):
    reference = np.zeros((3, 6, 8), np.uint8)
    reference[:, 1:5, 1:7], reference[1, 2:4, 2:5] = 1, 2
    prediction = np.roll(reference, 1, axis=2)
    row = RULES[rule]
    cases = [
        {"case": name} | row.score_case(mask, reference, UNIT, structure)
        for name, mask in (("a", prediction), ("b", reference))
    ]
    return row.summarize(cases, structure)


EVERY = [("lits2017", "tumor"), ("brats", "whole_tumor"), ("custom", "foreground"), ("custom", "spleen")]


@pytest.mark.parametrize("rule, structure", EVERY)
def test_what_a_row_names_is_in_its_scores(rule, structure):
    scores = json.loads(json.dumps(summary(rule, structure)))
    assert scores["rule"] == rule
    intervals = score_intervals(scores)
    for group in groups_of(scores):
        assert scores[group.name] and all(group.structure in case for case in scores["cases"])
    for table in tables_of(scores):
        for group in table.groups:
            assert set(table.columns.values()) <= intervals[group].keys()
        assert all(len(row.values) == len(table.columns) for row in table.published)
    for where, digits in case_columns_of(scores).values():
        for case in scores["cases"]:
            for key in where:
                case = case[key]
            assert isinstance(case, int | float) and digits >= 0


@pytest.mark.parametrize("rule, structure", [("brats", "whole_tumor"), ("custom", "foreground")])
def test_results_of_one_structure_from_before_they_named_it_are_read(rule, structure):
    scores = summary(rule, structure)
    assert scores.pop("structure") == structure
    assert [group.name for group in groups_of(scores)] == [structure]
    assert structure in score_intervals(scores)


def test_every_task_has_its_rule_and_masks_with_its_labels_can_be_scored():
    for task in TASKS.values():
        assert task.labels is None or set(task.labels) <= set(RULES[task.rule].labels)
    with pytest.raises(ValueError, match='"kidney"; it can be lits2017 or brats or custom'):
        rule_named("kidney")


def test_a_new_task_is_scored_under_the_name_of_its_structure(tmp_path, monkeypatch, capsys):
    spleen = Task(
        structures={"spleen": Structure(1, "#7fd0c0")},
        labels=None,
        rule="custom",
        stages={"abdomen": Stage("spleen", "spleen", 1, "volume", False, "centered")},
        merged=True,
        planned=True,
    )
    monkeypatch.setitem(TASKS, "spleen", spleen)
    config = custom.get_config()
    config.stage = "abdomen"
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 1:3, 1:4] = 1
    for folder in ("ours", "theirs"):
        write_nifti(tmp_path / folder / "a.nii", mask, np.eye(4))
    folders = {name: str(tmp_path / folder) for name, folder in (("prediction", "ours"), ("reference", "theirs"))}
    assert score.run(Request(config, None, output=str(tmp_path / "scores.json"), **folders)) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["rule"], scores["structure"], scores["spleen"]["dice"]) == ("custom", "spleen", 1)
    assert scores["cases"][0]["spleen"]["dice"] == 1 and "foreground" not in scores
    assert scores["intervals"]["spleen"]["dice"]["mean"] == 1
    assert "Spleen (nothing published to compare with)" in capsys.readouterr().out


def test_what_is_slow_to_import_is_not_imported_before_it_is_needed():
    program = (
        "import sys, raunet_jax.scores as scores; at_first = [m for m in sys.modules if m.startswith('raunet_jax.')]; "
        "scores.comparison_tables, scores.score_folders; "
        "print(at_first, {'scipy.stats', 'scipy.spatial', 'scipy.ndimage', 'jax'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['raunet_jax.scores'] set()\n"
