"""How fast a whole volume is predicted: by windows beside MONAI's sliding window, or by the three-stage cascade.

    python -m benchmarks.predict                         # RA-UNet-II, 63 windows of 128x128x32; some 4 minutes
    python -m benchmarks.predict --size=128x128x48       # a quick look, nothing is written
    python -m benchmarks.predict --cascade               # a drawn 512x512x200 scan, some 6 minutes

Both predict with the same weights from the same int16 voxels, by the same windows, and what they find is compared.
Sizes are voxels (x, y, z). Needs requirements.txt, and torch and MONAI but for --cascade. The report is printed and
written to benchmarks/results/predict-MACHINE.md or cascade-MACHINE.md.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import machine, work
from benchmarks.contenders import drawn_variables
from benchmarks.networks import aligned
from benchmarks.processes import Environment, Lost, Worker
from raunet_jax.files import write_text

RESULTS = Path(__file__).parent / "results"
WIDTHS = work.NETWORKS["II-128"].widths
SIZE, CASCADE_SIZE = "256x256x120", "512x512x200"
LIMITS = np.float32([-100]), np.float32([200])  # HU that become 0 and 1
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of probabilities; on a GPU both use TF32
LIVER_HU_WIDTH = 15


def drawn_scan(shape: tuple[int, int, int]) -> np.ndarray:
    """HU int16 (z, y, x, 1): a bright ball in noise."""
    grids = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    ball = sum(grid**2 for grid in grids) < 0.5
    noise = np.random.default_rng(3).normal(0, 30, shape)
    return np.clip(np.where(ball, 110, -50) + noise, -1024, 3071).astype(np.int16)[..., None]


def ours(device: str, precision: str, variables: dict, scan: np.ndarray, patch, step, batch: int):
    import jax
    import jax.numpy as jnp

    from raunet_jax.inference.windows import make_forward, predict_windows
    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import as_argument, fold
    from raunet_jax.networks.raunet import RAUNet

    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[precision]
    network = RAUNet(*WIDTHS, Settings(dtype, folded=True))
    variables, forward = jax.device_put(as_argument(fold(variables))), make_forward(network)
    jax.block_until_ready(forward(variables, np.zeros((batch, *patch, 1), np.int16), *LIMITS))  # compiled

    def once():
        return predict_windows(lambda windows: forward(variables, windows, *LIMITS), scan, patch, step, batch)

    return once, lambda result: None, lambda result: result


def monai(device: str, precision: str, variables: dict, scan: np.ndarray, patch, step, batch: int, last: bool):
    import torch
    from monai.inferers import sliding_window_inference

    from benchmarks import torch_twin

    where = torch.device({"cpu": "cpu", "gpu": "cuda"}[device])
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    layout = torch.channels_last_3d if last else torch.contiguous_format
    twin = torch_twin.RAUNet(3, 1, *WIDTHS).eval()
    torch_twin.load(twin, variables)
    twin = twin.to(where, memory_format=layout)
    overlap = [1 - stride / length for stride, length in zip(step, patch, strict=True)]

    def predictor(windows):
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return torch.sigmoid(twin(windows.to(memory_format=layout)).float())

    @torch.inference_mode()
    def once():
        (low,), (high,) = LIMITS
        volume = torch.from_numpy(scan[..., 0]).to(where).float().clip(low, high)[None, None]
        volume = (volume - low) / (high - low)
        return sliding_window_inference(volume, patch, batch, predictor, overlap, mode="constant")[0, 0].cpu().numpy()

    with torch.inference_mode():
        predictor(torch.zeros((batch, 1, *patch), device=where))
    return once, lambda result: None, lambda result: result


def windows(args, device: str) -> str:
    """Predict by each in turn and return the report. Raises RuntimeError where they find something else."""
    shape, patch, step = (tuple(reversed(size)) for size in (args.size, args.patch, args.step))
    variables = drawn_variables(work.Network(WIDTHS, (1, *patch, 1)))
    arguments = device, args.precision, variables, drawn_scan(shape), patch, step, args.batch
    axes = zip(shape, patch, step, strict=True)
    count = int(np.prod([1 - (length - size) // stride for size, length, stride in axes]))
    found = {
        "ours": (Environment(device, "ours"), ours, *arguments),
        "MONAI": (Environment(device, "torch", huge_pages=False), monai, *arguments, False),
        "MONAI, huge pages": (Environment(device, "torch"), monai, *arguments, False),
        "MONAI, channels last, huge pages": (Environment(device, "torch"), monai, *arguments, True),
    }
    names = args.contenders.split(",") if args.contenders else list(found)
    rows, maps, workers = {name: {"seconds": []} for name in names}, {}, {}
    for name in names:
        workers[name] = Worker(*found[name])
        try:
            answer = workers[name].first(1)
            maps[name] = answer["values"][0]
            rows[name] |= {"seconds": [answer["seconds"]], "first_mb": answer["first_mb"]}
        except Lost as error:
            rows[name]["error"] = str(error)
            workers.pop(name).end()
    if names[0] not in maps:
        raise SystemExit(f"{names[0]}, which the others are compared with, failed: {rows[names[0]]['error']}")
    reference = maps[names[0]]
    for name, found_map in maps.items():
        rows[name]["difference"] = float(np.abs(found_map - reference).max())
        if not rows[name]["difference"] <= TOLERANCE["bfloat16" if device == "gpu" else args.precision]:
            raise RuntimeError(f"the maps of {name} and {names[0]} differ by {rows[name]['difference']:.2g}")
    for _ in range(args.rounds - 1):
        for name, worker in workers.items():
            try:
                rows[name]["seconds"].append(worker.round(0.0)["seconds"])
            except Lost as error:
                rows[name]["error"] = str(error)
    for worker in workers.values():
        worker.end()
    lines = [["prediction", "median s", "s a window", f"x {names[0]}", "peak MB", "largest difference"]]
    for name, row in rows.items():
        if "error" in row:
            lines.append([name, f"failed: {row['error']}", "", "", "", ""])
            continue
        seconds = statistics.median(row["seconds"])
        ratio = statistics.median(a / b for a, b in zip(row["seconds"], rows[names[0]]["seconds"], strict=False))
        line = [name, f"{seconds:.2f}", f"{seconds / count:.4f}", f"{ratio:.2f}", f"{row['first_mb']:.0f}"]
        lines.append([*line, f"{row['difference']:.2g}"])
    sizes = [" x ".join(map(str, reversed(size))) for size in (shape, patch, step)]
    return f"""# Prediction by windows

