import pathlib
import re

import numpy as np
import pydicom
import pytest

import ircadb_writer
from data_prep.ircadb import find_patients, read_labels
from raunet_jax.imaging.volume import VolumeError, read_dicom_series

HU, LIVER, TUMORS = ircadb_writer.draw()
SLICES = len(HU)
SHUFFLED = np.random.default_rng(3).permutation(SLICES).tolist()


def labels_of(tumors) -> np.ndarray:
    labels = LIVER.astype(np.uint8)
    for tumor in tumors:
        labels[tumor] = 2
    return labels


def write(tmp_path, tumors=None, **options) -> pathlib.Path:
    tumors = {f"livertumor0{index + 1}": tumor for index, tumor in enumerate(TUMORS)} if tumors is None else tumors
    return ircadb_writer.write_patient(tmp_path / "3Dircadb1.4", HU, {"liver": LIVER} | tumors, **options)


def read(folder) -> tuple[np.ndarray, np.ndarray]:
    image = folder / "PATIENT_DICOM"
    volume = read_dicom_series(image)
    return volume.voxels[..., 0], read_labels(folder / "MASKS_DICOM", image, volume)


def check(folder, tumors=TUMORS) -> None:
    voxels, labels = read(folder)
    np.testing.assert_array_equal(voxels, HU)
    np.testing.assert_array_equal(labels, labels_of(tumors))
    assert labels.dtype == np.uint8 and labels.flags.c_contiguous


@pytest.mark.parametrize("feet_first", [False, True], ids=["head first", "feet first"])
@pytest.mark.parametrize("numbers", [range(SLICES), range(SLICES)[::-1], SHUFFLED], ids=["up", "down", "shuffled"])
@pytest.mark.parametrize(
    "mask_position",
    [lambda place: place, lambda place: None, lambda place: [0.0, 0.0, 0.0], lambda place: [*place[:2], 40.0]],
    ids=["masks placed", "no positions", "positions all zero", "positions all of one slice"],
)
def test_scan_and_labels_are_the_arrays_they_were_drawn_from(tmp_path, feet_first, numbers, mask_position):
    check(write(tmp_path, feet_first=feet_first, numbers=numbers, mask_position=mask_position))


@pytest.mark.parametrize("feet_first", [False, True])
def test_a_mask_slice_goes_where_its_position_says_whatever_its_name(tmp_path, feet_first):
    check(write(tmp_path, mask_numbers=SHUFFLED, feet_first=feet_first))


def test_a_mask_of_zeros_and_ones_is_read(tmp_path):
    check(write(tmp_path, mask_value=1))


@pytest.mark.parametrize(
    "name", ["livertumor", "livertumor01", "livertumor1", "livertumor_1", "livertumors", "LiverTumor2"]
)
def test_folders_of_liver_tumors_are_known_by_every_spelling(tmp_path, name):
    check(write(tmp_path, {name: TUMORS[0]}), TUMORS[:1])


@pytest.mark.parametrize(
    "name", ["livercyst", "liverkyste", "metastasectomie", "tumor", "leftsurretumor", "portalvein", "skin"]
)
def test_other_structures_are_no_liver_tumor(tmp_path, name):
    check(write(tmp_path, {name: TUMORS[0]}), ())


def test_a_patient_without_tumors_has_none(tmp_path):
    assert np.unique(read(write(tmp_path, {}))[1]).tolist() == [0, 1]


def test_files_that_are_no_dicom_are_passed_over(tmp_path):
    folder = write(tmp_path)
    for where in ("PATIENT_DICOM", "MASKS_DICOM", "MASKS_DICOM/liver"):
        (folder / where / "Thumbs.db").write_bytes(b"thumbs")
        (folder / where / "._image_3").write_bytes(b"a Mac's companion")
    check(folder)


def edit(folder, name, **changes) -> None:
    path = folder / "MASKS_DICOM" / name
    data = pydicom.dcmread(path)
    for element, value in changes.items():
        setattr(data, element, value)
    data.save_as(path)


def refuse(folder, words) -> None:
    image = folder / "PATIENT_DICOM"
    volume = read_dicom_series(image)
    with pytest.raises(VolumeError, match=words):
        read_labels(folder / "MASKS_DICOM", image, volume)


