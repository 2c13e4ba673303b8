"""Writing files so that a kill at any instant leaves either the old file or the new one, never half of one."""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raunet_jax import disk
from raunet_jax.errors import FileError, NotFound

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a cell that begins so is computed


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path` that takes its place if the block ends well, and vanishes if not.

    The temporary name keeps the endings of `path`, because writers such as nibabel choose a format by them.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.remove_stale(path.parent.absolute())
    temporary = disk.temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        disk.name_file(error, temporary, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value) -> None:
    """Write strict JSON: a NaN or infinity is a bug of the caller and raises ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, remedy: str, kind: type = dict) -> Any:
    """What the JSON file holds, a value of `kind`.

    Raises:
        NotFound, FileError: it is missing, or holds anything else; with `remedy`, what to do then.
    """
    try:
        value = json.loads(pathlib.Path(path).read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path} is missing; {remedy}") from None
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, RecursionError) as error:  # not JSON, or no text at all
        raise FileError(path, f"is not JSON ({error})", remedy) from error
    if not isinstance(value, kind):
        raise FileError(path, f"holds {type(value).__name__} where {kind.__name__} is expected", remedy)
    return value


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping], first: Sequence[str] = ()) -> None:
    """Write a line a row under the names of all rows' fields: those of `first`, then the others as they come.

    What a row does not have, or has as None, is left empty. Text that a spreadsheet would take for a formula has an
    apostrophe before it, by which spreadsheets show it as the text that it is.
    """
    columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writerow({name: _as_text(name) for name in columns})
        writer.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)


def _as_text(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
