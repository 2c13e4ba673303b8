"""Cutting a case into patches and writing them, by worker processes that may be killed and started again.

Every case becomes one ArrayRecord shard of its own, and one line of the manifest once the shard is whole, with its
SHA-256. A later run keeps the shards that match their lines and cuts the rest.
"""

import dataclasses
import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from ml_collections import ConfigDict

from data_prep import sampling
from data_prep.cases import read_case
from data_prep.layouts import Case
from data_prep.workers import workers
from raunet_jax import files, tasks
from raunet_jax.digests import sha256
from raunet_jax.errors import UserError
from raunet_jax.failures import explain
from raunet_jax.imaging import geometry, intensity, views
from raunet_jax.imaging.checks import admit
from raunet_jax.progress import progress

MANIFEST = "manifest.jsonl"
MANIFEST_SHAPE = {
    "case": str,
    "split": str,
    "records?": int,
    "bytes?": int,
    "sha256?": str,
    "shard?": str,
    "failed?": str,
}
SHARD_OPTIONS = "group_size:1,zstd:1"  # a record a group: read at random without unpacking its neighbors
TYPICAL_SLICES = 250  # slices a LiTS case gives to stage coarse (32,746 of 131), for the estimate of disk space
TYPICAL_COMPRESSION = 0.6


class PatchSetError(UserError):
    """A patch set that cannot be built or is damaged; the message names the folder and the remedy."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A case to cut.

    Attributes:
        case: its files.
        number: its place among the cases of the set.
        split: the split that its patches belong to.
        patches: how many; None: as the stage's sampler decides.
        liver_box: voxels of the volume, without margin; None: the reference liver's.
    """

    case: Case
    number: int
    split: str
    patches: int | None
    liver_box: geometry.Box | None = None

    @property
    def shard(self) -> str:
        return f"{self.number:05d}.array_record"


def features(config: ConfigDict) -> tfds.features.FeaturesDict:
    """What a record holds; `config.patch_size` and `config.data.modalities` are read.

    `image` int16 and `mask` uint8 are ([z,] y, x, channel), without z for single slices; `mask` is 1 on the stage's
    foreground. `low` and `high` (channel,) are the whole volume's, for `intensity.normalize`; `origin` is (z, y, x) in
    the stage's view.
    """
    x, y, z = (int(size) for size in config.patch_size)
    space = (y, x) if z == 1 else (z, y, x)
    channels = len(config.data.modalities)
    encoding = tfds.features.Encoding.BYTES
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(*space, channels), dtype=np.int16, encoding=encoding),
            "mask": tfds.features.Tensor(shape=(*space, 1), dtype=np.uint8, encoding=encoding),
            "low": tfds.features.Tensor(shape=(channels,), dtype=np.float32, encoding=encoding),
            "high": tfds.features.Tensor(shape=(channels,), dtype=np.float32, encoding=encoding),
            "case": tfds.features.Text(),
            "origin": tfds.features.Tensor(shape=(3,), dtype=np.int32),
        }
    )


def records(config: ConfigDict, job: Job) -> Iterator[dict]:
    """Yield the record of every patch of one case; depends on the recipe and this case alone.

    Raises:
        VolumeError: the files of the case cannot be used.
        ValueError: intensities that cannot be, or a mask that holds no liver, where the stage needs one.
    """
    volume, mask = read_case(job.case, config)
    admit(volume, job.case.images, config)
    kind = intensity.kind_of(config.data.modalities)
    encoded = intensity.encode(volume.voxels, kind, tuple(config.window_hu))
    del volume
    box = job.liver_box or geometry.bounding_box(mask > 0)
    view = views.view_for(config.stage, mask.shape, box, config)
    patch_shape = tuple(int(size) for size in reversed(config.patch_size))
    lowest = encoded.voxels.min((0, 1, 2))
    voxels, _ = geometry.pad_to(view.image(encoded.voxels), patch_shape, lowest)
    labels, _ = geometry.pad_to(view.mask(mask)[..., None], patch_shape, 0)
    low, high = encoded.low, encoded.high
    del encoded, mask
    foreground = tasks.stage_of(config.stage).foreground
    rng = np.random.default_rng([config.seed, *job.case.name.encode()])
    origins = sampling.patch_origins(
        config.stage, voxels, labels[..., 0], patch_shape, job.patches, config.data.foreground_fraction, rng
    )
    for origin in origins:
        window = tuple(slice(start, start + size) for start, size in zip(origin, patch_shape, strict=True))
        image, target = voxels[window], labels[window]
        if patch_shape[0] == 1:
            image, target = image[0], target[0]
        yield {
            "image": np.ascontiguousarray(image, np.int16),
            "mask": (target >= foreground).astype(np.uint8),
            "low": np.asarray(low, np.float32),
            "high": np.asarray(high, np.float32),
            "case": job.case.name,
            "origin": origin,
        }