{heading(device)}

RA-UNet-II, {args.precision}, on a volume of {sizes[0]} voxels (x, y, z) by {count} windows of {sizes[1]},
{sizes[2]} apart, {args.batch} a call, all weighted alike; {args.rounds} rounds in turn, compiled before. Probabilities
are from {reference.min():.3f} to {reference.max():.3f}. The peak is of the process beyond its imports, compiling
included (on a GPU, of its arrays).

{aligned(lines)}
"""


def heading(device: str) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in machine.versions().items())
    command = " ".join(["python -m", "benchmarks.predict", *sys.argv[1:]])
    return f"By `{command}` on {machine.name(device)}, {machine.now()}, commit {machine.commit()}; {versions}."


def finder(variables: dict, least_hu: float, most_hu: float) -> dict:
    """Variables whose network finds what lies between two intensities, and computes all that any others would.

    Conv1 blurs the image into two channels, Conv2 hands them on, and Conv3 makes a tent of them. What the network
    computes between these two has weight 0 in Conv2.
    """
    import jax

    variables = jax.tree.map(np.array, variables)
    params, statistics_ = variables["params"], variables["batch_stats"]
    for name in ("Conv1", "Conv2", "Conv3"):
        params[name]["kernel"][:] = params[name]["bias"][:] = 0
    for name in ("Conv1_norm", "Conv2_norm"):
        params[name]["scale"][:2] = np.sqrt(1 + 1e-3)  # batch norm's epsilon
        params[name]["bias"][:2] = statistics_[name]["mean"][:2] = 0
        statistics_[name]["var"][:2] = 1
    (low,), (high,) = LIMITS
    least, most = ((hu - low) / (high - low) for hu in (least_hu, most_hu))
    first, second, third = (params[name]["kernel"] for name in ("Conv1", "Conv2", "Conv3"))
    window = first.shape[:-2]
    first[..., 0, :2] = 1 / np.prod(window)
    params["Conv1"]["bias"][:2] = -least, -(least + most) / 2
    center, skip = tuple(size // 2 for size in window), second.shape[-2] - first.shape[-1]
    for channel in (0, 1):
        second[(*center, skip + channel, channel)] = 1
    third[(*center, slice(2), 0)] = 1000, -2000
    params["Conv3"]["bias"][:] = -1
    return variables


def cascade(args, device: str) -> str:
    """Segment a drawn scan and return the report."""
    import os

    from raunet_jax import startup

    if startup.set_environment():
        startup.restart()
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[device]
    import jax

    from configs import liver
    from data_prep.phantom import draw_abdomen
    from raunet_jax.inference.cascade import StageModel, segment
    from raunet_jax.inference.windows import make_forward, windows_a_call
    from raunet_jax.networks.folding import as_argument, fold
    from raunet_jax.networks.raunet import image_shape, init_variables, make_network

    volume, labels = draw_abdomen(np.random.default_rng(0), args.size)
    liver_hu = float(np.median(volume.voxels[labels == 1]))
    ranges = {"coarse": (liver_hu - LIVER_HU_WIDTH, liver_hu + LIVER_HU_WIDTH), "tumor": (0, liver_hu - LIVER_HU_WIDTH)}
    ranges["voi"] = ranges["coarse"]
    config, models, compiling = liver.get_config(), {}, {}
    for name, stage in config.stages.items():
        stage.precision = args.precision
        if args.width:
            stage.network.width = args.width
        variables = finder(init_variables(make_network(stage), image_shape(stage), 0), *ranges[name])
        network = make_network(stage, folded=True)
        models[name] = StageModel(stage, (jax.device_put(as_argument(fold(variables))),) * args.folds)
        x, y, z = stage.patch_size
        windows_ = np.zeros((windows_a_call(stage.window.batch_size, (z, y, x)), z, y, x, 1), np.int16)
        begin = time.perf_counter()
        jax.block_until_ready(make_forward(network)(models[name].variables[0], windows_, *LIMITS))
        compiling[name] = time.perf_counter() - begin

    counts = {}

    def announce(stage, count):
        counts[stage] = count
        return lambda done: None

    begin = time.perf_counter()
    found = segment(volume, models, announce=announce)
    total = time.perf_counter() - begin
    overlap = 2 * np.sum((found.labels > 0) & (labels > 0)) / (np.sum(found.labels > 0) + np.sum(labels > 0))
    lines = [["stage", "windows", "s", "s a window", "first call s"]]
    for name, seconds in found.seconds.items():
        line = [name, str(counts[name]), f"{seconds:.1f}", f"{seconds / counts[name]:.3f}", f"{compiling[name]:.1f}"]
        lines.append(line)
    lines.append(["all", str(sum(counts.values())), f"{total:.1f}", "", f"{sum(compiling.values()):.1f}"])
    size, box = (" x ".join(map(str, reversed(shape))) for shape in (volume.shape, found.box.shape))
    return f"""# The cascade

