import json
import os

import nibabel as nib
import numpy as np
import pytest

from configs import brats, custom
from locked import lock
from raunet_jax.commands import score
from raunet_jax.commands.request import Request
from raunet_jax.imaging.grid import Grid
from raunet_jax.imaging.volume import read_nifti, write_mask, write_nifti
from raunet_jax.names import case_name
from raunet_jax.scores import as_stored, score_folders

AFFINE = np.diag([0.8, 0.9, 2.5, 1.0])


def labels(tumor=True):
    mask = np.zeros((4, 6, 8), np.uint8)
    mask[1:3, 1:5, 1:6] = 1
    if tumor:
        mask[1:3, 2:4, 2:5] = 2
    return mask


@pytest.fixture
def folders(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    return ours, theirs, tmp_path / "scores.json"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("volume-12.nii", "12"),
        ("segmentation-12.nii.gz", "12"),
        ("test-segmentation-3.nii", "3"),
        ("volume-12_seg.nii.gz", "12"),
        ("liver_7.nii.gz", "7"),
        ("Brats18_ABC_1_seg.nii.gz", "Brats18_ABC_1"),
        ("12.nii", "12"),
        ("my.case.1.nii.gz", "my.case.1"),
    ],
)
def test_the_case_is_what_names_of_masks_have_in_common(file, name):
    assert case_name(f"/some/volume-99/{file}") == name


def test_masks_of_the_same_case_are_scored_in_natural_order(folders):
    ours, theirs, output = folders
    for number in (10, 9):
        write_nifti(theirs / f"deep/segmentation-{number}.nii", labels(), AFFINE)
        write_nifti(ours / f"volume-{number}_seg.nii.gz", labels(tumor=number == 9), AFFINE)
    scores, problems = score_folders(ours, theirs, output)
    assert problems == []
    assert [case["case"] for case in scores["cases"]] == ["9", "10"]
    assert scores["liver"]["dice_per_case"] == 1 and scores["tumor"]["dice_per_case"] == 0.5
    assert json.loads(output.read_text()) == scores and output.with_suffix(".csv").exists()


def test_images_and_maps_beside_the_masks_are_left_alone(folders):
    ours, theirs, output = folders
    write_nifti(theirs / "volume-0.nii", labels() * 100.0, AFFINE)
    write_nifti(theirs / "segmentation-0.nii", labels(), AFFINE)
    write_nifti(ours / "volume-0_seg.nii.gz", labels(), AFFINE)
    write_nifti(ours / "volume-0_liver.nii.gz", labels() / 2.0, AFFINE)
    scores, problems = score_folders(ours, theirs, output)
    assert problems == [] and len(scores["cases"]) == 1


def test_spacing_and_orientation_come_from_the_files(folders):
    ours, theirs, output = folders
    shifted = np.roll(labels(False), 1, axis=0)
    write_nifti(theirs / "a.nii", labels(False), AFFINE, orientation="LPS")
    write_nifti(ours / "a.nii", shifted, AFFINE, orientation="SAL")
    scores, problems = score_folders(ours, theirs, output)
    assert problems == []
    assert scores["liver"]["msd"] == pytest.approx(2.5)


def test_float_masks_of_whole_numbers_are_welcome(folders):
    ours, theirs, output = folders
    write_nifti(theirs / "a.nii", labels(), AFFINE)
    write_nifti(ours / "a.nii", labels().astype(np.float32), AFFINE)
    assert score_folders(ours, theirs, output)[0]["tumor"]["dice_per_case"] == 1


def test_bad_cases_are_named_and_the_rest_is_scored(folders):
    ours, theirs, output = folders
    for name in ("good", "lonely", "shape", "moved", "probability", "cut"):
        write_nifti(theirs / f"{name}.nii.gz", labels(), AFFINE)
    write_nifti(ours / "good.nii.gz", labels(), AFFINE)
    write_nifti(ours / "extra.nii.gz", labels(), AFFINE)
    write_nifti(ours / "shape.nii.gz", labels()[:3], AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] = 40
    write_nifti(ours / "moved.nii.gz", labels(), moved)
    write_nifti(ours / "probability.nii.gz", labels() / np.float32(4), AFFINE)
    write_nifti(ours / "cut.nii.gz", labels(), AFFINE)
    (ours / "cut.nii.gz").write_bytes((ours / "cut.nii.gz").read_bytes()[:-20])
    scores, problems = score_folders(ours, theirs, output)
    assert [case["case"] for case in scores["cases"]] == ["good"]
    by_case = {problem.split(":")[0]: problem for problem in problems}
    assert sorted(by_case) == ["cut", "extra", "lonely", "moved", "probability", "shape"]
    assert "no counterpart" in by_case["extra"] and str(ours / "extra.nii.gz") in by_case["extra"]
    assert "no counterpart" in by_case["lonely"] and str(ours) in by_case["lonely"]
    assert "(8, 6, 3)" in by_case["shape"] and "(8, 6, 4)" in by_case["shape"]
    assert "40.0 mm" in by_case["moved"]
    assert "0.25" in by_case["probability"]
    assert str(ours / "cut.nii.gz") in by_case["cut"] and "ends early" in by_case["cut"]


