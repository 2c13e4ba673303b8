"""Memory of a process, or of its arrays on a GPU, in MB."""

import contextlib
from pathlib import Path

from raunet_jax import startup


class ProcessMemory:
    """What this process holds beyond what it held when this was made, so after its imports."""

    def __init__(self):
        self.reset()
        self._before = _status_mb("VmRSS")

    def held_mb(self) -> float:
        return _status_mb("VmRSS") - self._before

    def peak_mb(self) -> float:
        return _status_mb("VmHWM") - self._before

    def reset(self) -> None:
        """Give back what has been freed, and begin a new peak."""
        startup.give_back_memory()
        with contextlib.suppress(OSError):  # where the kernel forbids it, the peak is that since the process began
            Path("/proc/self/clear_refs").write_text("5")


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


class JaxMemory:
    """Of the arrays on the first GPU; jax knows no peak but that since the process began."""

    def __init__(self):
        import jax

        self._device = jax.local_devices()[0]

    def held_mb(self) -> float:
        return self._device.memory_stats()["bytes_in_use"] / 1e6

    def peak_mb(self) -> float:
        return self._device.memory_stats()["peak_bytes_in_use"] / 1e6

    def reset(self) -> None:
        pass


class TorchMemory:
    """Of the arrays on the first GPU, as JaxMemory counts them."""

    def held_mb(self) -> float:
        import torch

        return torch.cuda.memory_allocated() / 1e6

    def peak_mb(self) -> float:
        import torch

        return torch.cuda.max_memory_allocated() / 1e6

    def reset(self) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats()


def of(library: str, device: str):
    """What measures a contender of "ours" or "torch" on "cpu" or "gpu"."""
    return ProcessMemory() if device == "cpu" else {"ours": JaxMemory, "torch": TorchMemory}[library]()
