"""Drawn cases with known answers, written as the real data sets lie on a disk, so that nothing need be downloaded.

Case N depends on (seed, N, size) alone: asking for more cases later leaves the first ones as they are.
"""

import gzip
import os
import pathlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep.phantom_abdomen import draw_abdomen
from data_prep.phantom_head import MODALITIES, draw_head
from raunet_jax.errors import UserError
from raunet_jax.imaging.volume import write_nifti
from raunet_jax.progress import progress

__all__ = ["draw_abdomen", "draw_head", "write_phantoms"]

CT_ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "LPI")  # what scanners and converters leave behind
MR_ORIENTATION = "LPS"  # BraTS's own
SMALLEST = (32, 32, 8)
MOST_THREADS = 4  # a thread takes about 80 bytes a voxel of its case


def write_phantoms(
    folder: str | os.PathLike, kind: str, count: int, seed: int = 0, size_xyz: Sequence[int] = (128, 128, 48)
) -> pathlib.Path:
    """Draw cases 0 to `count` - 1 into `folder` and return it; whole cases that are there already are kept.

    Args:
        folder: made when it is missing.
        kind: "abdomen": volume-N.nii.gz (int16, HU) and segmentation-N.nii.gz (uint8: 1 liver, 2 tumor), as LiTS, in
            varying orientations. "head": HGG|LGG/CASE/CASE_{t1,t1ce,t2,flair,seg}.nii.gz (int16; labels 1, 2, 4) with
            CASE = Brats18_DRAWN_N_1, as BraTS 2018.
        count: how many cases there are to be.
        seed: of all that is drawn.
        size_xyz: voxels (x, y, z) of a case; the slice count of an abdomen varies by a quarter.

    Raises:
        ValueError: another kind, or a size below 32 x 32 x 8 voxels.
    """
    writers = {"abdomen": _write_abdomen, "head": _write_head}
    if kind not in writers:
        raise UserError(f"phantoms of kind {kind!r} cannot be drawn; choose {' or '.join(writers)}")
    size_xyz = tuple(int(size) for size in size_xyz)
    if len(size_xyz) != 3 or any(size < least for size, least in zip(size_xyz, SMALLEST, strict=True)):
        raise UserError(
            f"a phantom of {size_xyz} voxels cannot be drawn; config.data.phantom_size takes (x, y, z) of at least "
            f"{SMALLEST}"
        )
    folder = pathlib.Path(folder)
    missing = [number for number in range(count) if not _is_there(folder, kind, number)]
    if not missing:
        return folder

    def draw(number: int) -> int:
        writers[kind](folder, number, np.random.default_rng((seed, number)), size_xyz)
        return number

    # Threads, not processes: NumPy, SciPy and zlib release the lock, and the caller's __main__ is not run again.
    workers = min(len(missing), os.cpu_count() or 1, MOST_THREADS)
    with progress(f"drawing {kind} phantoms", count, done=count - len(missing)) as bar:
        with ThreadPoolExecutor(workers) as pool:
            for number in pool.map(draw, missing):
                bar.advance(note=f"case {number}")
    return folder


def _write_abdomen(folder: pathlib.Path, number: int, rng: np.random.Generator, size_xyz: Sequence[int]) -> None:
    volume, labels = draw_abdomen(rng, size_xyz)
    orientation = CT_ORIENTATIONS[rng.integers(len(CT_ORIENTATIONS))]
    image, mask = _abdomen_files(folder, number)
    write_nifti(image, volume.voxels[..., 0], volume.affine, orientation=orientation)
    write_nifti(mask, labels, volume.affine, orientation=orientation)


def _write_head(folder: pathlib.Path, number: int, rng: np.random.Generator, size_xyz: Sequence[int]) -> None:
    volume, labels = draw_head(rng, size_xyz)
    files = _head_files(folder, "HGG" if (labels == 4).any() else "LGG", number)
    arrays = [volume.voxels[..., channel].astype(np.int16) for channel in range(len(MODALITIES))] + [labels]
    for path, array in zip(files, arrays, strict=True):
        write_nifti(path, array, volume.affine, orientation=MR_ORIENTATION)


def _abdomen_files(folder: pathlib.Path, number: int) -> list[pathlib.Path]:
    return [folder / f"volume-{number}.nii.gz", folder / f"segmentation-{number}.nii.gz"]


def _head_files(folder: pathlib.Path, grade: str, number: int) -> list[pathlib.Path]:
    name = f"Brats18_DRAWN_{number}_1"
    return [folder / grade / name / f"{name}_{ending}.nii.gz" for ending in (*MODALITIES, "seg")]


def _is_there(folder: pathlib.Path, kind: str, number: int) -> bool:
    if kind == "abdomen":
        return all(map(_is_whole, _abdomen_files(folder, number)))
    return any(all(map(_is_whole, _head_files(folder, grade, number))) for grade in ("HGG", "LGG"))


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a gzip file exists and unpacks to its end with the right checksum."""
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
        return True
    except (OSError, EOFError, zlib.error):
        return False