@pytest.mark.parametrize("content", [b"", b"not a scan", b"\x1f\x8b garbage"])
def test_an_unreadable_reference_is_named(folders, content):
    ours, theirs, output = folders
    for name in ("good", "bad"):
        write_nifti(ours / f"{name}.nii.gz", labels(), AFFINE)
    write_nifti(theirs / "good.nii.gz", labels(), AFFINE)
    (theirs / "bad.nii.gz").write_bytes(content)
    scores, problems = score_folders(ours, theirs, output)
    assert len(scores["cases"]) == 1
    assert len(problems) == 1 and str(theirs / "bad.nii.gz") in problems[0]


def test_a_reference_that_is_no_3d_scan_is_named(folders):
    ours, theirs, output = folders
    for name in ("good", "flat"):
        write_nifti(ours / f"{name}.nii", labels(), AFFINE)
    write_nifti(theirs / "good.nii", labels(), AFFINE)
    nib.save(nib.Nifti1Image(np.zeros((5, 5), np.uint8), AFFINE), theirs / "flat.nii")
    _, problems = score_folders(ours, theirs, output)
    assert len(problems) == 1 and "flat.nii" in problems[0] and "(5, 5)" in problems[0]


def test_two_masks_of_one_case_are_reported(folders):
    ours, theirs, output = folders
    write_nifti(theirs / "a.nii", labels(), AFFINE)
    write_nifti(ours / "one/a.nii", labels(), AFFINE)
    write_nifti(ours / "two/a.nii.gz", labels(False), AFFINE)
    scores, problems = score_folders(ours, theirs, output)
    assert scores["tumor"]["dice_per_case"] == 1
    assert len(problems) == 1 and "two/a.nii.gz" in problems[0]


def test_brain_masks_merge_their_labels(folders):
    ours, theirs, output = folders
    reference = np.where(labels() == 2, 4, labels())
    write_nifti(theirs / "HGG/Brats18_X_1/Brats18_X_1_seg.nii.gz", reference.astype(np.uint8), AFFINE)
    write_nifti(theirs / "HGG/Brats18_X_1/Brats18_X_1_t1.nii.gz", reference * 90.5, AFFINE)
    write_nifti(ours / "Brats18_X_1_seg.nii.gz", (labels() > 0).astype(np.uint8), AFFINE)
    scores, problems = score_folders(ours, theirs, output, rule="brats")
    assert problems == [] and scores["whole_tumor"]["dice"] == 1 and scores["rule"] == "brats"


def score_with(folders, foreground, config=custom):
    """Exit status and scores of --mode=score with a recipe whose data.foreground is set."""
    ours, theirs, output = folders
    recipe = config.get_config()
    recipe.data.foreground = foreground
    status = score.run(Request(recipe, None, prediction=str(ours), reference=str(theirs), output=str(output)))
    return status, json.loads(output.read_text())


def shifted():
    """The labels of `labels` with the 12 voxels of label 2 a voxel further along x: 8 of them stay in place."""
    mask = labels(tumor=False)
    mask[1:3, 2:4, 3:6] = 2
    return mask


@pytest.mark.parametrize(
    "foreground, dice",
    [((2,), 2 * 8 / (12 + 12)), ((1,), 2 * 24 / (28 + 28)), ((1, 2), 1), ((), 1)],
)
def test_the_labels_of_data_foreground_are_scored_in_references_and_masks_of_other_programs(folders, foreground, dice):
    ours, theirs, _ = folders
    write_nifti(theirs / "a.nii", labels(), AFFINE)
    write_nifti(ours / "a.nii", shifted(), AFFINE)
    status, scores = score_with(folders, foreground)
    assert status == 0 and scores["foreground"]["dice"] == pytest.approx(dice)


def test_data_foreground_picks_labels_of_brains_too(folders):
    ours, theirs, _ = folders
    write_nifti(theirs / "a_seg.nii", labels(), AFFINE)
    write_nifti(ours / "a_seg.nii", shifted(), AFFINE)
    assert score_with(folders, (2,), brats)[1]["whole_tumor"]["dice"] == pytest.approx(2 / 3)


def test_our_own_masks_hold_the_foreground_as_label_1(folders):
    """As predictions and, like those that evaluate keeps beside them, as references."""
    ours, theirs, _ = folders
    write_nifti(theirs / "a.nii", labels(), AFFINE)
    like = read_nifti(theirs / "a.nii")
    write_mask(ours / "a_seg.nii.gz", shifted() == 2, like)
    status, scores = score_with(folders, (2,))
    assert status == 0 and scores["foreground"]["dice"] == pytest.approx(2 / 3)
    write_mask(theirs / "a.nii", labels() == 2, like)
    assert score_with(folders, (2,))[1]["foreground"]["dice"] == pytest.approx(2 / 3)


