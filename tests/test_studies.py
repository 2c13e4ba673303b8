"""What is segmented of a study folder, a disc or a flat export, and what is said of the rest."""

import gc
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from exact_models import model
from raunet_jax import commands
from raunet_jax.commands.request import Request
from raunet_jax.commands.studies import find_studies
from raunet_jax.imaging.dicom import read_dicom_series
from study_writer import write_object, write_series

CT, BRAIN = model("tumor").config, model("brain").config
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """(folder, study's folder) of a patient of six CT series in a folder each, and what else a PACS hands over."""
    root = tmp_path_factory.mktemp("pacs")
    study = root / "patient7" / "20240229 CT Abdomen"
    kernel = {"ConvolutionKernel": "B30f"}
    write_series(study / "S1", "Topogram", 1, plane="coronal", SeriesNumber=1, ImageType=["ORIGINAL", "X", "LOCALIZER"])
    write_series(study / "S2", "Abdomen nativ", 17, 9.0, SeriesNumber=2, **kernel)
    write_series(study / "S3", "Abdomen art", 20, 8.0, SeriesNumber=3, **kernel)
    write_series(study / "S4", "Abdomen portal", 20, 8.0, SeriesNumber=4, value=400, **kernel)
    write_series(study / "S5", "Abdomen portal", 30, 5.5, SeriesNumber=5, ConvolutionKernel="B70f")
    write_series(study / "S6", "Abdomen portal cor", 10, 4.0, plane="coronal", SeriesNumber=6, **kernel)
    write_object(study / "SR", "1.2.840.10008.5.1.4.1.1.88.67", "SR", Rows=None)
    write_object(study / "SC", "1.2.840.10008.5.1.4.1.1.7", "OT")
    return root, study


def test_of_a_pacs_export_the_portal_venous_series_is_segmented_and_the_choice_is_said(pacs):
    root, study = pacs
    found = find_studies(root, CT)
    ((name, (folder,), (key,)),) = found.chosen
    assert (name, folder, found.failed) == ("patient7_20240229 CT Abdomen", study / "S4", [])
    assert read_dicom_series(folder, key).voxels.max() == 419
    said, others = found.notes
    assert said == (
        f"{study}: segmented is series 4 'Abdomen portal' (CT, 20 slices); passed over: 2 'Abdomen nativ' (CT, 17 "
        "slices): native phase; 3 'Abdomen art' (CT, 20 slices): arterial phase; 5 'Abdomen portal' (CT, 30 slices): "
        "sharp kernel B70f, for lungs or bones; 6 'Abdomen portal cor' (CT, 10 slices): coronal slices"
    )
    kinds = {f"1 dose report ({study.name}/SR)", f"1 secondary capture ({study.name}/SC)", "1 localizer (S1/IM0000)"}
    assert set(others.removeprefix(f"{root}: passed over: ").split(", ")) == kinds
    assert found.dicom_files == {path for path in root.rglob("*") if path.is_file()}
    assert "Doe" not in str(found)


def test_several_series_of_a_study_are_named_by_their_descriptions(pacs):
    root, _ = pacs
    assert [name for name, *_ in find_studies(root, CT, "abdomen portal").chosen] == [
        "patient7_20240229 CT Abdomen_4_Abdomen_portal",
        "patient7_20240229 CT Abdomen_5_Abdomen_portal",
    ]
    assert len(find_studies(root, CT, "all").chosen) == 4


def test_a_wanted_series_that_is_not_there_is_a_failure_that_lists_what_is(pacs):
    root, study = pacs
    found = find_studies(root, CT, "hepatic*")
    (failure,) = found.failed
    assert found.chosen == [] and failure["input"] == str(study)
    assert "no series that --series=hepatic* names; there is 2 'Abdomen nativ' (CT, 17 slices)" in failure["reason"]


def test_a_uid_is_of_one_study_and_no_other_lacks_it(tmp_path):
    uid = write_series(tmp_path / "a", "one", 4)
    write_series(tmp_path / "b", "two", 4, StudyInstanceUID="1.2.9")
    found = find_studies(tmp_path, CT, uid)
    assert [scan[2] for scan in found.chosen] == [(uid,)] and found.failed == []
    assert [failure["input"] for failure in find_studies(tmp_path, CT, "one").failed] == [str(tmp_path / "b")]
    assert len(find_studies(tmp_path, CT, "9.9").failed) == 2


