"""Values that cannot be true or do not suit the recipe: one fault a test, planted in a good case of every layout."""

import re

import nibabel as nib
import numpy as np
import pytest

import spleen_task
from small_layouts import AFFINE, ALLOWED, LAYOUTS, SHAPE, Folder, labels, path, scan

CT_LAYOUTS = ("lits", "task03")
MR_LAYOUTS = ("task01", "brats", "custom")


@pytest.fixture(params=LAYOUTS)
def data(request, tmp_path):
    return Folder(request.param, tmp_path)


@pytest.fixture(params=CT_LAYOUTS)
def ct(request, tmp_path):
    return Folder(request.param, tmp_path)


@pytest.fixture(params=MR_LAYOUTS)
def mr(request, tmp_path):
    return Folder(request.param, tmp_path)


def test_a_good_case_has_no_finding(data):
    data.write()
    assert data.findings() == ()


def test_labels_out_of_range(data):
    case = data.write(mask=labels() * 9)
    allowed = re.escape(str(ALLOWED[data.layout]))
    data.only(
        case.name, "mask", "unusable", path(case.mask) + f"holds the values 9 .* labels {allowed}", "^map its labels"
    )


def test_labels_that_are_no_whole_numbers(data):
    case = data.write(mask=labels() * np.float32(0.5))
    data.only(
        case.name, "mask", "unusable", path(case.mask) + r"holds the values 0\.5 .* a probability map", "^map its"
    )


def test_a_mask_stored_as_float(data):
    case = data.write(mask=labels().astype(np.float32))
    data.only(case.name, "mask type", "warning", path(case.mask) + "stored as float32", "^nothing: it is read as whole")


def test_a_gzipped_float_mask_named_nii_is_not_a_reason_to_stop(data):
    case = data.write(mask=labels().astype(np.float64))
    plain = case.mask.rename(case.mask.with_suffix(""))
    data.only(case.name, "mask type", "warning", path(plain) + "stored as float64", "^nothing")


@pytest.mark.parametrize("low, high", [(0, 255), (24, 3000), (-1000, -200)])
def test_values_that_are_not_hu(ct, low, high):
    case = ct.write(image=np.linspace(low, high, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16))
    value = path(case.images[0]) + f"values from {low} to {high} are not HU"
    ct.only(case.name, "intensity", "unusable", value, "rescale slope and intercept")