def test_our_own_masks_of_several_structures_are_not_taken_for_one(folders, capsys):
    ours, theirs, _ = folders
    for name in ("a", "b"):
        write_nifti(theirs / f"{name}.nii", labels(), AFFINE)
    write_mask(ours / "a_seg.nii.gz", labels(), read_nifti(theirs / "a.nii"))
    write_nifti(ours / "b_seg.nii.gz", labels(), AFFINE)
    status, scores = score_with(folders, (2,))
    assert status == 1 and [case["case"] for case in scores["cases"]] == ["b"]
    said = capsys.readouterr().err
    assert str(ours / "a_seg.nii.gz") in said and "holds the values 2 where a mask of labels (0, 1) is expected" in said


def test_masks_without_any_label_of_the_foreground_are_said_to_count_as_empty(folders, capsys):
    """As those of another program that merged the labels too: nothing tells its 1 from the references'."""
    ours, theirs, _ = folders
    write_nifti(theirs / "a.nii", labels(), AFFINE)
    write_nifti(ours / "a.nii", (labels() == 2).astype(np.uint8), AFFINE)
    status, scores = score_with(folders, (2,))
    assert status == 0 and scores["foreground"]["dice"] == 0
    said = capsys.readouterr().err
    assert f"{ours}: not one mask holds a label of (2,) (config.data.foreground)" in said and str(theirs) not in said


def test_nothing_to_score_is_an_error_that_says_why(folders):
    ours, theirs, output = folders
    with pytest.raises(FileNotFoundError, match="holds no .nii"):
        score_folders(ours, theirs, output)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score_folders(ours / "nowhere", theirs, output)
    write_nifti(ours / "a.nii", labels(), AFFINE)
    write_nifti(theirs / "b.nii", labels(), AFFINE)
    with pytest.raises(ValueError, match="not one case(.|\n)*a.nii(.|\n)*b.nii"):
        score_folders(ours, theirs, output)
    with pytest.raises(ValueError, match='"kidney".*lits2017 or brats'):
        score_folders(ours, theirs, output, rule="kidney")
    assert not output.exists()


def test_as_stored_gives_the_files_array_and_its_spacing():
    stored = np.arange(24).reshape(2, 3, 4)
    affine = np.array([[0, 0, -3.0, 0], [-2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    grid = Grid(stored.shape, affine, None)
    mask, spacing_mm = as_stored(grid.to_canonical(stored), grid)
    np.testing.assert_array_equal(mask.transpose(2, 1, 0), stored)
    assert spacing_mm == (3.0, 1.0, 2.0)


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 3.0), (1.0, 1.0, 10.0)])
def test_scores_of_a_block_moved_by_a_voxel_are_those_counted_by_hand(folders, spacing_mm):
    ours, theirs, output = folders
    affine = np.diag([*spacing_mm, 1.0])
    block = np.zeros((30, 36, 40), np.uint8)
    block[8:22, 10:26, 10:30] = 1
    write_nifti(theirs / "a.nii", block, affine)
    write_nifti(ours / "a.nii", np.roll(block, 1, axis=2), affine)
    one, moved = np.zeros_like(block), np.zeros_like(block)
    one[15, 18, 20] = moved[15, 18, 23] = 1
    write_nifti(theirs / "b.nii", moved, affine)
    write_nifti(ours / "b.nii", one, affine)
    scores, problems = score_folders(ours, theirs, output)
    step = spacing_mm[0]
    surface = 20 * 16 * 14 - 18 * 14 * 12
    # the one face across x lies outside of the other block, and of the other face all but its rim lies inside
    beside = 16 * 14 + 14 * 12
    a, b = (case["liver"] for case in scores["cases"])
    assert problems == [] and a["dice"] == pytest.approx(19 / 20) and a["jaccard"] == pytest.approx(19 / 21)
    assert a["assd"] == pytest.approx(step * beside / surface) and a["msd"] == pytest.approx(step)
    assert a["rmsd"] == pytest.approx(step * (beside / surface) ** 0.5)
    assert b["dice"] == 0 and b["assd"] == b["msd"] == b["hausdorff95"] == pytest.approx(3 * step)


def test_names_that_are_no_text_are_scored_and_written(folders):
    ours, theirs, output = folders
    for folder in (ours, theirs):
        for name in (b"a", b"l\xe9sion", b"z"):
            write_nifti(folder / "x.nii", labels(), AFFINE)
            (folder / "x.nii").rename(os.fsdecode(os.path.join(os.fsencode(folder), name + b".nii")))
    scores, problems = score_folders(ours, theirs, output)
    assert problems == [] and [case["case"] for case in scores["cases"]] == ["a", "l%E9sion", "z"]
    assert json.loads(output.read_text(encoding="utf-8")) == scores
    assert "l%E9sion" in output.with_suffix(".csv").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_looked_into_is_a_problem(folders, monkeypatch):
    ours, theirs, output = folders
    for folder in (ours, theirs):
        write_nifti(folder / "a.nii", labels(), AFFINE)
        write_nifti(folder / "locked" / "b.nii", labels(), AFFINE)
    lock(monkeypatch, "locked")
    scores, problems = score_folders(ours, theirs, output)
    assert len(scores["cases"]) == 1
    assert [problem.split(" (")[0] for problem in problems] == [
        f"{folder}/locked: cannot be looked into" for folder in (ours, theirs)
    ]
