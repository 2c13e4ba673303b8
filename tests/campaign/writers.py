"""Odd inputs, written with nibabel and pydicom alone; a function writes one folder of them."""

import gzip
import pathlib
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Change = Callable[[pydicom.Dataset, int], object]


def write_series(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray, change: Change | None = None) -> None:
    """Write `hu` (x, y, z) as one CT series, a slice along the array's third axis; the scan stays where it is.

    Args:
        affine: (4, 4) voxel -> mm, RAS+; the first two axes at right angles.
        change: alters each slice before it is written; where it returns False there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_lps = TO_LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(hu.shape[2]):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientName, data.PatientID = "CT", "", ""
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.InstanceNumber, data.AcquisitionNumber = index + 1, 1
        data.Columns, data.Rows = hu.shape[:2]
        data.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        data.SliceThickness = f"{spacing[2]:.10g}"
        along = to_lps[:3, :2] / spacing[:2]
        data.ImageOrientationPatient = [f"{value:.10g}" for value in (*along[:, 0], *along[:, 1])]
        data.ImagePositionPatient = [f"{value:.10g}" for value in (to_lps @ (0, 0, index, 1))[:3]]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.ascontiguousarray(hu[:, :, index].T).astype("<i2").tobytes()
        if change is None or change(data, index) is not False:
            data.save_as(folder / f"IM{index + 1:04d}.dcm", enforce_file_format=True)


def save(path: pathlib.Path, voxels: np.ndarray, affine: np.ndarray) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def abdomen(shape=(96, 96, 40), seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A crude abdomen: int16 HU (x, y, z) and affine, RAS+; the same that the programs of shared/cases draw."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")

    def ball(center, radii):
        return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), center, radii, strict=True)) < 1

    inside = (x / 0.8) ** 2 + (y / 0.57) ** 2 < 1
    hu = np.full(shape, -1000, np.float32)
    hu[(x / 0.95) ** 2 + (y / 0.72) ** 2 < 1] = -100
    hu[(x / 0.86) ** 2 + (y / 0.63) ** 2 < 1] = 55
    hu[inside] = -95
    hu[ball((0, 0.1, -0.6), (0.6, 0.4, 0.7))] = 40
    hu[inside & (z > 0.72)] = -840
    liver = ball((0.36, 0.02, 0.22), (0.4, 0.46, 0.58)) | ball((0.02, 0.22, 0.4), (0.42, 0.24, 0.24))
    liver &= ((x / 0.78) ** 2 + (y / 0.55) ** 2 < 1) & (z < 0.72)
    hu[liver] = 108
    hu[ball((-0.55, -0.12, 0.3), (0.2, 0.27, 0.28))] = 118
    hu[ball((-0.4, -0.3, -0.2), (0.14, 0.15, 0.3)) | ball((0.4, -0.32, -0.3), (0.14, 0.15, 0.25))] = 185
    hu[(x / 0.13) ** 2 + ((y + 0.36) / 0.13) ** 2 < 1] = 240
    hu[ball((0.45, 0.05, 0.2), (0.11, 0.11, 0.16)) & liver] = 55
    hu += rng.normal(0, 10, shape)
    affine = np.diag([3.6, 3.6, 5.5, 1.0])
    affine[:3, 3] = [-172.8, -160.0, -300.0]
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine


def _plain(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    save(folder / "scan.nii.gz", hu, affine)
    write_series(folder / "series", hu, affine)


def _missing_slice(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    write_series(folder / "good", hu, affine)
    write_series(folder / "gap", hu, affine, change=lambda data, index: index != 20)


def _not_hu(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    save(folder / "plus1024.nii.gz", hu + np.int16(1024), affine)
    save(folder / "unit.nii.gz", np.clip((hu.astype(np.float32) + 160) / 400, 0, 1), affine)
    save(folder / "constant.nii.gz", np.full_like(hu, 100), affine)


def _names(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    whole = save(folder / "good.nii.gz", hu, affine).read_bytes()
    (folder / "plain.nii.gz").write_bytes(gzip.decompress(whole))
    (folder / "UPPER.NII.GZ").write_bytes(whole)
    (folder / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.nii.gz").write_bytes(b"")


def _same_name(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    save(folder / "a" / "ct.nii.gz", hu, affine)
    save(folder / "b" / "ct.nii.gz", np.where((hu > 30) & (hu < 80), 108, hu).astype(np.int16), affine)


def _stray_object(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    def screenshot(data, index):
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        data.Modality = "OT"
        del data.ImagePositionPatient, data.ImageOrientationPatient
        return index == 0

    save(folder / "patient1.nii.gz", hu, affine)
    write_series(folder, hu, affine, change=screenshot)


def _no_size(folder: pathlib.Path, hu: np.ndarray, affine: np.ndarray) -> None:
    folder.mkdir(parents=True)
    raw = bytearray(nib.Nifti1Image(hu, affine).to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    header["pixdim"], header["qform_code"], header["sform_code"] = [1, 0, 0, 0, 0, 0, 0, 0], 0, 0
    raw[:348] = header.binaryblock
    (folder / "no_size.nii").write_bytes(bytes(raw))


ODD = {  # name -> write(folder, hu (x, y, z), affine)
    "plain": _plain,
    "missing slice": _missing_slice,
    "not HU": _not_hu,
    "names": _names,
    "same name": _same_name,
    "stray object": _stray_object,
    "no size": _no_size,
}
