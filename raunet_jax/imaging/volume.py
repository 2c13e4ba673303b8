"""Scans and masks in (NIfTI, DICOM series) and masks and maps out (NIfTI, on the grid of the file they belong to)."""

import logging
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from raunet_jax.imaging.dicom import is_dicom_folder, read_dicom_series
from raunet_jax.imaging.dicom_files import looks_like_dicom
from raunet_jax.imaging.grid import Grid, Path, Repair, Volume, VolumeError, check_same_grid
from raunet_jax.imaging.nifti_reader import load_mask, read_mask, read_modalities, read_nifti
from raunet_jax.imaging.nifti_writer import is_prediction, write_map, write_mask, write_nifti, write_scanned_mask
from raunet_jax.names import NIFTI

log = logging.getLogger("raunet_jax")

__all__ = [
    "Grid",
    "Repair",
    "Volume",
    "VolumeError",
    "check_same_grid",
    "is_dicom_folder",
    "is_prediction",
    "load_mask",
    "load_scan",
    "log_repairs",
    "read_dicom_series",
    "read_mask",
    "read_modalities",
    "read_nifti",
    "read_scan",
    "write_map",
    "write_mask",
    "write_nifti",
    "write_scanned_mask",
]


def read_scan(
    images: Sequence[Path], kind: str, channels: Sequence[int] = (), repair: bool = False, series: Sequence[str] = ()
) -> Volume:
    """What `load_scan` reads, each of its repairs said as a warning."""
    volume = load_scan(images, kind, channels, repair, series)
    log_repairs(volume.repairs)
    return volume


def load_scan(
    images: Sequence[Path], kind: str, channels: Sequence[int] = (), repair: bool = False, series: Sequence[str] = ()
) -> Volume:
    """Read the files of one scan, whatever they are: NIfTI, a file a modality, one file of several, DICOM series.

    Args:
        images: one path (a NIfTI file, a multi-frame DICOM file, or a folder that holds a DICOM series), or one a
            modality; the volume's grid is the first one's.
        kind: "ct" gives int16 HU, "mr" float32.
        channels: which of the volumes that a single file holds become the channels.
        repair: read what `read_nifti` and `read_modalities` repair as it was meant; the volume's `repairs` tell.
        series: for each of `images` that is a folder which series of it, by its key; without it, its only one.

    Raises:
        VolumeError: as the reader of that kind of file does, or when the grid of a modality differs from the first's.
    """
    if len(images) == 1:
        if _is_dicom(images[0]):
            if len(channels) > 1:
                problem = f"is one DICOM series where {len(channels)} channels are wanted"
                raise VolumeError(images[0], problem, "give the folder of the study that holds a series of each")
            return read_dicom_series(images[0], *series, kind=kind)
        return read_nifti(images[0], kind, channels, repair)
    if not any(map(_is_dicom, images)):
        return read_modalities(images, kind, repair)
    keys = series or ("",) * len(images)
    first = load_scan(images[:1], kind, (), repair, keys[:1])
    voxels = np.empty((*first.shape, len(images)), first.voxels.dtype)
    voxels[..., :1] = first.voxels
    repairs, warnings = first.repairs, first.warnings
    for channel, (path, key) in enumerate(zip(images[1:], keys[1:], strict=True), 1):
        volume = load_scan((path,), kind, (), repair, (key,))
        check_same_grid(volume.grid, path, first.grid, images[0])
        voxels[..., channel : channel + 1] = volume.voxels
        repairs, warnings = repairs + volume.repairs, warnings + volume.warnings
    name = pathlib.Path(os.path.commonpath([pathlib.Path(path).resolve().parent for path in images])).name
    return Volume(voxels, first.affine, first.grid, name, repairs, warnings)


def _is_dicom(path: Path) -> bool:
    path = pathlib.Path(path)
    return path.is_dir() or (path.is_file() and not NIFTI.fullmatch(path.name) and looks_like_dicom(path))


def log_repairs(repairs: Iterable[Repair]) -> None:
    """Say each as a warning."""
    for repair in repairs:
        log.warning(str(repair))
