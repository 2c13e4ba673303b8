"""Where a network's time goes: each block alone, at its place's shape, forward and forward with backward.

    python -m benchmarks.layers --network=II-128
    python -m benchmarks.layers --network=II-128 --lowering=plain   # with other rewrites, nothing is written
    python -m benchmarks.layers --quick                             # only to see that it runs

A block has the pooling, or the upsampling and joining, before it. Beside it stands the same block of PyTorch, where
that is installed, timed in turn with it after their outputs have been compared. The report is printed and written to
benchmarks/results/layers-NETWORK-MACHINE.md.
"""

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import machine, work
from benchmarks.contenders import drawn_variables
from benchmarks.networks import aligned
from benchmarks.processes import SETTLE, Environment
from raunet_jax import startup
from raunet_jax.files import write_text

RESULTS = Path(__file__).parent / "results"
MODES = "forward", "forward + backward"
POOLED = {f"Res{number}" for number in range(1, 6)}
TOLERANCE = {"float32": 1e-4, "highest": 1e-4, "bfloat16": 0.1}
GPU_TOLERANCE = 2e-2  # with TF32


class Block(NamedTuple):
    """`inputs`: shapes (b, [z,] y, x, channel) of one array, or of the low one and the skip that are joined."""

    name: str
    features: int
    inputs: tuple[tuple[int, ...], ...]


def blocks(network: work.Network) -> list[Block]:
    width, stem, bottom = network.widths
    batch, *space, channels = network.shape
    widths = [width, 2 * width, 4 * width, 8 * width]

    def at(level, features):
        return batch, *(size >> level for size in space), features

    found = [Block("Conv1", stem, (at(0, channels),))]
    for number, (before, features) in enumerate(itertools.pairwise([stem, *widths, bottom]), start=1):
        found.append(Block(f"Res{number}", features, (at(number - 1, before),)))
    found.append(Block("Res6", bottom, (at(5, bottom),)))
    for depth, (below, features) in enumerate(itertools.pairwise([bottom, *reversed(widths)])):
        found.append(Block(f"Att{depth + 1}", features, (at(4 - depth, features),)))
        found.append(Block(f"Res{7 + depth}", features, (at(5 - depth, below), at(4 - depth, features))))
    found.append(Block("Conv2", stem, (at(1, width), at(0, stem))))
    found.append(Block("Conv3", 1, (at(0, stem),)))
    return found


