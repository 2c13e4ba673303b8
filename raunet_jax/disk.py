"""Whether a folder can be written in, and the temporary files that killed processes left there."""

import functools
import hashlib
import os
import pathlib
import re
import socket
import time

from raunet_jax.errors import UserError
from raunet_jax.failures import explain

PROBE_BYTES = 1 << 16
DAY_SECONDS = 86_400
TEMPORARY = re.compile(r"\.(\d+)-([0-9a-f]{6})\..")


@functools.cache
def _machine() -> str:
    """Six digits that tell apart the machines, and the containers, whose process numbers mean other processes."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        processes = ""
    return hashlib.sha256(f"{socket.gethostname()} {processes}".encode()).hexdigest()[:6]


def temporary(path: pathlib.Path) -> pathlib.Path:
    """The name under which this process writes `path`, which keeps its endings."""
    return path.with_name(f".{os.getpid()}-{_machine()}.{path.name}")


@functools.cache
def remove_stale(folder: pathlib.Path) -> None:
    """Remove from `folder`, once, what `temporary` named and its process left: it is dead, or the file a day old."""
    for entry in os.scandir(folder):
        match = TEMPORARY.match(entry.name)
        if match and entry.is_file(follow_symlinks=False) and _is_stale(entry, int(match[1]), match[2]):
            pathlib.Path(entry.path).unlink(missing_ok=True)


def _is_stale(entry: os.DirEntry, process: int, machine: str) -> bool:
    try:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY_SECONDS:
            return True
        if machine == _machine():
            os.kill(process, 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, OverflowError):  # somebody else's process
        return False
    return False


def check_writable(folder: pathlib.Path, name: str) -> None:
    """Try to write a small file where `folder` is, or will be made; nothing is left.

    Args:
        name: of the flag or field that `folder` comes from.

    Raises:
        UserError: it cannot be written in; says why, and what to do.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{place}: it is a file, and {name} needs a folder; name another one")
    probe = temporary(place / "probe")
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        name_file(error, probe, folder)
        raise UserError(f"{name} cannot be written in: {explain(error)}") from error
    finally:
        _remove(probe)


def _remove(path: pathlib.Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # what could not be made
        pass


def name_file(error: OSError, written: pathlib.Path, path: pathlib.Path) -> None:
    """Let `error`, of writing `written` in place of `path`, name `path`: the system names no file that is open."""
    if error.errno is not None and error.filename in (None, written, str(written)):
        error.filename = str(path)
