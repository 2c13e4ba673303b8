import numpy as np
import pytest

from configs import brats, liver_tumor, liver_voi
from data_prep import verify
from data_prep.layouts import DataNotFound
from raunet_jax.volume import write_nifti

SHAPE = (32, 8, 10)  # z, y, x
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])


def scan(low=-1000, high=200):
    return np.linspace(low, high, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)


def labels(dtype=np.uint8):
    mask = np.zeros(SHAPE, dtype)
    mask[4:20, 2:6, 2:8] = 1
    mask[6:9, 3:5, 3:5] = 2
    return mask


@pytest.fixture
def config(tmp_path):
    config = liver_voi.get_config()
    config.data.root = str(tmp_path)
    return config


def put(root, number, voxels=None, mask=None, affine=AFFINE, mask_affine=None):
    write_nifti(root / f"volume-{number}.nii.gz", scan() if voxels is None else voxels, affine)
    write_nifti(
        root / f"segmentation-{number}.nii.gz",
        labels() if mask is None else mask,
        affine if mask_affine is None else mask_affine,
    )


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_good_cases_have_no_finding(config, tmp_path, capsys):
    put(tmp_path, 0)
    assert verify.verify(config) == []
    assert verify.main(config) == 0
    assert "1 cases, 1 usable, 0 unusable" in capsys.readouterr().out


def test_a_gzip_that_ends_early_is_fatal_and_does_not_stop_the_others(config, tmp_path):
    for number in range(3):
        put(tmp_path, number)
    broken = tmp_path / "volume-1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    put(tmp_path, 2, mask=np.zeros(SHAPE, np.uint8))
    first, second = verify.verify(config)
    assert first.case == "volume-1" and first.check == "image" and first.fatal
    assert str(broken) in first.value and "ends early" in first.value
    assert second.case == "volume-2"


def test_a_mask_of_another_shape_gives_both_shapes(config, tmp_path):
    put(tmp_path, 0, mask=labels()[:-1])
    finding = only(verify.verify(config))
    assert finding.check == "mask" and finding.fatal
    assert "32" in finding.value and "31" in finding.value


