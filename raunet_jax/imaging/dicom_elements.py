"""Elements of DICOM files as plain Python values, whatever is wrong with them."""

import math
from collections.abc import Iterator

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword

_ASCII = ("UI", "CS", "DS", "IS", "DA", "TM", "LO", "SH")  # or nearly so, where a text is but to be compared


def _places(data: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Where an element may stand: by itself, or in the functional groups of a multi-frame file (PS3.3 C.7.6.16)."""
    yield data
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items(data, groups)[:1]:
            yield from (element.value[0] for element in group if element.VR == "SQ" and element.value)


def items(data: pydicom.Dataset, name: str) -> list[pydicom.Dataset]:
    """Those of a sequence; [] where it is missing or damaged."""
    if name not in data:
        return []
    try:
        return list(data[name].value or ())
    except Exception:  # pydicom converts on access, and raises its own kind for each type
        return []


def parts(data: pydicom.Dataset, name: str) -> list[str]:
    """The values of an element, none of them in a character set of its own; [] where it is nowhere."""
    tag = tag_for_keyword(name)
    for place in _places(data):
        element = place.get_item(tag)
        if element is None:
            continue
        value, kind = element.value, element.VR or dictionary_VR(tag)
        if isinstance(value, bytes) and kind in _ASCII:  # pydicom takes ten times as long to make its own kinds of it
            value = value.decode("latin-1").rstrip("\0 ").split("\\")
        elif isinstance(value, bytes) and kind == "US" and len(value) == 2:
            value = int.from_bytes(value, "little" if element.is_little_endian else "big")
        else:
            try:
                value = place[tag].value
            except Exception:  # as above
                continue
        if value is not None and value != "" and value != [""]:
            return [str(value)] if isinstance(value, str) or not hasattr(value, "__len__") else list(map(str, value))
    return []


def text(data: pydicom.Dataset, name: str) -> str:
    """An element's values joined by backslashes, as they are stored; "" where it is nowhere."""
    return _clean("\\".join(parts(data, name)))


def words(data: pydicom.Dataset, name: str) -> str:
    """Text of a person's, in the file's character set."""
    try:
        return _clean(str(data.get(name) or ""))
    except Exception:  # bytes that are not of that set
        return text(data, name)


def _clean(words: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())


def numbers(data: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """The `count` finite numbers of an element; None where it holds anything else."""
    try:
        found = tuple(map(float, parts(data, name)))
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def number(data: pydicom.Dataset, name: str) -> float | None:
    """The first number of an element; None where that is none, or not finite."""
    try:
        first = float(parts(data, name)[0])
    except (IndexError, ValueError):
        return None
    return first if math.isfinite(first) else None
