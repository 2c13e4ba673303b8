"""Tries the program as a hostile world would, and counts.

    python -m tests.campaign                                         every part to its end: see README.md for how long
    python -m tests.campaign --minutes=10 --part=kills,damage        as far as ten minutes go, shared by the parts
    python -m tests.campaign --part=kills --seed=0 --only=17         one trial again
    python -m tests.campaign --part=resources --big                  memory and time of a CT of 512 x 512 x 1000

kills: every mode is killed at random instants, and begun again. damage: every kind of file that is read is damaged.
geometry: scans in all orders of axes and at any angle. resources: full disks, limits, killed workers, two of everything
at once. inputs: odd scans and folders, each with the outcome that is wanted of it. What failed is printed with the
command that tries it again; the exit status is then 1.
"""

import argparse
import collections
import concurrent.futures
import importlib
import os
import pathlib
import sys
import tempfile
import time
import traceback

from raunet_jax import startup

PARTS = "kills", "damage", "geometry", "resources", "inputs"
if __name__ == "__main__" and startup.set_environment():
    startup.restart()

import numpy as np  # noqa: E402

from benchmarks import machine  # noqa: E402
from raunet_jax.files import write_json, write_text  # noqa: E402
from tests.campaign.outcome import Outcome  # noqa: E402
from tests.campaign.world import World, scratch_folder  # noqa: E402


def rng_of(seed: int, part: str, number: int) -> np.random.Generator:
    """Of one trial: what it does follows from its part, its number and the seed alone."""
    return np.random.default_rng((seed, PARTS.index(part), number))


def attempt(world: World, part: str, seed: int, number: int, root: pathlib.Path) -> Outcome:
    """One trial; an exception in the campaign itself is a failure, too."""
    module = importlib.import_module(f"tests.campaign.{part}")
    with scratch_folder(root, f"{part}-{number}") as scratch:
        try:
            return module.attempt(world, number, rng_of(seed, part, number), scratch)
        except Exception:
            return Outcome(f"trial {number}", f"the campaign itself failed: {traceback.format_exc()}")


def run_part(world: World, part: str, args, root: pathlib.Path, minutes: float) -> dict:
    """Trials of a part, until all are done or the time is up; counts and failures."""
    full = importlib.import_module(f"tests.campaign.{part}").FULL
    numbers = [int(number) for number in args.only.split(",")] if args.only else range(full)
    begin, tried, held, unseen, failures = time.monotonic(), 0, 0, 0, []
    kinds: collections.Counter = collections.Counter()

    def timed(number: int) -> tuple[int, Outcome | None]:
        late = minutes and time.monotonic() - begin > 60 * minutes
        return number, None if late else attempt(world, part, args.seed, number, root)

    done = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for number, outcome in pool.map(timed, numbers):
            if outcome is None:
                continue
            done += 1
            tried += outcome.count or bool(outcome.failure)
            held += 0 if outcome.failure else outcome.count
            unseen += outcome.count if outcome.note == "unseen" and not outcome.failure else 0
            kinds[outcome.what.partition(":")[0]] += outcome.count
            if outcome.failure:
                again = f"python -m tests.campaign --part={part} --seed={args.seed} --only={number}"
                failures.append({"what": outcome.what, "failure": outcome.failure, "again": again})
                print(f"NOT HELD {part} {number}: {outcome.what}\n    {outcome.failure}\n    {again}", flush=True)
            elif args.verbose:
                print(f"held {part} {number}: {outcome.what} {outcome.note}", flush=True)
    print(f"{part}: {done} of {len(numbers)} trials, {tried} tried, {held} held", flush=True)
    facts = {"part": part, "trials": done, "of": len(numbers), "tried": tried, "held": held, "unseen": unseen}
    return facts | {"seconds": round(time.monotonic() - begin), "kinds": dict(kinds), "failures": failures}


def table(rows: list[dict]) -> str:
    """Counts as Markdown."""
    lines = ["| part | trials | tried | held | failed | minutes |", "|---|---|---|---|---|---|"]
    for row in rows:
        unseen = f" ({row['unseen']} in files without a checksum, with another result)" if row["unseen"] else ""
        trials = f"{row['trials']} of {row['of']}"
        held = f"{row['held']}{unseen}"
        failed = row["tried"] - row["held"]
        lines.append(f"| {row['part']} | {trials} | {row['tried']} | {held} | {failed} | {row['seconds'] / 60:.1f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--minutes", type=float, default=0, help="the most that all parts together take; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="numbers of trials, with commas between")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trials at a time")
    parser.add_argument("--big", action="store_true", help="resources: only the CT of 512 x 512 x 1000")
    parser.add_argument("--slices", type=int, default=1000, help="of that CT")
    parser.add_argument("--out", type=pathlib.Path, help="counts as Markdown, and all facts as .json beside it")
    parser.add_argument("--verbose", action="store_true", help="name what held, too")
    args = parser.parse_args()
    parts = args.part.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        root = pathlib.Path(folder)
        if args.big:
            from tests.campaign import big

            print(big.predict_big_ct(root, args.slices))
            return 0
        when = machine.now()
        (root / "world").mkdir()
        with World(root / "world") as world:
            rows = [run_part(world, part, args, root, args.minutes / len(parts)) for part in parts]
    command = f"python -m tests.campaign {' '.join(sys.argv[1:])}".strip()
    text = f"`{command}`, {machine.name('cpu')}, {when}, commit {machine.commit()}\n\n{table(rows)}\n"
    print(text)
    if args.out:
        told = "".join(f"\n- {f['what']}: {f['failure']} (`{f['again']}`)" for row in rows for f in row["failures"])
        write_text(args.out, f"# Campaign\n\n{text}{told}\n")
        write_json(args.out.with_suffix(".json"), {"command": command, "versions": machine.versions(), "parts": rows})
    return 1 if any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
