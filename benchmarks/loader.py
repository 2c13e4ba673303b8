"""How fast the loader reads the patches of a recipe, beside a memory-mapped array read by PyTorch.

    python -m benchmarks.loader [--recipe=liver_coarse]

The recipe is liver_voi, or liver_coarse with its slices.

Phantoms are drawn and cut as for a training (--root takes scans laid out as LiTS instead). `train_batches` and a
PyTorch DataLoader then read the same records in the same order, in turns, with all files in the page cache. Without
PyTorch its rows are left out, and the report says so. It is printed and, but for --quick, written to
benchmarks/results/loader.md, of slices loader-slices.md.
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import grain
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from benchmarks.machine import cpu
from configs import liver_coarse, liver_voi
from data_prep import patch_dataset
from raunet_jax import files
from raunet_jax.training import batches

RECIPES = {"liver_voi": (liver_voi, "loader.md"), "liver_coarse": (liver_coarse, "loader-slices.md")}
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "grain", "array_record", "tensorflow-datasets", "torch")
READINGS = (2, 4), (0, 0), (1, 4), (4, 8), (8, 16)  # threads, batches held ahead; the first as training on a CPU
WORKERS = (0, 2)  # of PyTorch
PLAIN = "group_size:1,uncompressed"
SETTLE = 0.5  # seconds in which the loader before fills up what it holds ahead
WARM_UP = 16  # batches taken before the clock starts: more than any loader holds ahead


def recipe(args, prepared: Path):
    """That of --recipe on drawn cases, or on those of --root."""
    config = RECIPES[args.recipe][0].get_config()
    source = {"source": "lits", "root": args.root} if args.root else {"source": "phantom"}
    config.data.update(source | {"prepared": str(prepared), "cases": args.cases, "folds": min(5, args.cases)})
    config.data.update({"patches_per_case": float(args.patches), "phantom_size": (256, 256, 64)})
    if args.recipe == "liver_coarse":
        config.data.patches_per_case = 0.0  # the paper's rule
    return config


def train_records(config, folder: Path):
    """The TFDS builder, and the records of all folds but 0 as `train_batches` numbers them."""
    builder = tfds.builder_from_directory(folder)
    splits = [split for split in batches._splits(config, 0)[0] if split in builder.info.splits]
    return builder, builder.as_data_source(split="+".join(splits))


def plain_copy(folder: Path, copy: Path) -> Path:
    """The patch set once more, its shards not compressed."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.array_record*"))
    for shard in folder.glob("*.array_record*"):
        reader = array_record_module.ArrayRecordReader(str(shard))
        writer = array_record_module.ArrayRecordWriter(str(copy / shard.name), PLAIN)
        for record in reader.read_all():
            writer.write(record)
        writer.close()
        reader.close()
    return copy


def mapped_copy(records, folder: Path) -> Path:
    """image.npy and mask.npy, (record, z, y, x, channel)."""
    folder.mkdir()
    for name in ("image", "mask"):
        np.save(folder / f"{name}.npy", np.stack([record[name] for record in records]))
    return folder


class MappedPatches:
    """What PyTorch reads, opened by the process that reads it."""

    def __init__(self, folder: Path):
        self._folder = folder

    @functools.cached_property
    def _arrays(self):
        # PyTorch copies the records into the batch, so it does no harm that they cannot be written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in ("image", "mask")}

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return {name: array[number] for name, array in self._arrays.items()}


def ours(config, folder: Path, threads: int, ahead: int) -> Iterator[dict]:
    with mock.patch.object(batches, "reading", lambda config: grain.ReadOptions(threads, ahead)):
        return batches.train_batches(config, folder, 0)


