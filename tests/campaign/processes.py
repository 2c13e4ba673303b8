"""Child processes that run the program: forked with everything imported, so that one costs a tenth of a second."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.campaign import entry

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.campaign.warm"])
LIMIT_S = 300.0  # of one command; one that takes longer hangs
MISTAKES = "Traceback (most recent call last)", "a mistake of raunet_jax"
MISTAKE_STATUS = 70


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that has ended: its exit status (minus the signal that ended it), and all that it said."""

    status: int | None  # None: it was ended after the limit
    said: str

    @property
    def broken(self) -> str:
        """What no end of a command may look like, or ""."""
        if self.status is None:
            return "hangs"
        if self.status == MISTAKE_STATUS or any(mark in self.said for mark in MISTAKES):
            return f"an error of ours: {self.tail}"
        return ""

    @property
    def tail(self) -> str:
        """The last that it said."""
        return " | ".join(line.strip() for line in self.said.splitlines() if line.strip())[-400:]


class Child:
    """One command, running."""

    def __init__(self, arguments: Sequence[str], place: pathlib.Path, real: bool = False, **how):
        """Start run.py with `arguments` in the folder `place`; the rest as for `entry.start`.

        Args:
            real: start `python run.py` itself, which then imports all by itself; nothing can be put on it.
        """
        arguments = [str(part) for part in arguments]
        self._apart = bool(how.get("limits"))
        self.log = place.parent / f"{place.name}-{time.monotonic_ns()}.txt"
        self.begin = time.monotonic()
        if real:
            self._process = _Started([sys.executable, str(REPOSITORY / "run.py"), *arguments], place, self.log)
            return
        self._process = FORKS.Process(target=entry.start, args=(arguments, str(place), str(self.log)), kwargs=how)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float = LIMIT_S) -> Done:
        """Its end; it is killed if that does not come within `seconds`."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self.signal(signal.SIGKILL)
            self._process.join()
        time.sleep(0.2 * self._apart)  # another process writes the log
        return Done(status, _take(self.log))

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Processes that it has started."""
        try:
            return [int(pid) for pid in pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def orphans(self, seconds: float = 15.0) -> bool:
        """Whether any process of its group is left `seconds` after its end; none is after this."""
        end = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(self.pid, 0)
                time.sleep(0.05)
            os.killpg(self.pid, signal.SIGKILL)
            return True
        return False


def command(arguments: Sequence[str], place: pathlib.Path, **how) -> Done:
    """A command, to its end."""
    return Child(arguments, place, **how).wait()


class Warm:
    """A process that runs command after command, with what it has compiled; another takes its place when it is lost."""

    def __init__(self):
        self._process = None

    def command(self, arguments: Sequence[str], place: pathlib.Path, stand_in: str = "") -> Done:
        if self._process is None:
            self._connection, theirs = FORKS.Pipe()
            self._process = FORKS.Process(target=entry.answer, args=(theirs,))
            self._process.start()
            theirs.close()
        log = place.parent / f"{place.name}-{time.monotonic_ns()}.txt"
        self._connection.send(([str(part) for part in arguments], str(place), str(log), stand_in))
        status = None
        try:
            if self._connection.poll(LIMIT_S):
                status = self._connection.recv()
        except EOFError:  # it died of it
            self._process.join()
            status = self._process.exitcode
        if status is None or not self._process.is_alive():
            self.end()
        return Done(status, _take(log))

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None


class _Started:
    """A process of a command line, with the methods of one that is forked."""

    def __init__(self, arguments: Sequence[str], place: pathlib.Path, log: pathlib.Path):
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                arguments, cwd=place, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()


def _take(log: pathlib.Path) -> str:
    """What a log holds, which is removed."""
    said = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return said
