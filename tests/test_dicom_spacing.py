"""Slices that are unevenly spaced, missing, or of two acquisitions."""

import contextlib

import nibabel as nib
import numpy as np
import pydicom
import pytest

import exact_models
import ircadb_writer
from data_prep import ircadb
from dicom_writer import edit, file_order, write_enhanced, write_series
from raunet_jax.imaging.volume import VolumeError, read_dicom_series
from raunet_jax.inference import results
from raunet_jax.inference.cascade import Segmentation

ROWS, COLUMNS = 4, 6
UNEVEN = np.cumsum([10, 5, 5, 5, 5, 3, 3, 3, 4.2, 4.2])  # mm


def ramp(places) -> np.ndarray:
    """(slices, rows, columns) HU that grow by 10 a mm, and by 7 a pixel."""
    within = 7 * np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    return np.rint(10 * np.asarray(places, float)[:, None, None] + within - 500).astype(int)


def test_a_linear_ramp_on_uneven_slices_is_the_ramp_on_even_ones(tmp_path):
    volume = read_dicom_series(write_series(tmp_path / "scan", ramp(UNEVEN), UNEVEN))
    # the smallest step is 3 mm and the whole 37.4 mm: 13 steps
    assert volume.shape == (14, ROWS, COLUMNS)
    assert volume.spacing_mm[0] == pytest.approx(37.4 / 13)
    places = 10 + np.arange(14) * 37.4 / 13
    np.testing.assert_allclose(file_order(volume), ramp(places), atol=1)
    np.testing.assert_array_equal(file_order(volume)[[0, -1]], ramp(UNEVEN)[[0, -1]])
    np.testing.assert_allclose(volume.affine @ (0, 0, 13, 1), (*volume.affine[:2, 3], 47.4, 1))
    (warning,) = volume.warnings
    assert warning == (
        "scan: 10 slices are unevenly spaced (steps of 3.00 to 5.00 mm): they were resampled linearly to 14 slices "
        "2.88 mm apart, on which masks and volumes in mL are given"
    )


def test_the_smallest_step_decides_unless_it_is_an_odd_one_out(tmp_path):
    places = [0, 5, 10, 10.4, 15.4, 20.4, 25.4]
    volume = read_dicom_series(write_series(tmp_path, ramp(places), places))
    assert volume.shape[0] == 12  # half of 5 mm, not 0.4
    np.testing.assert_allclose(file_order(volume), ramp(np.linspace(0, 25.4, 12)), atol=1)


def test_a_zone_of_wider_spacing_is_no_gap(tmp_path):
    places = [0, 2.5, 5, 7.5, 12.5, 17.5, 22.5, 27.5]
    volume = read_dicom_series(write_series(tmp_path, ramp(places), places))
    assert volume.spacing_mm[0] == pytest.approx(2.5) and "unevenly spaced" in volume.warnings[0]
    np.testing.assert_allclose(file_order(volume), ramp(np.arange(12) * 2.5), atol=1)


def sphere(places, center=(28.0, 40.0, 43.0), radius=16.0) -> np.ndarray:
    z, y, x = np.meshgrid(places, np.arange(100) * 0.8, np.arange(100) * 0.6, indexing="ij")
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2 < radius**2


def test_a_mask_goes_back_to_the_slices_that_were_scanned(tmp_path, monkeypatch):
    exact_models.pass_for_a_body(monkeypatch)
    places = np.cumsum([20, *[2.0] * 6, *[3.2] * 6, *[2.5] * 4])
    scan = write_series(tmp_path / "scan", np.where(sphere(places), 100, -100), places)
    volume = read_dicom_series(scan)
    mask = (volume.voxels[..., 0] > 0).astype(np.uint8)
    result = results.Result("scan", (scan,), (), volume, Segmentation(mask, {}, None, ()), "voi")
    record = results.write_case(tmp_path / "out", result, contextlib.nullcontext)
    assert [warning.split(": ")[0] for warning in record["warnings"]] == [
        "scan",
        "scan_seg_slices.nii.gz holds the mask on the 17 slices that were scanned, in the order of positions",
    ]

    even = nib.load(tmp_path / "out" / "scan_seg.nii.gz")
    np.testing.assert_array_equal(nib.as_closest_canonical(even).dataobj, mask.transpose(2, 1, 0))
    volume_mm3 = np.count_nonzero(even.dataobj) * np.prod(even.header.get_zooms())
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 16**3, rel=0.02)

    scanned = nib.load(tmp_path / "out" / "scan_seg_slices.nii.gz")
    header = scanned.header
    assert scanned.shape == (100, 100, 17) and header["qform_code"] == header["sform_code"] == 0
    assert header.get_zooms() == pytest.approx((0.6, 0.8, (places[-1] - places[0]) / 16))
    truth = sphere(places).transpose(2, 1, 0)  # axes: column, row, slice
    both = np.count_nonzero(truth & (np.asarray(scanned.dataobj) > 0))
    assert 2 * both / (truth.sum() + np.count_nonzero(scanned.dataobj)) > 0.97
    back = volume.grid.from_scanned_slices(truth)
    assert back.shape == volume.shape
    assert 2 * np.count_nonzero(back & (mask > 0)) / (back.sum() + mask.sum()) > 0.95