def test_values_that_are_not_hu_beside_padding(ct):
    image = np.linspace(0, 4095, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    image[0] = -2000
    case = ct.write(image=image)
    count = 12 * 34
    value = path(case.images[0]) + f"values from {image[1].min()} to 4095, {count} voxels of padding aside, are not HU"
    ct.only(case.name, "intensity", "unusable", value, "rescale")


def test_a_scan_cropped_to_the_body_is_fine(ct):
    ct.write(image=np.linspace(-120, 180, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16))
    assert ct.findings() == ()


def test_padding(ct):
    image = scan(ct.layout)
    image[:2, 0, 0] = -3024, -2048
    case = ct.write(image=image)
    value = path(case.images[0]) + "2 voxels of padding, the lowest -3024 HU"
    ct.only(case.name, "padding", "warning", value, "config.window_hu")


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
def test_an_identity_affine(ct, signs):
    case = ct.write(affine=np.diag([*signs, 1]))
    value = path(case.images[0]) + "identity affine, 1 x 1 x 1 mm.* 28 to 47"
    ct.only(case.name, "geometry", "warning", value, "restore the true spacing.*mm and mL are wrong")


def test_one_millimeter_voxels_in_their_place_are_fine(ct):
    affine = np.eye(4)
    affine[:3, 3] = -120, -80, 30
    ct.write(affine=affine)
    assert ct.findings() == ()


def test_a_modality_of_one_value(mr):
    image = scan(mr.layout)
    channel = image.shape[-1] - 1
    image[..., channel] = 3.5
    case = mr.write(image=image)
    modality = {"custom": "mri"}.get(mr.layout, "flair")
    value = path(case.images[-1]) + f"{modality} is 3.5 everywhere"
    mr.only(case.name, "intensity", "unusable", value, "again")


def test_voxels_that_are_far_longer_than_wide(data):
    case = data.write(affine=np.diag([0.5, 0.5, 6, 1]))
    value = path(case.images[0]) + r"voxels of 0.5 x 0.5 x 6 mm \(x, y, z\), 12 times"
    data.only(case.name, "anisotropy", "warning", value, "slice spacing of the scanner")


def test_a_tiny_scan(data):
    data.config.patch_size = (4, 4, 4)
    few = np.s_[:, :, 10:17]
    case = data.write(image=scan(data.layout)[few], mask=labels()[few])
    value = path(case.images[0]) + r"10 x 12 x 7 voxels \(x, y, z\), fewer than 8 along an axis"
    data.only(case.name, "tiny", "warning", value, "localizer")


@pytest.mark.parametrize("stage, sides", [("tumor", "x 10 < 16, z 34 < 64"), ("voi", "z 34 < 64"), ("coarse", None)])
def test_a_scan_smaller_than_a_patch(ct, stage, sides):
    ct.config.stage, ct.config.patch_size = stage, (16, 12, 64)
    case = ct.write()
    if sides:
        value = path(case.images[0]) + rf"smaller than config.patch_size \({sides} voxels\)"
        ct.only(case.name, "size", "warning", value, "padded")
    else:
        assert ct.findings() == ()


@pytest.mark.parametrize("stage", ["coarse", "voi", "tumor"])
def test_a_mask_without_a_liver(ct, stage):
    ct.config.stage = stage
    case = ct.write(mask=np.zeros(SHAPE, np.uint8))
    ct.only(case.name, "mask", "unusable", path(case.mask) + "no voxel is labeled", "label the liver")


def test_a_head_without_what_is_to_be_found_is_a_warning(mr):
    case = mr.write(mask=np.zeros(SHAPE, np.uint8))
    mr.only(case.name, "mask", "warning", path(case.mask) + "no voxel is labeled$", "nothing if there is none of it")


def test_a_mask_without_the_labels_of_the_recipe(tmp_path):
    data = Folder("custom", tmp_path)
    data.config.data.foreground = (3,)
    case = data.write()
    value = path(case.mask) + r"no voxel is labeled with one of config.data.foreground=\(3,\)"
    data.only(case.name, "mask", "warning", value, "label the case")


def test_a_task_of_ones_own_is_checked_like_any_other(tmp_path, monkeypatch):
    spleen_task.add(monkeypatch)
    data = Folder("custom", tmp_path)
    data.config.stage = "spleen"
    case = data.write()
    assert data.findings() == ()
    data.config.data.foreground, data.config.patch_size = (3,), (16, 12, 64)
    empty, small = data.findings()[::-1]
    assert empty.value.endswith("no voxel is labeled with one of config.data.foreground=(3,)") and not empty.fatal
    assert small.value == f"{case.images[0]}: smaller than config.patch_size (x 10 < 16, z 34 < 64 voxels)"


def test_a_task_of_ones_own_that_names_its_labels_holds_no_other(tmp_path, monkeypatch):
    spleen_task.add(monkeypatch, labels=(0, 1), merged=False)
    data = Folder("custom", tmp_path)
    data.config.stage = "spleen"
    case = data.write(mask=labels() * 3)
    data.only(case.name, "mask", "unusable", path(case.mask) + r"holds the values 3 .* labels \(0, 1\)", "^map its")
    case = data.write(mask=np.zeros(SHAPE, np.uint8))
    data.only(case.name, "mask", "unusable", path(case.mask) + "no voxel is labeled$", "^label the spleen, or move")


def test_every_repair_of_a_case_is_told(tmp_path):
    """NaN in the first modality, and the last one's affine a voxel off."""
    heads = Folder("brats", tmp_path)
    image = scan("brats")
    image[3, 3, 3, 0] = np.nan
    written = heads.write(image=image)
    moved = AFFINE.copy()
    moved[0, 3] = 7.0
    nib.Nifti1Image(image[..., 3], moved).to_filename(written.images[3])
    (found,) = (finding for finding in heads.findings() if finding.check == "image")
    assert re.search(r"1 NaN or infinite voxels? .*; .*affine .* is taken instead", found.remedy), found.remedy
