"""Elements of single slices that are missing, damaged or unusual, each named; what stored values mean."""

import struct
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_writer import STORED, edit, file_order, write_series
from raunet_jax.imaging.dicom_files import looks_like_dicom, read_slices
from raunet_jax.imaging.volume import VolumeError, read_dicom_series

SLICES, ROWS, COLUMNS = 4, 8, 10
PLACES = 2.5 * np.arange(SLICES)


@pytest.fixture
def hu():
    """(slices, rows, columns), -1000 at the edge and tissue inside."""
    values = np.full((SLICES, ROWS, COLUMNS), -1000)
    values[:, 2:-2, 2:-2] = np.arange(SLICES * 4 * 6).reshape(SLICES, 4, 6)
    return values


def refused(folder, words) -> None:
    with pytest.raises(VolumeError, match=words) as caught:
        read_dicom_series(folder)
    assert len(str(caught.value)) < 600


def of_slice(number, **elements):
    """A change of one slice alone, or with None of all; elements of value None are taken out."""

    def change(data, index):
        for name, value in elements.items() if number in (index, None) else ():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return change


def put(path, name, value: bytes) -> None:
    """Put bytes into an element that pydicom would not write so."""
    tag = tag_for_keyword(name)
    start = path.read_bytes().index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag).encode())
    content = path.read_bytes()
    (length,) = struct.unpack("<H", content[start + 6 : start + 8])
    path.write_bytes(content[: start + 6] + struct.pack("<H", len(value)) + value + content[start + 8 + length :])


@pytest.mark.parametrize("name", "ImagePositionPatient ImageOrientationPatient PixelSpacing Rows Columns".split())
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_a_missing_element_is_named_with_its_file(hu, tmp_path, name, empty):
    write_series(tmp_path, hu, PLACES)
    if empty:
        put(tmp_path / "im2.dcm", name, b"")
    else:
        edit(tmp_path / "im2.dcm", **{name: None})
    refused(tmp_path, f"im2.dcm: has no {name}; export the series again")


@pytest.mark.parametrize(
    "name,value,words",
    [
        ("PixelSpacing", b"0,8\\0,6 ", r"PixelSpacing cannot be read: 0,8\\0,6;"),
        ("ImagePositionPatient", b"-20.0\\-30.0\\up", r"ImagePositionPatient cannot be read: -20.0\\-30.0\\up;"),
        ("ImagePositionPatient", b"-20\\-30 ", r"ImagePositionPatient holds 2 numbers where 3 are expected: -20\\-30;"),
        ("ImagePositionPatient", b"nan\\-30\\5 ", "ImagePositionPatient is nan"),
        ("ImagePositionPatient", b"-20\\inf\\5 ", r"ImagePositionPatient is -20\\inf"),
        ("RescaleSlope", b"0.00", "RescaleSlope is 0, so all its intensities are alike"),
        ("RescaleSlope", b"nan ", "RescaleSlope is nan"),
        ("RescaleIntercept", b"unknown ", "RescaleIntercept cannot be read: unknown"),
        ("PixelSpacing", b"-.8\\0.60", "PixelSpacing .-0.8, 0.6. describes no pixel grid"),
        ("Rows", b"\0\0", "Rows is 0"),
        ("Modality", b"CT\\MRxx ", r"its modality is CT\\MRxx, not CT"),
    ],
)
def test_a_value_that_cannot_be_is_shown(hu, tmp_path, name, value, words):
    write_series(tmp_path, hu, PLACES)
    put(tmp_path / "im2.dcm", name, value)
    refused(tmp_path, f"im2.dcm: {words}")


def test_spacing_at_the_detector_is_not_taken_for_spacing_in_the_patient(hu, tmp_path):
    write_series(tmp_path, hu, PLACES, of_slice(None, PixelSpacing=None, ImagerPixelSpacing=[0.8, 0.6]))
    refused(tmp_path, r"im0.dcm: has no PixelSpacing; its ImagerPixelSpacing 0.8\\0.6 is measured at the detector")


