"""A series of which a file is damaged: the same scan, a warning, or a sentence that names the file; nothing else."""

import pathlib
import random
import shutil

import numpy as np
import pydicom
import pytest

from dicom_writer import write_enhanced, write_series
from raunet_jax.imaging.volume import VolumeError, read_dicom_series

PLACES = 10 + 2.5 * np.arange(5)
HU = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 8))
HU[:, :2] = -1000
VALUES = [
    "",
    "0",
    "-1",
    "1e30",
    "nan",
    "inf",
    "3,5",
    "1\\2",
    "x" * 70,
    "\\\\\\",
    "65535",
    "\udcff".encode("utf-8", "replace").decode(),
]


def flip(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(128, _header(content))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(0, len(content) - 1)]


def overwrite(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(128, _header(content))
    return content[:start] + rng.randbytes(rng.randrange(1, 40)) + content[start + 20 :]


def change_text(content: bytes, rng: random.Random) -> bytes:
    """An element of text gets another value, of any length."""
    header = _header(content)
    places = [i for i in range(300, header) if content[i : i + 2] in (b"DS", b"IS", b"CS", b"UI", b"TM", b"SH")]
    start = rng.choice(places) + 2
    length = int.from_bytes(content[start : start + 2], "little")
    value = rng.choice(VALUES).encode()
    value += b" " * (len(value) % 2)
    return content[:start] + len(value).to_bytes(2, "little") + value + content[start + 2 + length :]


def drop(content: bytes, rng: random.Random) -> bytes:
    data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
    element = rng.choice(list(data))
    del data[element.tag]
    buffer = pydicom.filebase.DicomBytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def _header(content: bytes) -> int:
    """Where the pixels begin: what is changed in them nobody can know."""
    return content.rindex(b"\xe0\x7f\x10\x00")


KINDS = (flip, truncate, overwrite, change_text, drop)


def outcome(source: pathlib.Path, damaged: pathlib.Path, good, seed: int) -> str:
    """What reading `source` gives; fails on what none may give."""
    try:
        volume = read_dicom_series(source)
    except VolumeError as error:
        text = str(error)
        assert source.name in text and len(text) < 600 + len(str(source)), (seed, text)
        return "refused"
    if volume.warnings:
        assert all(len(warning) < 600 for warning in volume.warnings)
        return "warned"
    assert volume.voxels.dtype == np.int16 and volume.shape == good.shape, (seed, volume.shape)
    if damaged.stem == "many":  # what all frames share has no second witness
        return "same"
    np.testing.assert_allclose(volume.affine, good.affine, atol=0.76, err_msg=str(seed))
    others = np.ones(5, bool)
    others[int(damaged.stem[2:])] = False
    np.testing.assert_array_equal(volume.voxels[others], good.voxels[others], err_msg=str(seed))
    return "same"


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = write_series(tmp_path_factory.mktemp("good") / "series", HU, PLACES)
    many = write_enhanced(folder.parent / "many.dcm", HU + 1024, PLACES)
    return folder, many, read_dicom_series(folder)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_slice_is_read_the_same_or_named(series, tmp_path, kind, count=12):
    folder, _, good = series
    shutil.copytree(folder, tmp_path / "scan")
    for seed in range(count):
        rng = random.Random(seed)
        path = tmp_path / "scan" / f"im{rng.randrange(5)}.dcm"
        content = path.read_bytes()
        path.write_bytes(kind(content, rng))
        outcome(tmp_path / "scan", path, good, seed)
        path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_multi_frame_file_is_read_the_same_or_named(series, tmp_path, kind, count=10):
    _, many, good = series
    content = many.read_bytes()
    for seed in range(count):
        path = tmp_path / "many.dcm"
        path.write_bytes(kind(content, random.Random(seed)))
        outcome(path, path, good, seed)
