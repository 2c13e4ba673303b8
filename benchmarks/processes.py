"""Processes that compute when they are told to, and their time and memory.

Each has what it measures to itself: the parent imports neither jax nor torch, and lets one compute at a time.
"""

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import time
import traceback
import unittest.mock
from collections.abc import Callable

import numpy as np

from benchmarks import machine, memory
from raunet_jax import startup

SETTLE = 0.05  # seconds in which the threads of the process before come to rest
IMPORTS = {
    "ours": ("raunet_jax.training.step", "raunet_jax.networks.raunet"),
    "torch": ("benchmarks.torch_twin", "torch._dynamo"),
}


@dataclasses.dataclass(frozen=True)
class Environment:
    """What is settled before a process imports jax or torch.

    Attributes:
        device: cpu or gpu.
        library: ours or torch.
        xla_flags: whether those are set that ours sets.
        huge_pages: whether glibc asks the kernel for these, as ours does, by startup.set_environment.
        devices: how many; of a CPU that many are made up.
    """

    device: str
    library: str
    xla_flags: bool = True
    huge_pages: bool = True
    devices: int = 1

    def set(self) -> None:
        os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[self.device]
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share a GPU
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(self.devices))))
        flags = os.environ.get("XLA_FLAGS", "")
        if self.device == "cpu" and self.devices > 1:
            flags = f"{flags} --xla_force_host_platform_device_count={self.devices}"
        os.environ["XLA_FLAGS"] = flags
        startup.set_environment()
        if not self.xla_flags:
            os.environ["XLA_FLAGS"] = flags
        # First calls compile, whatever has been compiled before.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"


class Lost(Exception):
    """A process failed; the message says why."""


class Worker:
    """A process that has called `build(*arguments)`. `first()` must come before `round()`.

    `build` is a module's function and returns (once, wait, read): `once()` starts a step and returns its result,
    `wait(result)` until it is there, `read(result)` is a number or an array.
    """

    def __init__(self, environment: Environment, build: Callable, *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, environment, build, arguments), daemon=True)
        pages = f"{startup.HUGE_PAGES}={int(environment.huge_pages)}"  # glibc reads it when a process starts
        with unittest.mock.patch.dict(os.environ, GLIBC_TUNABLES=pages):
            self._process.start()
        far.close()

    def first(self, calls: int = 2) -> dict:
        """Make the first calls, one after the other.

        `seconds` is of the first, compilation included, `last_seconds` of the last; `values` what the first two gave,
        as an array; `first_mb` the memory at its peak, `held_mb` that which stays between calls.
        """
        return self._ask(calls, None)

    def round(self, least: float) -> dict:
        """`seconds` a call, over about `least` seconds and after one that is not timed.

        `others`: cores that other processes took meanwhile; `peak_mb`: the memory at its peak in all rounds.
        """
        return self._ask(0, least)

    def end(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, *request) -> dict:
        try:
            self._pipe.send(request)
            answer, reason = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10)
            raise Lost(f"its process ended with exit code {self._process.exitcode}") from None
        if reason:
            raise Lost(reason)
        return answer


def _serve(pipe, environment: Environment, build: Callable, arguments) -> None:
    try:
        environment.set()
        for name in IMPORTS[environment.library]:
            importlib.import_module(name)
        meter = memory.of(environment.library, environment.device)
        step = build(*arguments)
        while True:
            calls, least = pipe.recv()
            time.sleep(SETTLE)
            if calls:
                first = _first(*step, calls)
                first["first_mb"] = meter.peak_mb()
                meter.reset()
                first["held_mb"] = meter.held_mb()
                pipe.send((first, None))
            else:
                calls = max(1, round(least / first["last_seconds"]))
                answer = _round(*step[:2], calls, environment.device == "gpu")
                pipe.send((answer | {"peak_mb": meter.peak_mb()}, None))
    except EOFError:  # the parent has ended this
        pass
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            pipe.send((None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def _first(once: Callable, wait: Callable, read: Callable, calls: int) -> dict:
    seconds, values = [], []
    for _ in range(calls):
        start = time.perf_counter()
        result = once()
        wait(result)
        seconds.append(time.perf_counter() - start)
        if len(values) < 2:
            values.append(read(result))
    return {"seconds": seconds[0], "last_seconds": seconds[-1], "values": np.array(values)}


def _round(once: Callable, wait: Callable, calls: int, ahead: bool) -> dict:
    """With `ahead` a call does not wait for the one before, as in a training loop.

    The first call is not timed: memory and caches are then as the process before has left them.
    """
    wait(once())
    start = time.perf_counter(), time.process_time(), machine.busy_seconds()
    for _ in range(calls):
        result = once()
        if not ahead:
            wait(result)
    wait(result)
    wall, own, busy = time.perf_counter() - start[0], time.process_time() - start[1], machine.busy_seconds() - start[2]
    return {"seconds": wall / calls, "others": max(0.0, busy - own) / wall}