@pytest.mark.parametrize(
    "elements,words",
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "picture in colors .*RGB, SamplesPerPixel 3"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "picture in colors .PhotometricInterpretation PALETTE COLOR"),
        ({"HighBit": 11}, "HighBit is 11 where BitsStored is 16"),
        ({"RescaleType": "Z_EFF"}, "RescaleType is Z_EFF, so its intensities are not HU"),
        ({"Modality": "MR"}, "its modality is MR, not CT, so its intensities are not HU"),
        ({"NumberOfFrames": 3}, "is a multi-frame file"),
    ],
)
def test_a_slice_that_cannot_be_of_a_ct_is_named(hu, tmp_path, elements, words):
    write_series(tmp_path, hu, PLACES, of_slice(1, **elements))
    refused(tmp_path, f"im1.dcm: .*{words}")


def test_modality_is_told_by_the_class_where_it_is_missing(hu, tmp_path):
    write_series(tmp_path, hu, PLACES, of_slice(None, Modality=None))
    np.testing.assert_array_equal(file_order(read_dicom_series(tmp_path)), hu)
    data = pydicom.dcmread(tmp_path / "im0.dcm")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    data.save_as(tmp_path / "im0.dcm")
    refused(tmp_path, "im0.dcm: has no Modality, and its SOPClassUID is of no CT")


def test_what_is_never_needed_may_be_missing(hu, tmp_path):
    names = "InstanceNumber AcquisitionNumber AcquisitionTime ImageType SliceThickness SeriesInstanceUID".split()
    write_series(tmp_path, hu, PLACES, of_slice(None, **dict.fromkeys(names)))
    volume = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(file_order(volume), hu)
    assert volume.warnings == ()


@pytest.mark.parametrize("value", [None, ""], ids=["absent", "empty"])
def test_stored_values_are_not_hu_without_a_rescaling(hu, tmp_path, value):
    write_series(tmp_path, hu, PLACES, of_slice(None, RescaleSlope=value, RescaleIntercept=value))
    refused(tmp_path, "no RescaleIntercept, and values from 24 to 1119 are stored values, not HU")


def test_values_that_can_be_hu_without_a_rescaling_are_read_and_said(hu, tmp_path):
    def as_hu(data, index):
        del data.RescaleSlope, data.RescaleIntercept
        data.PixelData, data.PixelRepresentation = hu[index].astype("<i2").tobytes(), 1

    volume = read_dicom_series(write_series(tmp_path, hu, PLACES, as_hu))
    np.testing.assert_array_equal(file_order(volume), hu)
    assert ["no RescaleSlope: stored values" in warning for warning in volume.warnings] == [True, False]


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescaling_missing_on_one_slice_is_named(hu, tmp_path, name):
    write_series(tmp_path, hu, PLACES, of_slice(3, **{name: None}))
    refused(tmp_path, f"im3.dcm: im3.dcm has no {name}, which 3 of 4 slices have")


