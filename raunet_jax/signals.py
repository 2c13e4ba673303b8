"""Signals that ask a long piece of work to save and end."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator

log = logging.getLogger("raunet_jax")

AGAIN_SECONDS = 0.02


class Stopped(Exception):
    """A signal asked for an end; the state is saved and the same command goes on from it."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command resumes")
        self.exit_status = 128 + signum


class Terminated(KeyboardInterrupt):
    """A SIGTERM, where it is to be treated as Ctrl-C is."""


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt and SIGTERM Terminated, so that temporary files go; a second one ends at once.

    Raised within a callback that swallows it, such as JAX's of the garbage collection, it is raised again soon.
    """

    def handle(signum, _):
        signal.signal(signum, signal.SIG_DFL)
        raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    def swallowed(unraisable):
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            tell(unraisable)
            return
        signum = signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT
        signal.signal(signum, handle)
        threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signum)).start()

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    tell, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    finally:
        sys.unraisablehook = tell
        for signum, handler in before.items():
            signal.signal(signum, handler)


class StopRequest:
    """False until a signal has been caught; then `signum` says which."""

    def __init__(self, signum: int | None = None) -> None:
        self.signum = signum

    def __bool__(self) -> bool:
        return self.signum is not None

    def stopped(self) -> Stopped:
        """The exception to raise once all is saved."""
        return Stopped(self.signum)


@contextlib.contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Yield a StopRequest: the first SIGTERM or SIGINT fills it, a second one of its kind ends the process."""
    stop = StopRequest()

    def handle(signum, _):
        stop.signum = stop.signum or signum
        signal.signal(signum, before[signum])
        log.info(f"{signal.Signals(signum).name}: saving after this step (once more to end at once)")

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
