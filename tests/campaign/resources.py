"""What a machine can lack, and who else may be at work: full and read-only disks, limits, killed workers, two at once.

Judged: no error of ours, no hang, every refusal a sentence that names a file or folder; and afterwards, on a machine
that lacks nothing, the same command ends as if nothing had been.
"""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from tests.campaign import contents
from tests.campaign.outcome import Outcome
from tests.campaign.processes import Child, Done
from tests.campaign.world import MODES, World, left

FULL = 120
WRITERS = "predict by rules", "prepare", "train", "score", "predict", "evaluate", "report"
MEBIBYTE = 1 << 20


def attempt(world: World, number: int, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """Trial `number` of a campaign."""
    trials = full_disk, read_only, few_files, two_at_once, small_files, little_memory, killed_worker, beside_training
    return trials[number % len(trials)](world, WRITERS[number // len(trials) % len(WRITERS)], rng, scratch)


def full_disk(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode on a disk that has room for a part of what it writes, and then on one that has more."""
    mode, expected = MODES[name], world.undisturbed(name, scratch).left
    with _disk(scratch, 512) as disk:
        if disk is None:
            return small_files(world, name, rng, scratch)
        world.begin(mode, disk)
        free = int(MEBIBYTE * rng.choice([0, 0.02, 0.1, 0.3, 1]))
        _resize(disk, _used(disk) + free)
        what = f"{name} with {free / MEBIBYTE:.2f} MiB of free space"
        before = contents.digest_of_files(disk, mode.keeps)
        done = Child(mode.arguments, disk, stand_in=mode.stand_in).wait()
        refused = _refusal(done)
        _resize(disk, 512 * MEBIBYTE)
        return refused(what) or _afterwards(what, name, disk, expected, before)


def read_only(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode where nothing can be written."""
    mode, expected = MODES[name], world.undisturbed(name, scratch).left
    with _disk(scratch, 512) as disk:
        place = disk or scratch
        world.begin(mode, place)
        before = contents.digest_of_files(place, mode.keeps)
        what = f"{name} on a read-only disk"
        if disk:
            _mount("-o", "remount,ro", str(disk))
        else:
            place.chmod(0o555)
        done = Child(mode.arguments, place, stand_in=mode.stand_in).wait()
        if disk:
            _mount("-o", "remount,rw", str(disk))
        else:
            place.chmod(0o755)
        if done.status == 0:
            return Outcome(what, "exit status 0 though nothing can have been written")
        return _refusal(done)(what) or _afterwards(what, name, place, expected, before)


def few_files(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode when few files can be open at once."""
    return _limited(world, name, scratch, resource.RLIMIT_NOFILE, int(rng.integers(12, 80)), "open files")


def small_files(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode when a file can have so many bytes, as under a quota."""
    return _limited(world, name, scratch, resource.RLIMIT_FSIZE, int(rng.choice([0, 100, 4096, 65536])), "bytes a file")


def little_memory(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode when its address space cannot grow by much; libraries may end the process by a signal."""
    return _limited(world, name, scratch, resource.RLIMIT_AS, int(rng.uniform(1.5, 4) * 1024) * MEBIBYTE, "of memory")


def killed_worker(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """A process that `prepare` has started is killed."""
    expected, seconds, _ = world.undisturbed("prepare", scratch)
    mode = MODES["prepare"]
    world.begin(mode, scratch)
    before = contents.digest_of_files(scratch, mode.keeps)
    child = Child((*mode.arguments, "--config.data.workers=2"), scratch)
    end, killed = time.monotonic() + seconds * rng.uniform(0.2, 1.5), 0
    while child.running and (time.monotonic() < end or not killed):
        for pid in child.children():
            if time.monotonic() >= end:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        time.sleep(0.01)
    done = child.wait()
    what = f"prepare, {killed} workers killed"
    orphans = child.orphans()
    if done.broken or orphans or (done.status and "killed" not in done.said):
        return Outcome(what, done.broken or "a process is left" * orphans or f"does not say so: {done.tail}")
    return _afterwards(what, "prepare", scratch, expected, before)._replace(count=min(killed, 1))


def two_at_once(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """The mode twice into one place, begun at about the same time."""
    mode, (expected, seconds, _) = MODES[name], world.undisturbed(name, scratch)
    world.begin(mode, scratch)
    before = contents.digest_of_files(scratch, mode.keeps)
    first = Child(mode.arguments, scratch, stand_in=mode.stand_in)
    delay = float(rng.choice([0, 0, rng.uniform(0, 0.7 * seconds)]))
    time.sleep(delay)
    second = Child(mode.arguments, scratch, stand_in=mode.stand_in)
    ends = [first.wait(), second.wait()]
    what = f"{name} twice at once, {delay:.1f} s apart"
    for done in ends:
        if refused := _refusal(done)(what):
            return refused
    if all(done.status for done in ends):
        return Outcome(what, f"neither was done: {ends[0].tail}; {ends[1].tail}")
    return _afterwards(what, name, scratch, expected, before)


def beside_training(world: World, name: str, rng: np.random.Generator, scratch: pathlib.Path) -> Outcome:
    """`inspect` and `report` of a run while it is trained."""
    expected, seconds, _ = world.undisturbed("train", scratch)
    mode = MODES["train"]
    world.begin(mode, scratch)
    before = contents.digest_of_files(scratch, mode.keeps)
    training = Child(mode.arguments, scratch, stand_in=mode.stand_in)
    beside = ("inspect small", "report small")[rng.integers(2)]
    time.sleep(seconds * rng.uniform(0, 1))
    done = Child(MODES[beside].arguments, scratch).wait()
    trained = training.wait()
    what = f"{beside} while it is trained"
    if refused := _refusal(done)(what):
        return refused
    if trained.broken or trained.status:
        return Outcome(what, f"the training failed of it: {trained.tail}")
    return _afterwards(what, "train", scratch, expected, before)


def _limited(world: World, name: str, scratch: pathlib.Path, kind: int, value: int, unit: str) -> Outcome:
    mode, expected = MODES[name], world.undisturbed(name, scratch).left
    world.begin(mode, scratch)
    before = contents.digest_of_files(scratch, mode.keeps)
    done = Child(mode.arguments, scratch, stand_in=mode.stand_in, limits={kind: value}).wait()
    what = f"{name} with {value:,} {unit}"
    ended = kind == resource.RLIMIT_AS and done.status is not None and done.status < 0
    refused = None if ended else _refusal(done)(what)
    return refused or _afterwards(what, name, scratch, expected, before)


def _refusal(done: Done):
    """Judge a command that may be refused: `judge(what)` is an Outcome, or None where nothing is to be said."""

    def judge(what: str) -> Outcome | None:
        if done.broken:
            return Outcome(what, done.broken)
        if done.status and ("[Errno" in done.said or not done.said.strip() or done.status < 0):
            return Outcome(what, f"exit status {done.status} with an errno, or nothing, for a sentence: {done.tail}")
        return None

    return judge


def _afterwards(what: str, name: str, place: pathlib.Path, expected: dict, before: dict) -> Outcome:
    """The same command once more, undisturbed."""
    mode = MODES[name]
    done = Child(mode.arguments, place, stand_in=mode.stand_in).wait()
    if done.broken or done.status:
        return Outcome(what, f"does not go on afterwards: {done.broken or done.tail}")
    changed = contents.differences(before, contents.digest_of_files(place, mode.keeps))
    apart = contents.differences(expected, left(mode, place, done))
    return Outcome(what, f"input changed: {changed}" if changed else apart and f"afterwards {apart}")


@contextlib.contextmanager
def _disk(scratch: pathlib.Path, mebibytes: int) -> Iterator[pathlib.Path | None]:
    """A disk of its own in memory, where this user may mount one."""
    place = scratch / "disk"
    place.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)):
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    return False


def _resize(disk: pathlib.Path, size: int) -> None:
    _mount("-o", f"remount,size={size}", str(disk))


def _used(disk: pathlib.Path) -> int:
    space = os.statvfs(disk)
    return (space.f_blocks - space.f_bfree) * space.f_frsize
