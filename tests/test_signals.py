"""Signals ask for an end, and the first of them says which."""

import os
import signal

import pytest

from raunet_jax.signals import catch_signals


@pytest.mark.parametrize(
    ("first", "second", "status"), [(signal.SIGTERM, signal.SIGINT, 143), (signal.SIGINT, signal.SIGTERM, 130)]
)
def test_the_first_signal_decides_how_the_work_ends(first, second, status):
    with catch_signals() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)  # the first of its own kind, so that it ends nothing
        assert stop.signum == first and stop.stopped().exit_status == status
