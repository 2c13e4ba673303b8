"""What a value out of a JSON file must be made of, written down like the value itself.

A type stands for its values, [shape] for a list of such, [one, other] for a list of just these, {str: shape} for an
object of any names, {"name": shape} for one with these fields and any others ("name?": it may be missing), None for
null, and a tuple for any of several shapes.
"""

from typing import Any

NUMBER = (int, float, None)  # undefined values are null
CORNER = [int, int, int]  # of a box: (z, y, x)


def misfit(value: Any, shape: Any, at: str = "") -> str:
    """Where `value` is first of another shape than expected, as the end of a sentence; "" where it is not."""
    if isinstance(shape, tuple):
        found = [misfit(value, one, at) for one in shape]
        nested = [what for one, what in zip(shape, found, strict=True) if isinstance(value, type(one))]
        return "" if "" in found else next(iter(nested), _other(value, shape, at))
    fits = isinstance(value, shape if isinstance(shape, type) else type(shape))
    if not fits or (isinstance(value, bool) and shape is not bool):
        return _other(value, shape, at)
    if isinstance(shape, list):
        if len(shape) > 1 and len(value) != len(shape):
            return f"{_named(at)} a list of {len(value)} where one of {len(shape)} is expected"
        shapes = shape if len(shape) > 1 else shape * len(value)
        parts = [(f"{at}[{index}]", part, shapes[index]) for index, part in enumerate(value)]
    elif isinstance(shape, dict) and str in shape:
        parts = [(f"{at}.{name}".lstrip("."), part, shape[str]) for name, part in value.items()]
    elif isinstance(shape, dict):
        missing = [name for name in shape if not name.endswith("?") and name not in value]
        if missing:
            return f"{_named(at)} no {missing[0]}" if at else f"holds no {missing[0]}"
        names = {name.removesuffix("?"): part for name, part in shape.items()}
        parts = [(f"{at}.{name}".lstrip("."), value[name], names[name]) for name in names if name in value]
    else:
        parts = []
    return next((what for where, part, inner in parts if (what := misfit(part, inner, where))), "")


def _other(value: Any, shape: Any, at: str) -> str:
    return f"{_named(at)} {_kind(value)} where {_expected(shape)} is expected"


def _named(at: str) -> str:
    return f"{at} holds" if at else "holds"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}")


def _expected(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(dict.fromkeys(map(_expected, shape)))
    kind = shape if isinstance(shape, type) else type(shape)
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(kind, "a number")