def test_a_rescaling_of_each_slice_is_applied_if_it_fits(hu, tmp_path):
    def shifted(data, index):
        data.RescaleIntercept = -STORED - 200 * (index // 2)
        data.PixelData = (hu[index] + STORED + 200 * (index // 2)).astype("<u2").tobytes()

    volume = read_dicom_series(write_series(tmp_path / "fits", hu, PLACES, shifted))
    np.testing.assert_array_equal(file_order(volume), hu)
    assert "RescaleIntercept differs between its slices (-1224 to -1024)" in volume.warnings[0]
    write_series(
        tmp_path / "not", hu, PLACES, lambda data, index: setattr(data, "RescaleIntercept", -1024 * (index < 2))
    )
    refused(tmp_path / "not", r"im2.dcm: its values lie \+1024 HU from .*im1.dcm .*RescaleIntercept from -1024 to 0")


def padded(hu, value, slope=1, **elements):
    """The corners are padding of the stored `value`, and so is one voxel inside."""

    def change(data, index):
        stored = hu[index] + STORED
        stored[:2, :2] = stored[-1:, -3:] = stored[4, 4] = value
        data.PixelPaddingValue = value
        data.PixelData = stored.astype("<u2").tobytes()
        for name, other in elements.items():
            setattr(data, name, other)

    return change


def test_padding_of_a_value_like_liver_is_air(hu, tmp_path):
    volume = read_dicom_series(write_series(tmp_path, hu, PLACES, padded(hu, 1130)))
    expected = hu.copy()
    expected[:, :2, :2] = expected[:, -1:, -3:] = -1024
    expected[:, 4, 4] = 1130 - STORED  # inside it may be tissue of the same value
    np.testing.assert_array_equal(file_order(volume), expected)


def test_padding_whose_sign_writers_disagree_about_is_padding(hu, tmp_path):
    def signed(data, index):
        padded(hu, 1130)(data, index)
        stored = hu[index].astype("<i2")
        stored[:2, :2] = 5000
        data.PixelData, data.PixelRepresentation, data.RescaleIntercept = stored.tobytes(), 1, 0
        data.PixelPaddingValue = 5000

    expected = hu.copy()
    expected[:, :2, :2] = -1024
    np.testing.assert_array_equal(file_order(read_dicom_series(write_series(tmp_path, hu, PLACES, signed))), expected)


def test_padding_below_air_stays_as_it_is(hu, tmp_path):
    def low(data, index):
        stored = hu[index].astype("<i2")
        stored[:2, :2] = -2000
        data.PixelData, data.PixelRepresentation, data.RescaleIntercept = stored.tobytes(), 1, 0
        data.PixelPaddingValue = -2000

    expected = hu.copy()
    expected[:, :2, :2] = -2000
    np.testing.assert_array_equal(file_order(read_dicom_series(write_series(tmp_path, hu, PLACES, low))), expected)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_no_part_of_a_value(hu, tmp_path, signed):
    def twelve_bits(data, index):
        stored = hu[index] + (0 if signed else STORED)
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, int(signed)
        data.RescaleIntercept = 0 if signed else -STORED
        garbage = (stored & 0xFFF) | (0x7000 if index == 1 else 0)
        if signed and index != 1:
            garbage = stored & 0xFFFF
        data.PixelData = garbage.astype("<u2").tobytes()

    volume = read_dicom_series(write_series(tmp_path, hu, PLACES, twelve_bits))
    np.testing.assert_array_equal(file_order(volume), hu)
    assert len(volume.warnings) == 1
    assert "bits above BitsStored are set in 1 of 4 files, such as im1.dcm; they were left out" in volume.warnings[0]


def test_monochrome1_changes_how_a_ct_is_shown_not_what_it_holds(hu, tmp_path):
    write_series(tmp_path, hu, PLACES, of_slice(None, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(file_order(read_dicom_series(tmp_path)), hu)


def test_a_format_that_changes_within_the_series_is_said(hu, tmp_path):
    write_series(tmp_path, hu, PLACES, of_slice(1, PixelRepresentation=1))
    volume = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(file_order(volume), hu)
    assert "PixelRepresentation differs between its slices (0, 1)" in volume.warnings[0]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_byte_orders_are_the_same_scan(hu, tmp_path, syntax):
    for path in write_series(tmp_path, hu, PLACES).iterdir():
        data = pydicom.dcmread(path)
        if not syntax.is_little_endian:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = syntax
        implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        list(data.iterall())  # numbers are turned anew only once they were read
        pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=little, force_encoding=True)
    np.testing.assert_array_equal(file_order(read_dicom_series(tmp_path)), hu)


def test_what_holds_no_slice_gives_none(hu, tmp_path):
    write_series(tmp_path, hu, PLACES)
    path = tmp_path / "im0.dcm"
    for elements in (
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImageType": "DERIVED", "ImagePositionPatient": None},
    ):
        edit(path, **elements)
        assert read_slices(path) == []
    edit(path, SOPClassUID=EnhancedCTImageStorage)
    with pytest.raises(VolumeError, match="im0.dcm: has no ImagePositionPatient"):
        read_slices(path)


def test_a_file_that_may_not_be_opened_is_named(tmp_path):
    with pytest.raises(VolumeError, match=r"gone.dcm: cannot be read \(No such file or directory\)"):
        looks_like_dicom(tmp_path / "gone.dcm")
    with pytest.raises(VolumeError, match=r"gone.dcm: cannot be read \(No such file or directory\)"):
        read_slices(tmp_path / "gone.dcm")


def test_values_that_bend_the_standard_are_not_logged(hu, tmp_path):
    """In a process of its own: how absl shows other packages' logs is set up by run.py."""
    write_series(tmp_path, hu, PLACES)
    for index in range(SLICES):
        put(tmp_path / f"im{index}.dcm", "StudyInstanceUID", b"1.2.x\0")
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG);"
        "from raunet_jax.imaging.volume import read_dicom_series;"
        f"print(read_dicom_series({str(tmp_path)!r}).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (str((SLICES, ROWS, COLUMNS)), "")
