"""What a compiled program consists of, by XLA's text of it: kernels, the bytes they touch, layouts of convolutions."""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8, "f64": 8}
NO_KERNEL = {
    *("parameter", "get-tuple-element", "tuple", "constant", "bitcast"),
    *("after-all", "partition-id", "replica-id"),
}
LARGE = 2**20  # bytes, from which a transpose is counted


class _Instruction(NamedTuple):
    name: str
    shapes: str  # of the result; of a tuple all of them
    code: str
    operands: tuple[str, ...]  # names; of an element of a tuple NAME#0, of one within that NAME#0#1
    line: str


def consists_of(text: str) -> dict:
    """Kernels of a compiled program's entry and of what it calls, and the GB that they touch.

    A kernel's operands and results count once each. Of an array that a kernel only slices, the slices count, not the
    array. What a loop or a branch runs is not looked into: it is a kernel, as is a library's call.

    Returns:
        `kernels`; `transposes`, those that do nothing else to an array over 1 MiB; `gb`, in all; `counts`: kind ->
        [kernels, GB], the most frequent first; and of a GPU's program `convolutions` by cuDNN's layout and direction,
        and `kernel gradients as forward convolutions`, of absurd shapes.
    """
    bodies, entry = _computations(text)
    kernels, moved, transposes, stack = collections.Counter(), collections.Counter(), 0, [entry]
    while stack:
        body = bodies.get(stack.pop(), ())
        shapes = {instruction.name: instruction.shapes for instruction in body}
        for instruction in body:
            if instruction.code == "call":
                stack.append(_named(instruction.line, "to_apply"))
            if instruction.code in NO_KERNEL or instruction.code == "call":
                continue
            inner = bodies.get(_named(instruction.line, "calls"), ()) if instruction.code == "fusion" else ()
            kind = _kind(instruction, inner)
            transposes += _size(instruction.shapes) > LARGE and kind in ("transpose", "copy")
            kernels[kind] += 1
            moved[kind] += _touched(instruction, inner, shapes)
    layouts = collections.Counter(re.findall(r"dim_labels=(\S+), custom_call_target=\"__cudnn\$(\S+?)\"", text))
    as_forward = len(re.findall(r"dim_labels=f\S*_i\S*->\S*b\S*f, custom_call_target=\"__cudnn\$convForward", text))
    return {
        "kernels": sum(kernels.values()),
        "transposes": transposes,
        "gb": round(sum(moved.values()) / 1e9, 3),
        "counts": {kind: [count, round(moved[kind] / 1e9, 3)] for kind, count in kernels.most_common(12)},
        "convolutions": {f"{layout} {kind}": count for (layout, kind), count in layouts.most_common(8)},
        "kernel gradients as forward convolutions": as_forward,
    }


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    bodies, current, entry = {}, None, None
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = head[2]
            bodies[current] = []
            entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current and " = " in line:
            found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\(", line)
            if found:
                operands = re.findall(r"%([\w.\-]+(?:#\d+)*)", line[found.end() :].split("), ")[0])
                bodies[current].append(_Instruction(*found.groups(), tuple(operands), line))
    return bodies, entry


def _named(line: str, what: str) -> str | None:
    found = re.search(rf"{what}=%?([\w.\-]+)", line)
    return found and found[1]


def _sizes(shapes: str) -> list[tuple[int, int]]:
    """(elements, bytes of each) of an array's shape, or of those of a tuple."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return [
        (math.prod(int(part) for part in dimensions.split(",") if part), BYTES.get(kind, 4))  # float32, int32
        for kind, dimensions in found
    ]


def _size(shapes: str) -> int:
    return sum(count * each for count, each in _sizes(shapes))


def _kind(instruction: _Instruction, inner: Sequence[_Instruction]) -> str:
    if instruction.code == "custom-call":
        return re.search(r'custom_call_target="([^"]+)"', instruction.line)[1]
    if instruction.code != "fusion":
        return instruction.code
    if "gemm" in instruction.line:
        return "triton gemm"
    if "__cudnn" in instruction.line:
        return "cudnn fusion"
    codes = {one.code for one in inner}
    return "reduce" if "reduce" in codes else "transpose" if codes & {"transpose", "copy"} else "loop"


def _touched(instruction: _Instruction, inner: Sequence[_Instruction], shapes: Mapping[str, str]) -> int:
    whole = [_size(_shape_of(operand, shapes)) for operand in instruction.operands]
    if instruction.code in ("slice", "dynamic-slice"):
        whole[:1] = [_size(instruction.shapes)]
    sliced = _sliced(inner)
    parts = (min(size, sliced.get(number, size)) for number, size in enumerate(whole))
    return _size(instruction.shapes) + sum(parts)


def _shape_of(operand: str, shapes: Mapping[str, str]) -> str:
    name, *places = operand.split("#")
    shape = shapes.get(name, "")
    for place in places:
        shape = _elements(shape)[int(place)]
    return shape


def _elements(shape: str) -> list[str]:
    """Of a tuple's shape, `(f32[2]{0}, (s32[], s32[]), /*index=5*/pred[])`."""
    elements, depth = [""], 0
    for letter in re.sub(r"/\*.*?\*/", "", shape)[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            elements.append("")
        else:
            elements[-1] += letter
    return [element.strip() for element in elements]


def _sliced(inner: Sequence[_Instruction]) -> dict[int, int]:
    """Number of a fusion's operand -> bytes that it takes of it, for those that it takes nothing but slices of."""
    users = collections.defaultdict(list)
    for one in inner:
        for operand in {operand.partition("#")[0] for operand in one.operands}:
            users[operand].append(one)

    def taken(name: str) -> float:
        """Elements of it."""
        total = 0.0
        for user in users[name]:
            if user.code in ("bitcast", "convert"):
                total += taken(user.name)
            elif user.code in ("slice", "dynamic-slice") and user.operands[0] == name:
                total += sum(count for count, _ in _sizes(user.shapes))
            else:
                return float("inf")
        return total

    found = {}
    for one in inner:
        if one.code == "parameter":
            count = taken(one.name)
            if count < float("inf"):
                each = _sizes(one.shapes)[0][1]
                found[int(re.search(r"parameter\((\d+)\)", one.line)[1])] = int(count) * each
    return found