def ours(block: Block | None, network: work.Network, settings, variables: dict, inputs: list[np.ndarray]):
    """Calls by mode, and the output: of a block, or of the whole network where that is None."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from raunet_jax.networks.convolution import upsample_and_concatenate
    from raunet_jax.networks.layers import max_pool
    from raunet_jax.networks.raunet import RAUNet

    class Part(nn.Module):
        @nn.compact
        def __call__(self, *inputs, train):
            x = inputs[0] if len(inputs) == 1 else upsample_and_concatenate(*inputs, settings.rewrites)
            if block.name in POOLED:
                x = max_pool(x, settings.rewrites)
            if block.name.startswith("Res"):
                return settings.residual_block(block.features, block.name)(x, train)
            if block.name.startswith("Att"):
                return settings.attention(block.features, int(block.name[3:]) - 1, block.name)(x, train)
            x = settings.conv(block.features, 3, block.name)(x)
            return x if block.name == "Conv3" else settings.norm_relu(f"{block.name}_norm")(x, train)

    module = Part() if block else RAUNet(*network.widths, settings)
    inputs, variables = jax.device_put((inputs, variables))

    @jax.jit
    def forward(variables, *inputs):
        return module.apply(variables, *inputs, train=False)

    output = forward(variables, *inputs)
    slope = jax.device_put(np.random.default_rng(5).standard_normal(output.shape, np.float32))

    def objective(params, slope, *inputs):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        out, updates = module.apply(state, *inputs, train=True, mutable=["batch_stats"])
        return jnp.vdot(out.astype(jnp.float32), slope), updates

    wanted = (0, *range(2, 2 + len(inputs))) if block and block.name != "Conv1" else 0
    gradient = jax.jit(jax.value_and_grad(objective, wanted, has_aux=True))
    calls = {
        MODES[0]: lambda: forward(variables, *inputs),
        MODES[1]: lambda: gradient(variables["params"], slope, *inputs),
    }
    return calls, np.asarray(output.astype(jnp.float32)), jax.block_until_ready


def torch_twin(block: Block | None, twin, device: str, precision: str, inputs: list[np.ndarray]):
    """As `ours`."""
    import torch

    where = torch.device({"cpu": "cpu", "gpu": "cuda"}[device])
    arrays = [torch.from_numpy(np.moveaxis(array, -1, 1).copy()).to(where) for array in inputs]

    def run(*arrays):
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if block is None:
                return twin(*arrays)
            x = arrays[0] if len(arrays) == 1 else torch.cat([twin.upsample(arrays[0]), arrays[1]], 1)
            if block.name in POOLED:
                x = twin.pool(x)
            x = twin.get_submodule(block.name)(x)
            if block.name in ("Conv1", "Conv2"):
                x = twin.relu(twin.get_submodule(f"{block.name}_norm")(x))
            return x

    @torch.inference_mode()
    def forward():
        return run(*arrays)

    twin.eval()
    output = forward().float()
    slope = torch.randn(output.shape, device=where)
    leaves = [array.clone().requires_grad_(block is not None and block.name != "Conv1") for array in arrays]

    def gradient():
        for leaf in leaves:
            leaf.grad = None
        twin.zero_grad()
        (run(*leaves).float() * slope).sum().backward()

    def training(call):
        def called():
            twin.train()
            try:
                return call()
            finally:
                twin.eval()

        return called

    def wait(result):
        if device == "gpu":
            torch.cuda.synchronize()

    return {MODES[0]: forward, MODES[1]: training(gradient)}, np.moveaxis(output.cpu().numpy(), 1, -1), wait


def milliseconds(contenders: list[tuple[Callable, Callable]], least: float, rounds: int) -> list[float]:
    """Medians of the rounds of each (call, wait), in turn; the first call of a round, after another's, is not timed."""
    counts, seconds = [], [[] for _ in contenders]
    for call, wait in contenders:
        for _ in range(2):
            start = time.perf_counter()
            wait(call())
        counts.append(max(1, round(least / (time.perf_counter() - start))))
    for _ in range(rounds):
        for (call, wait), count, times in zip(contenders, counts, seconds, strict=True):
            time.sleep(SETTLE)
            wait(call())
            start = time.perf_counter()
            for _ in range(count):
                result = call()
            wait(result)
            times.append((time.perf_counter() - start) / count)
    return [1000 * statistics.median(times) for times in seconds]


def matmul_gflops(device: str, dtype, quick: bool) -> float:
    import jax
    import jax.numpy as jnp

    size = 256 if quick else {"cpu": 2048, "gpu": 8192}[device]
    x, product = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    (taken,) = milliseconds([(lambda: product(x, x), jax.block_until_ready)], 0.2, 3)
    return 2e-6 * size**3 / taken


