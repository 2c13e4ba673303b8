"""Cases read, processed and written one after another, reading and writing overlapped with what the device computes."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from raunet_jax.failures import bare, explain

LARGE_VOXELS = 100_000_000  # beside the work on a case of more none is read or written

Saving = Callable[[], contextlib.AbstractContextManager[None]]


def pipeline(
    cases: Sequence[Any],
    read: Callable[[Any], Any],
    work: Callable[[Any, Any], Any],
    finish: Callable[[Any, Future, Saving], None],
    voxels: Callable[[Any], int],
) -> None:
    """`finish` what `work` makes of each case that was `read`, in the order of `cases`, at most three in memory.

    Args:
        read: case -> what it holds; called in a thread, one case ahead.
        work: (case, what it holds) -> result; called in this thread.
        finish: (case, outcome, saving); called in a thread, one case behind, for every case. `outcome.result()` returns
            the result, or raises what `read` or `work` raised: it as it is where a user's files or machine can cause
            it, else a Mistake. Every file is to be written within `with saving():`, so that Ctrl-C waits for the end of
            that file, and no other is started. See `keep_result`.
        voxels: how many there are in what a case holds; see LARGE_VOXELS.

    An interrupt, and an error that `finish` raises, end the run.
    """
    gate = _Gate()
    reading = finishing = None
    try:
        for index, case in enumerate(cases):
            outcome, reading = reading or _start(read, case, tidy=bare), None
            large = _succeeded(outcome) and voxels(outcome.result()) > LARGE_VOXELS
            if large and finishing:
                finishing.result()
            if not large and index + 1 < len(cases):
                reading = _start(read, cases[index + 1], tidy=bare)
            if _succeeded(outcome):
                outcome = _outcome(work, case, outcome.result())
            if finishing:
                finishing.result()
            finishing, outcome = _start(finish, case, outcome, gate.saving), None
            if large:
                finishing.result()
        if finishing:
            finishing.result()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        wait([finishing] if finishing else [])
        if finishing and finishing.exception() not in (None, error):
            error.add_note(f"and the case before: {finishing.exception()}")
        raise
    finally:
        gate.close()


def keep_result(outcome: Future, keep: Callable[[Any], None]) -> str:
    """`keep` what became of a case of `pipeline`; "" or, where it failed or could not be kept, the reason."""
    try:
        keep(outcome.result())
    except CancelledError:  # of `saving`
        raise
    except Exception as error:  # of whatever kind: it is this case's, and the others go on
        return explain(error)
    return ""


class _Gate:
    """Lets one file at a time be written, until it is closed."""

    def __init__(self):
        self._lock, self._closed = threading.Lock(), False

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise CancelledError("interrupted before this file")
            yield

    def close(self) -> None:
        self._closed = True  # before it is the file's turn to end, or its thread could begin the next one first
        with self._lock:
            return


def _start(function: Callable, *arguments, tidy: Callable = lambda error: error) -> Future:
    """Call `function` in a thread that does not keep the process from ending, as those of an executor would."""
    future = Future()
    threading.Thread(target=_call, args=(future, BaseException, tidy, function, *arguments), daemon=True).start()
    return future


def _call(future: Future, kept: type, tidy: Callable, function: Callable, *arguments) -> None:
    """Let `future` have the result of `function`, or what `tidy` makes of an error of `kept`; others are raised."""
    try:
        future.set_result(function(*arguments))
    except kept as error:
        future.set_exception(tidy(error) if isinstance(error, Exception) else error)


def _outcome(work: Callable, case: Any, held: Any) -> Future:
    outcome = Future()
    _call(outcome, Exception, bare, work, case, held)
    return outcome


def _succeeded(outcome: Future) -> bool:
    """Wait for it; False for an error, and what is none of the kind Exception is raised."""
    error = outcome.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error is None
