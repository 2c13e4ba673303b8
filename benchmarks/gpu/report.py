"""The report of a campaign, in Markdown, from what its jobs have found so far."""

import collections
import json

from benchmarks.gpu.targets import FASTER_THAN_TORCH, ROOFLINE_SHARE, Target, targets

STEPS_TEXT = """TFLOP/s are of the paper's convolutions, whatever was computed; a train step counts three times. GB and
kernels are of the compiled program, a kernel's operands and results once. Percent and ms by bytes are of the ceilings
above. x torch: the fastest of PyTorch's of the same case over this. host ms: until a step was started."""
TARGETS_TEXT = f"""Ratios are of the fastest of ours to the fastest torch.compile (channels last) of the same network,
batch and precision, {FASTER_THAN_TORCH} wanted. The roofline, {100 * ROOFLINE_SHARE:.0f} % of it wanted: the time below
which no program that runs a convolution at a time could take a step, the larger of the paper's operations
(forward times three) over the measured bf16 matrix products a second, and the least bytes over the measured
bandwidth. These are every convolution's input and output once, in bf16, forward and in both gradients, and
parameters and Adam's moments read and written in float32."""


def cell(value, digits=3) -> str:
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def table(head: list[str], lines: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def report(results: list[dict], machine: dict) -> str:
    """Markdown of all that there is; `machine`: what is said of where it was measured."""
    by_kind = collections.defaultdict(list)
    for row in results:
        by_kind[row.get("job", {}).get("kind")].append(row)
    parts = [f"# raunet_jax on a GPU: {machine['name']}\n", _machine(machine)]
    parts.append(f"## Targets\n\n{TARGETS_TEXT}\n\n{_targets(targets(results))}")
    for row in by_kind["ceilings"]:
        shown = {key: value for key, value in row.items() if key not in ("job", "name")}
        parts.append("Ceilings: " + json.dumps(shown) + "\n")
    if by_kind["time"]:
        parts.append(f"## Steps\n\n{STEPS_TEXT}\n\n{_steps(by_kind['time'], by_kind['ceilings'])}")
        parts += _batches(by_kind["time"]) + _bits(by_kind["time"]) + _programs(by_kind["time"])
    for row in by_kind["windows"]:
        if "batches" in row:
            lines = [[batch, *found.values()] for batch, found in row["batches"].items()]
            heads = ["windows a call", *next(iter(row["batches"].values()))]
            parts.append(f"## {row['name']}\n\n{row['windows']} windows.\n\n{table(heads, lines)}")
    for kind in ("cascade", "train", "resume", "sanity", "profile", "flags", "windows"):
        for row in by_kind[kind]:
            if "batches" in row:
                continue
            body = {key: value for key, value in row.items() if key not in ("job", "name", "kernels")}
            parts.append(f"## {row['name']}\n\n```\n{json.dumps(body, indent=1)[:6000]}\n```\n")
            if "kernels" in row:
                parts.append(table(["ms a step", "%", "calls a step", "kernel"], row["kernels"]))
    return "\n".join(parts)


def _machine(machine: dict) -> str:
    said = "; ".join(f"{key} {value}" for key, value in machine.get("versions", {}).items())
    return f"By `{machine['command']}` on {machine['name']}, {machine['when']}, commit {machine['commit']}; {said}.\n"


def _targets(judged: list[Target]) -> str:
    answers = {True: "reached", False: "not reached", None: "not measured"}
    lines = [[one.name, one.wanted, one.found, answers[one.reached], one.of, one.bound] for one in judged]
    return table(["target", "wanted", "found", "", "of", "what bounds it"], lines)


def _case(row: dict) -> tuple:
    return tuple(row["job"][key] for key in ("network", "batch", "part", "precision"))


def _steps(rows: list[dict], ceilings: list[dict]) -> str:
    head = ["", "ms", "range", "x torch", "TFLOP/s", "% of bf16 peak", "GB touched", "ms by bytes", "kernels"]
    head += ["large transposes", "MB", "first s", "host ms", "first two losses"]
    theirs = {}
    measured = ceilings[0] if ceilings else {}
    peak, bandwidth = measured.get("bf16 TFLOP/s"), measured.get("TB/s read and written")
    for row in rows:
        if "ms" in row and row["job"]["library"] == "torch":
            theirs[_case(row)] = min(row["ms"], theirs.get(_case(row), float("inf")))
    lines = []
    for row in rows:
        if "ms" not in row:
            lines.append([row["name"], "failed", *[""] * 11, row.get("error", "")[:160].replace("|", "/")])
            continue
        other, program, rate = theirs.get(_case(row)), row.get("program", {}), row["gflop"] / row["ms"]
        line = [row["name"], float(row["ms"]), f"{row['ms_range'][0]:.3g} to {row['ms_range'][1]:.3g}"]
        line += [other / row["ms"] if other else None, rate, 100 * rate / peak if peak else None, program.get("gb")]
        line += [program["gb"] / bandwidth if bandwidth and "gb" in program else None, program.get("kernels")]
        line += [program.get("transposes"), row["peak_mb"], row["first_s"]]
        lines.append([*line, row.get("host_ms_a_step"), row.get("loss", "")])
    return table(head, lines)


def _batches(rows: list[dict]) -> list[str]:
    """Patches a second of ours by network and batch: of all flags and lowerings of a batch the fastest."""
    best = collections.defaultdict(dict)
    for row in rows:
        job = row["job"]
        if "ms" in row and (job["library"], job["part"], job["precision"]) == ("ours", "train", "bfloat16"):
            rate = 1000 * job["batch"] / row["ms"]
            best[job["network"]][job["batch"]] = max(rate, best[job["network"]].get(job["batch"], 0.0))
    lines = [[name, batch, rate] for name, found in best.items() for batch, rate in sorted(found.items())]
    return ["## Patches a second by batch, ours, bf16\n\n" + table(["", "batch", "patches/s"], lines)] if lines else []


def _bits(rows: list[dict]) -> list[str]:
    found = collections.defaultdict(list)
    for row in rows:
        if "bits" in row:
            keys = ("network", "batch", "precision", "lowering", "xla", "remat")
            found[json.dumps([row["job"].get(key) for key in keys])].append(row["bits"])
    lines = []
    for program, bits in found.items():
        within = all(bit[0] == bit[1] for bit in bits)
        across = "" if len(bits) < 2 else str(len({bit[0][-1] for bit in bits}) == 1)
        lines.append([program, len(bits), str(within), across])
    text = (
        "## The same bits?\n\nParameters after 4 and 8 steps from one state: the same twice in a process, and the "
        "same in processes that compiled anew (as a resumed training does)?\n\n"
    )
    return [text + table(["program", "processes", "within a process", "across processes"], lines)] if lines else []


def _programs(rows: list[dict]) -> list[str]:
    lines = [
        [row["name"], json.dumps(row["program"].get("counts")), json.dumps(row["program"].get("convolutions"))]
        for row in rows
        if row.get("program", {}).get("counts")
    ]
    text = "## What the programs consist of\n\n(kernels, GB) by kind; cuDNN's convolutions by layout\n\n"
    return [text + table(["", "kernels", "convolutions"], lines[:12])] if lines else []
