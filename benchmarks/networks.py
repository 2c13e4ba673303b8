"""How fast the networks are, forward and in training, beside the same networks in PyTorch.

    python -m benchmarks.networks                              # all networks, about an hour on two cores
    python -m benchmarks.networks --networks=I --parts=forward
    python -m benchmarks.networks --quick                      # only to see that it runs

Contenders of a network and a part (forward or train) have a process each and step in turn. Before any timing their
outputs on the same weights, or the losses of their first two steps, are compared. Let nothing else run meanwhile: it
slows PyTorch, whose threads wait for each other, several times more than ours. Needs jax, flax, optax and numpy, and
for its rows torch. The table is printed and written to benchmarks/results/networks-MACHINE.md and .json, beside what
earlier runs with other flags left there.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from benchmarks import machine, work
from benchmarks.contenders import Case, Contender, drawn_variables, start
from benchmarks.processes import Lost
from raunet_jax.files import write_json, write_text

RESULTS = Path(__file__).parent / "results"
PARTS = ("forward", "train")
CONTENDERS = {
    "ours": Contender("ours", "ours"),
    "ours-plain": Contender("ours, plain lowering", "ours", lowering="plain", folded=False),
    "torch": Contender("torch", "torch", huge_pages=False),
    "torch-huge-pages": Contender("torch, huge pages", "torch"),
    "torch-channels-last": Contender("torch, channels last", "torch", huge_pages=False, channels_last=True),
    "torch-channels-last-huge-pages": Contender("torch, channels last, huge pages", "torch", channels_last=True),
    "torch-compile": Contender("torch.compile", "torch", huge_pages=False, compiled="default"),
    "torch-compile-channels-last": Contender(
        "torch.compile, channels last", "torch", huge_pages=False, channels_last=True, compiled="default"
    ),
    "torch-cuda-graphs": Contender(
        "torch.compile, channels last, CUDA graphs",
        "torch",
        huge_pages=False,
        channels_last=True,
        compiled="reduce-overhead",
    ),
}
USUAL = {
    "cpu": ("ours", "ours-plain", "torch", "torch-huge-pages", "torch-channels-last-huge-pages", "torch-compile"),
    "gpu": tuple(name for name in CONTENDERS if "huge" not in name),
}
CALLS = {"cpu": 2, "gpu": 6}  # before the clock starts: CUDA graphs are recorded in the second or third
# Largest difference of outputs, over the largest output, and of losses. TF32 and bfloat16 keep 10 and 8 bits.
TOLERANCE = {"highest": 1e-4, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.15}


def measure(case: Case, contenders: list[Contender], rounds: int, least: float) -> list[dict]:
    """A row a contender: what its Worker tells, `rounds` (seconds a step; None where it had no turn), or `error`.

    `others`: cores that other processes took in each round.

    As many processes are alive as memory has room for. The first contender stays alive throughout, so that every other
    one is timed in turn with it. Raises RuntimeError when two contenders do not compute the same.
    """
    variables = None if case.part == "matmul" else drawn_variables(case.network)
    rows = [dataclasses.asdict(contender) | {"rounds": [], "others": []} for contender in contenders]
    waiting, alive, reference = list(range(len(contenders))), {}, None
    try:
        while waiting:
            while waiting and (len(alive) < 2 or _room(case, rows)):
                number = waiting.pop(0)
                row = rows[number]
                worker = start(case, contenders[number], variables)
                try:
                    first = worker.first(CALLS[case.device])
                    if not np.isfinite(first["values"]).all():
                        raise Lost("its result is not finite")
                except Lost as error:
                    row["error"] = str(error)
                    worker.end()
                    continue
                alive[number] = worker
                row |= {"first_s": first["seconds"], "first_mb": first["first_mb"], "held_mb": first["held_mb"]}
                if reference is None:
                    reference = number, first["values"]
                row["difference"] = _compare(
                    case, row["title"], first["values"], rows[reference[0]]["title"], reference[1]
                )
            for turn in range(-1, rounds):  # the first is not counted: a virtual machine is still given its memory
                for number, row in enumerate(rows):
                    seconds = None
                    if number in alive:
                        try:
                            answer = alive[number].round(least)
                            if turn < 0:
                                continue
                            seconds, row["peak_mb"] = answer["seconds"], answer["peak_mb"]
                            row["others"].append(answer["others"])
                        except Lost as error:
                            row["error"] = str(error)
                            alive.pop(number).end()
                    if turn >= 0:
                        row["rounds"].append(seconds)
            for number in [number for number in alive if number or not waiting]:
                alive.pop(number).end()
    finally:
        for worker in alive.values():
            worker.end()
    return rows


def _room(case: Case, rows: list[dict]) -> bool:
    return machine.free_mb(case.device) > 1500 + 1.3 * max(row.get("first_mb", 0) for row in rows)


def _compare(case: Case, title: str, values: np.ndarray, other: str, reference: np.ndarray) -> float:
    """Largest difference over the largest value. Raises RuntimeError where it is too large."""
    tf32 = case.device == "gpu" and case.precision == "float32"
    limits = np.full(2, TOLERANCE["tf32" if tf32 else case.precision])
    if case.part == "train":  # Adam's first step moves a weight whose gradient is but rounding as far as any other
        limits[1] = min(50 * limits[1], 0.2)
    differences = np.abs(values - reference).reshape(2, -1).max(axis=1) / np.abs(reference).max()
    if not (differences <= limits).all():
        raise RuntimeError(
            f"{case.name}, {case.part}, {case.precision}: {title} and {other} differ by {differences} of the largest "
            f"value, more than {limits}; they do not compute the same, so their times say nothing"
        )
    return float(differences.max())


def peak_gflops(contenders: list[Contender], precision: str, device: str, quick: bool) -> float:
    """GFLOP/s of a square matmul by the contenders' libraries, the best of them."""
    size = 256 if quick else {"cpu": 2048, "gpu": 8192}[device]
    network = work.Network((0, 0, 0), (size, size))
    best = 0.0
    for library in dict.fromkeys(contender.library for contender in contenders):
        case = Case("matmul", network, "matmul", precision, device)
        (row,) = measure(case, [Contender("matmul", library)], 3, 0.2)
        best = max(best, *(2e-9 * size**3 / seconds for seconds in row["rounds"] if seconds), 0.0)
    return best