def pytorch(config, mapped: Path, size: int, workers: int) -> Iterator[dict]:
    """Batches of `size` records in the order of `train_batches`."""
    from torch.utils.data import DataLoader

    numbers = grain.MapDataset.range(size).seed(config.seed).shuffle().repeat()
    numbers = numbers.batch(config.batch_size, drop_remainder=True)
    order = (numbers[batch].tolist() for batch in itertools.count())
    context = "spawn" if workers else None  # a fork beside running threads might hang
    patches = MappedPatches(mapped)
    return iter(DataLoader(patches, batch_sampler=order, num_workers=workers, multiprocessing_context=context))


def cpu_seconds() -> float:
    """Of this process and its living children, user and system."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def seconds_a_batch(loader: Iterator[dict], least: float) -> tuple[float, float]:
    """Wall and CPU, over a turn of at least `least` seconds."""
    time.sleep(SETTLE)
    for _ in range(WARM_UP):
        next(loader)
    wall, cpu, count = time.perf_counter(), cpu_seconds(), 0
    while (taken := time.perf_counter() - wall) < least:
        next(loader)
        count += 1
    return taken / count, (cpu_seconds() - cpu) / count


def parts(config, folder: Path, count: int) -> list[str]:
    """Median CPU milliseconds a patch, one thread: ArrayRecord's read, TFDS's own parsing, and a batch in whole."""
    builder, source = train_records(config, folder)
    raw, parse = source.data_source, builder.info.features.deserialize_example_np
    serialized, part = raw[0], batches._Part(config, folder, batches._splits(config, 0)[0])
    numbers = np.arange(config.batch_size)

    def median(call: Callable[[int], object], share: int = 1) -> str:
        marks = [time.process_time()]
        for number in range(count):
            call(number)
            marks.append(time.process_time())
        return f"{1000 * np.median(np.diff(marks)) / share:.2f}"

    return [
        median(lambda number: raw[number % len(raw)]),
        median(lambda _: parse(serialized)),
        median(lambda _: part.read(numbers), config.batch_size),
    ]


def table(*rows) -> str:
    rows = (rows[0], ["---"] * len(rows[0]), *rows[1:])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def machine() -> str:
    there = [name for name in LIBRARIES if importlib.util.find_spec(name.replace("-", "_"))]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in there)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{cpu()}, {cores} cores, load average {load:.1f} before the run; {versions}; {datetime.date.today()}."


def rates(turns: list[dict[str, tuple[float, float]]], config, megabytes: float) -> list[list[str]]:
    """The table's rows from the (wall, CPU) seconds a batch of each loader in each turn."""
    theirs = [name for name in turns[0] if name.startswith("PyTorch")]
    head = ["loader", "patches/s, median (range)", "MB/s", "CPU ms a patch", "MB a CPU second"]
    rows = [head + [f"x {name}" for name in theirs]]
    for name in turns[0]:
        wall, cpu = np.transpose([turn[name] for turn in turns]) / config.batch_size
        rate, busy = np.median(1 / wall), np.median(cpu)
        row = [name, f"{rate:.0f} ({1 / wall.max():.0f} to {1 / wall.min():.0f})", f"{megabytes * rate:.0f}"]
        row += [f"{1000 * busy:.1f}", f"{megabytes / busy:.0f}"]
        rows.append(row + [f"{np.median([turn[other][0] / turn[name][0] for turn in turns]):.2f}" for other in theirs])
    return rows


