"""Which files are which case, in the layouts that have a dataset.json or are DICOM (LiTS and BraTS: test_cases.py)."""

import json

import nibabel as nib
import numpy as np
import pytest

from configs import brats, custom, liver_voi
from data_prep import layouts, sources
from data_prep.cases import find_cases, read_case
from data_prep.layouts import no_mask, scan

LIVER = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}}
BRAIN = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


def task(root, description, *paths):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for path in paths:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    return root


def write(path, voxels_xyz):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(voxels_xyz, np.diag([1.0, 1.5, 2.0, 1.0])).to_filename(path)


def test_the_decathlons_liver_task_is_found_without_its_test_images(tmp_path):
    names = (
        "imagesTr/liver_10.nii.gz",
        "imagesTr/liver_2.nii.gz",
        "labelsTr/liver_10.nii.gz",
        "labelsTr/liver_2.nii.gz",
    )
    root = task(tmp_path / "Task03_Liver", LIVER, *names, "imagesTs/liver_7.nii.gz", "imagesTr/._liver_2.nii.gz")
    cases, incomplete = scan("decathlon", tmp_path, ("ct",))
    assert [case.name for case in cases] == ["liver_2", "liver_10"] and incomplete == []
    assert cases[0].images == (root / "imagesTr/liver_2.nii.gz",) and cases[0].mask == root / "labelsTr/liver_2.nii.gz"
    assert cases[0].channels == ()  # a file of one channel is read like any other


def test_the_decathlons_brain_task_gives_the_recipes_modalities_in_the_recipes_order(tmp_path):
    voxels = np.zeros((5, 4, 3, 4), np.int16)
    voxels[...] = (10, 20, 30, 40)  # FLAIR, T1w, T1gd, T2w
    voxels[0, 0, 0] = 0
    labels = np.zeros((5, 4, 3), np.uint8)
    labels[1, 1, 0], labels[2, 1, 0], labels[3, 1, 0] = 1, 2, 3
    root = task(tmp_path / "Task01_BrainTumour", BRAIN)
    write(root / "imagesTr" / "BRATS_001.nii.gz", voxels)
    write(root / "labelsTr" / "BRATS_001.nii.gz", labels)
    config = brats.get_config()
    config.data.source, config.data.root, config.data.modalities = "decathlon", str(tmp_path), ("t1", "t1ce", "flair")
    (case,) = find_cases(config)
    volume, mask = read_case(case, config)
    assert volume.voxels.shape == (3, 4, 5, 3) and volume.voxels.dtype == np.float32
    assert volume.voxels[1, 1, 1].tolist() == [20, 30, 10]
    np.testing.assert_array_equal(mask, labels.transpose(2, 1, 0) > 0)


def test_a_modality_the_data_set_lacks_is_named_with_those_it_has(tmp_path):
    task(tmp_path, {"modality": {"0": "FLAIR", "1": "T1gd"}, "labels": {"0": "b", "1": "t"}})
    with pytest.raises(ValueError, match=r"dataset.json: holds the modalities \('flair', 't1ce'\).*asks for t2"):
        scan("decathlon", tmp_path, ("flair", "t2"))


def test_a_file_with_fewer_channels_than_dataset_json_says_is_refused(tmp_path):
    root = task(tmp_path, BRAIN)
    write(root / "imagesTr" / "BRATS_001.nii.gz", np.zeros((5, 4, 3, 2), np.int16))
    write(root / "labelsTr" / "BRATS_001.nii.gz", np.zeros((5, 4, 3), np.uint8))
    config = brats.get_config()
    config.data.source, config.data.root = "decathlon", str(tmp_path)
    with pytest.raises(ValueError, match=r"holds 2 channels \(shape \(5, 4, 3, 2\)\) where channel 4 is wanted"):
        read_case(find_cases(config)[0], config)


