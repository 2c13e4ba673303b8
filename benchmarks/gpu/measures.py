"""Jobs of a campaign that measure the card, and steps and passes."""

import functools
import importlib.metadata
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.gpu.ours import Ours
from benchmarks.gpu.plan import CUBLAS, DETERMINISTIC, TRIALS
from benchmarks.gpu.process import environment, missing_for_run, network_of, rounds, say, variables_of, wait_for_go
from raunet_jax.networks.program import consists_of


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

    answer["missing for run.py"] = missing_for_run()
    import jax
    import jax.numpy as jnp
    import numpy as np

    answer["devices"] = [str(found) for found in jax.devices()]
    n, count = (512, 2**20) if rehearse else (8192, 2**30)
    wait_for_go()
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


def flags(job, rehearse, folder):
    """Which of the campaign's XLA flags this jaxlib does not know: each would end a process."""
    asked = list(dict.fromkeys(flag for line in (CUBLAS, DETERMINISTIC, *TRIALS) for flag in line.split()))
    wrong = _said_of(asked)
    unknown = [flag for flag in asked if flag in wrong]
    known = [flag for flag in asked if flag not in unknown]
    say(known=known, unknown=unknown, wrong=" ".join(_said_of(known))[-300:] if unknown else " ".join(wrong)[-300:])


def _said_of(asked: list[str]) -> list[str]:
    """The words of XLA's complaint about these flags, none where it takes them all."""
    environment = os.environ | {"XLA_FLAGS": " ".join(asked), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr.split() if done.returncode else []
