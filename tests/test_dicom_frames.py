"""Multi-frame files and MR series."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
)

from dicom_writer import ORIGIN_MM, SPACING_MM, STORED, edit, file_order, one, write_enhanced, write_series
from raunet_jax.imaging import dicom_pixels
from raunet_jax.imaging.dicom_files import read_slices
from raunet_jax.imaging.volume import VolumeError, load_scan, read_dicom_series, write_mask, write_nifti

ROWS, COLUMNS, SLICES = 4, 6, 5
PLACES = 40 + 2.5 * np.arange(SLICES)


@pytest.fixture
def hu():
    """(slices, rows, columns), no two voxels alike."""
    return np.arange(SLICES * ROWS * COLUMNS).reshape(SLICES, ROWS, COLUMNS) * 7 - 900


def as_mr(data, index) -> None:
    data.Modality, data.SOPClassUID = "MR", MRImageStorage
    data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    del data.RescaleSlope, data.RescaleIntercept


def test_a_multi_frame_ct_is_the_scan_that_its_single_slices_are(hu, tmp_path):
    single = read_dicom_series(write_series(tmp_path / "single", hu, PLACES))
    order = [3, 0, 4, 1, 2]
    file = write_enhanced(tmp_path / "enhanced.dcm", hu[order] + STORED, PLACES[order])
    for source in (file, tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        if source.is_dir():
            file.rename(source / "anything")
        many = read_dicom_series(source)
        np.testing.assert_array_equal(many.voxels, single.voxels)
        np.testing.assert_allclose(many.affine, single.affine)
        assert many.warnings == () and many.voxels.dtype == np.int16
    np.testing.assert_array_equal(file_order(single), hu)
    # the first voxel of the first file slice, by hand: LPS to RAS turns the signs of x and y
    np.testing.assert_allclose(single.grid.affine[:, 3], (-ORIGIN_MM[0], -ORIGIN_MM[1], 40, 1))
    assert single.spacing_mm == pytest.approx((2.5, *SPACING_MM))


def test_the_slices_of_a_multi_frame_file_are_known_without_its_pixels(hu, tmp_path):
    path = write_enhanced(tmp_path / "a", hu + STORED, PLACES, whole=lambda data: delattr(data, "PixelData"))
    slices = read_slices(path)
    assert [one.frame for one in slices] == list(range(SLICES))
    np.testing.assert_array_equal([one.position[2] for one in slices], PLACES)
    assert {(one.shape, one.rescale, one.modality) for one in slices} == {((ROWS, COLUMNS), (1, -STORED), "CT")}
    assert [one.path for one in read_slices(pydicom.dcmread(path))] == [path] * SLICES


def test_a_multi_frame_file_is_decoded_once(hu, tmp_path, monkeypatch):
    decoded = []
    read = dicom_pixels.read_pixels
    monkeypatch.setattr(dicom_pixels, "read_pixels", lambda path: decoded.append(path) or read(path))
    path = write_enhanced(tmp_path / "a", hu + STORED, PLACES)
    read_dicom_series(path)
    assert decoded == [path]


def test_each_frame_has_its_own_rescaling(hu, tmp_path):
    def rescaled(groups, index):
        groups.PixelValueTransformationSequence = one(RescaleSlope=1, RescaleIntercept=-STORED - index)

    stored = hu + STORED + np.arange(SLICES)[:, None, None]
    path = write_enhanced(tmp_path / "a", stored, PLACES, rescaled, kind=LegacyConvertedEnhancedCTImageStorage)
    volume = read_dicom_series(path)
    np.testing.assert_array_equal(file_order(volume), hu)
    assert len(volume.warnings) == 1 and "RescaleIntercept differs between its slices" in volume.warnings[0]


def test_compressed_frames_are_decoded(hu, tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", hu + STORED, PLACES)
    data = pydicom.dcmread(path)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path)
    np.testing.assert_array_equal(file_order(read_dicom_series(path)), hu)


def test_localizer_frames_are_left_out(hu, tmp_path):
    def frame(groups, index):
        kind = "LOCALIZER" if index == SLICES - 1 else "VOLUME"
        groups.CTImageFrameTypeSequence = one(FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"])

    volume = read_dicom_series(write_enhanced(tmp_path / "a.dcm", hu + STORED, PLACES, frame))
    np.testing.assert_array_equal(file_order(volume), hu[:-1])


@pytest.mark.parametrize(
    "change,words",
    [
        (
            lambda groups, index: groups.FrameContentSequence.__setitem__(
                0, one(StackID="1", TemporalPositionIndex=index % 2 + 1)[0]
            ),
            "holds 2 volumes in one series: TemporalPositionIndex 1; TemporalPositionIndex 2; save the wanted one",
        ),
        (
            lambda groups, index: setattr(groups, "MREchoSequence", one(EffectiveEchoTime=10.0 + 80 * (index > 2))),
            "holds 2 volumes in one series: EffectiveEchoTime 10.0; EffectiveEchoTime 90.0",
        ),
        (lambda groups, index: delattr(groups, "PlanePositionSequence"), "a: has no ImagePositionPatient"),
        (
            lambda groups, index: setattr(
                groups.PlanePositionSequence[0], "ImagePositionPatient", [1.0, 2.0, float("nan")]
            ),
            "a: ImagePositionPatient is .*nan",
        ),
        (
            lambda groups, index: setattr(groups, "PixelMeasuresSequence", one(PixelSpacing=[1.0 + index, 1.0])),
            "a: its pixel spacing differs",
        ),
    ],
    ids=["time points", "echoes", "no position", "NaN in a position", "spacings"],
)
def test_frames_that_are_no_one_volume_are_named(hu, tmp_path, change, words):
    path = write_enhanced(tmp_path / "a", hu + STORED, PLACES, change)
    with pytest.raises(VolumeError, match=words) as caught:
        read_dicom_series(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda data: setattr(data, "NumberOfFrames", 4), "NumberOfFrames is 4, but PerFrame.* is of 5"),
        (lambda data: setattr(data, "PixelData", data.PixelData[:-2]), "its pixels cannot be decoded"),
        (
            lambda data: delattr(data, "PerFrameFunctionalGroupsSequence"),
            "is a multi-frame file .* a position",
        ),
    ],
)
def test_a_multi_frame_file_at_odds_with_itself_is_named(hu, tmp_path, change, words):
    path = write_enhanced(tmp_path / "a", hu + STORED, PLACES, whole=change)
    with pytest.raises(VolumeError, match=f"a: {words}"):
        read_dicom_series(path)


def test_frames_of_a_secondary_capture_are_no_scan(hu, tmp_path):
    def capture(data):
        del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence

    kind = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    path = write_enhanced(tmp_path / "a", hu + STORED, PLACES, whole=capture, kind=kind, modality="OT")
    with pytest.raises(VolumeError, match=r"a: is a multi-frame file \(5 frames\) that gives none of them a position"):
        read_dicom_series(path)


def test_one_file_of_a_series_is_not_the_series(hu, tmp_path):
    write_series(tmp_path, hu, PLACES)
    with pytest.raises(VolumeError, match="im0.dcm: is one slice of a series.*give the folder"):
        load_scan([tmp_path / "im0.dcm"], "ct")


def test_an_mr_series_is_float_and_rescaled_where_it_says_so(hu, tmp_path):
    stored = hu + STORED
    folder = write_series(tmp_path / "mr", hu, PLACES, as_mr)
    volume = load_scan([folder], "mr")
    assert volume.voxels.dtype == np.float32 and volume.warnings == ()
    np.testing.assert_array_equal(file_order(volume), stored)

    def scaled(data, index):
        as_mr(data, index)
        data.RescaleSlope, data.RescaleIntercept = 0.25 + index, 3

    volume = load_scan([write_series(tmp_path / "scaled", hu, PLACES, scaled)], "mr")
    slopes = 0.25 + np.arange(SLICES)[:, None, None]
    np.testing.assert_allclose(file_order(volume), stored * slopes + 3, rtol=1e-6)
    enhanced = write_enhanced(tmp_path / "enhanced", stored, PLACES, kind=EnhancedMRImageStorage, modality="MR")
    np.testing.assert_array_equal(file_order(load_scan([enhanced], "mr")), stored)
    with pytest.raises(VolumeError, match="is one DICOM series where 4 channels are wanted"):
        load_scan([enhanced], "mr", (0, 1, 2, 3))
    with pytest.raises(VolumeError, match="its modality is MR, not CT"):
        load_scan([folder], "ct")
    with pytest.raises(VolumeError, match="its modality is CT, not MR;"):
        load_scan([write_series(tmp_path / "ct", hu, PLACES)], "mr")


def test_series_of_four_modalities_are_the_channels_of_one_volume(hu, tmp_path):
    folders = []
    for channel, name in enumerate(("t1", "t1gd", "t2", "flair")):
        folders.append(write_series(tmp_path / "patient" / name, hu + 100 * channel, PLACES, as_mr, f"1.{channel}"))
    volume = load_scan(folders, "mr")
    assert volume.name == "patient" and volume.shape == (SLICES, ROWS, COLUMNS)
    for channel in range(4):
        np.testing.assert_array_equal(volume.voxels[:, ::-1, ::-1, channel], hu + STORED + 100 * channel)
    write_mask(tmp_path / "mask.nii.gz", np.ones(volume.shape, np.uint8), volume)
    assert nib.load(tmp_path / "mask.nii.gz").shape == (COLUMNS, ROWS, SLICES)

    file = tmp_path / "t2.nii.gz"
    write_nifti(file, volume.voxels[..., 2], volume.affine)
    np.testing.assert_array_equal(load_scan([*folders[:2], file, folders[3]], "mr").voxels, volume.voxels)
    for path in folders[3].iterdir():
        place = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[place[0] + 4, *place[1:]])
    with pytest.raises(VolumeError, match=r"flair: its affine puts the voxels up to 4.0 mm away from those of .*t1 "):
        load_scan(folders, "mr")
