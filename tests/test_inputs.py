"""Which files are scans: of each kind of folder, by themselves and beside what is none."""

import os
import pathlib

import pytest

import exact_models
import ircadb_writer
from exact_models import model
from locked import lock
from raunet_jax.commands import inputs
from raunet_jax.commands import passed_over as passing
from raunet_jax.commands.inputs import Input, find_inputs
from raunet_jax.imaging.volume import write_mask

CT = model("coarse").config
BRAIN = model("brain").config


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def touch_dicom(folder):
    made = ircadb_writer.write_patient(folder.with_name("made"), ircadb_writer.draw()[0], {})
    (made / "PATIENT_DICOM").rename(folder)
    made.rmdir()
    return folder


def names(paths, config=CT):
    found, failed = find_inputs(paths, config)
    assert failed == []
    return [scan.name for scan in found]


def test_a_file_is_a_scan_whatever_its_name(tmp_path):
    touch(tmp_path, "one.nii.gz", "two.nii", "three_seg.nii.gz", "four")
    paths = [tmp_path / name for name in ("one.nii.gz", "two.nii", "three_seg.nii.gz", "four")]
    found, failed = find_inputs(paths, CT)
    assert failed == []
    assert found == [
        Input(name, (path,)) for name, path in zip(("one", "two", "three_seg", "four"), paths, strict=True)
    ]


def test_a_folder_gives_its_nifti_files_at_any_depth_without_masks_and_hidden_files(tmp_path):
    scans = ("b.nii", "a.nii.gz", "deep/er/volume-3.nii")
    others = ("a_seg.nii.gz", "a_liver.nii.gz", "a_tumor.nii.gz", "a_brain.nii.gz", "deep/er/segmentation-3.nii")
    touch(tmp_path, *scans, *others, "notes.txt", "summary.json", "._a.nii.gz", ".trash/c.nii.gz")
    assert names([tmp_path]) == ["a", "b", "volume-3"]


def passed_over(folder, files, capsys):
    """(names of the scans, the line about the others) of a folder of empty files."""
    touch(folder, *files)
    return names([folder]), capsys.readouterr().err


@pytest.mark.parametrize(
    "files, scans",
    [
        (["p1_brain.nii.gz", "p2_brain.nii.gz"], ["p1_brain", "p2_brain"]),  # skull-stripped MR
        (["p1_liver.nii", "p1_reference.nii.gz", "volume_seg.nii"], ["p1_liver", "p1_reference", "volume_seg"]),
        (["segmentation-1.nii", "volume-10.nii"], ["segmentation-1", "volume-10"]),
        (["a/p1.nii.gz", "b/p1_seg.nii.gz", "b/p1_brain.nii.gz"], ["p1", "p1_brain", "p1_seg"]),
        (["p1_brain.nii.gz", "p1_seg.nii.gz"], ["p1_brain", "p1_seg"]),  # whose mask it is, nobody knows
    ],
)
def test_no_scan_is_passed_over_for_its_name_alone(tmp_path, capsys, files, scans):
    assert passed_over(tmp_path, files, capsys) == (scans, "")


@pytest.mark.parametrize(
    "files, scans, results",
    [
        (["p1.nii", "p1_seg.nii.gz"], ["p1"], ["p1_seg.nii.gz"]),
        (["p1_brain.nii", "p1_brain_seg.nii"], ["p1_brain"], ["p1_brain_seg.nii"]),
        (["P1.nii", "p1_SEG.nii", "p1_Tumor.NII"], ["P1"], ["p1_SEG.nii", "p1_Tumor.NII"]),
        (["Volume-1.nii", "SEGMENTATION-1.nii.gz"], ["Volume-1"], ["SEGMENTATION-1.nii.gz"]),
    ],
)
def test_results_beside_their_scan_are_passed_over_and_said_in_one_line(tmp_path, capsys, files, scans, results):
    line = (
        f"{tmp_path}: passed over are masks, labels or results: {len(results)} ({', '.join(results)}). "
        "To segment a file all the same, name it itself\n"
    )
    assert passed_over(tmp_path, files, capsys) == (scans, line)
    assert names([tmp_path / results[0]]) != []


def test_many_results_of_several_folders_are_counted_in_one_line(tmp_path, capsys):
    files = [f"{folder}/{name}{end}.nii" for folder in "ab" for name in "rstu" for end in ("", "_seg", "_uncertainty")]
    scans, said = passed_over(tmp_path, files, capsys)
    assert len(scans) == 8 and said.count("\n") == 1 and "results: 16 (" in said
    assert said.split("(")[-1].count("_") == passing.NAMED  # of the names, each with one


