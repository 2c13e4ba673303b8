"""A small, seeded part of the campaign (python -m tests.campaign), and that the campaign sees what it is to see."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests.campaign import contents, damage, geometry, inputs, kills, resources
from tests.campaign.input_rows import ROWS
from tests.campaign.outcome import Outcome
from tests.campaign.processes import Done
from tests.campaign.world import MODES, Undisturbed, World
from tests.campaign.writers import ODD


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


def rng(seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ["train", "prepare", "score"])
def test_a_mode_that_is_killed_ends_as_if_nothing_had_been(world, tmp_path, name):
    outcome = kills.kill(world, name, 1, rng(1), tmp_path)
    assert not outcome.failure, outcome


CHECKED = [("scan .nii.gz", "flip"), ("slice", "truncate"), ("scan .nii", "truncate"), ("dataset.json", "[]")]
CHECKED += [
    ("mask to score", "random"),
    ("fingerprints", "null"),
    ("training mask", "empty"),
    ("small checkpoint", "flip"),
]


@pytest.mark.parametrize(("kind", "how"), CHECKED)
def test_a_damaged_file_is_named_or_changes_nothing(world, tmp_path, kind, how):
    outcome = damage.damage(world, kind, damage.KINDS[kind].modes[0], how, rng(2), tmp_path)
    assert not outcome.failure, outcome


def test_scans_in_other_orders_of_axes_have_the_same_mask_in_space(world, tmp_path):
    for number, outcome in enumerate(
        (
            geometry.orders(world, rng(3), tmp_path / "0", geometry.ORDERS[::5]),
            geometry.any_angle(world, rng(3), tmp_path / "1", count=6),
            geometry.series_orders(world, rng(3), tmp_path / "2", count=4),
        )
    ):
        assert not outcome.failure and outcome.count, (number, outcome)


@pytest.mark.parametrize("trial", [resources.full_disk, resources.read_only, resources.two_at_once])
def test_what_a_machine_lacks_costs_nothing(world, tmp_path, trial):
    outcome = trial(world, "score", rng(4), tmp_path)
    assert not outcome.failure, outcome


@pytest.mark.parametrize("row", [row for row in ROWS if row.writer in ODD], ids=lambda row: row.writer)
def test_an_odd_input_has_the_outcome_that_is_wanted(world, tmp_path, row):
    outcome = inputs.try_row(world, row, tmp_path)
    assert not outcome.failure, outcome


# That the campaign can fail: each of its judges is shown what it is to object to.


def test_a_file_left_over_one_missing_and_one_changed_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json").write_text('{"seconds": 1, "loss": 2}')
    (tmp_path / "a" / "y.csv").write_text("case,seconds\n1,2\n")
    before = contents.contents(tmp_path, ["a"])
    (tmp_path / "a" / "x.json").write_text('{"seconds": 9, "loss": 2}')
    assert not contents.differences(before, contents.contents(tmp_path, ["a"]))  # only the time has changed
    (tmp_path / "a" / "x.json").write_text('{"seconds": 1, "loss": 3}')
    (tmp_path / "a" / "y.csv").unlink()
    (tmp_path / "a" / ".77.z.nii.gz").write_bytes(b"")
    told = contents.differences(before, contents.contents(tmp_path, ["a"]))
    assert told == "missing: a/y.csv; left over: a/.77.z.nii.gz; other content: a/x.json"


def judge(tmp_path, said, status, kind="scan .nii.gz", mode="predict .nii.gz", how="flip"):
    path = tmp_path / damage.KINDS[kind].files
    path.parent.mkdir(parents=True, exist_ok=True)
    done, usual = Done(status, said), Undisturbed({"a": "1"}, 1.0, "exact 1 done")
    return damage._judge("", damage.KINDS[kind], MODES[mode], how, path, done, usual, tmp_path)


def test_damage_that_nobody_names_is_a_failure(tmp_path):
    assert judge(tmp_path, "error: something is wrong", 1).failure.startswith("exit status 1, and no word of the file")
    assert judge(tmp_path, "error: exact.nii.gz: the gzip ends early", 1) == Outcome("")
    assert judge(tmp_path, "predict: 1/1  exact  0 s, 0 s left\nexact 7 done", 0).failure.startswith(
        "another result without a word"
    )
    assert judge(tmp_path, "warning: exact.nii.gz is doubtful", 0) == Outcome("")
    unsealed = {"kind": "metrics.jsonl", "mode": "report small"}
    assert judge(tmp_path, "", 0, how="flip", **unsealed).note == "unseen"
    assert judge(tmp_path, "", 0, how="[]", **unsealed).failure


@pytest.mark.parametrize(
    ("done", "broken"),
    [
        (Done(1, "Traceback (most recent call last):\nKeyError: 'a'"), "an error of ours"),
        (Done(70, "error: a mistake of raunet_jax: KeyError"), "an error of ours"),
        (Done(None, ""), "hangs"),
        (Done(1, "error: x.nii is cut short; copy it again"), ""),
    ],
)
def test_what_no_end_of_a_command_may_look_like(done, broken):
    assert done.broken.startswith(broken) and bool(done.broken) == bool(broken)
    assert bool(resources._refusal(done)("")) == bool(broken)


def test_an_errno_in_place_of_a_sentence_is_a_failure():
    assert resources._refusal(Done(1, "error: [Errno 28] No space left on device"))("").failure


def test_a_mask_turned_the_wrong_way_is_seen(tmp_path):
    """The judge of orientations, shown masks written by hand."""
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 1
    for place in ("scans", "masks"):
        (tmp_path / place).mkdir()
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), tmp_path / "scans" / "s.nii.gz")
    np.save(tmp_path / "s.npy", labels)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "masks" / "s_seg.nii.gz")
    assert not geometry._fault(tmp_path, tmp_path / "s.npy", in_space=False)
    nib.save(nib.Nifti1Image(labels[::-1], np.eye(4)), tmp_path / "masks" / "s_seg.nii.gz")
    assert geometry._fault(tmp_path, tmp_path / "s.npy", in_space=False) == "s: 2 voxels differ"
    nib.save(nib.Nifti1Image(labels, np.diag([1, 1, 2, 1])), tmp_path / "masks" / "s_seg.nii.gz")
    assert "another grid" in geometry._fault(tmp_path, tmp_path / "s.npy", in_space=False)


def test_a_scan_that_is_not_segmented_or_warned_of_is_seen(tmp_path):
    row = next(row for row in ROWS if row.writer == "not HU")
    (tmp_path / "masks").mkdir()
    case = {"case": "plus1024", "input": str(tmp_path / "case" / "plus1024.nii.gz"), "mask": "", "warnings": []}
    (tmp_path / "masks" / "summary.json").write_text(json.dumps({"cases": [case], "failed": []}))
    told = inputs._judge(row, Done(0, ""), tmp_path, None)
    assert "nothing is said of" in told and "plus1024.nii.gz is segmented without a warning" in told
