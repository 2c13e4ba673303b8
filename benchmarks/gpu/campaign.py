"""One run on one GPU that tells how fast and how right raunet_jax is there, most valuable measurements first.

    python -m benchmarks.gpu                           # some 9 minutes, from the root of the checkout
    python -m benchmarks.gpu --resume                  # goes on: what is there already is not measured again
    python -m benchmarks.gpu --rehearse                # all of it, tiny, on a CPU; about 20 minutes of two cores
    ... --list                 what it would do, in order       --only=A,B,D   some groups
    ... --minutes=20           more time                        --skip=torch   no job whose name has this

Every measurement is a process of its own with a time limit. Some compile side by side; while one is timed the others
are stopped (SIGSTOP), so that nothing else uses the GPU or the cores. After each, all that was found so far is written
to gpu-CARD.json (what --resume reads) and gpu-CARD.md, in benchmarks/results unless --out names another folder, so that
a run cut short leaves what it had. A rehearsal writes to gpu_out, which git ignores. Groups:

    A  the same results as on a CPU; the card's ceilings     F  prediction by windows, by their batch
    B  train steps and forward passes, beside PyTorch        G  run.py: a training, and one that is killed and goes on
    C  XLA flags; the same bits                              H  a CT through the cascade
    D  where the time goes, kernel by kernel                 S  train steps by their batch
    E  remat: seconds and memory

Besides the packages of the networks (jax, flax, optax, jaxtyping, numpy) it needs torch for PyTorch's rows only, and
requirements.txt for G and H only (fetch_wheels.sh brings what a bare machine lacks).
"""

import argparse
import contextlib
import json
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import machine
from benchmarks.gpu.plan import CUBLAS, NHWC, OWN_LAYOUT, plan
from benchmarks.gpu.report import report
from benchmarks.gpu.targets import targets
from benchmarks.gpu.worker import JOBS, ROOT, Worker
from raunet_jax.errors import UserError
from raunet_jax.files import read_json, write_json, write_text

RESULTS = ROOT / "benchmarks" / "results"
LAST_START_S = 25  # no job is started with less left, no training with less than
LAST_TRAINING_S = 150


