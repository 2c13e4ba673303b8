"""Folds trained side by side, each in a process of its own on a device of its own."""

import itertools
import logging
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import absl.logging

from raunet_jax.failures import exit_status, explain
from raunet_jax.progress import log_to_stderr
from raunet_jax.run_folder import RunError, RunFolder
from raunet_jax.signals import Stopped, StopRequest, catch_signals
from raunet_jax.training import loop

log = logging.getLogger("raunet_jax")

NODES = pathlib.Path("/dev")  # holds a node a GPU: nvidia0, nvidia1, …


def train_folds(
    patch_set: pathlib.Path,
    run: pathlib.Path,
    folds: Sequence[int],
    at_once: int,
    stop: StopRequest,
    locks: Sequence[int] = (),
) -> None:
    """Train `folds` of the recipe saved in the run folder `run`, at most `at_once` of them at a time.

    Each process is shown one GPU of those this process is shown (CUDA_VISIBLE_DEVICES), and no two the same, so that
    there are no more at a time than GPUs; on a CPU they share the cores. What they say is passed on line by line.
    A signal that fills `stop` is passed on to the processes, which save and end.

    Args:
        locks: open files of `locks.alone` that the processes hold too: where this one is killed, they take a while to
            save, and nobody else may train here until they have.

    Raises:
        Stopped: a signal asked for an end.
        RunError: a fold failed; the others were trained to their end.
    """
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in _devices(min(at_once, len(folds))):
        free.put(device)
    running: dict[int, subprocess.Popen] = {}
    failed: dict[int, str] = {}

    def train(fold: int, device: str) -> None:
        try:
            status = _train_in_process(patch_set, run, fold, device, running, locks)
            if status:
                failed[fold] = f"exit status {status}"
        except Exception as error:  # of whatever kind: one that leaves a thread is lost
            failed[fold] = explain(error)
            log.error(f"error: fold {fold}: {failed[fold]}")
        finally:
            free.put(device)

    threads = []
    for fold in folds:
        device = _wait_for(free, stop, running)
        if stop:
            break
        threads.append(threading.Thread(target=train, args=(fold, device)))
        threads[-1].start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
            _pass_on(stop, running)
    if stop:
        raise stop.stopped()
    if failed:
        shown = ", ".join(f"fold {fold} ({reason})" for fold, reason in sorted(failed.items()))
        raise RunError(f"{run}: {shown} failed, as said above; the same command goes on with them")


def _train_in_process(
    patch_set: pathlib.Path,
    run: pathlib.Path,
    fold: int,
    device: str,
    running: dict[int, subprocess.Popen],
    locks: Sequence[int],
) -> int:
    """Train `fold` in a process that is shown `device` alone, and is put into `running`; its exit status."""
    command = [sys.executable, "-m", "raunet_jax.training.parallel_folds", str(patch_set), str(run), str(fold)]
    # XLA_PYTHON_CLIENT_PREALLOCATE is handed on as it is: where this process holds a part of the first GPU and so
    # takes no more memory than it uses, the process that shares that GPU with it must not take most of it either.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    options = {"env": environment, "stderr": subprocess.PIPE, "errors": "replace", "start_new_session": True}
    options["pass_fds"] = locks
    with subprocess.Popen(command, **options) as child:
        running[fold] = child
        for line in child.stderr:
            log.info(line.rstrip("\n"))
    return child.returncode


def _devices(at_once: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES each of the processes is given; "" leaves it as it is, where there is no GPU.

    They are `at_once`, or as many as there are GPUs where these are fewer, which is said: two trainings on one GPU run
    out of its memory. The variable set to "" or "-1" hides all GPUs.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        # CUDA counts from 0 whatever the numbers of the nodes, of which a container may be given any
        gpus = [str(index) for index, _ in enumerate(NODES.glob("nvidia[0-9]*"))]
    else:
        gpus = list(itertools.takewhile(lambda device: device not in ("", "-1"), map(str.strip, shown.split(","))))
    if 0 < len(gpus) < at_once:
        log.warning(f"{at_once} folds at once were asked for; trained at a time: {len(gpus)}, one on each GPU")
    return gpus[:at_once] or [""] * at_once


def _wait_for(free: queue.SimpleQueue, stop: StopRequest, running: dict[int, subprocess.Popen]) -> str:
    while not stop:
        try:
            return free.get(timeout=0.2)
        except queue.Empty:
            continue
    _pass_on(stop, running)
    return ""


def _pass_on(stop: StopRequest, running: dict[int, subprocess.Popen]) -> None:
    if stop:
        for fold in list(running):
            running.pop(fold).send_signal(signal.SIGTERM)  # SIGINT would show a traceback of one that is just starting


def main(arguments: Sequence[str]) -> int:
    """Train one fold.

    Args:
        arguments: folder of the patch set, run folder with the recipe, and number of the fold.
    """
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax and TFDS report each step of theirs
    log_to_stderr()
    patch_set, run, fold = pathlib.Path(arguments[0]), RunFolder(pathlib.Path(arguments[1])), int(arguments[2])
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with catch_signals() as stop:
        try:
            loop.train_fold(run.load_recipe(), patch_set, run.fold(fold).path, fold, stop)
        except Stopped as stopped:
            return stopped.exit_status
        except Exception as error:
            log.error(f"error: fold {fold}: {explain(error)}")
            return exit_status(error)
    return 0


def _end_with(parent: int) -> None:
    """Save and end once the parent is gone, so that no process trains for nobody."""
    while os.getppid() == parent:
        threading.Event().wait(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
