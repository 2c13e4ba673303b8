"""The bytes of a NIfTI file, all or the first, whether it is compressed or not."""

import contextlib
import gzip
import pathlib
import zlib
from collections.abc import Iterator

from raunet_jax.imaging.grid import Path, VolumeError


def read_bytes(path: Path) -> bytes:
    """Those of the file, decompressed if it is a gzip, whatever its name.

    Raises:
        VolumeError: it cannot be opened, or the gzip is damaged or ends early.
    """
    with _opening(path):
        content = pathlib.Path(path).read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def read_first_bytes(path: Path, count: int) -> bytes:
    """As `read_bytes`, of the first `count` of them alone."""
    with _opening(path), pathlib.Path(path).open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return (gzip.GzipFile(fileobj=file) if gzipped else file).read(count)


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Raise VolumeError for what reading bytes of `path` raises."""
    try:
        yield
    except EOFError:
        raise VolumeError(path, "the gzip ends early", "copy or download the file again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(path, f"the gzip is damaged ({error})", "copy or download the file again") from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise VolumeError(path, problem, "copy it there, and see that you may read it") from error