@pytest.mark.parametrize("images, labels", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_anybodys_own_folder_is_found(tmp_path, images, labels):
    task(tmp_path, LIVER, f"{images}/a.nii.gz", f"{labels}/a.nii.gz", f"{images}/b.nii", f"{labels}/c.nii.gz")
    cases, incomplete = scan("custom", tmp_path, ("ct",))
    assert [(case.name, case.mask and case.mask.name) for case in cases] == [("a", "a.nii.gz"), ("b", None)]
    assert no_mask(cases[1]).reason == f"{tmp_path}/{images}/b.nii has no mask {labels}/b.nii[.gz]"
    assert [(item.name, item.reason) for item in incomplete] == [
        ("c", f"{tmp_path}/{labels}/c.nii.gz has no image of that name")
    ]


def test_a_file_a_channel_as_nnu_net_names_them_is_one_case(tmp_path):
    description = {"channel_names": {"0": "FLAIR", "1": "T2"}, "labels": {"background": 0, "lesion": 1}}
    task(
        tmp_path,
        description,
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
        "labelsTr/a.nii.gz",
        "imagesTr/b_0001.nii.gz",
    )
    cases, incomplete = scan("custom", tmp_path, ("t2", "flair"))
    assert [(case.name, [path.name for path in case.images]) for case in cases] == [
        ("a", ["a_0001.nii.gz", "a_0000.nii.gz"])
    ]
    assert [(item.name, item.reason) for item in incomplete] == [("b", f"{tmp_path} lacks b_0000.nii[.gz]")]


def test_cases_of_one_name_in_two_data_sets_are_left_out_and_named(tmp_path):
    for folder in ("one", "two"):
        task(tmp_path / folder, LIVER, "images/a.nii.gz", "labels/a.nii.gz", f"images/{folder}.nii.gz")
    cases, (twice,) = scan("custom", tmp_path, ("ct",))
    assert [case.name for case in cases] == ["one", "two"]
    assert twice.name == "a" and f"{tmp_path}/one/images/a.nii.gz and {tmp_path}/two/images/a.nii.gz" in twice.reason


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"modality": {"0": "CT"}}',
        '{"labels": {"0": "b"}}',
        '{"modality": {"0": "CT"}, "labels": {"a": "b"}}',
    ],
)
def test_a_dataset_json_that_says_too_little_is_refused_with_an_example(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset.json: .* it should hold at least \{\"modality\""):
        scan("custom", tmp_path, ("ct",))


@pytest.mark.parametrize("foreground, expected", [((), [0, 1, 1]), ((2,), [0, 0, 1]), ((1,), [0, 1, 0])])
def test_labels_of_a_custom_task_are_merged_or_picked(tmp_path, foreground, expected):
    task(tmp_path, LIVER)
    labels = np.zeros((4, 3, 2), np.uint8)
    labels[:3, 0, 0] = (0, 1, 2)
    write(tmp_path / "images" / "a.nii.gz", np.full((4, 3, 2), 50, np.int16))
    write(tmp_path / "labels" / "a.nii.gz", labels)
    config = custom.get_config()
    config.data.root, config.data.modalities, config.data.foreground = str(tmp_path), ("ct",), foreground
    _, mask = read_case(find_cases(config)[0], config)
    assert mask[0, 0, :3].tolist() == expected


def test_3dircadb_is_found_by_its_folders(tmp_path):
    for path in (
        "3Dircadb1.10/PATIENT_DICOM/image_0",
        "3Dircadb1.2/PATIENT_DICOM/image_0",
        "3Dircadb1.2/MASKS_DICOM/liver/image_0",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    cases, incomplete = scan("ircadb", tmp_path, ("ct",))
    assert [(case.name, case.patient) for case in cases] == [
        ("3Dircadb1.2", "3Dircadb1.2"),
        ("3Dircadb1.10", "3Dircadb1.10"),
    ]
    assert cases[0].mask == tmp_path / "3Dircadb1.2/MASKS_DICOM" and incomplete == []
    assert "3Dircadb1.10 has no MASKS_DICOM folder" in no_mask(cases[1]).reason


@pytest.mark.parametrize("source", sorted(layouts.SCANS))
def test_every_source_says_what_it_looks_for_and_how_to_get_it(tmp_path, source):
    config = (brats if source == "brats" else liver_voi).get_config()
    config.data.source, config.data.root = source, str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        find_cases(config)
    for words in (sources.PATTERNS[source], sources.HOW_TO_GET[source], str(tmp_path), "--config.data.source=phantom"):
        assert words in str(caught.value)


def test_case_numbers_of_four_digits_are_no_channels_where_masks_have_them_too(tmp_path):
    task(
        tmp_path,
        LIVER,
        *(f"{kind}Tr/amos_{number}.nii.gz" for kind in ("images", "labels") for number in ("0001", "0004")),
    )
    cases, incomplete = scan("custom", tmp_path, ("ct",))
    assert [(case.name, case.mask.name) for case in cases] == [
        ("amos_0001", "amos_0001.nii.gz"),
        ("amos_0004", "amos_0004.nii.gz"),
    ]
    assert incomplete == []


def test_a_mask_that_is_there_twice_leaves_its_case_out_and_images_have_their_own_labels_folder(tmp_path):
    names = (
        "imagesTr/a.nii",
        "labelsTr/a.nii",
        "labelsTr/a.nii.gz",
        "imagesTr/b.nii",
        "labels/b.nii",
        "labelsTr/b.nii",
    )
    task(tmp_path, LIVER, *names)
    cases, incomplete = scan("custom", tmp_path, ("ct",))
    assert [(case.name, case.mask) for case in cases] == [("b", tmp_path / "labelsTr/b.nii")]
    twice = next(item for item in incomplete if item.name == "a")
    assert (
        twice.reason
        == f"{tmp_path}/labelsTr/a.nii and {tmp_path}/labelsTr/a.nii.gz claim to be the same file of one case"
    )


def test_regions_of_labels_as_nnu_net_writes_them_are_read(tmp_path):
    labels = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3]}
    task(tmp_path, {"channel_names": {"0": "FLAIR"}, "labels": labels}, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    ((case,), _) = scan("custom", tmp_path, ("flair",))
    assert case.labels == (0, 1, 2, 3)
