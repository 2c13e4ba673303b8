"""Which files make up which series, wherever below a folder they lie."""

import os
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from raunet_jax.imaging import dicom_series
from raunet_jax.imaging.dicom import files_of, read_dicom_series, series_slices
from raunet_jax.imaging.dicom_series import find_series, orientation_name
from raunet_jax.imaging.volume import VolumeError
from study_writer import write_object, write_series


def facts(root):
    """(description, slices, files) of each series."""
    return [(one.description, one.slices, len(one.files)) for one in find_series(root)[0]]


def test_a_series_split_over_a_folder_and_its_subfolders_is_one_and_is_read_whole(tmp_path):
    uid = write_series(tmp_path / "p", "abdomen", range(7))
    write_series(tmp_path / "p" / "000001", "abdomen", range(7, 12), SeriesInstanceUID=uid)
    (one,), others = find_series(tmp_path)
    assert (one.slices, len(one.files), one.folder, others) == (12, 12, tmp_path / "p", [])
    volume = read_dicom_series(one.folder, one.key)
    np.testing.assert_array_equal(volume.voxels[:, 0, 0, 0], range(12))
    assert [path.name for path in one.files] == [f"IM{index:04d}" for index in range(12)]


def test_series_that_lie_in_one_folder_are_read_by_their_keys(tmp_path):
    keys = [write_series(tmp_path, str(n), 4, name=f"{n}_{{}}", SeriesNumber=n, value=100 * n) for n in (1, 2, 3)]
    assert facts(tmp_path) == [("1", 4, 4), ("2", 4, 4), ("3", 4, 4)]
    for number, key in enumerate(keys, 1):
        assert read_dicom_series(tmp_path, key).voxels.min() == 100 * number
    with pytest.raises(VolumeError, match=r"holds no series 9.9; there is 1 '1' \(CT, 4 slices\).*--series"):
        read_dicom_series(tmp_path, "9.9")


def test_headers_of_a_folder_of_many_series_are_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    keys = [write_series(tmp_path, str(n), 3, name=f"{n}_{{}}", SeriesNumber=n) for n in range(4)]
    read = []
    read_headers = dicom_series.read_headers
    monkeypatch.setattr(dicom_series, "read_headers", lambda files: read.append(len(files)) or read_headers(files))
    assert [len(files_of(tmp_path, key)) for key in keys] == [3, 3, 3, 3] and read == [12]
    (tmp_path / "3_0").unlink()
    assert len(files_of(tmp_path, keys[3])) == 2 and read == [12, 11]


def test_many_series_in_one_folder_are_named_in_a_short_sentence_without_their_uids(tmp_path):
    for number in range(30):
        write_series(tmp_path, f"series {number}", 1, name=f"{number}_{{}}", SeriesNumber=number)
    with pytest.raises(VolumeError) as raised:
        read_dicom_series(tmp_path)
    said = str(raised.value)
    assert "holds 30 series: 0 'series 0' (CT, 1 slice)" in said and "and 24 more" in said and "--series" in said
    assert len(said) - len(str(tmp_path)) < 600


def test_other_modalities_in_the_folder_of_the_only_ct_are_passed_over(tmp_path):
    write_series(tmp_path, "CT", 4)
    write_series(tmp_path, "PET AC", 4, name="PT{}", Modality="PT", value=500)
    assert read_dicom_series(tmp_path).voxels.max() == 3


