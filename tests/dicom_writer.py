"""CT and MR in DICOM, single slices and multi-frame, written with pydicom alone so that they can judge our reader.

Rows run to the patient's left, columns to the back, slices to the head, from (ORIGIN_MM[0], ORIGIN_MM[1], place) LPS.
"""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

ORIGIN_MM = (-20.0, -30.0)
SPACING_MM = (0.8, 0.6)  # between rows, between columns
STORED = 1024  # what is stored lies so far above HU


def write_series(
    folder: pathlib.Path,
    hu: np.ndarray,
    places_mm: Sequence[float],
    change: Callable[[Dataset, int], None] = lambda data, index: None,
    series: str = "1.2.3",
) -> pathlib.Path:
    """`hu` (slices, rows, columns), slice i at `places_mm`[i], as `folder`/im0.dcm …; `change` may alter each."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (values, place) in enumerate(zip(hu, places_mm, strict=True)):
        data = _empty(CTImageStorage, "CT", series, values.shape)
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.InstanceNumber, data.AcquisitionNumber, data.AcquisitionTime = index + 1, 1, "101500"
        data.SliceThickness = 2.5
        data.ImagePositionPatient = [*ORIGIN_MM, float(place)]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = list(SPACING_MM)
        data.RescaleSlope, data.RescaleIntercept = 1, -STORED
        data.PixelData = (values.astype(int) + STORED).astype("<u2").tobytes()
        change(data, index)
        data.save_as(folder / f"im{index}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(
    path: pathlib.Path,
    stored: np.ndarray,
    places_mm: Sequence[float],
    frame: Callable[[Dataset, int], None] = lambda groups, index: None,
    whole: Callable[[Dataset], None] = lambda data: None,
    kind: str = EnhancedCTImageStorage,
    modality: str = "CT",
) -> pathlib.Path:
    """`stored` (frames, rows, columns) as one file, rescaled as `write_series` does where it is CT.

    `frame` may alter each frame's functional groups, `whole` the file.
    """
    data = _empty(kind, modality, "1.2.3", stored.shape[1:])
    data.NumberOfFrames = len(stored)
    shared = Dataset()
    shared.PlaneOrientationSequence = one(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = one(PixelSpacing=list(SPACING_MM), SliceThickness=2.5)
    if modality == "CT":
        shared.PixelValueTransformationSequence = one(RescaleSlope=1, RescaleIntercept=-STORED, RescaleType="HU")
    data.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for index, place in enumerate(places_mm):
        group = Dataset()
        group.PlanePositionSequence = one(ImagePositionPatient=[*ORIGIN_MM, float(place)])
        group.FrameContentSequence = one(StackID="1", InStackPositionNumber=index + 1)
        frame(group, index)
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    data.PixelData = stored.astype("<u2").tobytes()
    whole(data)
    data.save_as(path, enforce_file_format=True)
    return path


def one(**elements) -> Items:
    """A sequence of one item."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Items([item])


def file_order(volume) -> np.ndarray:
    """(slices, rows, columns) of a volume that was read from what these write: RAS+ turned back by hand."""
    return volume.voxels[:, ::-1, ::-1, 0]


def edit(path: pathlib.Path, **elements) -> None:
    """Change elements of a file, or with None take them out."""
    data = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)


def _empty(kind: str, modality: str, series: str, shape: tuple[int, int]) -> FileDataset:
    data = FileDataset(None, {}, preamble=b"\0" * 128)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = modality, series, "1.2"
    data.Rows, data.Columns = shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    return data
