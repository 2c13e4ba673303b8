import pathlib

import gdcm
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from raunet_jax.imaging.dicom import series_slices
from raunet_jax.imaging.dicom_files import read_pixels
from raunet_jax.imaging.volume import VolumeError, is_dicom_folder, read_dicom_series, read_mask, write_mask

ROWS, COLUMNS, SLICES = 5, 7, 6
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
TURN = np.array([[0.96, 0.28, 0.0], [-0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])  # columns: row, column, normal direction


def hounsfield(index: int) -> np.ndarray:
    """(rows, columns) of slice `index`: every voxel of a series has a value of its own."""
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + 100 * index - 300).astype(np.int16)


def write_slice(path, index, axes=TURN, step=(0, 0, 2.5), series="1.2.3", preamble=True, **changes) -> None:
    data = FileDataset(str(path), {}, preamble=b"\0" * 128 if preamble else None)
    if preamble:
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = generate_uid()
    data.Modality = "CT"
    data.SeriesDescription = f"abdomen {series}"
    data.SliceThickness = 2.5
    data.SeriesInstanceUID = series
    data.ImagePositionPatient = [float(x) for x in np.array([10, -20, 30]) + index * axes @ np.array(step, float)]
    data.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
    data.PixelSpacing = [0.8, 0.6]
    data.Rows, data.Columns = ROWS, COLUMNS
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    data.PixelData = ((hounsfield(index).astype(int) + 1024) // 2).astype("<u2").tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    if preamble:
        data.save_as(path, enforce_file_format=True)
    else:
        data.save_as(path, implicit_vr=True, little_endian=True)


def expected(index: int) -> np.ndarray:
    return (hounsfield(index).astype(int) + 1024) // 2 * 2 - 1024


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    path = tmp_path / "patient"
    path.mkdir()
    return path


def write_series(folder, indices=range(SLICES), name="image_{}", **changes) -> None:
    for place, index in enumerate(indices):
        # names in an order that has nothing to do with the position
        write_slice(folder / name.format((place * 5 + 3) % 17), index, **changes)


def check_places(volume, axes, step, indices=range(SLICES)) -> None:
    """Every pixel is found at the place in space that DICOM PS3.3 C.7.6.2.1.1 gives it."""
    to_index = np.linalg.inv(volume.affine)
    for index in indices:
        for row in range(ROWS):
            for column in range(COLUMNS):
                lps = np.array([10, -20, 30]) + axes @ (np.array([column * 0.6, row * 0.8, 0]) + index * np.array(step))
                x, y, z = np.rint(to_index @ (*(LPS_TO_RAS @ lps), 1))[:3].astype(int)
                assert volume.voxels[z, y, x, 0] == expected(index)[row, column]


AXES = {
    "oblique axial": TURN,
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "sagittal": np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]]),
    "feet up": np.array([[-1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]]),
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES.keys())
def test_shuffled_extensionless_slices_land_at_their_places(folder, axes):
    write_series(folder, axes=axes)
    volume = read_dicom_series(folder)
    assert volume.name == "patient" and volume.voxels.dtype == np.int16 and volume.grid.header is None
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert sorted(volume.shape) == [ROWS, SLICES, COLUMNS]
    check_places(volume, axes, (0, 0, 2.5))


def test_slices_stored_feet_first_or_head_first_are_the_same_scan(folder, tmp_path):
    write_series(folder)
    (tmp_path / "reversed").mkdir()
    write_series(tmp_path / "reversed", reversed(range(SLICES)), name="{}.dcm")
    first, second = read_dicom_series(folder), read_dicom_series(tmp_path / "reversed")
    np.testing.assert_array_equal(first.voxels, second.voxels)
    np.testing.assert_array_equal(first.affine, second.affine)


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES.keys())
def test_a_mask_of_a_series_lies_over_its_slices(folder, axes):
    write_series(folder, axes=axes)
    volume = read_dicom_series(folder)
    write_mask(folder / "mask.nii.gz", (volume.voxels[..., 0] >= 0).astype(np.uint8), volume)
    written = nib.load(folder / "mask.nii.gz")
    assert written.shape == (COLUMNS, ROWS, SLICES)
    for index in range(SLICES):
        np.testing.assert_array_equal(np.asarray(written.dataobj)[:, :, index].T, expected(index) >= 0)
    np.testing.assert_allclose(written.affine @ (0, 0, 0, 1), (*(LPS_TO_RAS @ (10, -20, 30)), 1), atol=1e-4)
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-4)
    np.testing.assert_array_equal(read_mask(folder / "mask.nii.gz", volume), volume.voxels[..., 0] >= 0)


