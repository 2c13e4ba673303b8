"""Progress and messages on standard error: a bar on a terminal, a plain line now and then everywhere else."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator

log = logging.getLogger("raunet_jax")
PLAIN_LINE_SECONDS = 15.0
DEBUG = "RAUNET_JAX_DEBUG"  # environment variable: whether tracebacks are shown


class _Plain:
    def __init__(self, description: str, total: int, done: int):
        self._description, self._total, self._done = description, total, done
        self._begin = self._last = time.monotonic()
        self._first = done

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now - self._last < PLAIN_LINE_SECONDS:
            return
        self._last = now
        seconds_each = (now - self._begin) / max(1, self._done - self._first)
        left = seconds_each * (self._total - self._done)
        log.info(
            f"{self._description}: {self._done}/{self._total}  {note}  {now - self._begin:.0f} s, {left:.0f} s left"
        )


class _Bar:
    def __init__(self, bar, task):
        self._bar, self._task = bar, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self._bar.update(self._task, advance=count, note=note)


@contextlib.contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[_Plain | _Bar]:
    """Yield an object whose `advance(count, note)` moves the bar; `done` of `total` are finished already."""
    from rich import console as rich_console  # imported here: --help and cutting processes show no bar
    from rich import progress as rich_progress

    console = rich_console.Console(stderr=True)
    if not console.is_terminal:
        yield _Plain(description, total, done)
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, completed=done, note=""))


class _StandardError(logging.Handler):
    """Writes to what standard error is at the time: a bar puts its own in place, above which the lines then go."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Show what the package says, on standard error. Programs call it; the package itself never does."""
    if not any(isinstance(handler, _StandardError) for handler in log.handlers):
        log.addHandler(_StandardError())
    log.setLevel(logging.DEBUG if os.environ.get(DEBUG) else logging.INFO)
    log.propagate = False
