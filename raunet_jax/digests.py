"""A SHA-256 of every file of a folder, in a file of the folder itself, and whether they still are what was written."""

import hashlib
import os
import pathlib
from collections.abc import Collection

from raunet_jax.errors import FileError, NotFound
from raunet_jax.files import read_json, write_json

NAME = "sha256.json"


class Damaged(FileError):
    """A file is no longer what was written, or is missing."""


class Unreadable(Damaged):
    """A file cannot be read now; nothing is known about what it holds."""


def damaged(error: FileError) -> Damaged:
    """What an error of `files.read_json` says of a file; Unreadable where the system gave none of it."""
    kind = Unreadable if isinstance(error.__cause__, OSError) else Damaged
    return kind(error.path, error.problem, error.remedy)


def write(folder: pathlib.Path) -> None:
    """Write `folder`/NAME, a JSON object: path below `folder` with "/" -> SHA-256 in hexadecimal digits."""
    write_json(folder / NAME, {name: sha256(path) for name, path in sorted(_files(folder).items()) if name != NAME})


def read(folder: pathlib.Path, remedy: str) -> dict[str, str] | None:
    """What `write` wrote; None where it wrote nothing. Raises Damaged."""
    path = folder / NAME
    try:
        digests = read_json(path, remedy)
    except NotFound:
        return None
    except FileError as error:
        raise damaged(error) from None
    if not digests or not all(isinstance(value, str) and len(value) == 64 for value in digests.values()):
        raise Damaged(path, "does not hold a SHA-256 of each file", remedy)
    return digests


def check(folder: pathlib.Path, digests: dict[str, str], parts: Collection[str] | None, remedy: str) -> None:
    """Raise Damaged for the first file below `folder` that is not as `digests` says, or is missing.

    Args:
        parts: names of subfolders to which to keep; None: everything.
        remedy: what to do then.
    """
    try:
        there = _files(folder)
    except OSError as error:
        raise Unreadable(error.filename, f"cannot be looked into ({error.strerror})", remedy) from error
    for part in parts or ():
        if not any(name.startswith(f"{part}/") for name in digests):
            raise Damaged(folder / part, "was never written", remedy)
    for name, written in digests.items():
        if parts is not None and name.split("/")[0] not in parts:
            continue
        if name not in there:
            raise Damaged(folder / name, "is missing", remedy)
        try:
            found = sha256(there[name])
        except OSError as error:
            raise Unreadable(folder / name, f"cannot be read ({error.strerror})", remedy) from error
        if found != written:
            raise Damaged(folder / name, "is not what was written (its SHA-256 is another one)", remedy)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    found = (pathlib.Path(place, name) for place, _, names in os.walk(folder, onerror=note) for name in names)
    return {path.relative_to(folder).as_posix(): path for path in found}


def sha256(path: pathlib.Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
