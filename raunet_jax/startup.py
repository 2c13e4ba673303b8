"""What has to be settled before JAX starts, or the first large array is made. Importing this module imports no JAX."""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import NoReturn

CPU_FLAGS = {
    # Of XLA's libraries for fusions on a CPU one is slow at convolutions and holds them to one core; none is named.
    "--xla_cpu_experimental_ynn_fusion_type": "",
    # The order of a network's steps that needs the least memory at once: two thirds to nine tenths of the usual one's.
    "--xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
GPU_FLAGS = {
    # XLA would lay 3D convolutions out channels first: 430 transposes more in a train step of RA-UNet-II.
    "--xla_gpu_force_conv_nhwc": "true",
}
GPU_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")  # one of these is there where JAX can use a GPU
# Sums in one order and no choice by the clock. "plain" max pooling does not compile with it, see networks/lowering.py.
DETERMINISTIC = "--xla_gpu_deterministic_ops"
# Releases of jaxlib that have the flags; any other could end the process over them.
KNOWN_TO = ("0.10.", "0.11.", "0.12.")
# The kernel clears a step's temporary arrays, gigabytes, in every step: by pages of 4 KB that is a quarter of its time.
HUGE_PAGES = "glibc.malloc.hugetlb"


def set_environment() -> bool:
    """Faster and smaller programs by XLA, huge pages for large arrays, and a cache of compiled networks.

    Nothing that the user has set (XLA_FLAGS, JAX_COMPILATION_CACHE_DIR, GLIBC_TUNABLES) is overridden. Call it before
    `import jax`; processes that are started later inherit it. Returns whether this process has yet to `restart` for
    huge pages: glibc reads what it is to do when a process starts, and only then.
    """
    _add_flags(CPU_FLAGS | (GPU_FLAGS if any(map(importlib.util.find_spec, GPU_PLUGINS)) else {}))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache()))
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or HUGE_PAGES in tunables:
        return False
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".strip(":")
    return True


def make_deterministic() -> None:
    """Have XLA give the same bits in every run on a GPU, unless the user has set that flag; before `import jax`."""
    _add_flags({DETERMINISTIC: "true"})


def is_deterministic() -> bool:
    """Whether XLA was asked for the same bits in every run on a GPU, by us or the user."""
    given = [flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split()]
    values = [value or "true" for name, _, value in given if name == DETERMINISTIC]
    return bool(values) and values[-1].lower() in ("true", "1")


def _add_flags(flags: Mapping[str, str]) -> None:
    if importlib.metadata.version("jaxlib").startswith(KNOWN_TO):
        theirs = os.environ.get("XLA_FLAGS", "")
        ours = (f"{name}={value}" for name, value in flags.items() if name not in theirs)
        os.environ["XLA_FLAGS"] = " ".join([theirs, *ours]).strip()


def restart() -> NoReturn:
    """Run this program from its beginning in the environment as it is now, in the same process."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _cache() -> pathlib.Path:
    """A folder for this kind of CPU: a home folder may be shared by machines that cannot run each other's programs."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return home / "raunet_jax" / f"xla-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def give_back_memory() -> None:
    """Give what is freed at present back to the kernel: a gigabyte once a network is compiled."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
