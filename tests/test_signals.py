"""Signals ask for an end, and the first of them says which."""

import gc
import os
import signal
import time

import pytest

from raunet_jax.signals import Terminated, catch_signals, interrupted


@pytest.mark.parametrize(
    ("first", "second", "status"), [(signal.SIGTERM, signal.SIGINT, 143), (signal.SIGINT, signal.SIGTERM, 130)]
)
def test_the_first_signal_decides_how_the_work_ends(first, second, status):
    with catch_signals() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)  # the first of its own kind, so that it ends nothing
        assert stop.signum == first and stop.stopped().exit_status == status


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_a_callback_swallows_comes_again(signum, error):
    def callback(*_):
        gc.callbacks.remove(callback)
        signal.raise_signal(signum)

    with pytest.raises(error), interrupted():
        gc.callbacks.append(callback)
        gc.collect()  # the interpreter lets no error of a callback through
        time.sleep(10)
