"""From the shards of a patch set to batches: shuffled, shared out over processes, resumable at the exact batch.

Record numbers are shuffled and grouped into global batches first, and only then is each process's part of a batch read.
So n processes together see what one process sees, batch by batch and in the same order, and a position is one number.
Threads read ahead, not processes: what they do is decompression, which runs outside Python's lock.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from raunet_jax.errors import UserError
from raunet_jax.run_folder import TRAIN, VALIDATION, fold_part
from raunet_jax.tasks import stage_of

THREADS = 2  # that keep up with any network on a CPU, which needs the cores itself
THREADS_A_DEVICE = 4  # an accelerator; slices of 256x256, of which a busy core read 1,000 a second, need the most
AHEAD_BYTES = 2**30  # of batches held ahead, at most
VOXEL_BYTES = 2, 1  # of an image's channel and of a mask
ARRAYS = ("image", "mask", "low", "high")


def train_batches(config: ConfigDict, folder: Path, fold: int) -> Iterator[dict[str, Any]]:
    """Endless training batches of `fold`, reshuffled every epoch: of all other folds, of a single model those to train.

    Each is a dict of this process's part of the batch: image (b, [z,] y, x, c) int16, mask (b, [z,] y, x, 1) uint8, low
    and high (b, c) float32 of the whole volumes, case: names. b is `batch_size` over the number of processes. The
    iterator's `get_state()` is JSON-able, and `set_state` continues after the batch that was last taken.

    Args:
        config: `seed`, `batch_size`, `stage` and `data.folds` are read.
        folder: of the patch set's version.
        fold: that the batches leave out.

    Raises:
        ValueError: a fold or batch size that does not fit, or no record to train on.
        RuntimeError: from the iterator, a damaged shard.
    """
    splits, _ = _splits(config, fold)
    part = _Part(config, folder, splits)
    if not part.size:
        raise UserError(
            f"{folder} has no record to train fold {fold} on (splits {', '.join(splits)}); use more cases "
            "(config.data.cases), more patches (config.data.patches_per_case), or another seed"
        )
    numbers = grain.MapDataset.range(part.size).seed(config.seed).shuffle().repeat()
    return iter(numbers.batch(config.batch_size, drop_remainder=True).map(part.read).to_iter_dataset(part.reading))


def reading(config: ConfigDict) -> grain.ReadOptions:
    """How many threads read, and how many batches they hold ahead, two each unless memory forbids it.

    By the cores that this process may use, its own accelerators and the size of its batches; no batch depends on it.
    """
    threads, devices = THREADS, jax.local_device_count()
    if jax.default_backend() != "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(THREADS, min(cores - devices, THREADS_A_DEVICE * devices))
    image, mask = VOXEL_BYTES
    voxel = image * len(config.data.modalities) + mask
    size = voxel * math.prod(config.patch_size) * config.batch_size // jax.process_count()
    ahead = min(2 * threads, max(2, AHEAD_BYTES // max(1, size)))
    return grain.ReadOptions(min(threads, ahead), ahead)


def train_size(config: ConfigDict, folder: Path, fold: int) -> int:
    """Number of records that `fold` is trained on, over all processes together."""
    return len(_source(folder, _splits(config, fold)[0]))


def validation_batches(config: ConfigDict, folder: Path, fold: int) -> "ValidationBatches":
    """The batches of the split that `fold` is validated on, every record once, in order; see ValidationBatches.

    Raises:
        ValueError: a fold or batch size that does not fit.
    """
    return ValidationBatches(_Part(config, folder, _splits(config, fold)[1]))


@dataclasses.dataclass(frozen=True)
class ValidationBatches:
    """Iterable as often as wanted, with a length. Batches are those of `train_batches` with `valid` (b,) bool besides:
    the last one is filled up by repeating its last record, marked invalid, so that no shape is compiled twice and every
    process has the same number of batches. Empty where the split has no record."""

    part: "_Part"

    def __len__(self) -> int:
        return -(-self.part.size // self.part.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.part.size:
            return
        starts = grain.MapDataset.range(0, self.part.size, self.part.batch_size)
        yield from starts.map(self._read).to_iter_dataset(self.part.reading)

    def _read(self, start: int) -> dict[str, Any]:
        numbers = start + np.arange(self.part.batch_size)
        batch = self.part.read(np.minimum(numbers, self.part.size - 1))
        return batch | {"valid": self.part.of(numbers) < self.part.size}


class _Part:
    """This process's contiguous part of each global batch of the given splits."""

    def __init__(self, config: ConfigDict, folder: Path, splits: tuple[str, ...]):
        self._folder = folder
        self._source = _source(folder, splits)
        self._process, processes = jax.process_index(), jax.process_count()
        if config.batch_size < 1 or config.batch_size % processes:
            raise UserError(f"batch_size {config.batch_size} does not divide over {processes} processes")
        self.size, self.reading = len(self._source), reading(config)
        self.batch_size = config.batch_size
        self._local = config.batch_size // processes

    def of(self, batch: np.ndarray) -> np.ndarray:
        return batch[self._process * self._local : (self._process + 1) * self._local]

    def read(self, numbers: np.ndarray) -> dict[str, Any]:
        try:
            # One by one: given a list, the source starts a pool of threads for it alone, which took 1.4 times as long.
            stored = [self._source.data_source[number] for number in self.of(numbers)]
            records = [tf_example_pb2.Example.FromString(record).features.feature for record in stored]
            batch = {name: np.stack([self._array(record, name) for record in records]) for name in ARRAYS}
            names = [record["case"].bytes_list.value[0].decode() for record in records]
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"{self._folder} is damaged ({error}); delete it and it is built again from the scans"
            ) from error
        return batch | {"case": names}

    def _array(self, record, name: str) -> np.ndarray:
        """A view of what is stored; TFDS's own parsing copies it twice and takes 0.3 ms a record, half of all."""
        feature = self._source.dataset_info.features[name]
        return np.frombuffer(record[name].bytes_list.value[0], feature.np_dtype).reshape(feature.shape)


def _splits(config: ConfigDict, fold: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the splits that `fold` is trained and validated on."""
    if stage_of(config.stage).single_model:
        if fold != 0:
            raise UserError(
                f"stage {config.stage} has a single model, fold 0; fold {fold} was asked for (config.folds)"
            )
        return (TRAIN,), (VALIDATION,)
    if not 0 <= fold < config.data.folds:
        raise UserError(f"fold {fold} is not one of the {config.data.folds} folds of config.data.folds")
    names = [fold_part(number) for number in range(config.data.folds)]
    return tuple(name for name in names if name != names[fold]), (names[fold],)


def _source(folder: Path, splits: tuple[str, ...]):
    try:
        builder = tfds.builder_from_directory(folder)
        there = [split for split in splits if split in builder.info.splits]  # TFDS knows no empty split
        return builder.as_data_source(split="+".join(there)) if there else ()
    except Exception as error:  # what a damaged file makes TFDS raise is no fixed set
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UserError(f"{folder} is damaged ({why}); delete it and it is built again from the scans") from error