def test_each_study_of_a_folder_gives_a_scan_named_by_its_folder(tmp_path):
    for patient in ("anna", "bert"):
        for number, phase in enumerate(("portal", "native"), 1):
            elements = {"PatientID": patient, "SeriesNumber": number, "StudyInstanceUID": f"1.2.{ord(patient[0])}"}
            write_series(tmp_path / patient / "DICOM" / phase, phase, **elements)
    found = find_studies(tmp_path, CT)
    assert [(name, folders[0].name) for name, folders, _ in found.chosen] == [("anna", "portal"), ("bert", "portal")]
    assert len(found.notes) == 3 and "2 scans of 2 studies are segmented" in found.notes[-1]


def test_a_study_of_pet_alone_beside_a_ct_is_a_note_and_alone_a_failure(tmp_path):
    write_series(tmp_path / "ct", "CT")
    write_series(tmp_path / "pet", "PET AC", Modality="PT", StudyInstanceUID="1.2.9")
    found = find_studies(tmp_path, CT)
    assert len(found.chosen) == 1 and found.failed == []
    assert f"{tmp_path / 'pet'}: passed over: 1 'PET AC' (PT, 32 slices)" in found.notes
    assert "holds no CT series" in find_studies(tmp_path / "pet", CT).failed[0]["reason"]


def test_three_series_of_a_flat_export_are_told_apart_by_their_headers(tmp_path):
    for number, words in enumerate(("nativ", "portal", "lung"), 1):
        name = f"{number}_{{:05d}}"
        write_series(tmp_path / "p3", words, SeriesNumber=number, name=name, value=100 * number, ConvolutionKernel="B")
    ((name, (folder,), (key,)),) = find_studies(tmp_path / "p3", CT).chosen
    assert name == "p3" and read_dicom_series(folder, key).voxels.min() == 200


def test_two_studies_in_one_folder_are_named_by_their_series(tmp_path):
    write_series(tmp_path / "p", "before", name="a{}", SeriesNumber=2)
    write_series(tmp_path / "p", "after", name="b{}", SeriesNumber=2, StudyInstanceUID="1.2.9")
    assert {name for name, *_ in find_studies(tmp_path, CT).chosen} == {"p_2_before", "p_2_after"}


@pytest.mark.parametrize(
    "generic", ["DICOM", "ST000000", "PT000001", "CT", "1.2.840.113619.2.55", "20240229", "export-2", "a PORTAL scan"]
)
def test_folders_that_say_what_they_hold_give_their_name_to_no_scan(tmp_path, generic):
    write_series(tmp_path / "patient7" / generic, "portal", 2)
    for root in (tmp_path, tmp_path / "patient7"):
        assert find_studies(root, CT).chosen[0][0] == "patient7"
    alone = find_studies(tmp_path / "patient7" / generic, CT).chosen[0][0]
    assert alone == (generic if "PORTAL" in generic else "patient7")


def test_names_hold_no_separators_and_are_short(tmp_path):
    for number in (1, 2):
        write_series(tmp_path / "p", "Ä/../b: " + "x" * 50, 4, name=f"{number}_{{}}", SeriesNumber=number)
    for number, (name, *_) in enumerate(find_studies(tmp_path, CT, "all").chosen, 1):
        assert name.startswith(f"p_{number}_Ä_.._b_xxx") and "/" not in name and len(name.encode()) <= 80


@pytest.fixture(scope="module")
def burnt(tmp_path_factory):
    """A disc of two series with its DICOMDIR, its files without ending in folders of its own."""
    root, files = tmp_path_factory.mktemp("burnt"), FileSet()
    for number, words in enumerate(("nativ", "portal"), 1):
        write_series(root / "files", words, 32, SeriesNumber=number, name=f"{number}_{{}}", value=100 * number)
    for path in sorted((root / "files").iterdir()):
        files.add(path)
    files.write(root / "disc")
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # of the folder that it leaves behind
        del files
        gc.collect()
    return root / "disc"


@pytest.fixture
def disc(burnt, tmp_path):
    return pathlib.Path(shutil.copytree(burnt, tmp_path / "disc"))


def test_a_disc_with_a_dicomdir_is_read_by_its_files(disc):
    assert (disc / "DICOMDIR").is_file() and not list(disc.rglob("*.dcm"))
    found = find_studies(disc, CT)
    ((_, (folder,), (key,)),) = found.chosen
    np.testing.assert_array_equal(read_dicom_series(folder, key).voxels[:, 0, 0, 0], range(200, 232))
    assert found.failed == [] and len(found.notes) == 1 and disc / "DICOMDIR" in found.dicom_files