def test_a_mask_of_another_place_gives_both_affines(config, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 77.0
    put(tmp_path, 0, mask_affine=moved)
    finding = only(verify.verify(config))
    assert finding.fatal and "77" in finding.value


def test_labels_out_of_range_are_fatal_and_named(config, tmp_path):
    put(tmp_path, 0, mask=labels() * 3)
    finding = only(verify.verify(config))
    assert finding.fatal and "3, 6" in finding.value


def test_a_float_mask_of_whole_numbers_is_a_warning(config, tmp_path):
    put(tmp_path, 0, mask=labels(np.float32))
    finding = only(verify.verify(config))
    assert finding.check == "mask type" and not finding.fatal and "stored as float32" in finding.value


def test_an_empty_mask_is_fatal(config, tmp_path):
    put(tmp_path, 0, mask=np.zeros(SHAPE, np.uint8))
    finding = only(verify.verify(config))
    assert finding.fatal and "no voxel is labelled" in finding.value and "label the case" in finding.remedy


def test_nan_is_fatal(config, tmp_path):
    voxels = scan().astype(np.float32)
    voxels[3, 3, 3] = np.nan
    put(tmp_path, 0, voxels=voxels)
    finding = only(verify.verify(config))
    assert finding.check == "image" and finding.fatal and "NaN" in finding.value


@pytest.mark.parametrize("low, high", [(0, 255), (24, 3000), (-1000, -200)])
def test_values_that_are_not_hu_are_fatal(config, tmp_path, low, high):
    put(tmp_path, 0, voxels=scan(low, high))
    finding = only(verify.verify(config))
    assert finding.fatal and f"values from {low} to {high} are not HU" in finding.value and "rescale" in finding.remedy


def test_a_scan_cropped_to_the_body_is_fine(config, tmp_path):
    put(tmp_path, 0, voxels=scan(-120, 180))
    assert verify.verify(config) == []


def test_padding_values_are_a_warning(config, tmp_path):
    put(tmp_path, 0, voxels=scan(-3024, 200))
    finding = only(verify.verify(config))
    assert finding.check == "padding" and not finding.fatal and "-3024 HU" in finding.value
    assert "config.window_hu" in finding.remedy


def test_an_identity_affine_is_a_warning_for_ct(config, tmp_path):
    put(tmp_path, 0, affine=np.eye(4))
    finding = only(verify.verify(config))
    assert finding.check == "spacing" and not finding.fatal and "1 x 1 x 1 mm" in finding.value
    assert "28 to 47" in finding.remedy


def test_a_volume_smaller_than_a_patch_is_a_warning_that_names_the_sides(tmp_path):
    config = liver_tumor.get_config("32x32x32")
    config.data.root = str(tmp_path)
    put(tmp_path, 0)
    finding = only(verify.verify(config))
    assert finding.check == "size" and not finding.fatal
    assert "x 10 < 32, y 8 < 32 voxels" in finding.value and "padded" in finding.remedy


def test_a_missing_mask_is_fatal(config, tmp_path):
    put(tmp_path, 0)
    (tmp_path / "segmentation-0.nii.gz").unlink()
    finding = only(verify.verify(config))
    assert finding.fatal and "segmentation-0" in finding.value and "copy that file" in finding.remedy


def test_brats_faults_name_the_modality(tmp_path):
    config = brats.get_config()
    config.data.root = str(tmp_path)
    config.patch_size = (32, 32, 32)
    shape = (32, 32, 32)
    bright = np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    for name, flat, missing in (("A", "t2", None), ("B", None, "flair")):
        for modality in ("t1", "t1ce", "t2", "flair"):
            if modality != missing:
                write_nifti(tmp_path / f"{name}_{modality}.nii.gz", bright * (modality != flat), np.eye(4))
        write_nifti(tmp_path / f"{name}_seg.nii.gz", np.full(shape, 4, np.uint8), np.eye(4))
    by_case = {finding.case: finding for finding in verify.verify(config)}
    assert by_case["A"].fatal and "t2 is 0 everywhere" in by_case["A"].value
    assert by_case["B"].fatal and "B_flair.nii[.gz]" in by_case["B"].value
    assert len(by_case) == 2


def test_something_that_is_not_nifti_is_fatal(config, tmp_path):
    put(tmp_path, 0)
    (tmp_path / "volume-0.nii.gz").write_text("<html>please log in</html>")
    assert only(verify.verify(config)).fatal


def test_the_table_has_a_line_a_finding_and_the_status_is_one(config, tmp_path, capsys):
    put(tmp_path, 0, voxels=scan(0, 255))
    put(tmp_path, 1, affine=np.eye(4))
    assert verify.main(config) == 1
    lines = capsys.readouterr().out.splitlines()
    (bad,) = [line for line in lines if "volume-0 " in line]
    (odd,) = [line for line in lines if "volume-1 " in line]
    assert "unusable" in bad and "not HU" in bad and "rescale slope" in bad
    assert "warning" in odd and "identity affine" in odd
    assert lines[-1] == "2 cases, 1 usable, 1 unusable"


def test_warnings_alone_leave_the_status_zero(config, tmp_path):
    put(tmp_path, 0, affine=np.eye(4))
    assert verify.main(config) == 0


def test_no_case_at_all_says_what_was_looked_for(config):
    with pytest.raises(DataNotFound, match="looked for volume-N"):
        verify.verify(config)


def test_the_limit_on_cases_holds(config, tmp_path):
    for number in range(3):
        put(tmp_path, number, affine=np.eye(4))
    config.data.cases = 2
    assert {finding.case for finding in verify.verify(config)} == {"volume-0", "volume-1"}