@pytest.mark.parametrize(
    "sop_class, modality, elements, what",
    [
        ("88.33", "SR", {"Rows": None}, "structured report"),
        ("88.67", "SR", {"Rows": None}, "dose report"),
        ("88.59", "KO", {"Rows": None}, "key object selection"),
        ("481.2", "RTDOSE", {}, "radiotherapy dose"),
        ("481.3", "RTSTRUCT", {"Rows": None}, "radiotherapy structure set"),
        ("66.4", "SEG", {}, "segmentation"),
        ("66.1", "REG", {"Rows": None}, "registration or raw data"),
        ("11.1", "PR", {"Rows": None}, "presentation state"),
        ("104.1", "DOC", {"Rows": None}, "encapsulated document"),
        ("7", "OT", {}, "secondary capture"),
        ("7.4", "CT", {}, "secondary capture"),
        ("2", "SEG", {}, "segmentation"),
        ("2", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ("2", "CT", {"Rows": None}, "file without an image"),
        ("2", "CT", {}, "image without ImagePositionPatient and ImageOrientationPatient"),
    ],
)
def test_what_is_no_series_is_named_for_what_it_is(tmp_path, sop_class, modality, elements, what):
    write_object(tmp_path / "X", f"1.2.840.10008.5.1.4.1.1.{sop_class}", modality, **elements)
    series, (other,) = find_series(tmp_path)
    assert (series, other) == ([], (tmp_path / "X", what, False))


def test_a_whole_series_without_places_is_no_small_matter(tmp_path):
    write_series(tmp_path, "lost", 3, PixelSpacing=None)
    _, others = find_series(tmp_path)
    assert [(one.what, one.trouble) for one in others] == [("image without PixelSpacing", True)] * 3


def test_a_slice_without_a_place_is_not_dropped_from_its_series(tmp_path):
    uid = write_series(tmp_path, "s", 4)
    write_series(tmp_path, "s", [4], SeriesInstanceUID=uid, ImagePositionPatient=None)
    (one,), _ = find_series(tmp_path)
    assert len(one.files) == 5
    with pytest.raises(VolumeError, match="IM0004.*ImagePositionPatient"):
        read_dicom_series(tmp_path, one.key)


def test_damaged_and_locked_files_are_listed_and_the_rest_goes_on(tmp_path):
    write_series(tmp_path / "p", "good", 3)
    (tmp_path / "p" / "bad.dcm").write_bytes(b"x" * 10)
    (tmp_path / "p" / "hollow").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "p" / "notes.txt").write_text("no DICOM")
    (tmp_path / "p" / "volume-0.nii").write_bytes(b"\x5c\x01\0\0" + b"\0" * 400)
    series, others = find_series(tmp_path)
    assert [one.slices for one in series] == [3]
    assert {(one.path.name, one.what[:24], one.trouble) for one in others} == {
        ("bad.dcm", "not a readable DICOM fil", True),
        ("hollow", "damaged DICOM file (noth", True),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is locked for root")
def test_locked_folders_and_files_are_listed(tmp_path):
    write_series(tmp_path / "p", "good", 3)
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "p" / "IM0001").chmod(0)
    series, others = find_series(tmp_path)
    assert [one.slices for one in series] == [2]
    assert [(one.path.name, one.what, one.trouble) for one in others] == [
        ("locked", "cannot be read (Permission denied)", True),
        ("IM0001", "cannot be read (Permission denied)", True),
    ]


def test_links_are_followed_once_and_hidden_files_not_at_all(tmp_path):
    write_series(tmp_path / "real" / ".cache", "hidden", 3)
    write_series(tmp_path / "store", "linked", 3)
    (tmp_path / "real" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "gone").symlink_to(tmp_path / "nowhere")
    series, others = find_series(tmp_path / "real")
    assert [(one.description, one.slices) for one in series] == [("linked", 3)]
    assert [(one.path.name, one.what) for one in others] == [("gone", "cannot be read (No such file or directory)")]


