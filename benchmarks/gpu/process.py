"""What the jobs of a campaign have in common: how they speak with it, their environment, variables and clock."""

import importlib.util
import json
import os
import pathlib
import pickle
import sys
import time

NEEDED_BY_RUN = (
    *("absl", "array_record", "cc3d", "edt", "etils", "grain", "ml_collections", "nibabel", "orbax", "pydicom", "rich"),
    *("scipy", "tensorboardX", "tensorflow_datasets", "matplotlib", "PIL"),
)
QUICK_FLAGS = "--xla_llvm_disable_expensive_passes=true"  # of what only the CPU compiles
REHEARSAL_FLAGS = f"{QUICK_FLAGS} --xla_backend_optimization_level=0"
TINY = {  # widths and shape of a batch, as work.NETWORKS has them: as many kernels, and next to no work
    "I": ((4, 4, 16), (2, 32, 32, 1)),
    "II-128": ((4, 4, 16), (2, 32, 32, 32, 1)),
    "II-224": ((4, 4, 16), (2, 32, 32, 32, 1)),
    "BraTS": ((8, 4, 16), (2, 32, 32, 32, 4)),
}


def missing_for_run() -> list[str]:
    """The packages that run.py needs and this machine lacks."""
    return [name for name in NEEDED_BY_RUN if not importlib.util.find_spec(name)]


def say(**fields) -> None:
    print("@@" + json.dumps(fields), flush=True)


def wait_for_go() -> None:
    say(ready=True)
    sys.stdin.readline()


def environment(job: dict, rehearse: bool, folder: pathlib.Path, dump: pathlib.Path | None = None) -> str:
    """What must be set before jax or torch is imported; returns "gpu" or "cpu"."""
    device = "cpu" if rehearse else "gpu"
    flags = [os.environ.get("XLA_FLAGS", ""), job.get("xla", "")]
    if rehearse or job["kind"] == "sanity":
        flags.append(REHEARSAL_FLAGS if rehearse else QUICK_FLAGS)
    if dump and job.get("library") != "torch":
        flags.append(f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_dump_hlo_pass_re=^$")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
    if device == "gpu" and job.get("library") != "torch" and "again" not in job:  # jobs share what was tried
        (folder / "autotune").mkdir(exist_ok=True)
        flags.append(f"--xla_gpu_per_fusion_autotune_cache_dir={folder}/autotune")
        os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
    from benchmarks.processes import Environment

    Environment(device, job.get("library", "ours"), huge_pages=False).set()
    if job["kind"] == "sanity":
        os.environ["JAX_PLATFORMS"] = "cpu" if rehearse else "cuda,cpu"
    if rehearse:  # what is the same is compiled once for all jobs
        os.environ |= {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        del os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"]
    return device


def network_of(job: dict, rehearse: bool):
    from benchmarks import work

    if rehearse:
        return work.Network(*TINY[job["network"]])
    network = work.NETWORKS[job["network"]]
    return network._replace(shape=(job["batch"], *network.shape[1:])) if "batch" in job else network


def variables_of(network, work_folder: pathlib.Path) -> dict:
    from benchmarks import contenders

    path = (
        work_folder / f"variables-{'-'.join(map(str, network.widths))}-{len(network.shape)}-{network.shape[-1]}.pickle"
    )
    if not path.exists():
        drawn = contenders.drawn_variables(network)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps(drawn))
        temporary.replace(path)
    return pickle.loads(path.read_bytes())


def rounds(once, wait, least: float, count: int = 5) -> list[float]:
    """Milliseconds a call, each round's calls one after the other without waiting between."""
    start = time.perf_counter()
    wait(once())
    calls = max(3, round(least / max(1e-5, time.perf_counter() - start)))
    found = []
    for _ in range(count):
        wait(once())
        start = time.perf_counter()
        for _ in range(calls):
            result = once()
        wait(result)
        found.append(1000 * (time.perf_counter() - start) / calls)
    return found