def test_a_tilted_gantry_shears_the_grid_and_its_mask(folder):
    step = (0, 0.9, 2.4)
    write_series(folder, step=step)
    volume = read_dicom_series(folder)
    check_places(volume, TURN, step)
    write_mask(folder / "mask.nii.gz", np.ones(volume.shape, np.uint8), volume)
    written = nib.load(folder / "mask.nii.gz")
    assert written.header["qform_code"] == 0 and written.header["sform_code"] == 1
    assert read_mask(folder / "mask.nii.gz", volume).all()


@pytest.mark.parametrize("missing,count", [([3], 1), ([2, 3], 2), ([1, 4], 1)])
def test_missing_slices_are_named_by_their_neighbors(folder, missing, count):
    for index in set(range(SLICES)) - set(missing):
        write_slice(folder / f"slice{index}", index)
    before, after = missing[0] - 1, missing[0] + count
    words = (
        rf"patient: slices are missing: .* usual spacing 2.50 mm, but {2.5 * (count + 1):.2f} mm between "
        rf"slice{before} \(at .* mm\) and slice{after} .*, {count} missing"
    )
    with pytest.raises(VolumeError, match=words):
        read_dicom_series(folder)


def test_one_slice_missing_of_three_is_noticed(folder):
    write_series(folder, (0, 1, 3))
    with pytest.raises(VolumeError, match="1 missing"):
        read_dicom_series(folder)


def test_positions_with_one_decimal_are_no_gap(folder):
    for index in range(12):
        place = [10.0, -20.0, round(30 + 0.625 * index, 1)]
        write_slice(folder / str(index), index, axes=np.eye(3), ImagePositionPatient=place)
    np.testing.assert_allclose(read_dicom_series(folder).spacing_mm, (0.625, 0.8, 0.6), rtol=0.01)


def test_two_slices_at_one_position_are_named(folder):
    write_series(folder)
    write_slice(folder / "zcopy", 2)
    with pytest.raises(VolumeError, match="image_13 and zcopy lie at the same position .*remove it"):
        read_dicom_series(folder)


def test_two_series_in_a_folder_are_named(folder):
    write_series(folder)
    write_series(folder, range(3), name="other_{}", series="4.5.6")
    words = (
        r"holds 2 series: 'abdomen 1.2.3' \(CT, 6 slices\); 'abdomen 4.5.6' \(CT, 3 slices\); "
        r"choose one with --series .*folder of its own"
    )
    with pytest.raises(VolumeError, match=words):
        read_dicom_series(folder)