def table(result: dict) -> str:
    """One case's rows in Markdown, columns aligned."""
    rows = result["rows"]
    timed = [row for row in rows if any(row["rounds"])]
    relative = {}
    for row in timed:
        pairs = [(a, b) for a, b in zip(row["rounds"], timed[0]["rounds"], strict=True) if a and b]
        relative[row["title"]] = statistics.median(a / b for a, b in pairs)
    theirs = [relative[row["title"]] for row in timed if row["library"] == "torch"]
    head = ["contender", "first s", "median s", "min s", "x best torch", "GFLOP/s", "% of matmul"]
    head += ["step MB", "peak MB", "first MB", "diff."]
    lines = [head]
    for row in rows:
        if row not in timed:
            lines.append([row["title"], f"failed: {row.get('error', '')}"] + [""] * (len(head) - 2))
            continue
        seconds = [value for value in row["rounds"] if value]
        rate = result["gflop"] / statistics.median(seconds)
        faster = f"{min(theirs) / relative[row['title']]:.2f}" if theirs else ""
        line = [
            row["title"],
            f"{row['first_s']:.1f}",
            f"{statistics.median(seconds):.4g}",
            f"{min(seconds):.4g}",
            faster,
        ]
        line += [f"{rate:.3g}", f"{100 * rate / result['peak_gflops']:.0f}"]
        memory = row["peak_mb"] - row["held_mb"], row["peak_mb"], row["first_mb"]
        line += [f"{value:.0f}" for value in memory]
        lines.append([*line, f"{row['difference']:.1g}"])
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines if "failed" not in line[1]) for column in range(len(lines[0]))]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def section(result: dict) -> str:
    voxels = "x".join(map(str, result["shape"]))
    others = [cores for row in result["rows"] for cores in row["others"]]
    busy = f"{statistics.mean(others) if others else 0:.1f}"
    words = f"{result['part']}, {result['precision']}, batch {voxels}"
    return (
        f"## {result['network']}: {words}\n\n{result['gflop']:.1f} GFLOP a step, {result['peak_gflops']:.0f} GFLOP/s "
        f"by a matmul. {result['rounds']} rounds, {result['when']}.\nOther processes took {busy} cores meanwhile."
        f"\n\n{table(result)}\n"
    )


NOTES = """Contenders have a process each and step in turn. "first" is the first call, which compiles; no cache is read.
"x best torch": how many times as fast as the fastest of PyTorch's, the median over rounds. GFLOP are those of the
paper's convolutions, whatever a contender computes in their place; a train step counts as three forward passes; the
matmul is of the same precision. Memory is that of a process beyond its imports (on a GPU, of its arrays): what a step
takes and gives back, the peak in the steps, with what stays between them, and the peak in the first call; a compiler
leaves some of that behind. On a GPU ours is the peak since the process began in either case. "diff." is the largest
difference to the first contender: of outputs over the largest output, or of the losses of two train steps. Ours runs
forward as a scan is predicted, with batch norm folded into the convolutions (raunet_jax/networks/folding.py). "huge
pages": arrays come from the kernel in pages of 2 MB, as ours do (raunet_jax/startup.py). Where others take a good part
of a core, times say little, least of all PyTorch's, whose threads wait for each other."""


