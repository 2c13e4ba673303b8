"""Cases in turn: the next is read and the last finished meanwhile, in order, and no error or interrupt is lost."""

import errno
import threading
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from raunet_jax import read_ahead
from raunet_jax.errors import UserError
from raunet_jax.read_ahead import keep_result, pipeline

WAIT_S = 10  # for what must happen; a test that comes to wait as long fails


class Log:
    """What happened, in order, and a way to wait for it."""

    def __init__(self):
        self.events, self._changed = [], threading.Condition()

    def add(self, *event):
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, *event):
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, WAIT_S), f"{event} not in {self.events}"


@pytest.fixture
def log():
    return Log()


def run(log, cases, read=None, work=None, finish=None, voxels=lambda held: 1):
    def reads(case):
        log.add("read", case)
        return read(case) if read else case

    def works(case, held):
        log.add("work", case)
        return work(case, held) if work else held

    def finishes(case, outcome, saving):
        log.add("finish", case)
        if finish:
            finish(case, outcome, saving)
        log.add("finished", case)

    pipeline(cases, reads, works, finishes, voxels)


def test_each_case_is_read_worked_on_and_finished_once_and_in_order(log):
    results = []
    run(
        log,
        "abcd",
        read=str.upper,
        work=lambda case, held: case + held,
        finish=lambda case, outcome, _: results.append((case, outcome.result())),
    )
    assert results == [("a", "aA"), ("b", "bB"), ("c", "cC"), ("d", "dD")]
    for stage in ("read", "work", "finished"):
        assert [case for event, case in log.events if event == stage] == list("abcd")
    pipeline([], None, None, None, None)


def test_the_next_case_is_read_and_the_last_finished_during_the_work_on_one(log):
    """Each waits for the other, so that one after the other they would never end."""

    def work(case, _):
        if case == "b":
            log.wait_for("read", "c")
            log.wait_for("finish", "a")
            log.add("worked", "b")

    def finish(case, outcome, _):
        if case == "a":
            log.wait_for("worked", "b")

    run(log, "abc", work=work, finish=finish)
    assert log.events.index(("worked", "b")) < log.events.index(("finished", "a"))


def test_one_case_at_most_is_ahead_and_one_behind(log):
    run(log, range(6))
    places = {event: log.events.index(event) for event in log.events}
    for case in range(4):
        assert places["read", case + 2] > places["work", case]
        assert places["finish", case + 1] > places["finished", case]
        assert places["work", case + 2] > places["finished", case]


def test_a_large_case_has_the_memory_to_itself(log, monkeypatch):
    monkeypatch.setattr(read_ahead, "LARGE_VOXELS", 100)
    sizes = {"a": 101, "b": 100, "c": 101, "d": 1}
    run(log, "abcd", read=lambda case: np.zeros(sizes[case]), voxels=np.size)
    places = {event: log.events.index(event) for event in log.events}
    for large, after in (("a", "b"), ("c", "d")):
        assert places["read", after] > places["finished", large]
    assert places["work", "c"] > places["finished", "b"]
    assert places["read", "c"] < places["finished", "b"]


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError(), UserError("odd")])
def test_a_case_that_fails_is_finished_in_its_turn_with_its_error(log, error):
    results = []

    def fail_at(*names):
        def step(case, *_):
            if case in names:
                raise error
            return case

        return step

    def finish(case, outcome, _):
        results.append((case, outcome.exception() or outcome.result()))

    run(log, "abcd", read=fail_at("a", "d"), work=fail_at("c"), finish=finish)
    assert results == [("a", error), ("b", "b"), ("c", error), ("d", error)]
    assert ("work", "a") not in log.events


@pytest.mark.parametrize("stage", ["read", "work"])
def test_a_mistake_of_ours_ends_its_case_alone_and_says_whose_it_is(log, stage):
    def wrong(case, *_):
        if case == "b":
            raise KeyError("depth")
        return case

    reasons = {}
    run(
        log,
        "abc",
        finish=lambda case, outcome, _: reasons.update({case: keep_result(outcome, lambda _: None)}),
        **{stage: wrong},
    )
    assert reasons["a"] == reasons["c"] == ""
    assert reasons["b"].startswith("a mistake of raunet_jax: KeyError: 'depth'")


def test_a_mistake_in_keeping_a_case_is_its_reason_and_an_interrupt_is_none():
    outcome = Future()
    outcome.set_result(3)

    def fail(error):
        def keep(_):
            raise error

        return keep

    assert keep_result(outcome, fail(ZeroDivisionError("no"))).startswith("a mistake of raunet_jax: ZeroDivisionError")
    full = keep_result(outcome, fail(OSError(errno.ENOSPC, "No space left on device", "/disk/a_seg.nii.gz")))
    assert full.startswith("/disk/a_seg.nii.gz: the disk is full (No space left on device); free some space")
    with pytest.raises(CancelledError):
        keep_result(outcome, fail(CancelledError()))


@pytest.mark.parametrize("error", [TypeError, ValueError, OSError])
def test_an_error_in_finishing_ends_the_run_once_the_case_before_is_finished(log, error):
    def wrong(case, *_):
        if case == "b":
            raise error("broken")

    with pytest.raises(error, match="broken"):
        run(log, "abc", finish=wrong)
    assert ("finished", "a") in log.events
    assert not {("finished", "b"), ("finished", "c")} & set(log.events)


def test_an_interrupt_waits_for_the_file_under_way_and_for_nothing_else(log):
    """Of case a one file is being written; case c is being read without end."""
    never, files, before = threading.Event(), [], set(threading.enumerate())

    def read(case):
        if case == "c":
            never.wait()

    def work(case, _):
        if case == "b":
            log.wait_for("writing", "a")
            log.wait_for("read", "c")
            threading.Timer(0.05, log.add, ["go", "on"]).start()
            raise KeyboardInterrupt

    def finish(case, outcome, saving):
        with saving():
            log.add("writing", case)
            log.wait_for("go", "on")
            files.append("first")
        with saving():
            files.append("second")

    with pytest.raises(KeyboardInterrupt):
        run(log, "abc", read=read, work=work, finish=finish)
    never.set()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(WAIT_S)
    assert files == ["first"]  # also once the threads have come to their end
