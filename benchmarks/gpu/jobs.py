"""The jobs of a campaign, each a process that campaign.py starts: `python -m benchmarks.gpu.jobs --job=ROW --work=…`.

A job prints lines of JSON that begin with @@: "ready" once it has compiled, then it waits for a line on standard input
before anything is timed, and what it has found.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

from benchmarks.gpu.measures import NEEDED_BY_RUN, ceilings, profile, timed, windows
from benchmarks.gpu.process import say, variables_of
from benchmarks.gpu.sanity import sanity


def draw(job, rehearse, folder):
    from benchmarks import work

    for network in (work.QUICK if rehearse else work.NETWORKS).values():
        variables_of(network, folder)


def train(job, rehearse, folder):
    """A short training through run.py, if its packages are there: its epochs and patches/s."""

    missing = [name for name in NEEDED_BY_RUN if not importlib.util.find_spec(name)]
    if missing:
        say(skipped=f"missing: {', '.join(missing)}", final=True)
        return
    root = pathlib.Path.cwd()
    place = pathlib.Path(tempfile.mkdtemp(dir=folder))
    platform = {"JAX_PLATFORMS": "cpu"} if rehearse else {}
    answer = {}
    base = [
        sys.executable,
        str(root / "run.py"),
        "--config=configs/liver_voi.py",
        "--config.data.source=phantom",
        "--config.data.cases=6",
        "--config.data.folds=3",
        "--config.folds=(0,)",
        "--config.data.patches_per_case=8.0",
        "--config.data.phantom_size=(128,128,48)",
        "--config.patch_size=(64,64,32)",
        "--config.batch_size=4",
        "--config.network.momentum=0.8",
        f"--config.data.prepared={place}/prepared",
        f"--config.network.width={4 if rehearse else 32}",
        f"--config.epochs={2 if rehearse else 6}",
        f"--config.precision={'float32' if rehearse else 'bfloat16'}",
    ]
    begin = time.perf_counter()
    done = subprocess.run(
        [*base, f"--workdir={place}/run"], env=os.environ | platform, capture_output=True, text=True, cwd=root
    )
    answer["seconds"], answer["status"] = time.perf_counter() - begin, done.returncode
    answer["said"] = [line for line in done.stderr.splitlines() if "first step" in line or "error" in line][-4:]
    path = place / "run" / "fold_0" / "metrics.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        keys = ("epoch", "loss", "validation_dice", "patches_per_second", "seconds")
        answer["epochs"] = [{key: row[key] for key in keys} for row in rows]
    say(**answer)
    shutil.rmtree(place, ignore_errors=True)


KINDS = {
    "draw": draw,
    "time": timed,
    "ceilings": ceilings,
    "sanity": sanity,
    "profile": profile,
    "windows": windows,
    "train": train,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", required=True, help="a row of plan.plan, as JSON")
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder that the jobs of a campaign share")
    parser.add_argument("--rehearse", action="store_true", help="tiny and on the CPU")
    args = parser.parse_args()
    job = json.loads(args.job)
    try:
        KINDS[job["kind"]](job, args.rehearse, args.work)
    except Exception as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
