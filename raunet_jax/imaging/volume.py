"""Scans and masks in (NIfTI, DICOM series) and masks and maps out (NIfTI, on the grid of the file they belong to)."""

import logging
import pathlib
from collections.abc import Iterable, Sequence

from raunet_jax.imaging.dicom import is_dicom_folder, read_dicom_series
from raunet_jax.imaging.grid import Grid, Path, Repair, Volume, VolumeError, check_same_grid
from raunet_jax.imaging.nifti_reader import load_mask, read_mask, read_modalities, read_nifti
from raunet_jax.imaging.nifti_writer import is_prediction, write_map, write_mask, write_nifti

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
    """Read the files of one scan, whatever they are: NIfTI, a file a modality, one file of several, a DICOM series.

    Args:
        images: one path (a NIfTI file, or the folder of a DICOM series), or a NIfTI file a modality.
        kind: "ct" gives int16 HU, "mr" float32.
        channels: which of the volumes that a single file holds become the channels.
        repair: read what `read_nifti` and `read_modalities` repair as it was meant; the volume's `repairs` tell.

    Raises:
        VolumeError: as the reader of that kind of file does.
    """
    (first, *others) = images
    if others:
        return read_modalities(images, kind, repair)
    if pathlib.Path(first).is_dir():
        return read_dicom_series(first)
    return read_nifti(first, kind, channels, repair)


def log_repairs(repairs: Iterable[Repair]) -> None:
    """Say each as a warning."""
    for repair in repairs:
        log.warning(str(repair))