{heading(device)}

A drawn abdomen of {size} voxels (x, y, z); the box of stages 2 and 3 has {box}. Models a stage: {args.folds}, of
width {", ".join(str(model.config.network.width) for model in models.values())}; {args.precision}. They are not trained:
their weights are set so that each finds the voxels of the liver's, or of lower, intensity, while all else of the
network is computed as ever. The liver was found with Dice {overlap:.3f}.

{aligned(lines)}

The first call compiles or reads the cache, and is not in the stage's seconds.
"""


USUAL = "cascade", "device", "rounds"  # flags that a run whose report is written may have


def size(text: str) -> tuple[int, int, int]:
    x, y, z = map(int, text.split("x"))
    return x, y, z


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cascade", action="store_true")
    parser.add_argument("--size", type=size, help=f"default: {SIZE}, or of the cascade {CASCADE_SIZE}")
    parser.add_argument("--patch", type=size, default=(128, 128, 32))
    parser.add_argument("--step", type=size, help="default: half a patch")
    parser.add_argument("--batch", type=int, default=1, help="windows a call")
    parser.add_argument("--contenders", default="", help='such as "ours,MONAI"')
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="", choices=("cpu", "gpu"), help="default: a GPU where there is one")
    parser.add_argument("--folds", type=int, default=1, help="of the cascade, models a stage")
    parser.add_argument("--width", type=int, default=0, help="of the cascade's networks; default: the recipe's")
    args = parser.parse_args()
    usual = all(getattr(args, name) == parser.get_default(name) for name in vars(args) if name not in USUAL)
    args.size = args.size or size(CASCADE_SIZE if args.cascade else SIZE)
    args.step = args.step or tuple(max(1, length // 2) for length in args.patch)
    device = args.device or ("gpu" if machine.gpu() else "cpu")
    text = cascade(args, device) if args.cascade else windows(args, device)
    print(text, end="")
    if usual:
        name = "cascade" if args.cascade else "predict"
        write_text(RESULTS / f"{name}-{machine.slug(device)}.md", text)


if __name__ == "__main__":
    main()
