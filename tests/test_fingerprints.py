import os

import nibabel as nib
import numpy as np
import pytest

import ircadb_writer
import spleen_task
import tiny_lits
from data_prep import fingerprints as module
from data_prep.cases import find_cases, join_copies, split_cases
from data_prep.fingerprints import fingerprints
from data_prep.layouts import Case


def contents(config):
    return {name: found.content for name, found in fingerprints(find_cases(config), config).items()}


def write(root, number, hu, affine, dtype=np.int16):
    root.mkdir(exist_ok=True)
    nib.Nifti1Image(hu.astype(dtype), affine).to_filename(root / f"volume-{number}.nii.gz")
    nib.Nifti1Image((hu > 0).astype(np.uint8), affine).to_filename(root / f"segmentation-{number}.nii.gz")


def test_a_copy_has_the_contents_of_its_original_however_it_is_stored_and_another_scan_has_not(tmp_path):
    hu = np.random.default_rng(0).integers(-300, 400, (9, 8, 7))
    affine = np.diag([0.7, 0.7, 2.0, 1.0])
    write(tmp_path, 0, hu, affine)
    write(tmp_path, 1, hu.astype(float), affine, np.float32)
    write(tmp_path, 2, hu[::-1, ::-1], np.diag([-0.7, -0.7, 2.0, 1.0]))
    write(tmp_path, 3, hu.transpose(2, 0, 1), np.eye(4))  # turned, its spacing lost
    padded = np.where(hu < -250, -2048, hu)  # below the window: what a scanner wrote where it measured nothing
    write(tmp_path, 4, padded, affine)
    one_voxel = hu.copy()
    one_voxel[np.unravel_index(np.argmax(hu == 100), hu.shape)] += 1
    write(tmp_path, 5, one_voxel, affine)
    found = contents(tiny_lits.recipe(tmp_path, tmp_path))
    assert len({found[f"volume-{number}"] for number in range(5)}) == 1
    assert found["volume-5"] != found["volume-0"]


def test_the_same_patient_in_dicom_and_in_nifti_has_one_content(tmp_path):
    hu, liver, _ = ircadb_writer.draw()
    ircadb_writer.write_patient(tmp_path / "ircadb" / "3Dircadb1.1", hu, {"liver": liver}, feet_first=True)
    config = tiny_lits.recipe(tmp_path / "ircadb", tmp_path, source="ircadb")
    (case,) = find_cases(config)
    write(tmp_path / "lits", 28, hu.transpose(2, 1, 0), np.eye(4))
    lits = tiny_lits.recipe(tmp_path / "lits", tmp_path)
    assert list(contents(config).values()) == list(contents(lits).values())


def test_scans_are_hashed_once_and_again_when_a_file_changes_even_at_the_same_size(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 2)
    config = tiny_lits.recipe(root, tmp_path / "prepared")
    cases = find_cases(config)
    first = fingerprints(cases, config)
    hashed = []
    real = module.fingerprint
    monkeypatch.setattr(module, "fingerprint", lambda case, config: hashed.append(case.name) or real(case, config))
    assert fingerprints(cases, config) == first and hashed == []
    mask = root / "segmentation-1.nii.gz"
    raw = bytearray(mask.read_bytes())
    raw[-5] ^= 1
    before = mask.stat()
    mask.write_bytes(raw)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    again = fingerprints(cases, config)
    assert hashed == ["volume-1"] and mask.stat().st_size == before.st_size
    assert again["volume-1"].files != first["volume-1"].files and again["volume-1"].content == first["volume-1"].content
    assert again["volume-0"] == first["volume-0"]


def test_processes_give_the_same_hashes(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 3)
    here, there = (tiny_lits.recipe(root, tmp_path / name, workers=2) for name in ("here", "there"))
    found = fingerprints(find_cases(here), here)
    monkeypatch.setattr(module, "SMALL", 0)
    assert fingerprints(find_cases(there), there) == found


def test_a_scan_that_cannot_be_read_has_files_but_no_content(tmp_path):
    root = tiny_lits.write(tmp_path / "lits", 1)
    (root / "volume-0.nii.gz").write_bytes(b"no scan")
    (found,) = fingerprints(find_cases(tiny_lits.recipe(root, tmp_path)), tiny_lits.recipe(root, tmp_path)).values()
    assert found.content is None and len(found.files) == 64


