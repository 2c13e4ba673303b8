"""How a train step grows with devices, patch and batch: seconds and memory.

    python -m benchmarks.scaling                # width 16; some 15 minutes on two cores, most of them compiling
    python -m benchmarks.scaling --quick        # only to see that it runs

A CPU is made up to be several devices: that shows what several cost over one, and that they compute the same, since the
losses of two steps of one batch must agree. On a machine with several GPUs it shows the speed-up. Each step is measured
in a process of its own. A picture and its numbers are written to benchmarks/results/scaling-MACHINE.png and .json.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks import machine, work
from benchmarks.contenders import Case, Contender, drawn_variables, start
from benchmarks.networks import aligned
from benchmarks.processes import Lost
from raunet_jax.files import replacing, write_json

RESULTS = Path(__file__).parent / "results"
DEVICES = 1, 2, 4, 8
BATCHES = 1, 2, 4, 8
PATCHES = "32x32x32", "64x64x32", "128x128x32", "224x224x32"
QUICK_PATCHES = "32x32x32", "64x32x32"
BATCH_PATCH = "64x64x32"
DRAWN = ("seconds", "s a step", "log", ".2g"), ("peak_mb", "MB at the peak of a step", "linear", ".0f")
# Of the losses of the first and the second step, over the loss. Adam's first step moves each weight by the learning
# rate, up or down: one whose gradient is but rounding goes its own way.
TOLERANCE = np.array([1e-4, 5e-3])


def step(args, device: str, patch: str, batch: int, devices: int, variables: dict) -> dict:
    """`seconds` a train step (the median of rounds), `peak_mb`, and the `losses` of two; or `error`."""
    x, y, z = map(int, patch.split("x"))
    network = work.Network((args.width, args.width, 16 * args.width), (batch, z, y, x, 1))
    case = Case(patch, network, "train", args.precision, device)
    row = {"patch": patch, "voxels": x * y * z, "batch": batch, "devices": devices}
    worker = start(case, Contender("ours", "ours", devices=devices, remat=args.remat), variables)
    try:
        first = worker.first()
        rounds = [worker.round(args.seconds) for _ in range(args.rounds)]
    except Lost as error:
        print(f"patch {patch}, batch {batch}, devices {devices}: {error}", flush=True)
        return row | {"error": str(error)}
    finally:
        worker.end()
    row |= {"first_s": first["seconds"], "seconds": float(np.median([answer["seconds"] for answer in rounds]))}
    row |= {"all_seconds": [answer["seconds"] for answer in rounds], "losses": first["values"].tolist()}
    row |= {"peak_mb": rounds[-1]["peak_mb"], "held_mb": first["held_mb"], "gflop": work.gflop(network, "train")}
    print(f"patch {patch}, batch {batch}, devices {devices}: {row['seconds']:.3g} s", flush=True)
    return row


def check(rows: list[dict]) -> None:
    """Raise RuntimeError where a number of devices changes the losses."""
    rows = [row for row in rows if "error" not in row]
    for row in rows:
        apart = np.abs(np.divide(row["losses"], rows[0]["losses"]) - 1)
        if not (apart <= TOLERANCE).all():
            raise RuntimeError(
                f"{row['devices']} devices have losses {row['losses']}, {rows[0]['devices']} have {rows[0]['losses']}, "
                f"apart by {apart} of them, more than {TOLERANCE}"
            )


def table(curves: dict[str, list[dict]]) -> str:
    lines = [["patch", "batch", "devices", "first s", "s a step", "GFLOP/s", "peak MB", "held MB", "losses"]]
    for row in (row for rows in curves.values() for row in rows):
        line = [row["patch"], str(row["batch"]), str(row["devices"])]
        if "error" in row:
            lines.append([*line, f"failed: {row['error']}", *[""] * 5])
            continue
        line += [f"{row['first_s']:.1f}", f"{row['seconds']:.3g}", f"{row['gflop'] / row['seconds']:.3g}"]
        line += [f"{row['peak_mb']:.0f}", f"{row['held_mb']:.0f}"]
        lines.append([*line, ", ".join(f"{loss:.6f}" for loss in row["losses"])])
    return aligned(lines)


def draw(curves: dict[str, list[dict]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(curves), figsize=(12, 6), sharex="col", squeeze=False, layout="constrained")
    labels = {"devices": "devices (one batch of 8, shared)", "patch": "voxels of a patch, batch 1", "batch": "batch"}
    for column, (name, rows) in enumerate(curves.items()):
        rows = [row for row in rows if "error" not in row]
        at = [row["voxels" if name == "patch" else name] for row in rows]
        for axis, (field, unit, scale, form) in zip(axes[:, column], DRAWN, strict=True):
            values = [row[field] for row in rows]
            axis.plot(at, values, "o-")
            for place, value in zip(at, values, strict=True):
                axis.annotate(f"{value:{form}}", (place, value), (0, 6), textcoords="offset points", ha="center")
            axis.set(xscale="log", yscale=scale, ylabel=unit)
            axis.set_ylim(*((0.5 * min(values), 2 * max(values)) if scale == "log" else (0, 1.15 * max(values))))
            axis.set_xticks(at, [row["patch"] for row in rows] if name == "patch" else at, minor=False)
            axis.tick_params("x", labelsize="small")
            axis.minorticks_off()
            axis.margins(x=0.1)
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel(labels[name])
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="of Res1; the paper's is 32")
    parser.add_argument("--curves", default="devices,patch,batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="the least a round lasts; it has one step or more")
    parser.add_argument("--precision", default="float32", choices=("float32", "highest", "bfloat16"))
    parser.add_argument("--remat", default="none", choices=("none", "blocks", "all"))
    parser.add_argument("--device", default="", choices=("cpu", "gpu"), help="default: a GPU where there is one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs: narrow, short, no file written")
    args = parser.parse_args()
    device = args.device or ("gpu" if machine.gpu() else "cpu")
    patches, batches, devices = PATCHES, BATCHES, DEVICES
    if args.quick:
        args.width, args.rounds, args.seconds = 4, 1, 0.0
        patches, batches, devices = QUICK_PATCHES, (1,), DEVICES[:2]
    if device == "gpu":
        devices = [count for count in devices if count <= machine.gpu_count()]
    points = {
        "devices": [(patches[0], 8, count) for count in devices],
        "patch": [(patch, 1, 1) for patch in patches],
        "batch": [(BATCH_PATCH if not args.quick else patches[1], batch, 1) for batch in batches],
    }
    when = machine.now()
    widths = args.width, args.width, 16 * args.width
    variables, done, curves = drawn_variables(work.Network(widths, (1, 32, 32, 32, 1))), {}, {}
    for name in args.curves.split(","):
        for point in points[name]:
            if point not in done:
                done[point] = step(args, device, *point, variables)
        curves[name] = [done[point] for point in points[name]]
        if name == "devices":
            check(curves[name])
    print(table(curves))
    if args.quick:
        return
    path = args.results / f"scaling-{machine.slug(device)}.json"
    facts = {"machine": machine.name(device), "when": when, "versions": machine.versions(), "commit": machine.commit()}
    facts |= {"width": args.width, "precision": args.precision, "remat": args.remat, "curves": curves}
    write_json(path, facts)
    title = f"Train step of RA-UNet-II, width {args.width}, {args.precision}, on {machine.name(device)}, {when}"
    draw(curves, title, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
