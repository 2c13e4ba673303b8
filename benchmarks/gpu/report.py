"""The report of a campaign, in Markdown, from what its jobs have found so far."""

import collections
import json

PEAK_BF16, PEAK_BYTES = 990e12, 3.35e12  # an H100's, dense, by its datasheet; an H200: 4.8e12 bytes/s


def cell(value, digits=3) -> str:
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def table(head: list[str], lines: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def report(results: list[dict]) -> str:
    parts = ["# raunet_jax on a GPU\n"]
    by_kind = collections.defaultdict(list)
    for row in results:
        by_kind[row.get("job", {}).get("kind")].append(row)
    for row in by_kind["ceilings"]:
        parts.append("Ceilings: " + json.dumps({k: v for k, v in row.items() if k not in ("job", "name")}) + "\n")
    timed = [row for row in by_kind["time"] if "ms" in row]
    if by_kind["time"]:
        head = [
            "",
            "ms",
            "range",
            "x torch",
            "TFLOP/s",
            "% of bf16 peak",
            "GB moved",
            "ms at 3.35 TB/s",
            "kernels",
            "of them large transposes",
            "MB",
            "first s",
            "host ms",
            "first two losses",
        ]
        cases = collections.defaultdict(dict)
        for row in timed:
            job = row["job"]
            if job["library"] == "torch":
                case = cases[job["network"], job["batch"], job["part"], job["precision"]]
                case["ms"] = min(row["ms"], case.get("ms", 1e9))
        lines = []
        for row in by_kind["time"]:
            job = row["job"]
            if "ms" not in row:
                lines.append([row["name"], "failed", *[""] * 11, row.get("error", "")[:160]])
                continue
            other = cases[job["network"], job["batch"], job["part"], job["precision"]].get("ms")
            program = row.get("program", {})
            rate = row["gflop"] / row["ms"]
            lines.append(
                [
                    row["name"],
                    float(row["ms"]),
                    f"{row['ms_range'][0]:.3g} to {row['ms_range'][1]:.3g}",
                    other / row["ms"] if other else None,
                    rate,
                    100 * rate * 1e12 / PEAK_BF16,
                    program.get("gb"),
                    program["gb"] / PEAK_BYTES * 1e12 if "gb" in program else None,
                    program.get("kernels"),
                    program.get("transposes"),
                    row["peak_mb"],
                    row["first_s"],
                    row.get("host_ms_a_step"),
                    row.get("loss", ""),
                ]
            )
        parts.append(
            "## Steps\n\nTFLOP/s are of the paper's convolutions, whatever was computed; a train step counts "
            "three times. GB, kernels: of the compiled program, each kernel's operands and results once. x torch: the "
            "fastest of PyTorch's of the same case over this. host ms: until a step was started. GB of a state in "
            "vectors are too many: a slice counts as its whole.\n\n" + table(head, lines)
        )
        bits = collections.defaultdict(list)
        for row in timed:
            if "bits" in row:
                job = row["job"]
                same = json.dumps(
                    [job.get(k) for k in ("network", "batch", "precision", "lowering", "xla", "flat", "remat")]
                )
                bits[same].append(row["bits"])
        lines = []
        for same, found in bits.items():
            within = all(bit[0] == bit[1] for bit in found)
            across = "" if len(found) < 2 else len({bit[0][-1] for bit in found}) == 1
            lines.append([same, len(found), str(within), str(across)])
        if lines:
            parts.append(
                "## The same bits?\n\nParameters after 4 and 8 steps from one state: the same twice in a "
                "process, and the same in processes that compiled anew (as a resumed training does)?\n\n"
                + table(["program", "processes", "within a process", "across processes"], lines)
            )
        programs = [
            [row["name"], json.dumps(row["program"].get("counts")), json.dumps(row["program"].get("convolutions"))]
            for row in timed
            if row.get("program", {}).get("counts")
        ]
        if programs:
            parts.append(
                "## What the programs consist of\n\n(kernels, GB) by kind; cuDNN's convolutions by layout\n\n"
                + table(["", "kernels", "convolutions"], programs[:12])
            )
    for kind in ("sanity", "profile", "windows", "train"):
        for row in by_kind[kind]:
            body = {k: v for k, v in row.items() if k not in ("job", "name", "kernels")}
            parts.append(f"## {row['name']}\n\n```\n{json.dumps(body, indent=1)[:6000]}\n```\n")
            if "kernels" in row:
                parts.append(table(["ms a step", "%", "calls a step", "kernel"], row["kernels"]))
    return "\n".join(parts)