def test_masks_that_predict_wrote_are_results_though_the_scan_lies_elsewhere(tmp_path, capsys):
    hu, labels = exact_models.abdomen()
    scan = exact_models.scan(tmp_path / "elsewhere", hu)
    write_mask(tmp_path / "here" / "p1_seg.nii.gz", labels, scan)
    scans, said = passed_over(tmp_path / "here", ["p1_liver.nii.gz", "p2.nii.gz", "p3_seg.nii.gz"], capsys)
    assert scans == ["p2", "p3_seg"] and "results: 2 (p1_liver.nii.gz, p1_seg.nii.gz)" in said


def test_a_dicom_folder_is_one_scan_and_nested_series_are_one_each(tmp_path):
    touch_dicom(tmp_path / "patients" / "anna" / "portal")
    touch_dicom(tmp_path / "patients" / "anna" / "native")
    touch_dicom(tmp_path / "patients" / "bert")
    touch(tmp_path, "patients/anna/DICOMDIR", "patients/carl.nii.gz")
    assert names([tmp_path / "patients" / "bert"]) == ["bert"]
    found, _ = find_inputs([tmp_path / "patients"], CT)
    assert [scan.name for scan in found] == ["native", "portal", "bert", "carl"]
    assert found[0].images == (tmp_path / "patients" / "anna" / "native",)


def test_a_missing_path_and_an_empty_folder_are_failures_and_the_rest_goes_on(tmp_path):
    touch(tmp_path, "good.nii.gz")
    (tmp_path / "empty").mkdir()
    found, failed = find_inputs([tmp_path / "gone", tmp_path / "empty", tmp_path / "good.nii.gz"], CT)
    assert [scan.name for scan in found] == ["good"]
    assert [failure["input"] for failure in failed] == [str(tmp_path / "gone"), str(tmp_path / "empty")]
    assert failed[0]["reason"] == f"{tmp_path}/gone does not exist; give a NIfTI file, an archive or a folder"
    assert (
        failed[1]["reason"] == f"{tmp_path}/empty holds no scan; looked for a NIfTI file or DICOM series at any depth"
    )


@pytest.mark.parametrize("link, target", [("all/self", "all"), ("elsewhere/back", "all")])
def test_a_folder_that_links_lead_back_to_gives_each_scan_once(tmp_path, link, target):
    touch(tmp_path, "all/deep/a.nii.gz", "elsewhere/b.nii.gz")
    if link != "all/self":  # one cycle at a time: with two, a search without end would hang the suite
        (tmp_path / "all" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / target)
    assert names([tmp_path / "all"]) == (["a"] if link == "all/self" else ["a", "b"])


def test_a_folder_that_cannot_be_searched_is_a_failure_and_the_rest_goes_on(tmp_path, monkeypatch):
    touch(tmp_path, "good/a.nii.gz", "locked/b.nii.gz")
    lock(monkeypatch, "locked")
    reason = f"{tmp_path}/locked cannot be looked into (Permission denied); see that you may read it"
    for paths in ([tmp_path], [tmp_path / "locked", tmp_path / "good"]):
        found, failed = find_inputs(paths, CT)
        assert [scan.name for scan in found] == ["a"]
        assert failed == [{"input": str(tmp_path / "locked"), "reason": reason}]


def test_scans_of_one_name_are_told_apart(tmp_path):
    touch(tmp_path, "a/ct.nii.gz", "b/ct.nii.gz", "c/ct-2.nii.gz", "d/ct.nii")
    found, _ = find_inputs([tmp_path], CT)
    assert [scan.name for scan in found] == ["a", "b", "ct-2", "d"]
    assert {scan.images[0] for scan in found} == {path for path in tmp_path.glob("?/*")}


def touch_head(root, case, *modalities):
    return touch(root, *(f"{case}/{case}_{modality}.nii.gz" for modality in modalities))


def test_brats_case_folders_give_the_modalities_in_the_recipes_order(tmp_path):
    touch_head(tmp_path / "HGG", "Brats18_A_1", "flair", "seg", "t1", "t1ce", "t2")
    touch_head(tmp_path / "LGG", "Brats18_B_1", "flair", "t1", "t1ce", "t2")
    assert names([tmp_path], BRAIN) == ["Brats18_A_1", "Brats18_B_1"]
    found, _ = find_inputs([tmp_path / "LGG" / "Brats18_B_1"], BRAIN)
    assert [path.name for path in found[0].images] == [
        f"Brats18_B_1_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")
    ]


def test_what_is_no_brats_case_is_said_so(tmp_path):
    touch_head(tmp_path / "cases", "A", "t1", "t1ce", "t2")
    touch(tmp_path, "other/scan.nii.gz")
    paths = [tmp_path / "cases", tmp_path / "other", tmp_path / "other" / "scan.nii.gz"]
    found, failed = find_inputs(paths, BRAIN)
    assert found == []
    lacks, nothing, single = (failure["reason"] for failure in failed)
    assert f"{tmp_path}/cases/A lacks A_flair.nii[.gz]" in lacks
    assert f"{tmp_path}/other holds no scan; looked for a BraTS case (CASE_t1.nii.gz …) at any depth" in nothing
    assert "scan.nii.gz is one file; give the folder that holds t1, t1ce, t2, flair of a case" in single