def report(results: list[dict], where: str) -> str:
    return f"# The networks\n\nBy `python -m benchmarks.networks` on {where}.\n\n{NOTES}\n\n" + "\n".join(
        map(section, results)
    )


def key(result: dict) -> tuple:
    names = [name for name in ("network", "shape", "part", "precision")]
    return *(json.dumps(result[name]) for name in names), *(row["title"] for row in result["rows"])


def chosen(args, device: str) -> list[Contender]:
    """The contenders that the flags name."""
    usual = [name for name in USUAL[device] if not (args.quick and CONTENDERS[name].compiled)]
    names = args.contenders.split(",") if args.contenders else usual
    for name in names:
        if name not in CONTENDERS:
            raise SystemExit(f"--contenders: {name} is none; choose of {','.join(CONTENDERS)}")
    found = [CONTENDERS[name] for name in names]
    for lowering in args.lowering:
        found.append(Contender(f"ours: {lowering}", "ours", lowering=lowering))
    if args.each_rewrite:
        from raunet_jax.networks.lowering import BY_PLATFORM, NEEDS

        for left_out in BY_PLATFORM[device]:
            others = [name for name in BY_PLATFORM[device] if left_out not in (name, NEEDS.get(name))]
            gone = " and ".join(name for name in BY_PLATFORM[device] if name not in others)
            found.append(Contender(f"ours without {gone}", "ours", lowering=",".join(others) or "plain"))
        if args.parts == "forward":
            found.append(Contender("ours without folding", "ours", folded=False))
    for remat in args.remat:
        found.append(Contender(f"ours, remat {remat}", "ours", remat=remat))
    if args.xla_default_flags:
        found.append(Contender("ours, XLA's default flags", "ours", xla_flags=False))
    if args.default_pages:
        found.append(Contender("ours, no huge pages", "ours", huge_pages=False))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(work.NETWORKS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--contenders", default="", help=f"of {','.join(CONTENDERS)}; default: what the device is for")
    parser.add_argument("--precision", default="float32", choices=("float32", "highest", "bfloat16"))
    parser.add_argument("--device", default="", choices=("cpu", "gpu"), help="default: a GPU where there is one")
    parser.add_argument("--batch", type=int, default=0, help="images a step; default: 4 of I, 1 of the others")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="the least a round lasts; it has one step or more")
    parser.add_argument("--lowering", action="append", default=[], help="adds ours with these rewrites, comma between")
    parser.add_argument(
        "--each-rewrite",
        action="store_true",
        help="adds ours without each of its rewrites in turn, and with --parts=forward without folding",
    )
    parser.add_argument("--remat", action="append", default=[], help="adds ours with this remat: blocks or all")
    parser.add_argument("--xla-default-flags", action="store_true", help="adds ours without the XLA flags it sets")
    parser.add_argument("--default-pages", action="store_true", help="adds ours without huge pages")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only to see that it runs: small, short, without torch.compile, no file written",
    )
    args = parser.parse_args()

    device = args.device or ("gpu" if machine.gpu() else "cpu")
    contenders, networks = chosen(args, device), work.QUICK if args.quick else work.NETWORKS
    if args.quick:
        args.rounds, args.seconds = 1, 0.0
    peak = peak_gflops(contenders, args.precision, device, args.quick)
    path = args.results / f"networks-{machine.slug(device)}.json"
    results = json.loads(path.read_text())["results"] if path.exists() and not args.quick else []
    for name in args.networks.split(","):
        network = networks[name]
        if args.batch:
            network = network._replace(shape=(args.batch, *network.shape[1:]))
        for part in args.parts.split(","):
            when = f"{machine.now()}; `{' '.join(['python -m benchmarks.networks', *sys.argv[1:]])}`"
            rows = measure(Case(name, network, part, args.precision, device), contenders, args.rounds, args.seconds)
            result = {"network": name, "shape": list(network.shape), "part": part, "precision": args.precision}
            result |= {"rounds": args.rounds, "when": when, "versions": machine.versions(), "commit": machine.commit()}
            result |= {"gflop": work.gflop(network, part), "peak_gflops": peak, "rows": rows}
            print(section(result), flush=True)
            results = [other for other in results if key(other) != key(result)] + [result]
            if not args.quick:
                write_json(path, {"machine": machine.name(device), "results": results})
                write_text(path.with_suffix(".md"), report(results, machine.name(device)))


if __name__ == "__main__":
    main()