def test_a_patient_without_a_liver_is_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "MASKS_DICOM" / "liver").rename(folder / "MASKS_DICOM" / "skin")
    refuse(folder, r"MASKS_DICOM: has no folder liver, but livertumor01, .*, skin; extract .*MASKS_DICOM.zip again")


@pytest.mark.parametrize("mask_position", [lambda position: position, lambda position: None])
def test_missing_mask_slices_are_named(tmp_path, mask_position):
    folder = write(tmp_path, mask_position=mask_position)
    for number in (2, 10):
        (folder / "MASKS_DICOM" / "livertumor02" / f"image_{number}").unlink()
    refuse(folder, r"livertumor02: has no mask for 2 of the scan's 12 slices \(image_2, image_10 of .*extract")


def test_a_structure_without_any_slice_is_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "MASKS_DICOM" / "livertumor09").mkdir()
    refuse(folder, r"livertumor09: has no mask for 12 of the scan's 12 slices \(image_0, image_1, image_2, …")


@pytest.mark.parametrize("mask_position", [lambda position: position, lambda position: None])
def test_a_mask_slice_too_many_is_named(tmp_path, mask_position):
    folder = write(tmp_path, mask_position=mask_position)
    (folder / "PATIENT_DICOM" / "image_11").unlink()
    refuse(folder, r"liver/image_11: a mask slice too many: the scan in .*PATIENT_DICOM has no slice .*remove it")


@pytest.mark.parametrize("name", ["image_3 (1)", "image_3.dcm"])
def test_a_copy_of_a_mask_slice_is_named(tmp_path, name):
    folder = write(tmp_path)
    liver = folder / "MASKS_DICOM" / "liver"
    (liver / name).write_bytes((liver / "image_3").read_bytes())
    refuse(folder, f"liver/{re.escape(name)}: a mask slice too many")


def test_a_mask_of_another_size_is_refused(tmp_path):
    folder = write(tmp_path)
    edit(folder, "liver/image_5", Rows=30, Columns=32)
    refuse(folder, r"liver/image_5: its pixels have shape \(30, 32\), those of .*image_0 \(32, 30\) \(rows, columns\)")


@pytest.mark.parametrize("values,seen", [((0, 128, 255), "0, 128, 255"), ((0, 1, 255), "0, 1, 255"), ((7, 7, 7), "7")])
def test_a_mask_of_other_values_is_refused(tmp_path, values, seen):
    folder = write(tmp_path)
    edit(folder, "liver/image_0", PixelData=bytes(values) * 320)
    refuse(folder, rf"liver/image_0: .*has the values {seen} where 0 and 255, or 0 and 1, are expected")


def test_zeros_and_ones_beside_zeros_and_255s_are_refused(tmp_path):
    folder = write(tmp_path)
    edit(folder, "liver/image_0", PixelData=bytes((0, 1)) * 480)
    refuse(folder, r"liver/image_\d+: with it the mask has the values 0, 1, 255")


def test_a_gradient_is_cut_short_in_the_message(tmp_path):
    folder = write(tmp_path)
    edit(folder, "liver/image_0", PixelData=bytes(range(240)) * 4)
    refuse(folder, r"values 0, 1, 2, 3, 4, … where")


@pytest.mark.parametrize(
    "size,words",
    [(0, r"not a readable DICOM file \(0 bytes\); copy"), (900, "cannot be decoded .*copy the file again")],
)
def test_a_mask_file_cut_short_is_named(tmp_path, size, words):
    folder = write(tmp_path)
    path = folder / "MASKS_DICOM" / "livertumor03" / "image_4"
    path.write_bytes(path.read_bytes()[:size])
    refuse(folder, rf"livertumor03/image_4: .*{words}")


def files(*paths) -> list[pathlib.Path]:
    return [pathlib.Path("data", path) for path in paths]


