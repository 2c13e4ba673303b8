"""Kills of every mode at random instants: the same command, given again, ends as if nothing had been.

Judged: files and weights are those of a run that nobody disturbed, nothing else is left (temporary files), no byte of
the input has changed, no process outlives the one that was killed, and no end looks like an error of ours.
"""

import pathlib
import signal
import time

import numpy as np

from tests.campaign import contents
from tests.campaign.outcome import Outcome
from tests.campaign.processes import Child
from tests.campaign.world import MODES, Mode, World, left

FULL = 160  # trials; each of 1 to 4 kills
# What writes more, and longer, is killed more often.
SHARES = {"train": 7, "predict by rules": 4, "prepare": 4, "score": 2, "evaluate": 2, "predict": 2}
SHARES |= {"report": 1, "inspect": 1, "verify": 1}
SIGNALS = (*[signal.SIGKILL] * 6, signal.SIGTERM, signal.SIGINT)
REAL = 0.1  # share of trials that start `python run.py` itself, imports included
ENDS = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2}}


def modes() -> list[str]:
    """The modes in the order of the trials."""
    return [name for turn in range(max(SHARES.values())) for name, share in SHARES.items() if turn < share]


def attempt(world: World, number: int, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """Trial `number` of a campaign."""
    name = modes()[number % len(modes())]
    real = bool(rng.random() < REAL) and not MODES[name].stand_in
    return kill(world, name, int(rng.integers(1, 5)), rng, scratch, real)


def kill(
    world: World, name: str, times: int, rng: np.random.Generator, scratch: pathlib.Path, real: bool = False
) -> Outcome:
    """Kill the mode `name` up to `times` times on its way, let it end, and compare."""
    expected, seconds, _ = world.undisturbed(name, scratch)
    mode, how = MODES[name], {"real": True} if real else {"stand_in": MODES[name].stand_in}
    world.begin(mode, scratch)
    before = contents.digest_of_files(scratch, mode.keeps)
    story, kills = [], 0
    for _ in range(times):
        number = signal.Signals(rng.choice(SIGNALS))
        child = Child(mode.arguments, scratch, **how)
        told = _wait_for_the_moment(child, mode, seconds + 3 * real, scratch, rng)
        child.signal(number)
        done = child.wait(120)
        killed = done.status in ENDS[number]  # else it had ended before, or was about to
        kills += killed
        story.append(f"{number.name} {told}")
        what = f"{name}{' by python run.py' * real}: {', '.join(story)}"
        if done.broken:
            return Outcome(what, done.broken, kills)
        if child.orphans():
            return Outcome(what, "a process of it is still there", kills)
        if not killed and done.status != 0:
            return Outcome(what, f"exit status {done.status}: {done.tail}", kills)
        if done.status == 0:
            break
    done = Child(mode.arguments, scratch, **how).wait()
    if done.broken or done.status:
        return Outcome(what, done.broken or f"does not go on, exit status {done.status}: {done.tail}", kills)
    changed = contents.differences(before, contents.digest_of_files(scratch, mode.keeps))
    apart = contents.differences(expected, left(mode, scratch, done))
    return Outcome(what, f"input changed: {changed}" if changed else apart, kills)


def _wait_for_the_moment(
    child: Child, mode: Mode, seconds: float, place: pathlib.Path, rng: np.random.Generator
) -> str:
    """Sleep till a random instant of the run, or till one of the things that it writes is there, and tell which."""
    watch, delay, wanted = rng.random() < 0.4, rng.exponential(0.02), 1 + int(rng.exponential(4))
    end, seen = child.begin + (1.05 if watch else rng.uniform(0, 1.05)) * seconds, set()
    while child.running and time.monotonic() < end:
        time.sleep(0.002 if watch else min(0.05, max(0.0, end - time.monotonic())))
        seen |= _being_written(place, mode) if watch else set()
        if len(seen) >= wanted:
            time.sleep(delay)
            return f"{time.monotonic() - child.begin:.2f} s, while the {len(seen)}th thing is written"
    return f"{time.monotonic() - child.begin:.2f} s of {seconds:.1f}"


def _being_written(place: pathlib.Path, mode: Mode) -> set[str]:
    try:
        found = [path for made in mode.makes if (place / made).is_dir() for path in (place / made).rglob(mode.waits)]
    except OSError:  # it has gone meanwhile
        return set()
    return {path.name for path in found} - {".lock", ".building"}
