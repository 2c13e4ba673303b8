"""Worker processes for what is done case by case."""

import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from ml_collections import ConfigDict

from raunet_jax.progress import DEBUG, log_to_stderr

GIBIBYTES_A_WORKER = 4  # what a worker takes at most for a 512 x 512 x 1000 scan
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def worker_count(config: ConfigDict, jobs: int) -> int:
    """`config.data.workers`, or as many as there are cores and as fit the memory; at most one a job."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fitting = min(len(os.sched_getaffinity(0)), memory // (GIBIBYTES_A_WORKER << 30))
    return max(1, min(config.data.workers or fitting, jobs))


@contextlib.contextmanager
def workers(config: ConfigDict, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes with one thread each: linear algebra on several threads may differ in the last bit.

    What has not started when the block ends, such as by an error, is not started any more.
    """
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read by the libraries as they load, so it must be there before the processes are
    try:
        with ProcessPoolExecutor(worker_count(config, jobs), _Spawn(), initializer=_follow_parent) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Process(multiprocessing.context.SpawnProcess):
    """Leaves Ctrl-C to its parent from its first instant, or each would show where its imports were cut short."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process has its parent's mask
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(multiprocessing.context.SpawnContext):
    Process = _Process


def _follow_parent() -> None:
    """End with the parent even when it is killed."""
    if os.environ.get(DEBUG):
        log_to_stderr()
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
