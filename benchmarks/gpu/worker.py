"""The process of one job of a campaign."""

import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS = [sys.executable, "-m", "benchmarks.gpu.jobs"]


class Worker:
    """It says "ready", waits for "go" and leaves a line of JSON; `events` is told (worker, what it said).

    The last of what is told is {"ended": exit code}.
    """

    def __init__(self, job: dict, folder: pathlib.Path, events: queue.Queue, rehearse: bool):
        self.job, self.began, self.paused, self.held = job, time.monotonic(), 0.0, None
        self.why = ""  # it was ended
        self.log = folder / (re.sub(r"[^A-Za-z0-9]+", "-", job["name"]).strip("-")[:90] + ".log")
        command = [*JOBS, "--job", json.dumps(job), "--work", str(folder)]
        self.process = subprocess.Popen(
            command + ["--rehearse"] * rehearse,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
            cwd=ROOT,
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.Queue) -> None:
        for line in self.process.stdout:
            if line.startswith("@@"):
                events.put((self, json.loads(line[2:], parse_constant=lambda name: None)))
        self.process.wait()
        events.put((self, {"ended": self.process.returncode}))

    def go(self) -> None:
        self.go_on()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def seconds(self) -> float:
        """Since the start, without those it was stopped for."""
        now = time.monotonic()
        return now - self.began - self.paused - (now - self.held if self.held else 0)

    def hold(self) -> None:
        self._signal(signal.SIGSTOP)
        self.held = self.held or time.monotonic()

    def go_on(self) -> None:
        if self.held:
            self.paused += time.monotonic() - self.held
            self.held = None
            self._signal(signal.SIGCONT)

    def end(self, why: str) -> None:
        self.why = why
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)

    def failure(self, exit_code: int) -> str:
        tail = " ".join(self.log.read_text(errors="replace").split())[-400:]
        return f"{self.why or f'exit code {exit_code}'}: {tail}"

    def _signal(self, number) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
