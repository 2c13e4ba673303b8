"""One run on one GPU that tells how fast and how right raunet_jax is there, most valuable measurements first.

    python -m benchmarks.gpu.campaign --out=results --minutes=8.7     # from the root of the checkout
    python -m benchmarks.gpu.campaign --out=results --rehearse        # the same, tiny, on a CPU
    ... --list                   what it would do, in order        --only=A,B,D   some groups
    ... --resume=results.jsonl   leaves out what that file has     --skip=torch   no job whose name has this

Every measurement is a process of its own with a time limit. Some compile side by side; while one is timed the others
are stopped (SIGSTOP), so that nothing else uses the GPU or the cores. What each found is appended at once to
OUT/results.jsonl, and OUT/report.md is written anew, so that a run cut short leaves what it had. A later run goes on
with --resume. Groups:

    A  the same results as on a CPU; the card's ceilings     E  remat: seconds and memory
    B  train steps and forward passes, beside PyTorch        F  prediction of a volume by windows
    C  XLA flags                                             G  a training by run.py, where its packages are there
    D  where the time goes, kernel by kernel

Besides the packages of the networks (jax, flax, optax, jaxtyping, numpy) it needs torch for PyTorch's rows only.
"""

import argparse
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks.gpu.plan import CUBLAS, NHWC, plan
from benchmarks.gpu.report import report

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS = [sys.executable, "-m", "benchmarks.gpu.jobs"]


class Worker:
    """A job's process; it says "ready", waits for "go" and leaves a line of JSON."""

    def __init__(self, job: dict, folder: pathlib.Path, events: queue.Queue, rehearse: bool):
        self.job, self.began, self.paused, self.held = job, time.monotonic(), 0.0, None
        self.log = folder / (re.sub(r"[^A-Za-z0-9]+", "-", job["name"]).strip("-")[:90] + ".log")
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        command = [*JOBS, "--job", json.dumps(job), "--work", str(folder)]
        self.process = subprocess.Popen(
            command + ["--rehearse"] * rehearse,
            env=environment,
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
                events.put((self, json.loads(line[2:])))
        self.process.wait()
        events.put((self, {"ended": self.process.returncode}))

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

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)

    def _signal(self, number) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