def compare(args, work: Path) -> str:
    """Build the patch set and its copies below `work`, measure, and return the report."""
    where, config = machine(), recipe(args, work / "prepared")
    packed = patch_dataset.prepare(config).folder
    builder, records = train_records(config, packed)
    plain = plain_copy(packed, work / "plain" / packed.parent.name / packed.name)
    mapped = mapped_copy(records, work / "mapped")
    for path in (*packed.iterdir(), *plain.iterdir(), *mapped.iterdir()):
        path.read_bytes()  # into the page cache

    loaders = {}
    for kind, folder, readings in (("as cut", packed, READINGS), ("uncompressed", plain, READINGS[:1])):
        for threads, ahead in readings:
            loaders[f"{kind}, threads {threads}, ahead {ahead}"] = ours(config, folder, threads, ahead)
    usual = next(iter(loaders))
    if importlib.util.find_spec("torch"):
        for workers in WORKERS:
            loaders[f"PyTorch, workers {workers}"] = pytorch(config, mapped, len(records), workers)
        one, other = next(ours(config, packed, *READINGS[0])), next(pytorch(config, mapped, len(records), 0))
        if not all(np.array_equal(one[name], other[name].numpy()) for name in ("image", "mask")):
            raise RuntimeError("the two loaders did not read the same records")
    turns = [{name: seconds_a_batch(loaders[name], args.seconds) for name in loaders} for _ in range(args.repeats)]

    batch = config.batch_size
    megabytes = sum(records[0][name].nbytes for name in ("image", "mask")) / 1e6
    rows = rates(turns, config, megabytes)
    shortest = 1000 * np.median([turn[usual][0] for turn in turns])
    disk = [["stored", "MB a patch", "share of the arrays' bytes"]]
    for name, folder in (("shards as cut", packed), ("shards, uncompressed", plain)):
        stored = sum(shard.stat().st_size for shard in folder.glob("*.array_record*")) / 1e6
        stored /= sum(split.num_examples for split in builder.info.splits.values())
        disk.append([name, f"{stored:.2f}", f"{stored / megabytes:.2f}"])
    disk.append(["memory-mapped arrays", f"{megabytes:.2f}", "1.00"])
    spent = [["CPU ms a patch, one thread", "ArrayRecord's read", "TFDS's parsing, not used", "a batch in whole"]]
    for name, folder in (("as cut", packed), ("uncompressed", plain)):
        spent.append([name, *parts(config, folder, args.calls)])
    voxels = "x".join(map(str, config.patch_size))
    what = (
        f"By `python -m benchmarks.loader`: {len(records)} patches of {'scans' if args.root else 'drawn phantoms'}, "
        f"{voxels} int16 with a uint8 mask, {megabytes:.2f} MB each, in batches of {batch}. {args.repeats} turns of "
        f"{args.seconds:g} s a loader, all files in the page cache. {where}"
    )
    notes = (
        ("" if len(rows[0]) > 5 else "PyTorch is not installed, so its rows are missing. ")
        + 'CPU time is of all threads and worker processes. "x" is patches/s over that row\'s in the same turn, the '
        f"median. Training uses the first row; it keeps up with steps of {shortest:.0f} ms or more. For scale, a step "
        f"of 0.1 s eats {batch / 0.1:.0f} patches/s, one of 0.3 s {batch / 0.3:.0f}; no step was measured here."
    )
    text = [textwrap.fill(paragraph, 120, break_on_hyphens=False) for paragraph in (what, notes)]
    return "\n\n".join(["# The loader", text[0], table(*rows), text[1], table(*disk), table(*spent)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs: small, short, no file written")
    parser.add_argument("--recipe", default="liver_voi", choices=RECIPES)
    parser.add_argument("--root", default="", help="folder of scans laid out as LiTS, instead of phantoms")
    parser.add_argument("--cases", type=int, default=6, help="scans or phantoms, 2 or more")
    parser.add_argument("--patches", type=int, default=16, help="patches a case")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each loader")
    parser.add_argument("--workdir", help="where to put the patches, removed after; default: the temporary folder")
    args = parser.parse_args()
    args.seconds, args.calls = 2.0, 100
    if args.quick:
        args.cases, args.patches, args.repeats, args.seconds, args.calls = 2, 4, 1, 0.2, 10
    with tempfile.TemporaryDirectory(prefix="loader-", dir=args.workdir) as work:
        text = compare(args, Path(work))
    print(text, end="")
    if not args.quick:
        files.write_text(RESULTS / RECIPES[args.recipe][1], text)


if __name__ == "__main__":
    main()
