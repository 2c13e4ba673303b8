"""What has to be settled before JAX starts, or the first large array is made. Importing this module imports no JAX."""

import ctypes
import hashlib
import importlib.metadata
import os
import pathlib
import sys
from typing import NoReturn

CPU_FLAGS = {
    # Of XLA's libraries for fusions on a CPU one is slow at convolutions and holds them to one core; none is named.
    "--xla_cpu_experimental_ynn_fusion_type": "",
    # The order of a network's steps that needs the least memory at once: two thirds to nine tenths of the usual one's.
    "--xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
# Releases of jaxlib that have the flags; any other could end the process over them.
KNOWN_TO = ("0.10.", "0.11.", "0.12.")
# The kernel clears a step's temporary arrays, gigabytes, in every step: by pages of 4 KB that is a quarter of its time.
HUGE_PAGES = "glibc.malloc.hugetlb"


def set_environment() -> bool:
    """Faster and smaller programs by XLA on a CPU, huge pages for large arrays, and a cache of compiled networks.

    Nothing that the user has set (XLA_FLAGS, JAX_COMPILATION_CACHE_DIR, GLIBC_TUNABLES) is overridden. Call it before
    `import jax`; processes that are started later inherit it. Returns whether this process has yet to `restart` for
    huge pages: glibc reads what it is to do when a process starts, and only then.
    """
    if importlib.metadata.version("jaxlib").startswith(KNOWN_TO):
        flags = os.environ.get("XLA_FLAGS", "")
        ours = (f"{name}={value}" for name, value in CPU_FLAGS.items() if name not in flags)
        os.environ["XLA_FLAGS"] = " ".join([flags, *ours]).strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache()))
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or HUGE_PAGES in tunables:
        return False
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".strip(":")
    return True


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