class Campaign:
    def __init__(self, args):
        self.out, self.args = pathlib.Path(args.out), args
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="gpu-campaign-"))
        self.end = time.monotonic() + 60 * args.minutes
        self.results = []
        for path in args.resume:
            self.results += [json.loads(line) for line in pathlib.Path(path).read_text().splitlines() if line.strip()]
        for row in self.results:
            self._append(row)
        (self.out / "report.md").write_text(report(self.results))

    def _append(self, row: dict) -> None:
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _keep(self, row: dict) -> None:
        self.results.append(row)
        self._append(row)
        shown = {key: row[key] for key in ("ms", "error", "first_s", "peak_mb") if row.get(key) is not None}
        print(f"{time.strftime('%H:%M:%S')} {row['name']}: {json.dumps(shown)}", flush=True)
        (self.out / "report.md").write_text(report(self.results))

    def _flags(self, asked: str) -> str:
        """The flags of the fastest step of II-128 so far, among those that took no minutes to compile."""
        if asked != "best":
            return asked
        score = {}
        for row in self.results:
            job = row.get("job", {})
            if row.get("ms") and job.get("library") == "ours" and not job.get("flat") and "again" not in job:
                if (job["network"], job["batch"], job["part"]) == ("II-128", 2, "train"):
                    if (job["lowering"], job["precision"], job.get("remat")) == ("auto", "bfloat16", None):
                        score.setdefault(job["xla"], row["ms"] * (1.3 if row["first_s"] > 100 else 1))
        score = {flags: ms for flags, ms in score.items() if flags in ("", NHWC, CUBLAS)}
        return min(score, key=score.get) if score else NHWC

    def run(self) -> None:
        done = {row["name"] for row in self.results if "error" not in row or row.get("final")}
        groups = set(self.args.only.split(",")) if self.args.only else None
        waiting = [job for job in plan(self.args.rehearse) if job["name"] not in done]
        waiting = [job for job in waiting if not groups or job["group"] in groups]
        waiting = [
            job for job in waiting if not any(word and word in job["name"] for word in self.args.skip.split(","))
        ]
        events, alive, ready, timed = queue.Queue(), [], [], None
        answers = {}
        if not self.args.rehearse:
            self._draw()
        while waiting or alive:
            left = self.end - time.monotonic()
            while waiting and len(alive) < self.args.at_once and left > 25 and not timed:
                job = waiting.pop(0)
                if job["kind"] == "train" and left < 150:
                    continue
                job = job | {"xla": self._flags(job["xla"])} if "xla" in job else job
                job["cap"] = min(job["cap"], max(20, left - 3))
                alive.append(Worker(job, self.work, events, self.args.rehearse))
            if left < 3 or (not alive and left <= 25):
                break
            if not timed and ready:
                timed = ready.pop(0)
                for other in alive:
                    if other is not timed:
                        other.hold()
                timed.go_on()
                timed.process.stdin.write("go\n")
                timed.process.stdin.flush()
            try:
                worker, event = events.get(timeout=0.2)
            except queue.Empty:
                worker = None
            if worker is not None:
                if "ready" in event:
                    ready.append(worker)
                elif "ended" in event:
                    answer = answers.pop(worker, None)
                    if answer is None:
                        tail = " ".join(worker.log.read_text(errors="replace").split())[-400:]
                        why = getattr(worker, "why", f"exit code {event['ended']}")
                        answer = {"error": f"{why}: {tail}"}
                    if worker in alive:
                        alive.remove(worker)
                    if worker in ready:
                        ready.remove(worker)
                    if worker is timed:
                        timed = None
                        for other in alive:
                            other.go_on()
                    self._keep(
                        {"name": worker.job["name"], "job": worker.job, "wall_s": round(worker.seconds(), 1)} | answer
                    )
                else:
                    answers[worker] = event
                    if worker is timed:  # what it has left to do disturbs nobody
                        timed = None
                        for other in alive:
                            other.go_on()
            for worker in alive:
                if worker.seconds() > worker.job["cap"]:
                    worker.why = f"ended after {worker.seconds():.0f} s"
                    worker.end()
        for worker in alive:
            worker.end()
            self._keep({"name": worker.job["name"], "job": worker.job, "error": "no time was left"})
        print((self.out / "report.md").read_text() if (self.out / "report.md").exists() else "nothing was measured")
        shutil.rmtree(self.work, ignore_errors=True)

    def _draw(self) -> None:
        """The variables of all networks, drawn while nothing else runs yet."""
        command = [*JOBS, "--job", json.dumps({"kind": "draw"}), "--work", str(self.work)]
        subprocess.run(command, timeout=90, check=False, stdout=subprocess.DEVNULL, cwd=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.environ.get("OUT", "gpu_out"))
    parser.add_argument("--minutes", type=float, default=8.7)
    parser.add_argument("--only", default="", help="groups, comma between")
    parser.add_argument("--skip", default="", help="words, comma between: no job whose name has one")
    parser.add_argument("--resume", action="append", default=[], help="a results.jsonl of an earlier run")
    parser.add_argument("--at-once", type=int, default=0, help="processes; default: 3, of a rehearsal 1")
    parser.add_argument("--rehearse", action="store_true", help="tiny and on the CPU, only to see that it runs")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    args.at_once = args.at_once or (1 if args.rehearse else 3)
    if args.list:
        for job in plan(args.rehearse):
            print(f"{job['cap']:4d} s  {job['name']}")
        return 0
    if args.rehearse:
        args.minutes = max(args.minutes, 30)
    Campaign(args).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
