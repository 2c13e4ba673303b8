"""What a compiled program consists of, by its text: kernels, bytes, layouts of convolutions."""

import collections
import re

SIZES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1, "s16": 2, "u64": 8, "s64": 8}
NO_KERNEL = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "constant",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
}


def consists_of(text: str) -> dict:
    """Of a compiled program's text: kernels and GB by kind, each kernel's operands and results counted once."""
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
            bodies[current].append(line.strip())

    def size(shapes: str) -> int:
        total = 0
        for kind, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            count = SIZES.get(kind, 4)
            for part in filter(None, dimensions.split(",")):
                count *= int(part)
            total += count
        return total

    def split(line: str):
        return re.match(r"(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\(", line)

    kernels, moved, transposes = collections.Counter(), collections.Counter(), 0
    stack = [entry]
    while stack:
        name = stack.pop()
        parsed = [(split(line), line) for line in bodies.get(name, ())]
        shapes = {found[1]: found[2] for found, _ in parsed if found}
        for found, line in parsed:
            if not found or found[3] in NO_KERNEL:
                continue
            code = found[3]
            if code == "call":
                stack.append(re.search(r"to_apply=%?([\w.\-]+)", line)[1])
                continue
            operands = re.findall(r"%([\w.\-]+)", line.split(f" {code}(", 1)[1].split("), ")[0])
            kind, large = code, size(found[2]) > 2**20
            if code == "custom-call":
                kind = re.search(r'custom_call_target="([^"]+)"', line)[1]
            elif code == "fusion":
                inner = "\n".join(bodies.get(re.search(r"calls=%?([\w.\-]+)", line)[1], ()))
                kind = "loop"
                if "gemm" in line:
                    kind = "triton gemm"
                elif "__cudnn" in line:
                    kind = "cudnn fusion"
                elif " reduce(" in inner:
                    kind = "reduce"
                elif " transpose(" in inner or " copy(" in inner:
                    kind = "transpose"
            transposes += large and kind in ("transpose", "copy")
            kernels[kind] += 1
            moved[kind] += size(found[2]) + sum(size(shapes.get(operand, "")) for operand in operands)
    labels = collections.Counter(re.findall(r"dim_labels=(\S+), custom_call_target=\"__cudnn\$(\S+?)\"", text))
    as_forward = len(re.findall(r"dim_labels=f\S*_i\S*->\S*b\S*f, custom_call_target=\"__cudnn\$convForward", text))
    return {
        "kernels": sum(kernels.values()),
        "transposes": transposes,
        "gb": round(sum(moved.values()) / 1e9, 3),
        "counts": {kind: [count, round(moved[kind] / 1e9, 3)] for kind, count in kernels.most_common(12)},
        "convolutions": {f"{layout} {kind}": count for (layout, kind), count in labels.most_common(8)},
        "kernel gradients as forward convolutions": as_forward,
    }
