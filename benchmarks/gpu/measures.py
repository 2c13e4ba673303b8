"""Jobs of a campaign that measure: the card, steps and passes, the kernels of a step, prediction by windows."""

import collections
import functools
import importlib.metadata
import importlib.util
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.gpu.ours import Ours
from benchmarks.gpu.process import environment, network_of, rounds, say, variables_of, wait_for_go
from benchmarks.gpu.program import consists_of

NEEDED_BY_RUN = (
    "absl",
    "array_record",
    "cc3d",
    "edt",
    "etils",
    "grain",
    "ml_collections",
    "nibabel",
    "orbax",
    "pydicom",
    "rich",
    "scipy",
    "tensorboardX",
    "tensorflow_datasets",
    "matplotlib",
    "PIL",
)


def timed(job, rehearse, folder):
    """Seconds of the first call, milliseconds a call after it, memory, and what the compiled program consists of."""
    dump = pathlib.Path(tempfile.mkdtemp(dir=folder))
    device = environment(job, rehearse, folder, dump)
    import numpy as np

    from benchmarks import contenders, memory, work

    network = network_of(job, rehearse)
    variables = variables_of(network, folder)
    answer = {"gflop": work.gflop(network, job["part"])}
    if job["library"] == "ours":
        made = Ours(job, network, variables)
        once, wait = made.once, made.wait
    else:
        import torch  # noqa: F401

        case = contenders.Case(job["network"], network, job["part"], job["precision"], device)
        contender = contenders.Contender(
            "torch", "torch", huge_pages=False, channels_last=job["channels_last"], compiled=job["compiled"]
        )
        once, wait, _ = contenders._torch(case, contender, variables)
    meter = memory.of(job["library"], device)
    values, seconds = [], []
    for _ in range(4):
        start = time.perf_counter()
        result = once()
        wait(result)
        seconds.append(time.perf_counter() - start)
        if job["part"] == "train" and len(values) < 2:
            values.append(float(result))
    answer |= {"first_s": round(seconds[0], 2), "second_s": round(seconds[1], 4)}
    if values:
        answer["loss"] = ", ".join(f"{value:.5f}" for value in values)
        if (
            not np.isfinite(values).all() and job["library"] == "ours"
        ):  # PyTorch's row shows its losses and is timed all the same
            raise RuntimeError(f"losses {values}")
    if job["library"] == "ours":
        answer["program"] = program(dump)
        if job["part"] == "train":
            answer["bits"] = made.bits()
    wait_for_go()
    found = rounds(once, wait, 0.05 if rehearse else 0.5)
    answer |= {"ms": statistics.median(found), "ms_range": [min(found), max(found)], "peak_mb": round(meter.peak_mb())}
    if job["library"] == "ours" and job["part"] == "train":  # what the host needs to start a step
        start, calls = time.perf_counter(), 5
        for _ in range(calls):
            result = once()
        answer["host_ms_a_step"] = 1000 * (time.perf_counter() - start) / calls
        wait(result)
    say(**answer)


def program(dump: pathlib.Path) -> dict:
    """What the largest compiled program in `dump` consists of: kernels, bytes, convolutions by layout."""
    texts = sorted(dump.rglob("*after_optimizations.txt"), key=lambda path: path.stat().st_size)
    found = consists_of(texts[-1].read_text()) if texts else {}
    shutil.rmtree(dump, ignore_errors=True)
    return found


