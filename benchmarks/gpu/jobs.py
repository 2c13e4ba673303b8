"""The jobs of a campaign, each a process that campaign.py starts: `python -m benchmarks.gpu.jobs --job=ROW --work=…`.

A job prints lines of JSON that begin with @@: "ready" once it has compiled, then it waits for a line on standard input
before anything is timed, and what it has found.
"""

import argparse
import json
import pathlib
import sys
import traceback

from benchmarks.gpu.measures import ceilings, flags, timed
from benchmarks.gpu.prediction import cascade, windows
from benchmarks.gpu.process import TINY, network_of, say, variables_of
from benchmarks.gpu.profiling import profile
from benchmarks.gpu.runs import resume, train
from benchmarks.gpu.sanity import sanity


def draw(job, rehearse, folder):
    for network in TINY:
        variables_of(network_of({"network": network}, rehearse), folder)


KINDS = {
    "draw": draw,
    "time": timed,
    "ceilings": ceilings,
    "sanity": sanity,
    "profile": profile,
    "windows": windows,
    "train": train,
    "resume": resume,
    "cascade": cascade,
    "flags": flags,
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