def profile(args, device: str, network: work.Network) -> str:
    import jax.numpy as jnp

    from raunet_jax.networks.blocks import Settings

    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[args.precision]
    settings = Settings(dtype, lowering=args.lowering)
    variables, twin = drawn_variables(network), None
    if importlib.util.find_spec("torch") and not args.without_torch:
        import torch

        from benchmarks import torch_twin as twins

        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        twin = twins.RAUNet(len(network.shape) - 2, network.shape[-1], *network.widths)
        twin.to({"cpu": "cpu", "gpu": "cuda"}[device])
    peak = matmul_gflops(device, dtype, args.quick)
    gflop: dict[str, float] = {}
    for convolution in work.convolutions(network):
        gflop[convolution.block] = gflop.get(convolution.block, 0.0) + convolution.gflop
    gflop["whole network"] = sum(gflop.values())

    head = ["block", "GFLOP"]
    for mode in ("", " +back"):
        head += [f"ms{mode}", f"GFLOP/s{mode}", f"% of matmul{mode}", *([f"torch ms{mode}"] if twin else [])]
    lines, sums = [head], np.zeros((2, 2 if twin else 1))

    def line(name, taken):
        cells = [name, f"{gflop[name]:.3g}"]
        for work_factor, times in zip((1, 3), taken, strict=True):
            rate = 1000 * work_factor * gflop[name] / times[0]
            cells += [
                f"{times[0]:.3g}",
                f"{rate:.3g}",
                f"{100 * rate / peak:.0f}",
                *(f"{time:.3g}" for time in times[1:]),
            ]
        lines.append(cells)

    rng = np.random.default_rng(4)
    for block in (*blocks(network), None):
        inputs = [rng.standard_normal(shape, np.float32) for shape in (block.inputs if block else (network.shape,))]
        some = variables
        if block:
            names = block.name, f"{block.name}_norm"
            some = {
                part: {name: variables[part][name] for name in names if name in variables[part]} for part in variables
            }
        found = [ours(block, network, settings, some, inputs)]
        name = block.name if block else "whole network"
        if twin is not None:
            twins.load(twin, variables)  # training changes the batch statistics
            found.append(torch_twin(block, twin, device, args.precision, inputs))
            apart = np.abs(found[0][1] - found[1][1]).max() / np.abs(found[1][1]).max()
            limit = max(TOLERANCE[args.precision], GPU_TOLERANCE if device == "gpu" else 0)
            if not apart <= limit:
                raise RuntimeError(f"{name}: the outputs differ by {apart:.2g} of the largest, more than {limit:g}")
        taken = np.array(
            [
                milliseconds([(calls[mode], wait) for calls, _, wait in found], args.seconds, args.rounds)
                for mode in MODES
            ]
        )
        if block:
            sums += taken
        else:
            gflop["all blocks"] = gflop[name]
            line("all blocks", sums)
        line(name, taken)
        print(f"{name}: " + ", ".join(f"{value:.3g} ms" for value in taken.ravel()), file=sys.stderr, flush=True)
    voxels = "x".join(map(str, network.shape))
    command = " ".join(["python -m", "benchmarks.layers", *sys.argv[1:]])
    versions = ", ".join(f"{library} {version}" for library, version in machine.versions().items())
    return f"""# Network {args.network} by blocks

By `{command}` on {machine.name(device)}, {machine.now()}, commit {machine.commit()};
{versions}.

Batch {voxels}, {args.precision}, lowering {args.lowering}: {", ".join(sorted(settings.rewrites)) or "no rewrite"}.
A matmul of the same precision reaches {peak:.0f} GFLOP/s. GFLOP are those of the paper's convolutions, whatever is
computed in their place, and count three times with the gradient ("+back"), which is that of the weights and the inputs.

{aligned(lines)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="II-128", choices=work.NETWORKS)
    parser.add_argument("--lowering", default="auto", help="auto, plain, or rewrites with a comma between")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="", choices=("cpu", "gpu"), help="default: a GPU where there is one")
    parser.add_argument("--batch", type=int, default=0, help="images a step; default: 4 of I, 1 of the others")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="the least a round lasts; it has one call or more")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs: small, short, no file written")
    args = parser.parse_args()
    device = args.device or ("gpu" if machine.gpu() else "cpu")
    network = (work.QUICK if args.quick else work.NETWORKS)[args.network]
    if args.batch:
        network = network._replace(shape=(args.batch, *network.shape[1:]))
    if args.quick:
        args.rounds, args.seconds = 1, 0.0
    usual = args.lowering == "auto" and not args.batch and not args.quick
    if startup.set_environment():
        startup.restart()
    Environment(device, "ours").set()
    text = profile(args, device, network)
    print(text, end="")
    if usual:
        precision = "" if args.precision == "float32" else f"-{args.precision}"
        write_text(args.results / f"layers-{args.network.lower()}{precision}-{machine.slug(device)}.md", text)


if __name__ == "__main__":
    main()