def test_patients_are_found_at_any_depth_in_the_order_of_their_numbers():
    found = find_patients(
        files(
            "deep/er/3Dircadb1.10/PATIENT_DICOM/image_0",
            "deep/er/3Dircadb1.10/MASKS_DICOM/liver/image_0",
            "3dircadb1.2/patient_dicom/patient_dicom/image_0",
            "3dircadb1.2/Masks_Dicom/Masks_Dicom/liver/image_0",
            "3dircadb1.2/Masks_Dicom/Masks_Dicom/readme.txt",
            "copy of 3Dircadb1.1/3Dircadb1.1/3Dircadb1.3/PATIENT_DICOM/image_0",
            "copy of 3Dircadb1.1/3Dircadb1.1/3Dircadb1.3/LABELED_DICOM/image_0",
            "3Dircadb2.1/PATIENT_DICOM/image_0",
            "volume-0.nii",
        )
    )
    assert list(found) == ["3Dircadb1.2", "3Dircadb1.3", "3Dircadb1.10"]
    second, third, tenth = found.values()
    data = pathlib.Path("data")
    assert second == (
        2,
        data / "3dircadb1.2/patient_dicom/patient_dicom",
        data / "3dircadb1.2/Masks_Dicom/Masks_Dicom",
        "",
    )
    assert third == (3, data / "copy of 3Dircadb1.1/3Dircadb1.1/3Dircadb1.3/PATIENT_DICOM", None, "")
    assert (tenth.number, tenth.masks, tenth.problem) == (10, data / "deep/er/3Dircadb1.10/MASKS_DICOM", "")


def test_a_patients_own_folder_may_be_the_root(tmp_path, monkeypatch):
    folder = write(tmp_path)
    monkeypatch.chdir(folder)
    found = find_patients([path for path in pathlib.Path(".").rglob("*") if path.is_file()])
    assert found == {"3Dircadb1.4": (4, pathlib.Path("PATIENT_DICOM"), pathlib.Path("MASKS_DICOM"), "")}


@pytest.mark.parametrize("part", ["PATIENT_DICOM", "MASKS_DICOM/liver"])
def test_two_copies_of_a_patient_are_named(part):
    words = rf"data/a/3Dircadb1.5/{part[:5]}.* and data/b/3Dircadb1.5/{part[:5]}.* both claim to be .* move one away"
    others = "a/3Dircadb1.6/PATIENT_DICOM/image_0"
    found = find_patients(files(f"a/3Dircadb1.5/{part}/image_0", f"b/3Dircadb1.5/{part}/image_0", others))
    assert found["3Dircadb1.5"].image is None and re.search(words, found["3Dircadb1.5"].problem)
    assert found["3Dircadb1.6"].problem == ""


@pytest.mark.parametrize(
    "paths,image,problem",
    [
        (
            ["3Dircadb1.5/PATIENT_DICOM.zip", "3Dircadb1.5/MASKS_DICOM.zip", "3Dircadb1.5.zip"],
            False,
            "data/3Dircadb1.5/PATIENT_DICOM.zip is an archive: extract it; "
            "data/3Dircadb1.5/MASKS_DICOM.zip is an archive: extract it",
        ),
        (
            ["3Dircadb1.5/PATIENT_DICOM/image_0", "3Dircadb1.5/MASKS_DICOM.zip", "3Dircadb1.5/LABELED_DICOM.zip"],
            True,
            "data/3Dircadb1.5/MASKS_DICOM.zip is an archive: extract it",
        ),
        (["3Dircadb1.5.zip"], False, "data/3Dircadb1.5.zip is an archive: extract it"),
        (
            ["3Dircadb1.5/MASKS_DICOM/liver/image_0", "3Dircadb1.5/MESHES_VTK.zip"],
            False,
            "data/3Dircadb1.5 has no PATIENT_DICOM folder beside MASKS_DICOM: download the patient again",
        ),
        (["3Dircadb1.5/PATIENT_DICOM/image_0", "3Dircadb1.5/PATIENT_DICOM.zip", "3Dircadb1.5.zip"], True, ""),
    ],
)
def test_what_keeps_a_patient_from_use_is_said(paths, image, problem):
    patient = find_patients(files(*paths))["3Dircadb1.5"]
    assert patient.problem == problem and (patient.image is not None) == image
    assert patient.number == 5


def test_other_archives_are_no_patients():
    assert find_patients(files("3Dircadb1.5/MESHES_VTK.zip", "PATIENT_DICOM.zip", "3Dircadb1.zip")) == {}