class Campaign:
    """The results so far, those of an earlier run among them, and how they grow.

    Attributes:
        results: a row a job, with `name`, `job`, `wall_s` and what it found, or `error`.
        path: of the JSON; the Markdown lies beside it.
    """

    def __init__(self, args):
        self.args = args
        device = "cpu" if args.rehearse else "gpu"
        name = f"{'rehearsal' if args.rehearse else 'gpu'}-{machine.slug(device)}"
        self.path = pathlib.Path(args.out) / f"{name}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.machine = {"name": machine.name(device), "when": machine.now(), "commit": machine.commit()}
        self.machine |= {"command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])}
        self.machine |= {"versions": machine.versions()}
        earlier = self.path if args.resume == "" else args.resume and pathlib.Path(args.resume)
        if args.resume == "" and not self.path.exists():
            earlier = None
        self.results = read_json(earlier, "start without --resume", {"results": [dict]})["results"] if earlier else []
        self.work = None  # the folder that its jobs share, while it runs
        self.end = time.monotonic() + 60 * args.minutes
        self.waiting = self._asked_for()
        self.alive, self.ready, self.timed, self.answers = [], [], None, {}

    def _asked_for(self) -> list[dict]:
        args = self.args
        done = {row["name"] for row in self.results if "error" not in row and "skipped" not in row}
        groups = set(args.only.split(",")) if args.only else None
        words = [word for word in args.skip.split(",") if word]
        return [
            job
            for job in plan(args.rehearse)
            if job["name"] not in done
            and (groups is None or job["group"] in groups)
            and not any(word in job["name"] for word in words)
        ]

    def run(self) -> int:
        """Measure until all is done or no time is left. Returns the exit status: 1 if a job of a rehearsal failed."""
        with tempfile.TemporaryDirectory(prefix="gpu-campaign-", ignore_cleanup_errors=True) as folder:
            self.work = pathlib.Path(folder)
            try:
                if not self.args.rehearse:
                    self._draw()
                self._measure()
            finally:  # also where this campaign is interrupted: each is a session of its own
                for worker in self.alive:
                    worker.end("no time was left")
        for worker in self.alive:
            self._keep(worker, self.answers.get(worker, {"error": "no time was left"}))
        self._write()
        print(self.path.with_suffix(".md").read_text())
        print(f"written: {self.path}, {self.path.with_suffix('.md')}")
        return int(self.args.rehearse and any("error" in row for row in self.results))

    def _measure(self) -> None:
        events = queue.Queue()
        while self.waiting or self.alive:
            self._start(events)
            left = self._left()
            if left < 3 or (not self.alive and left <= LAST_START_S):
                break
            if not self.timed and self.ready:
                self._time(self.ready.pop(0))
            try:
                self._told(*events.get(timeout=0.2))
            except queue.Empty:
                pass
            for worker in self.alive:
                if worker.seconds() > worker.job["cap"]:
                    worker.end(f"ended after {worker.seconds():.0f} s")

    def _left(self) -> float:
        return self.end - time.monotonic()

    def _draw(self) -> None:
        """The variables of all networks, drawn while nothing else runs yet."""
        command = [*JOBS, "--job", json.dumps({"kind": "draw"}), "--work", str(self.work)]
        with contextlib.suppress(subprocess.TimeoutExpired):  # then each job draws its own
            subprocess.run(command, timeout=90, check=False, stdout=subprocess.DEVNULL, cwd=ROOT)

    def _start(self, events: queue.Queue) -> None:
        while self.waiting and len(self.alive) < self.args.at_once and self._left() > LAST_START_S and not self.timed:
            job = self.waiting.pop(0)
            if job["kind"] in ("train", "resume") and self._left() < LAST_TRAINING_S:
                continue
            if job.get("xla") == "best":
                job = job | {"xla": best_flags(self.results)}
            job["cap"] = min(job["cap"], max(20, self._left() - 3))
            self.alive.append(Worker(job, self.work, events, self.args.rehearse))

    def _time(self, worker: Worker) -> None:
        self.timed = worker
        for other in self.alive:
            if other is not worker:
                other.hold()
        worker.go()

    def _told(self, worker: Worker, event: dict) -> None:
        if "ready" in event:
            self.ready.append(worker)
        elif "ended" in event:
            if worker in self.alive:
                self.alive.remove(worker)
            if worker in self.ready:
                self.ready.remove(worker)
            self._let_others_go_on(worker)
            self._keep(worker, self.answers.pop(worker, None) or {"error": worker.failure(event["ended"])})
        else:
            self.answers[worker] = event
            self._let_others_go_on(worker)  # what it has left to do disturbs nobody

    def _let_others_go_on(self, worker: Worker) -> None:
        if worker is self.timed:
            self.timed = None
            for other in self.alive:
                other.go_on()

    def _keep(self, worker: Worker, answer: dict) -> None:
        row = {"name": worker.job["name"], "job": worker.job, "wall_s": round(worker.seconds(), 1)} | answer
        self.results = [one for one in self.results if one["name"] != row["name"]] + [row]
        shown = {key: row[key] for key in ("ms", "s", "error", "skipped", "first_s", "peak_mb") if key in row}
        print(f"{time.strftime('%H:%M:%S')} {row['name']} ({row['wall_s']:.0f} s): {json.dumps(shown)}", flush=True)
        self._write()

    def _write(self) -> None:
        judged = [one._asdict() for one in targets(self.results)]
        write_json(self.path, {"machine": self.machine, "targets": judged, "results": self.results})
        write_text(self.path.with_suffix(".md"), report(self.results, self.machine))


def best_flags(results: list[dict]) -> str:
    """The flags of the fastest train step of II-128 so far, among those that took no minutes to compile."""
    score = {}
    for row in results:
        job = row.get("job", {})
        case = {"network": "II-128", "batch": 2, "part": "train", "lowering": "auto", "precision": "bfloat16"}
        usual = {"library": "ours", **case}.items() <= job.items() and "remat" not in job and "again" not in job
        if usual and row.get("ms") and job["xla"] in (OWN_LAYOUT, NHWC, CUBLAS):
            score[job["xla"]] = row["ms"] * (1.3 if row["first_s"] > 100 else 1)
    return min(score, key=score.get) if score else NHWC


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="folder; default: benchmarks/results, of a rehearsal gpu_out")
    parser.add_argument("--minutes", type=float, help="default: 8.7, of a rehearsal 120")
    parser.add_argument("--only", default="", help="groups, comma between")
    parser.add_argument("--skip", default="", help="words, comma between: no job whose name has one")
    parser.add_argument("--resume", nargs="?", const="", metavar="JSON", help="default: what OUT has of this card")
    parser.add_argument("--at-once", type=int, help="processes; default: 3, of a rehearsal 1")
    parser.add_argument("--rehearse", action="store_true", help="tiny and on the CPU, only to see that it runs")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    args.out = args.out or (ROOT / "gpu_out" if args.rehearse else RESULTS)
    args.minutes = args.minutes or (120 if args.rehearse else 8.7)
    args.at_once = args.at_once or (1 if args.rehearse else 3)
    if args.list:
        for job in plan(args.rehearse):
            print(f"{job['cap']:4d} s  {job['name']}")
        return 0
    if not args.rehearse and not machine.gpu():
        parser.error("nvidia-smi names no GPU here; --rehearse runs all of it on a CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        campaign = Campaign(args)
    except UserError as error:
        parser.error(str(error))
    return campaign.run()


if __name__ == "__main__":
    sys.exit(main())