def test_masks_drawn_on_uneven_slices_become_labels_of_the_even_grid(tmp_path):
    hu, liver, tumors = ircadb_writer.draw()
    patient = ircadb_writer.write_patient(tmp_path / "3Dircadb1.1", hu, {"liver": liver, "livertumor": tumors[0]})
    places = np.cumsum([40, *[2.0] * 6, *[3.1] * 5])
    for path in patient.rglob("image_*"):
        position = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[*position[:2], places[int(path.stem[6:])]])
    image, masks = patient / "PATIENT_DICOM", patient / "MASKS_DICOM"
    volume = read_dicom_series(image)
    labels = ircadb.read_labels(masks, image, volume)
    even = 40 + np.arange(volume.shape[0]) * volume.spacing_mm[0]
    nearest = np.abs(even[:, None] - places).argmin(axis=1)
    drawn = np.where(tumors[0], 2, liver)
    np.testing.assert_array_equal(labels, drawn[nearest])


def test_an_even_series_has_no_second_mask(tmp_path, monkeypatch):
    exact_models.pass_for_a_body(monkeypatch)
    places = np.arange(5) * 2.5
    scan = write_series(tmp_path / "scan", ramp(places), places)
    volume = read_dicom_series(scan)
    found = Segmentation(np.zeros(volume.shape, np.uint8), {}, None, ())
    record = results.write_case(
        tmp_path / "out", results.Result("s", (scan,), (), volume, found, "voi"), contextlib.nullcontext
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s_seg.nii.gz"] and record["warnings"] == []


def test_frames_too_may_be_unevenly_spaced(tmp_path):
    path = write_enhanced(tmp_path / "a", ramp(UNEVEN) + 1024, UNEVEN)
    single = read_dicom_series(write_series(tmp_path / "scan", ramp(UNEVEN), UNEVEN))
    np.testing.assert_array_equal(read_dicom_series(path).voxels, single.voxels)


@pytest.mark.parametrize(
    "places,words",
    [
        ([0, 5, 10, 20, 25, 30], "10.00 mm between im2.dcm .at 10.00 mm. and im3.dcm .at 20.00 mm., 1 missing"),
        ([0, 5, 10.7, 15, 21, 46, 51], "25.00 mm between im4.dcm .* and im5.dcm .*, 4 missing"),
        (
            np.delete(np.arange(40) * 5.0, [3, 8, 13, 18, 23, 28]),
            "1 missing; 10.00 mm .*, 1 missing; 10.00 mm .*, 1 missing; and 3 more gaps; export",
        ),
    ],
)
def test_missing_slices_are_not_interpolated(tmp_path, places, words):
    write_series(tmp_path, ramp(places), places)
    with pytest.raises(VolumeError, match=f"slices are missing: .*{words}") as caught:
        read_dicom_series(tmp_path)
    assert len(str(caught.value)) < 600


def joined(first: dict, second: dict, number=lambda index: index + 1):
    """Slices of even index are of the first acquisition, the others of the second."""

    def change(data, index):
        data.InstanceNumber = number(index)
        for name, value in (second if index % 2 else first).items():
            setattr(data, name, value)

    return change


HALF_STEP = 30 + np.arange(16) * 2.75


@pytest.mark.parametrize(
    "second,words",
    [
        ({"AcquisitionNumber": 2}, "those of AcquisitionNumber 1 and 2 alternate"),
        ({"AcquisitionTime": "101640.5"}, "those of two spans of AcquisitionTime alternate"),
        ({"ConvolutionKernel": "B70"}, "those of ConvolutionKernel B30 and B70 alternate"),
    ],
)
def test_two_acquisitions_half_a_step_apart_are_refused(tmp_path, second, words):
    write_series(tmp_path, ramp(HALF_STEP), HALF_STEP, joined({"ConvolutionKernel": "B30"}, second))
    with pytest.raises(VolumeError, match=f"two acquisitions are mixed: along the stack of 16 slices {words}"):
        read_dicom_series(tmp_path)


def test_an_acquisition_that_overlaps_another_in_part_is_refused(tmp_path):
    places = np.r_[np.arange(0, 50, 5), np.arange(32.5, 80, 5)]
    write_series(tmp_path, ramp(places), places, lambda data, index: setattr(data, "AcquisitionNumber", index // 10))
    with pytest.raises(VolumeError, match="AcquisitionNumber 0 and 1 alternate"):
        read_dicom_series(tmp_path)


def test_two_groups_of_instance_numbers_are_said(tmp_path):
    change = joined({}, {}, number=lambda index: index // 2 + 1 + 8 * (index % 2))
    volume = read_dicom_series(write_series(tmp_path, ramp(HALF_STEP), HALF_STEP, change))
    assert len(volume.warnings) == 1 and "two groups of InstanceNumber: perhaps two acquisitions" in volume.warnings[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda data, index: setattr(data, "AcquisitionNumber", index // 4),
        lambda data, index: setattr(data, "AcquisitionTime", f"{101500 + index}.25"),
        lambda data, index: setattr(data, "InstanceNumber", 100 - index),
        lambda data, index: setattr(data, "AcquisitionTime", str(101500 + index * 37 % 16)),
        lambda data, index: delattr(data, "AcquisitionNumber"),
    ],
    ids=["step and shoot", "a time a slice", "numbered from the head", "times without an order", "no number"],
)
def test_one_acquisition_is_no_two(tmp_path, change):
    volume = read_dicom_series(write_series(tmp_path, ramp(HALF_STEP), HALF_STEP, change))
    np.testing.assert_array_equal(file_order(volume), ramp(HALF_STEP))
    assert volume.warnings == ()


def test_what_tells_doubled_slices_apart_is_named(tmp_path):
    places = [0, 5, 10, 15, 15]
    write_series(tmp_path, ramp(places), places, lambda data, index: setattr(data, "KVP", 80 + 60 * (index > 3)))
    words = r"im3.dcm and im4.dcm lie at the same position .* \(InstanceNumber 4 and 5, KVP 80.* and 140.*\): a"
    with pytest.raises(VolumeError, match=words):
        read_dicom_series(tmp_path)