def test_a_copy_of_a_file_counts_once_and_another_file_of_its_number_twice(tmp_path):
    write_series(tmp_path, "s", 4)
    shutil.copy(tmp_path / "IM0002", tmp_path / "IM0002 copy")
    (one,), (copy,) = find_series(tmp_path)
    assert one.slices == len(one.files) == 4 and copy == (tmp_path / "IM0002 copy", "copy of another file", False)
    data = pydicom.dcmread(tmp_path / "IM0002 copy")
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(tmp_path / "IM0002 copy")
    assert find_series(tmp_path)[1] == []
    with pytest.raises(VolumeError, match="same position"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    "element, values",
    [
        ("AcquisitionNumber", (1, 2)),
        ("EchoNumbers", (1, 2)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
        ("AcquisitionTime", ("101500", "101530")),
    ],
)
def test_stacks_at_the_same_places_are_told_apart(tmp_path, element, values):
    uid = generate_uid()
    for value, name in zip(values, ("A{}", "B{}"), strict=True):
        write_series(tmp_path, "s", 5, name=name, SeriesInstanceUID=uid, value=ord(name[0]), **{element: value})
    one, other = find_series(tmp_path)[0]
    assert (one.key, other.key) == (uid, f"{uid}/2") and element in one.part and element in other.part
    assert read_dicom_series(tmp_path, one.key).voxels.min() == ord("A")
    assert read_dicom_series(tmp_path, other.key).voxels.min() == ord("B")


def test_one_series_of_two_acquisitions_end_to_end_stays_one(tmp_path):
    write_series(tmp_path, "s", 8, AcquisitionNumber=lambda index: index // 4)
    assert facts(tmp_path) == [("s", 8, 8)]


def test_a_series_holds_a_stack_a_geometry(tmp_path):
    uid = write_series(tmp_path / "p", "s", 6)
    write_series(tmp_path / "p" / "more", "s", 3, plane="coronal", SeriesInstanceUID=uid)
    write_series(tmp_path / "p" / "more", "s", [5], name="odd{}", SeriesInstanceUID=uid, PixelSpacing=[0.9, 0.9])
    series, _ = find_series(tmp_path)
    assert [(one.key, one.plane, one.slices) for one in series] == [
        (uid, "axial", 6),
        (f"{uid}/2", "coronal", 3),
        (f"{uid}/3", "axial", 1),
    ]
    assert {one.folder for one in series} == {tmp_path / "p"}
    assert len(series_slices(tmp_path / "p", f"{uid}/2")) == 3


def test_patients_whose_anonymizer_gave_all_of_them_one_uid_stay_apart(tmp_path):
    for patient, spacing in (("a", 0.8), ("b", 0.8), ("c", 0.7)):
        elements = {"SeriesInstanceUID": "1.2.3", "PatientID": None, "PixelSpacing": [spacing] * 2}
        write_series(tmp_path / patient, "s", 4, value=ord(patient), **elements)
    series, _ = find_series(tmp_path)
    assert len(series) == len({one.study for one in series}) == 3
    for one in series:
        assert read_dicom_series(one.folder, one.key).voxels.min() == ord(one.files[0].parent.name)
    assert len({one.head.patient for one in series}) == 1


def test_files_without_uids_are_a_series_a_folder(tmp_path):
    for patient in ("a", "b", "b/deeper"):
        elements = {"SeriesInstanceUID": None, "StudyInstanceUID": None}
        write_series(tmp_path / patient, "s", 4, value=len(patient), **(elements | {"SeriesInstanceUID": ""}))
    series, _ = find_series(tmp_path)
    assert [one.folder for one in series] == [tmp_path / "a", tmp_path / "b", tmp_path / "b" / "deeper"]
    assert [read_dicom_series(one.folder, one.key).voxels.min() for one in series] == [1, 1, 8]


def test_slices_with_a_uid_each_are_one_series_and_the_volume_says_so(tmp_path):
    write_series(tmp_path, "s", 9, SeriesInstanceUID=lambda index: generate_uid())
    (one,), _ = find_series(tmp_path)
    assert one.slices == 9 and "SeriesInstanceUID of its own" in one.warnings[0]
    for key in ("", one.key):
        volume = read_dicom_series(tmp_path, key)
        np.testing.assert_array_equal(volume.voxels[:, 0, 0, 0], range(9))
        assert "9 SeriesInstanceUIDs" in str(volume.warnings)
    assert files_of(tmp_path, one.key) == one.files


def test_monitoring_slices_at_one_place_are_no_stack(tmp_path):
    write_series(tmp_path, "monitoring", 5, ImagePositionPatient=[0.0, 0, 7])
    assert facts(tmp_path) == [("monitoring", 1, 5)]


def test_a_multi_frame_file_is_a_series_of_its_frames(tmp_path):
    def groups(positions):
        frames = []
        for position in positions:
            plane, frame = pydicom.Dataset(), pydicom.Dataset()
            plane.ImagePositionPatient = position
            frame.PlanePositionSequence = [plane]
            frames.append(frame)
        return frames

    measures, direction, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.8], 3
    direction.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    write_object(
        tmp_path / "enhanced",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "CT",
        PixelSpacing=None,
        NumberOfFrames=4,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups([[0, 0, z] for z in (0, 3, 6, 9)]),
        PixelData=bytes(4 * 4 * 5 * 2),
    )
    (one,), others = find_series(tmp_path)
    assert (one.slices, one.spacing_mm, one.extent_mm, one.plane, others) == (4, 3, 12, "axial", [])


@pytest.mark.parametrize(
    "orientation, name",
    [
        ([1, 0, 0, 0, 1, 0], "axial"),
        ([-1, 0, 0, 0, 1, 0], "axial"),
        ([0.96, 0.28, 0, -0.28, 0.96, 0], "axial"),
        ([1, 0, 0, 0, 0.96, -0.28], "axial"),  # a tilted gantry
        ([1, 0, 0, 0, 0.707, -0.707], "oblique"),
        ([1, 0, 0, 0, 0, -1], "coronal"),
        ([0, 1, 0, 0, 0, -1], "sagittal"),
    ],
)
def test_planes_are_named_by_their_normal(orientation, name):
    assert orientation_name(orientation) == name


def test_elements_that_cannot_be_read_leave_the_series_together(tmp_path):
    """Each byte that a damaged disk may change: what is listed may differ, nothing is raised."""
    write_series(tmp_path / "p", "s", 3, ContrastBolusAgent="Ultravist", ConvolutionKernel="B30f")
    path, random = tmp_path / "p" / "IM0001", np.random.default_rng(0)
    content = path.read_bytes()
    for place in random.integers(132, len(content) - 40, 150):
        path.write_bytes(content[:place] + bytes(random.integers(0, 256, 4, np.uint8)) + content[place + 4 :])
        series, others = find_series(tmp_path)
        assert {file for one in series for file in one.files} | {one.path for one in others} >= {
            tmp_path / "p" / name for name in ("IM0000", "IM0002")
        }
        assert sum(len(one.files) for one in series) + len(others) == 3
