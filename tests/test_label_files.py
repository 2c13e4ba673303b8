"""Which files hold labels and no scans: told by the layouts of data sets, and by their values."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

import exact_models
from data_prep.label_files import label_files
from exact_models import model
from raunet_jax.commands.inputs import Input, find_inputs
from raunet_jax.files import look_below
from raunet_jax.imaging.label_maps import is_label_map
from raunet_jax.imaging.volume import write_nifti

CT = model("coarse").config


def save(path, values, slope=None, kind=nib.Nifti1Image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(values, np.eye(4))
    if slope:
        image.header.set_slope_inter(slope, 0)
    image.to_filename(path)
    return path


def labels(*values):
    mask = np.zeros((20, 18, 16), np.uint8)
    mask[4:9, 4:9, 8:10] = 1
    for number, value in enumerate(values):
        mask[number % 20, number // 20, 12] = value
    return mask


def ct():
    return np.random.default_rng(0).integers(-1000, 1000, (20, 18, 16)).astype(np.int16)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_label_maps_are_known_by_their_values(tmp_path, name, kind):
    for mask in (labels(), labels(2, 3, 9), labels().astype(np.float32), labels(255), labels().astype(">i4")):
        assert is_label_map(save(tmp_path / name, mask, kind=kind))
    assert is_label_map(save(tmp_path / name, labels(2) * np.uint8(100), slope=0.01, kind=kind))
    assert is_label_map(save(tmp_path / name, labels(*range(60)), kind=kind), most=128)


def test_scans_and_what_cannot_be_read_are_no_label_maps(tmp_path):
    path = tmp_path / "a.nii.gz"
    halves = np.where(labels() > 0, 0.5, 0).astype(np.float32)
    for values in (ct(), labels() + np.uint8(3), np.zeros_like(labels()), halves, labels().astype(np.int16) * 300):
        assert not is_label_map(save(path, values))
    assert not is_label_map(save(path, labels(*range(60))))
    whole = gzip.decompress(save(path, labels()).read_bytes())
    for content in (b"", b"no NIfTI", gzip.compress(whole)[:-30], whole[:-1], gzip.compress(whole[:100]), b"\x1f\x8b"):
        path.write_bytes(content)
        assert not is_label_map(path)
    infinite = bytearray(whole)
    infinite[108:112] = np.float32(np.inf).tobytes()  # vox_offset
    path.write_bytes(infinite)
    assert not is_label_map(path) and not is_label_map(tmp_path / "gone.nii")


def test_of_a_scan_only_the_beginning_is_read(tmp_path):
    scan = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", scan)
    path.write_bytes(path.read_bytes()[:100_000])  # to read on would fail, to no harm; to take labels on would read it
    assert not is_label_map(path)
    path.write_bytes(save(tmp_path / "b.nii.gz", labels()).read_bytes())
    assert is_label_map(path)


def found(root):
    files = look_below(root).files
    return sorted(str(path.relative_to(root)) for path in label_files(files, root))


@pytest.mark.parametrize(
    "scans, masks",
    [
        (["imagesTr/a_0000.nii.gz", "imagesTs/b_0000.nii.gz"], ["labelsTr/a.nii.gz"]),  # nnU-Net, the Decathlon
        (["s0001/ct.nii.gz"], ["s0001/segmentations/liver.nii.gz", "s0001/segmentations/spleen.nii.gz"]),
        (["P/PATIENT_DICOM/image_0"], ["P/LABELLED_DICOM/image_0", "P/MASKS_DICOM/liver/image_0"]),
        (["scans/volume-1.nii", "volume-2.nii"], ["masks/segmentation-1.nii"]),  # LiTS, in folders of their own
        (["C/C_t1.nii.gz", "C/C_flair.nii.gz"], ["C/C_seg.nii.gz"]),
        (["C/C-t1n.nii.gz", "C/C-t2f.nii.gz"], ["C/C-seg.nii.gz"]),
        (["C/t1.nii.gz", "C/flair.nii.gz"], []),
        (["label/scan1.nii.gz", "gt/scan2.nii.gz"], []),  # such names alone make no labels of scans
    ],
)
def test_layouts_of_data_sets_are_known_whatever_their_files_hold(tmp_path, scans, masks):
    for path in scans + [mask for mask in masks if "segmentations" not in mask]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for path in (mask for mask in masks if "segmentations" in mask):
        save(tmp_path / path, labels())
    assert found(tmp_path) == masks


def test_a_map_of_many_organs_is_known_in_a_folder_called_so_and_scans_there_are_not(tmp_path):
    save(tmp_path / "ct.nii.gz", ct())
    save(tmp_path / "segmentations" / "all.nii.gz", labels(*range(2, 110)))
    save(tmp_path / "segmentations" / "ct_of_it.nii.gz", ct())
    assert found(tmp_path) == ["segmentations/all.nii.gz"]


def test_masks_of_organs_that_are_not_there_are_masks(tmp_path):
    save(tmp_path / "s1" / "ct.nii.gz", ct())
    for name, mask in (("adrenal", labels() * 0), ("liver", labels()), ("spleen", labels() * 0)):
        save(tmp_path / "s1" / "segmentations" / f"{name}.nii.gz", mask)
    save(tmp_path / "s2" / "segmentations" / "adrenal.nii.gz", labels() * 0)
    assert found(tmp_path) == [f"s1/segmentations/{name}.nii.gz" for name in ("adrenal", "liver", "spleen")] + [
        "s2/segmentations/adrenal.nii.gz"
    ]


def test_a_label_map_among_scans_is_passed_over_and_segmented_when_it_is_named(tmp_path, capsys):
    scan = save(tmp_path / "p1.nii.gz", ct())
    drawn = save(tmp_path / "drawn by hand.nii.gz", labels())
    scans, failed = find_inputs([tmp_path], CT)
    assert scans == [Input("p1", (scan,))] and failed == []
    said = capsys.readouterr().err
    assert "masks, labels or results: 1 (drawn by hand.nii.gz). To segment a file all the same, name it itself" in said
    assert find_inputs([drawn], CT)[0] == [Input("drawn by hand", (drawn,))]


def test_a_folder_of_labels_alone_holds_no_scan_and_says_so(tmp_path):
    save(tmp_path / "labelsTr" / "a.nii.gz", labels())
    for path in (tmp_path, tmp_path / "labelsTr"):
        scans, (failure,) = find_inputs([path], CT)
        assert scans == [] and "holds no scan" in failure["reason"] and "1 of .nii.gz" in failure["reason"]


def test_public_data_sets_as_they_lie_give_their_scans_under_names_that_tell_them_apart(tmp_path, capsys):
    hu, mask = exact_models.abdomen()
    (tmp_path / "decathlon").mkdir()
    (tmp_path / "decathlon" / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}}))
    for number in (0, 1):
        exact_models.write(tmp_path / "decathlon" / "imagesTr" / f"liver_{number}.nii.gz", hu)
        write_nifti(tmp_path / "decathlon" / "labelsTr" / f"liver_{number}.nii.gz", mask, np.eye(4))
        exact_models.write(tmp_path / "nnunet" / "imagesTr" / f"case{number}_0000.nii.gz", hu)
        patient = tmp_path / "totalsegmentator" / f"s000{number}"
        exact_models.write(patient / "ct.nii.gz", hu)
        write_nifti(patient / "segmentations" / "liver.nii.gz", mask, np.eye(4))
    scans, failed = find_inputs([tmp_path], CT)
    assert failed == []
    assert [scan.name for scan in scans] == ["liver_0", "liver_1", "case0", "case1", "s0000", "s0001"]
    assert "masks, labels or results: 4 (" in capsys.readouterr().err


def test_channel_numbers_are_kept_where_there_are_others(tmp_path):
    for name in ("amos_0000", "amos_0001", "lone_0000"):
        save(tmp_path / f"{name}.nii.gz", ct())
    scans, _ = find_inputs([tmp_path], CT)
    assert [scan.name for scan in scans] == ["amos_0000", "amos_0001", "lone"]
