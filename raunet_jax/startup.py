"""What has to be settled before JAX starts, or the first large array is made. Importing this module imports no JAX."""

import ctypes
import hashlib
import importlib.metadata
import os
import pathlib
import sys

# Of XLA's libraries for fusions on a CPU one is slow at convolutions and holds them to one core; none is named here.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
KNOWN_TO = "0.10."  # releases of jaxlib that have the flag; any other could end the process over it
# M_MMAP_MAX: no array by mmap; M_TRIM_THRESHOLD: what is freed stays ours; M_ARENA_MAX: for any thread to take
MALLOC_SETTINGS = ((-4, 0), (-1, -1), (-8, 1))


def set_environment() -> None:
    """Faster XLA on a CPU, memory that is kept for the next step, and a cache of compiled networks.

    Nothing that the user has set (XLA_FLAGS, JAX_COMPILATION_CACHE_DIR, any of MALLOC_…) is overridden. Call it before
    `import jax`; processes that are started later inherit all but the memory settings.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if CPU_FLAG not in flags and importlib.metadata.version("jaxlib").startswith(KNOWN_TO):
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAG}=".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache()))
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        _keep_freed_memory()


def _cache() -> pathlib.Path:
    """A folder for this kind of CPU: a home folder may be shared by machines that cannot run each other's programs."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return home / "raunet_jax" / f"xla-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of large arrays, which it would give back to the kernel and ask for anew.

    A step's temporary arrays are gigabytes, of which the kernel would clear every page in every step.
    """
    for parameter, value in MALLOC_SETTINGS:
        _glibc("mallopt", parameter, value)


def give_back_memory() -> None:
    """Give what is freed at present back to the kernel: a gigabyte once a network is compiled."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function:
        function(*arguments)