def ceilings(job, rehearse, folder):
    """Of the card: a copy's bytes and products' operations a second, by torch or, without it, by jax; versions."""
    device = environment(job | {"xla": ""}, rehearse, folder)
    names = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "triton")
    answer = {"versions": {}, "python": sys.version.split()[0]}
    for name in (*names, "nvidia-cudnn-cu13", "nvidia-cublas"):
        try:
            answer["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    if shutil.which("nvidia-smi"):
        asked = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,clocks.sm,pcie.link.gen.current,pcie.link.width.current",
            "--format=csv,noheader",
        ]
        answer["gpu"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()

    answer["missing for run.py"] = [name for name in NEEDED_BY_RUN if not importlib.util.find_spec(name)]
    import jax
    import jax.numpy as jnp
    import numpy as np

    answer["devices"] = [str(found) for found in jax.devices()]
    n, count = (512, 2**20) if rehearse else (8192, 2**30)
    for name, dtype, precision in (
        ("bf16", jnp.bfloat16, None),
        ("tf32", jnp.float32, None),
        ("fp32", jnp.float32, "highest"),
    ):
        x = jax.random.normal(jax.random.key(0), (n, n), dtype)
        square = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
        jax.block_until_ready(square(x))
        milliseconds = min(rounds(functools.partial(square, x), jax.block_until_ready, 0.1, 3))
        answer[f"{name} TFLOP/s"] = 2e-9 * n**3 / milliseconds
    x = jnp.ones(count, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    jax.block_until_ready(copy(x))
    answer["TB/s read and written"] = 8e-9 * count / min(rounds(lambda: copy(x), jax.block_until_ready, 0.1, 3))
    host = np.ones(2**20 if rehearse else 2**26, np.float32)
    there = jax.device_put(host).block_until_ready()
    start = time.perf_counter()
    there = jax.device_put(host + 1).block_until_ready()
    middle = time.perf_counter()
    np.asarray(there)
    answer["GB/s to the card"] = host.nbytes / 1e9 / (middle - start)
    answer["GB/s from the card"] = host.nbytes / 1e9 / (time.perf_counter() - middle)
    small = jax.jit(lambda a: a + 1)
    y = small(jnp.ones(8))
    answer["us a tiny call"] = 1000 * min(rounds(lambda: small(y), jax.block_until_ready, 0.05, 3))
    say(device=device, **answer)


def profile(job, rehearse, folder):
    """The kernels of five steps by their time, and how much of the time the device had one to run."""
    environment(job, rehearse, folder)
    import jax

    network = network_of(job, rehearse)
    made = Ours(job, network, variables_of(network, folder))
    for _ in range(3):
        made.wait(made.once())
    wait_for_go()
    steps, place = 5, tempfile.mkdtemp(dir=folder)
    plain = statistics.median(rounds(made.once, made.wait, 0.05 if rehearse else 0.3, 3))
    with jax.profiler.trace(place):
        start = time.perf_counter()
        for _ in range(steps):
            result = made.once()
        made.wait(result)
        wall = 1000 * (time.perf_counter() - start) / steps
    (path,) = pathlib.Path(place).rglob("*.xplane.pb")
    total, calls, busy = collections.Counter(), collections.Counter(), 0.0
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    device = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in device or [plane for plane in planes if plane.name.startswith("/host:CPU")]:
        for line in plane.lines:
            if device and "Stream" not in line.name:
                continue
            for event in line.events:
                name = re.sub(r"[_.]?\d+$", "", event.name)[:150]
                total[name] += event.duration_ns / 1e6 / steps
                calls[name] += 1 / steps
    busy = sum(total.values())
    rows = [
        [ms, 100 * ms / max(busy, 1e-9), round(calls[name], 1), name.replace("|", "/")]
        for name, ms in total.most_common(25)
    ]
    groups = collections.Counter()
    for name, ms in total.items():
        low = name.lower()
        kind = (
            "gemm"
            if "gemm" in low and "conv" not in low and "implicit" not in low and "xmma" not in low
            else "other fusions"
        )
        if re.search(r"conv|implicit|xmma|cudnn|dgrad|wgrad|fprop|cutlass", low) and kind != "gemm":
            kind = "convolutions"
        if re.search(r"transpose|nchwtonhwc|nhwctonchw", low):
            kind = "transposes"
        if "reduce" in low:
            kind = "reductions"
        if "memcpy" in low or "memset" in low:
            kind = "copies"
        groups[kind] += ms
    say(
        ms_a_step=plain,
        ms_a_step_traced=wall,
        busy_ms_a_step=busy,
        kernels_a_step=round(sum(calls.values()), 1),
        by_kind_ms={name: round(ms, 3) for name, ms in groups.most_common()},
        kernels=rows,
        step_kernels=len(total),
    )
    shutil.rmtree(place, ignore_errors=True)


def windows(job, rehearse, folder):
    """Windows a second over a volume, beside what the device alone and the host alone could do."""
    environment(job, rehearse, folder)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from raunet_jax.inference.windows import make_forward, predict_windows, window_origins
    from raunet_jax.networks.blocks import Settings
    from raunet_jax.networks.folding import fold
    from raunet_jax.networks.packing import pack
    from raunet_jax.networks.raunet import RAUNet

    network = network_of(job, rehearse)
    patch = (32, 32, 32) if rehearse else (32, 128, 128)
    shape = (64, 64, 64) if rehearse else (200, 512, 512)
    step = tuple(length // 2 for length in patch)
    dtype = jnp.bfloat16 if job["precision"] == "bfloat16" else jnp.float32
    forward = make_forward(RAUNet(*network.widths, Settings(dtype, folded=True)))
    variables = jax.device_put(pack(fold(variables_of(network, folder))))
    limits = np.float32([-100]), np.float32([200])
    volume = np.random.default_rng(0).integers(-200, 300, (*shape, 1)).astype(np.int16)
    count, voxels = len(window_origins(shape, patch, step)), int(np.prod(patch))
    batches = (1,) if rehearse else (1, 4, 16)
    held = {}
    for batch in batches:
        held[batch] = jax.device_put(
            np.zeros((batch, *patch, 1), np.int16) + volume[: patch[0], : patch[1], : patch[2]]
        )
        jax.block_until_ready(forward(variables, held[batch], *limits))
    wait_for_go()
    answer = {"windows": count, "MB in a window": 2e-6 * voxels, "MB out a window": 4e-6 * voxels}
    for batch in batches:
        alone = statistics.median(
            rounds(lambda batch=batch: forward(variables, held[batch], *limits), jax.block_until_ready, 0.3, 3)
        )
        start = time.perf_counter()
        predict_windows(lambda some: forward(variables, some, *limits), volume, patch, step, batch)
        whole = time.perf_counter() - start
        blank = np.zeros((batch, *patch), np.float32)
        start = time.perf_counter()
        predict_windows(lambda some, blank=blank: blank, volume, patch, step, batch)
        host = time.perf_counter() - start
        device = alone / 1000 * -(-count // batch)
        answer[f"batch {batch}"] = {
            "s": whole,
            "windows/s": count / whole,
            "device alone s": device,
            "host alone s, no transfers": host,
            "share of the device's time": device / whole,
        }
    say(**answer)
