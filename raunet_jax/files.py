"""Writing files so that a kill at any instant leaves either the old file or the new one, never half of one."""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from raunet_jax import disk
from raunet_jax.errors import FileError, NotFound
from raunet_jax.names import is_hidden
from raunet_jax.shapes import misfit

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
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path need not be UTF-8


def write_json(path: str | os.PathLike, value) -> None:
    """Write strict JSON: a NaN or infinity is a bug of the caller and raises ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class Tree(NamedTuple):
    """What lies below a folder, hidden files and folders left out; see `names.is_hidden`."""

    files: list[pathlib.Path]
    empty: list[pathlib.Path]  # folders that hold nothing at all
    locked: list[tuple[pathlib.Path, str]]  # folders that cannot be looked into, and why


def look_below(root: str | os.PathLike, deep: bool = True) -> Tree:
    """Every file at any depth below `root` (directly in it where not `deep`), links followed, each folder once.

    Pipes and devices, which one may wait for without end, are left out; links that lead nowhere are not.
    """
    tree, seen, ahead = Tree([], [], []), set(), [pathlib.Path(root)]
    while ahead:
        folder = ahead.pop()
        place = os.path.realpath(folder)
        if place in seen:  # links may lead back to a folder
            continue
        seen.add(place)
        try:
            with os.scandir(folder) as entries:
                there = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:  # of `root`, or what vanished just now
            continue
        except OSError as error:
            tree.locked.append((folder, str(error.strerror)))
            continue
        if not there:
            tree.empty.append(folder)
        there = [entry for entry in there if not is_hidden(entry.name)]
        inner = [folder / entry.name for entry in there if _is_folder(entry)]
        tree.files.extend(folder / entry.name for entry in there if not _is_folder(entry) and _is_openable(entry))
        ahead.extend(reversed(inner) if deep else ())
    return tree


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_openable(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True  # it is said where it is opened


def read_json(path: str | os.PathLike, remedy: str, shape: Any = dict, object_hook: Callable | None = None) -> Any:
    """What the JSON file holds, a value of `shape`; see `shapes`.

    Args:
        remedy: what to do where it holds anything else.
        object_hook: as `json.loads` takes it.

    Raises:
        NotFound, FileError: it is missing, or holds anything else.
    """
    try:
        value = json.loads(pathlib.Path(path).read_bytes(), object_hook=object_hook, parse_constant=_nothing)
    except FileNotFoundError:
        raise NotFound(f"{path} is missing; {remedy}") from None
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, RecursionError) as error:  # not JSON, or no text at all
        raise FileError(path, f"is not JSON ({error})", remedy) from error
    wrong = misfit(value, shape)
    if wrong:
        raise FileError(path, wrong, remedy)
    return value


def _nothing(constant: str) -> None:
    """NaN and infinity, which strict JSON has not, become None."""


def read_json_lines(path: str | os.PathLike, remedy: str, shape: Any = dict) -> tuple[list, dict[int, FileError]]:
    """The values of a file of one JSON value a line, and by its number from 1 what is wrong with each other line.

    Raises:
        NotFound, FileError: it is missing, or cannot be read.
    """
    try:
        lines = pathlib.Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        raise NotFound(f"{path} is missing; {remedy}") from None
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", remedy) from error
    values, wrong = [], {}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line, parse_constant=_nothing)
            problem = misfit(value, shape)
        except (ValueError, RecursionError) as error:
            problem = f"is not JSON ({error})"
        if problem:
            wrong[number] = FileError(path, f"line {number} {problem}", remedy)
        else:
            values.append(value)
    return values, wrong


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping], first: Sequence[str] = ()) -> None:
    """Write a line a row under the names of all rows' fields: those of `first`, then the others as they come.

    What a row does not have, or has as None, is left empty. Text that a spreadsheet would take for a formula has an
    apostrophe before it, by which spreadsheets show it as the text that it is.
    """
    columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
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