def test_a_brats_case_that_is_there_twice_does_not_stop_the_others(tmp_path):
    for copy in ("one", "two"):
        touch_head(tmp_path / "twice" / copy, "A", "t1", "t1ce", "t2", "flair")
    touch_head(tmp_path / "good", "B", "t1", "t1ce", "t2", "flair")
    found, failed = find_inputs([tmp_path / "twice", tmp_path / "good"], BRAIN)
    assert [scan.name for scan in found] == ["B"]
    assert [failure["input"] for failure in failed] == ["A"]
    assert "claim to be the same file of one case" in failed[0]["reason"]


def test_a_file_that_may_not_be_read_is_named_and_the_others_are_found(tmp_path, monkeypatch):
    touch(tmp_path, "a.nii.gz", "notes.txt", "IM7", "b/1.2.840.7")
    lock(monkeypatch, "notes.txt", "IM7", "1.2.840.7")
    found, failed = find_inputs([tmp_path], CT)
    assert [scan.name for scan in found] == ["a"]
    for failure, name in zip(failed, ("IM7", "b/1.2.840.7"), strict=True):
        assert failure["input"] == f"{tmp_path}/{name}"
        assert f"{name}: cannot be read (Permission denied)" in failure["reason"]


def test_scans_beside_and_below_dicom_files_are_found(tmp_path):
    touch_dicom(tmp_path / "anna")
    touch_dicom(tmp_path / "anna" / "deeper")
    touch(tmp_path, "anna/a.nii.gz", "anna/deeper/still/b.nii")
    assert names([tmp_path]) == ["anna", "a", "deeper", "b"]


def test_all_that_is_no_scan_is_said_once(tmp_path, capsys):
    touch(tmp_path, "a.nii", "a_seg.nii", "b.nrrd", "c.mha", "old.rar", "README", "x.csv", "index.html", "a.png")
    assert names([tmp_path]) == ["a"]
    assert capsys.readouterr().err == (
        f"{tmp_path}: passed over are masks, labels or results: 1 (a_seg.nii); other files: 1 (README); "
        "images in formats to be converted to NIfTI first: 3 (a.png, b.nrrd, c.mha); "
        "archives to be unpacked first: 1 (old.rar). To segment a file all the same, name it itself\n"
    )


def test_a_folder_without_a_scan_says_what_it_holds(tmp_path):
    touch(tmp_path, "1.png", "2.png", "3.PNG", "b.nrrd", "notes")
    found, (failure,) = find_inputs([tmp_path], CT)
    assert found == [] and failure["reason"].endswith("; there are 3 of .png, 1 of .nrrd, 1 of no ending")


def test_a_pipe_is_no_scan_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    found, (failure,) = find_inputs([tmp_path / "pipe.nii"], CT)
    assert found == [] and "neither a file nor a folder" in failure["reason"]
    os.mkfifo(tmp_path / "IM1")  # as a file without an ending, it might be DICOM
    touch(tmp_path, "a.nii.gz")
    assert names([tmp_path]) == ["a"]


def test_a_scan_that_is_named_twice_is_segmented_once(tmp_path, monkeypatch):
    touch(tmp_path, "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert names([tmp_path, tmp_path / "a.nii.gz", tmp_path, pathlib.Path("a.nii.gz")]) == ["a"]


def test_a_mistake_of_ours_at_one_path_is_called_so_and_the_rest_goes_on(tmp_path, monkeypatch):
    touch(tmp_path, "a/a.nii.gz", "b.nii.gz")
    monkeypatch.setattr(inputs, "look_below", lambda root: 1 / 0)
    found, (failure,) = find_inputs([tmp_path / "a", tmp_path / "b.nii.gz"], CT)
    assert [scan.name for scan in found] == ["b"]
    assert failure["reason"].startswith("a mistake of raunet_jax: ZeroDivisionError")


def test_brats_cases_of_any_year_are_found_and_what_is_missing_is_named(tmp_path, capsys):
    new = "BraTS-GLI-00000-000"
    touch(tmp_path, *(f"{new}/{new}-{word}.nii.gz" for word in ("t1n", "t1c", "t2w", "t2f")))
    touch(tmp_path, *(f"pat123/{word}.nii.gz" for word in ("t1", "t1ce", "t2", "flair", "seg")), "pat123/lone.nii")
    (tmp_path / "pat124").mkdir()
    found, (failure,) = find_inputs([tmp_path], BRAIN)
    assert [scan.name for scan in found] == [new, "pat123"]
    assert failure == {"input": "pat124", "reason": f"{tmp_path}/pat124 is empty; copy its files again, or remove it"}
    assert "other files: 1 (pat123/lone.nii)" in capsys.readouterr().err