def test_what_is_no_slice_is_passed_over(folder):
    write_series(folder)
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    (folder / "subfolder").mkdir()
    write_slice(folder / "scout", 40, series="9.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice(folder / "capture", 41, series="9.8", ImagePositionPatient=None, Modality="OT")
    write_slice(folder / "report", 42, series="9.7", Rows=None, PixelData=None, Modality="SR")
    assert sorted(read_dicom_series(folder).shape) == [ROWS, SLICES, COLUMNS]


def test_old_files_without_preamble_are_read(folder):
    write_series(folder, preamble=False)
    assert (folder / "image_3").read_bytes()[128:132] != b"DICM"
    assert is_dicom_folder(folder)
    check_places(read_dicom_series(folder), TURN, (0, 0, 2.5))


@pytest.mark.parametrize("value", [None, ""], ids=["absent", "without a value"])
def test_what_an_anonymizer_left_out_takes_its_default(folder, value):
    left_out = {"Modality": value, "RescaleSlope": value, "RescaleIntercept": value, "ImageType": value}
    for index in range(3):
        stored = hounsfield(index).tobytes()
        write_slice(folder / f"image_{index}", index, np.eye(3), **left_out, PixelRepresentation=1, PixelData=stored)
    volume = read_dicom_series(folder)
    for index in range(3):
        np.testing.assert_array_equal(volume.voxels[index, ::-1, ::-1, 0], hounsfield(index))


def test_a_rescaling_that_is_no_number_is_named(folder):
    for index in range(3):
        write_slice(folder / f"image_{index}", index)
    path = folder / "image_1"
    path.write_bytes(path.read_bytes().replace(b"-1024.0 ", b"unknown "))
    with pytest.raises(VolumeError, match="image_1: RescaleIntercept cannot be read: unknown; export the series again"):
        read_dicom_series(folder)


def test_slices_come_in_the_order_of_the_grid_without_their_pixels(folder):
    numbers = [3, 10, 2, 11, 0, 1]
    for index, number in enumerate(numbers):
        write_slice(folder / f"image_{number}", index, PixelData=None)
    slices = series_slices(folder)
    assert [one.path.name for one in slices] == [f"image_{number}" for number in numbers]
    assert slices[0].shape == (ROWS, COLUMNS)
    np.testing.assert_allclose(slices[5].position, np.array([10, -20, 30]) + 5 * TURN @ (0, 0, 2.5))


def test_pixels_come_as_stored(folder):
    write_slice(folder / "image_2", 2)
    data, stored = read_pixels(folder / "image_2")
    assert data.RescaleIntercept == -1024
    np.testing.assert_array_equal(stored.astype(int) * 2 - 1024, expected(2))


def test_a_single_slice_takes_its_thickness(folder):
    write_slice(folder / "a", 0)
    assert read_dicom_series(folder).spacing_mm[0] == pytest.approx(2.5)
    write_slice(folder / "a", 0, SliceThickness=None)
    with pytest.raises(VolumeError, match="single slice without SliceThickness"):
        read_dicom_series(folder)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"Modality": "MR"}, "odd: its modality is MR, not CT"),
        ({"PixelSpacing": [0.9, 0.9]}, "odd: its pixel spacing differs"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]}, "odd: its orientation differs"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]}, "odd: ImageOrientationPatient .* describes no pixel grid"),
        ({"Rows": 4}, "odd: its size differs"),
        ({"ImagePositionPatient": None}, "odd: has no ImagePositionPatient; export the series again"),
        ({"PixelData": b"\0\0"}, "odd: its pixels cannot be decoded .*Explicit VR Little Endian"),
    ],
)
def test_a_slice_unlike_the_others_is_named(folder, changes, words):
    write_series(folder, range(1, 4))
    write_slice(folder / "odd", 4, **changes)
    with pytest.raises(VolumeError, match=words):
        read_dicom_series(folder)


def test_a_slice_beside_the_line_of_the_others_is_named(folder):
    write_series(folder)
    data = pydicom.dcmread(folder / "image_13")  # slice 2
    data.ImagePositionPatient[0] += 30
    data.save_as(folder / "image_13")
    with pytest.raises(VolumeError, match="image_13: its position .* lies 30.00 mm off the line of the others"):
        read_dicom_series(folder)


def test_folders_without_a_series_are_refused(folder, tmp_path):
    with pytest.raises(VolumeError, match="holds no slice of a CT or MR scan"):
        read_dicom_series(folder)
    write_slice(folder / "enhanced", 0, ImagePositionPatient=None, NumberOfFrames=5)
    with pytest.raises(VolumeError, match=r"enhanced: is a multi-frame file \(5 frames\) that gives none"):
        read_dicom_series(folder)
    (folder / "bad.dcm").write_bytes(b"x" * 10)
    with pytest.raises(VolumeError, match=r"bad.dcm: not a readable DICOM file \(10 bytes\)"):
        read_dicom_series(folder)
    with pytest.raises(VolumeError, match="nowhere: not a folder"):
        read_dicom_series(tmp_path / "nowhere")


def test_a_dicom_folder_is_known_by_its_files(folder, tmp_path):
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "volume-0.nii").write_bytes(b"\x5c\x01\0\0" + b"\0" * 400)
    assert not is_dicom_folder(folder) and not is_dicom_folder(tmp_path / "nowhere")
    write_slice(folder / "anything", 0)
    assert is_dicom_folder(folder) and not is_dicom_folder(folder / "anything")


@pytest.mark.parametrize("syntax", "JPEGLosslessProcess14_1 JPEGLSLossless RLELossless".split())
def test_compressed_slices_are_decoded(tmp_path, syntax):
    for folder in ("plain", "compressed"):
        (tmp_path / folder).mkdir()
    write_series(tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "compressed" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    compressed = read_dicom_series(tmp_path / "compressed")
    np.testing.assert_array_equal(compressed.voxels, read_dicom_series(tmp_path / "plain").voxels)