def cut_all(config: ConfigDict, jobs: Sequence[Job], staging: Path) -> dict[str, dict]:
    """Cut every case that an earlier run did not finish; return the manifest line of each by name.

    A line says "case", "split" and either "records" (with "bytes", "sha256" and "shard" unless there are none) or
    "failed", the reason why the case cannot be used.

    Raises:
        PatchSetError: a worker process died, or a case failed for lack of memory or by an error of the disk.
        OSError: too little free space (ENOSPC).
    """
    lines = _kept(jobs, staging)
    todo = [job for job in jobs if job.case.name not in lines]
    _check_space(config, todo, staging)
    # A manifest cut short by a kill must not swallow the next line, so it is rewritten whole before it is added to.
    files.write_text(staging / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines.values()))
    with (
        (staging / MANIFEST).open("a", encoding="utf-8") as manifest,
        progress("cutting patches, cases", len(jobs), len(jobs) - len(todo)) as bar,
        workers(config, len(todo)) as pool,
    ):
        recipe = config.to_dict()
        try:
            running = [pool.submit(_cut, recipe, job, staging) for job in todo]
            for future in as_completed(running):
                line = future.result()
                lines[line["case"]] = line
                if "failed" not in line:  # a case that failed is tried again by the next run
                    manifest.write(json.dumps(line) + "\n")
                    manifest.flush()
                bar.advance(1, line["case"])
        except BrokenProcessPool as error:
            raise PatchSetError(
                f"a process cutting patches for {staging.parent} was killed, most likely for lack of memory; finished "
                "cases are kept: run the command again with fewer of them, such as --config.data.workers=1"
            ) from error
    transient = [f"{case}: {line['failed']}" for case, line in lines.items() if line.get("transient")]
    if transient:
        raise PatchSetError(
            f"{'; '.join(transient)}. The other cases are cut and kept: run the command again; where memory was short, "
            "with --config.data.workers=1"
        )
    return lines


def _kept(jobs: Sequence[Job], staging: Path) -> dict[str, dict]:
    """Manifest lines of an earlier, killed run whose shards are there, byte for byte."""
    if not (staging / MANIFEST).exists():
        return {}
    read, _ = files.read_json_lines(staging / MANIFEST, "delete it", MANIFEST_SHAPE)  # a case of another line is cut
    lines = {line["case"]: line for line in read}
    shards = {job.case.name: staging / job.shard for job in jobs}
    return {
        case: line
        for case, line in lines.items()
        if case in shards and (line.get("records") == 0 or intact(shards[case], line))
    }


def intact(shard: Path, line: dict) -> bool:
    return shard.is_file() and shard.stat().st_size == line.get("bytes") and sha256(shard) == line.get("sha256")


def _check_space(config: ConfigDict, todo: Sequence[Job], staging: Path) -> None:
    typical = config.data.phantom_size[2] if config.data.source == "phantom" else TYPICAL_SLICES
    patches = sum(typical if job.patches is None else job.patches for job in todo)
    voxel_bytes = 2 * len(config.data.modalities) + 1
    needed = int(patches * voxel_bytes * np.prod(config.patch_size) * TYPICAL_COMPRESSION)
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the patch set needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free",
            str(staging.parent),
        )


def _cut(recipe: dict, job: Job, staging: Path) -> dict:
    """Write the shard of one case; runs in a worker process. Returns its manifest line."""
    config = ConfigDict(recipe)
    line = {"case": job.case.name, "split": job.split}
    patches = records(config, job)
    try:
        first = next(patches, None)
    except UserError as error:  # also one that is a NotFound
        return line | {"failed": str(error)}
    except (OSError, MemoryError) as error:  # not for what the files hold: retried on the next run
        return line | {"failed": explain(error), "transient": True}
    except Exception as error:
        return line | {"failed": explain(error)}
    if first is None:
        return line | {"records": 0}
    encoder = features(config)
    serializer = tfds.core.example_serializer.ExampleSerializer(encoder.get_serialized_info())
    shard, count = staging / job.shard, 0
    with files.replacing(shard) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), SHARD_OPTIONS)
        for record in itertools.chain([first], patches):
            example = serializer.get_tf_example(encoder.encode_example(record))
            writer.write(example.SerializeToString(deterministic=True))  # else its map's order varies by process
            count += 1
        writer.close()
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
    return line | {"records": count, "bytes": shard.stat().st_size, "sha256": sha256(shard), "shard": shard.name}
