"""Case after case, with the next one read and the last one written in threads while the device works on this one."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from jax.errors import JaxRuntimeError

CASE_ERRORS = (OSError, ValueError, MemoryError, JaxRuntimeError)  # they end one case, not the run; Jax: device memory
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
            the result, or raises the one of CASE_ERRORS that `read` or `work` raised. Every file is to be written
            within `with saving():`, so that Ctrl-C waits for the end of that file, and no other is begun.
        voxels: how many there are in what a case holds; see LARGE_VOXELS.

    Any other error of `read` or `work`, once the case before is finished, and any that `finish` raises end the run.
    """
    gate = _Gate()
    reading = finishing = None
    try:
        for index, case in enumerate(cases):
            outcome, reading = reading or _start(read, case), None
            large = _succeeded(outcome) and voxels(outcome.result()) > LARGE_VOXELS
            if large and finishing:
                finishing.result()
            if not large and index + 1 < len(cases):
                reading = _start(read, cases[index + 1])
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


def _start(function: Callable, *arguments) -> Future:
    """Call `function` in a thread that does not keep the process from ending, as those of an executor would."""
    future = Future()
    threading.Thread(target=_run, args=(future, function, *arguments), daemon=True).start()
    return future


def _run(future: Future, function: Callable, *arguments) -> None:
    try:
        future.set_result(function(*arguments))
    except CASE_ERRORS as error:
        future.set_exception(_bare(error))
    except BaseException as error:  # whatever it is, the caller's thread raises it
        future.set_exception(error)


def _outcome(work: Callable, case: Any, held: Any) -> Future:
    outcome = Future()
    try:
        outcome.set_result(work(case, held))
    except CASE_ERRORS as error:
        outcome.set_exception(_bare(error))
    return outcome


def _bare(error: Exception) -> Exception:
    """The error without the frames that it came through, which hold a volume and its maps."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _succeeded(outcome: Future) -> bool:
    """Wait for it; False for one of CASE_ERRORS, any other is raised."""
    error = outcome.exception()
    if error is not None and not isinstance(error, CASE_ERRORS):
        raise error
    return error is None