def test_files_that_a_dicomdir_names_and_that_are_missing_are_said(disc):
    gone = [path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    gone = [path for path in gone if pydicom.dcmread(path).SeriesNumber == 2][-2:]
    for path in gone:
        path.unlink()
    (said,) = [note for note in find_studies(disc, CT).notes if "DICOMDIR" in note]
    assert "names 32 files of series 2, 30 are there; missing is" in said


def test_a_disc_that_was_copied_in_small_letters_misses_nothing(disc):
    for path in sorted(disc.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    assert not [note for note in find_studies(disc, CT).notes if "dicomdir" in note]


def test_damaged_files_are_failures_said_once_a_folder(tmp_path):
    write_series(tmp_path / "p", "CT")
    for number in range(3):
        (tmp_path / "p" / f"bad{number}.dcm").write_bytes(b"x" * 10)
    (tmp_path / "q.dcm").write_bytes(b"")
    found = find_studies(tmp_path, CT)
    assert len(found.chosen) == 1
    again = "; export or copy it again, and see that you may read it"
    assert {failure["reason"] for failure in found.failed} == {
        f"{tmp_path / 'p'}: 3 times not a readable DICOM file (10 bytes), such as bad0.dcm{again}",
        f"{tmp_path / 'q.dcm'}: not a readable DICOM file (0 bytes){again}",
    }


def test_only_the_files_given_are_looked_at(tmp_path):
    write_series(tmp_path / "p", "CT", value=1)
    write_series(tmp_path / "p" / "masks", "liver", PatientID="other")
    files = list((tmp_path / "p").glob("IM*"))
    found = find_studies(tmp_path, CT, files=files)
    assert len(found.chosen) == 1 and found.dicom_files == set(files)
    assert find_studies(files[0], CT).failed[0]["reason"].endswith("there is 1 'CT' (CT, 1 slice)")


def write_brain(folder, **of_flair):
    for number, words in enumerate(("T1", "T1 +C", "T2", "FLAIR"), 1):
        elements = {"Modality": "MR", "SeriesNumber": number, "value": 100 * number}
        write_series(folder / f"S{number}", words, 12, **elements | (of_flair if words == "FLAIR" else {}))


def test_the_four_series_of_a_brain_are_one_scan_of_four_channels(tmp_path):
    write_brain(tmp_path / "p")
    write_series(tmp_path / "p" / "S5", "DWI", 12, Modality="MR", SeriesNumber=5)
    ((name, folders, keys),) = find_studies(tmp_path, BRAIN).chosen
    assert name == "p" and [folder.name for folder in folders] == ["S1", "S2", "S3", "S4"] and len(set(keys)) == 4


def test_a_brain_whose_series_lie_on_several_grids_is_refused(tmp_path):
    write_brain(tmp_path / "p", step=6.0)
    (failure,) = find_studies(tmp_path, BRAIN).failed
    assert "but flair: 4 'FLAIR' (MR, 12 slices), 11.0 mm away; register" in failure["reason"]


def run_list(paths, capsys, **options):
    status = commands.load("predict", True)(Request(None, None, input=list(map(str, paths)), **options))
    return status, capsys.readouterr().out


def test_the_table_marks_what_is_chosen_and_says_why_the_rest_is_not(pacs, capsys):
    root, study = pacs
    status, said = run_list([root], capsys)
    lines = said.splitlines()
    assert status == 0 and lines[0] == f"{study}: study 2024-02-29"
    assert lines[1].split() == "series description kind plane slices mm kernel contrast body part choice UID".split()
    rows = {line.split()[0]: line for line in lines[2:7]}
    assert "segmented" in rows["4"] and "portal venous" in rows["4"] and "8.00" in rows["4"] and "1.2.826" in rows["4"]
    assert "arterial phase" in rows["3"] and "sharp kernel B70f" in rows["5"] and "coronal slices" in rows["6"]
    assert said.count("segmented") == 1 and "1 dose report (20240229 CT Abdomen/SR)" in lines[-1] and "Doe" not in said
    starts = [line.index("CT  ") for line in lines[2:7]]
    assert len(set(starts)) == 1  # aligned


def test_the_table_says_what_a_mistaken_choice_would_find(pacs, capsys):
    status, said = run_list(pacs[:1], capsys, series="liver*")
    assert status == 0 and "segmented" not in said and "no series that --series=liver* names" in said


def test_the_command_line_lists_without_a_model_a_run_folder_or_an_output(tmp_path):
    write_series(tmp_path / "p", "portal", 4)
    command = [sys.executable, "run.py", "--mode=predict", "--list", f"--input={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0 and "portal venous" in done.stdout and "segmented" in done.stdout, done.stderr
    missing = subprocess.run([*command[:-1], "--input=nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 1 and "nowhere does not exist" in missing.stderr