def test_a_damaged_cache_is_made_anew(tmp_path):
    root = tiny_lits.write(tmp_path / "lits", 1)
    config = tiny_lits.recipe(root, tmp_path)
    first = fingerprints(find_cases(config), config)
    (tmp_path / "fingerprints.json").write_text('{"half')
    assert fingerprints(find_cases(config), config) == first


def test_copies_become_one_patient_and_never_fall_into_different_folds(capsys):
    cases = [Case(f"volume-{number}", (), None, f"volume-{number}") for number in range(9)]
    cases += [Case("visit-1", (), None, "volume-3")]  # a second visit of the patient of volume-3
    same = {"volume-7": "x", "visit-1": "x", "volume-2": "y", "volume-5": "y"}
    joined = join_copies(cases, {case.name: same.get(case.name, case.name) for case in cases})
    patient = {case.name: case.patient for case in joined}
    assert patient["volume-3"] == patient["visit-1"] == patient["volume-7"]
    assert patient["volume-2"] == patient["volume-5"] and len(set(patient.values())) == 7
    assert "volume-5 is the same scan as volume-2" in capsys.readouterr().err
    config = tiny_lits.recipe("", "")
    for seed in range(5):
        config.seed = seed
        for fold in split_cases(joined, config).folds:
            names = {case.name for case in fold}
            assert len(names & {"volume-2", "volume-5"}) != 1
            assert len(names & {"volume-3", "volume-7", "visit-1"}) in (0, 3)


def test_scans_without_content_are_no_copies_of_each_other():
    cases = [Case(name, (), None, name) for name in "ab"]
    assert join_copies(cases, {"a": None, "b": None}) == cases


def test_taking_a_structure_out_of_a_dicom_case_changes_its_files_and_a_hidden_file_does_not(tmp_path):
    hu, liver, tumors = ircadb_writer.draw()
    folder = tmp_path / "ircadb" / "3Dircadb1.1"
    ircadb_writer.write_patient(folder, hu, {"liver": liver, "livertumor01": tumors[0]})
    config = tiny_lits.recipe(tmp_path / "ircadb", tmp_path, source="ircadb")
    (first,) = fingerprints(find_cases(config), config).values()
    (folder / "PATIENT_DICOM" / ".DS_Store").write_bytes(b"mac")
    assert list(fingerprints(find_cases(config), config).values()) == [first]
    (folder / "MASKS_DICOM" / "livertumor01").rename(folder / "MASKS_DICOM" / "no_tumor01")
    (second,) = fingerprints(find_cases(config), config).values()
    assert second.files != first.files and second.content == first.content


def test_scans_with_nothing_inside_the_liver_window_are_not_taken_for_copies(tmp_path, monkeypatch):
    for number in range(2):
        bone = np.random.default_rng(number).integers(300, 1500, (9, 8, 7))
        write(tmp_path, number, bone, np.eye(4))
    assert set(contents(tiny_lits.recipe(tmp_path, tmp_path)).values()) == {None}
    custom = tiny_lits.recipe(tmp_path, tmp_path, "custom")
    first, second = contents(custom).values()
    assert first != second and None not in (first, second)
    spleen_task.add(monkeypatch)
    spleen = tiny_lits.recipe(tmp_path, tmp_path / "spleen", "spleen")
    assert list(contents(spleen).values()) == [first, second]


def test_a_file_that_cannot_be_read_now_stops_no_other_and_is_tried_again(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 2)
    config = tiny_lits.recipe(root, tmp_path)
    real = module.case_reading.read_image

    def out_of_memory(case, config):
        if case.name == "volume-0":
            raise MemoryError
        return real(case, config)

    monkeypatch.setattr(module.case_reading, "read_image", out_of_memory)
    first = fingerprints(find_cases(config), config)
    assert first["volume-0"] == ("unreadable", None, None) and first["volume-1"].content
    monkeypatch.setattr(module.case_reading, "read_image", real)
    again = fingerprints(find_cases(config), config)
    assert again["volume-0"].content and again["volume-1"] == first["volume-1"]


def test_what_was_read_before_a_kill_is_kept(tmp_path, monkeypatch):
    config = tiny_lits.recipe(tiny_lits.write(tmp_path / "lits", 3), tmp_path)
    real, read = module.fingerprint, []

    def killed_at_the_third(case, config):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(case.name)
        return real(case, config)

    monkeypatch.setattr(module, "SAVE_SECONDS", 0)
    monkeypatch.setattr(module, "fingerprint", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        fingerprints(find_cases(config), config)
    read.clear()
    fingerprints(find_cases(config), config)
    assert read == ["volume-2"]
