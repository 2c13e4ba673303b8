"""The machine of a run, in words."""

import datetime
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

LIBRARIES = ("jax", "jaxlib", "flax", "torch", "monai", "numpy")
ROOT = Path(__file__).parents[1]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return "" if done.returncode else done.stdout.strip()


@functools.cache
def gpu() -> str:
    """The first GPU's name, or nothing."""
    return _query("name") if shutil.which("nvidia-smi") else ""


def gpu_count() -> int:
    return len(_queries("name")) if shutil.which("nvidia-smi") else 0


def _query(field: str) -> str:
    return (_queries(field) or [""])[0]


def _queries(field: str) -> list[str]:
    return _output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits").splitlines()


def cpu() -> str:
    """The CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), os.uname().machine)


def name(device: str) -> str:
    if device == "gpu":
        return gpu() or "GPU"
    return f"{cpu()}, {len(os.sched_getaffinity(0))} cores"


def slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name(device).lower()).strip("-")


def free_mb(device: str) -> float:
    """Memory that a process may still take."""
    if device == "gpu":
        return float(_query("memory.free") or "inf")
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e6


def busy_seconds() -> float:
    """CPU time that all processes together have taken so far, and that a host has taken from this machine."""
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str]:
    installed = {}
    for found in importlib.metadata.distributions():  # in the order of sys.path: the first is the one that is imported
        installed.setdefault(found.name.lower(), found.version)
    return {library: installed[library] for library in LIBRARIES if library in installed}


def commit() -> str:
    """Of the checkout, with a + where files differ from it; nothing where it is none."""
    return _output("git", "rev-parse", "--short", "HEAD") + ("+" if _output("git", "status", "--porcelain") else "")


def now() -> str:
    return f"{datetime.datetime.now():%Y-%m-%d %H:%M}, load average {os.getloadavg()[0]:.1f}"
