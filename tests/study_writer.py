"""DICOM studies as a PACS gives them, in tiny slices, written with pydicom alone so that they can judge our reader."""

import pathlib
from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PLANES = {
    "axial": ([1, 0, 0], [0, 1, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
}


def write_series(
    folder: pathlib.Path,
    description: str = "",
    slices: int | Iterable[int] = 32,
    step: float = 5.0,
    plane: str = "axial",
    name: str = "IM{:04d}",
    value: int = 0,
    **elements,
) -> str:
    """Write a CT series (MR with Modality="MR") of 4 x 5 pixels and return its SeriesInstanceUID.

    Slice i holds the stored value `value` + i. An element is left out where it is given as None; where it is a
    function, it is given the slice's index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid()
    rows, columns = (np.array(one, float) for one in PLANES[plane])
    mr = elements.get("Modality") == "MR"
    for index in range(slices) if isinstance(slices, int) else slices:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = MRImageStorage if mr else CTImageStorage
        data.SOPInstanceUID = generate_uid()
        data.SpecificCharacterSet = "ISO_IR 192"
        data.PatientName, data.PatientID, data.StudyID = "Doe^Jane", "P1", "1"
        data.StudyDate, data.StudyTime, data.AccessionNumber = "20240229", "101500", ""
        data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.77.1", "1.2.77.1.5"
        data.SeriesInstanceUID, data.SeriesNumber, data.Modality = uid, 1, "CT"
        data.SeriesDescription, data.InstanceNumber = description, index + 1
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.Rows, data.Columns, data.PixelSpacing = 4, 5, [0.8, 0.8]
        data.SliceThickness = step
        data.ImageOrientationPatient = [*rows, *columns]
        data.ImagePositionPatient = [float(one) for one in np.cross(rows, columns) * step * index]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.full((4, 5), value + index, "<i2").tobytes()
        for element, given in elements.items():
            given = given(index) if callable(given) else given
            if given is None:
                delattr(data, element)
            else:
                setattr(data, element, given)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / name.format(index), enforce_file_format=True)
    return elements.get("SeriesInstanceUID", uid)


def write_object(path: pathlib.Path, sop_class: str, modality: str, **elements) -> None:
    """Write one file of a kind that is no slice."""
    write_series(
        path.parent,
        slices=1,
        name=path.name,
        SOPClassUID=sop_class,
        Modality=modality,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        **elements,
    )
