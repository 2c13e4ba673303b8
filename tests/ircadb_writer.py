"""3DIRCADb as its makers lay it out, drawn from arrays and written with pydicom alone so that it can judge our reader.

All arrays are (z, y, x): x grows toward the patient's right, y toward the front, z toward the head.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (12, 32, 30)  # more than ten slices, so that image_10 comes before image_2 when names are sorted as text
SPACING_MM = (2.5, 0.8, 0.6)


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """HU (int16, no two slices alike), a liver and three tumors of it, of which the last sticks out of the liver."""
    hu = np.random.default_rng(seed).integers(-1000, 400, SHAPE, np.int16)
    liver, tumors = np.zeros(SHAPE, bool), [np.zeros(SHAPE, bool) for _ in range(3)]
    liver[2:9, 5:25, 4:20] = True
    tumors[0][3:5, 8:12, 6:9] = True
    tumors[1][7, 20:23, 15:18] = True
    tumors[2][8:10, 22:28, 10:13] = True
    return hu, liver, tumors


def write_patient(
    folder: pathlib.Path,
    hu: np.ndarray,
    structures: Mapping[str, np.ndarray],
    feet_first: bool = False,
    numbers: Sequence[int] | None = None,
    mask_numbers: Sequence[int] | None = None,
    mask_position: Callable[[list[float]], list[float] | None] = lambda position: position,
    mask_value: int = 255,
) -> pathlib.Path:
    """Write `folder`/PATIENT_DICOM and MASKS_DICOM/STRUCTURE; slice z goes into image_{numbers[z]}.

    `mask_numbers` are those of the masks where they differ, `mask_position` changes or leaves out (None) the position
    that a mask slice carries.
    """
    numbers = range(len(hu)) if numbers is None else numbers
    _write_series(folder / "PATIENT_DICOM", hu, numbers, feet_first, lambda position: position)
    for name, mask in structures.items():
        values = mask.astype(np.uint8) * mask_value
        where = folder / "MASKS_DICOM" / name
        _write_series(where, values, numbers if mask_numbers is None else mask_numbers, feet_first, mask_position)
    return folder


def _write_series(folder, voxels, numbers, feet_first, change_position) -> None:
    folder.mkdir(parents=True)
    series = generate_uid()
    dz, dy, dx = SPACING_MM
    for z, number in enumerate(numbers):
        # DICOM counts x toward the left and y toward the back: rows always run to the back here, columns to the
        # left (head first, seen from the feet) or to the right (feet first)
        pixels = voxels[z, ::-1, :] if feet_first else voxels[z, ::-1, ::-1]
        width = (voxels.shape[2] - 1) * dx
        position = change_position([width if feet_first else 0.0, -7.0, 40 + z * dz])
        data = FileDataset(None, {}, preamble=b"\0" * 128)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, data.file_meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.PixelSpacing = "CT", series, [dy, dx]
        data.ImageOrientationPatient = [-1.0 if feet_first else 1.0, 0, 0, 0, 1, 0]
        if position is not None:
            data.ImagePositionPatient = position
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = 8 * pixels.dtype.itemsize
        data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
        data.PixelRepresentation = int(pixels.dtype.kind == "i")
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = pixels.tobytes()
        data.save_as(folder / f"image_{number}", enforce_file_format=True)
