import collections
import itertools
import json
import os
import shutil

import grain
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

import tiny_lits
from configs import liver_voi
from data_prep import patch_dataset
from raunet_jax.errors import UserError
from raunet_jax.training import batches


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tiny_lits.write(tmp_path_factory.mktemp("lits"))
    config = tiny_lits.recipe(root, tmp_path_factory.mktemp("prepared"))
    return config, patch_dataset.prepare(config).folder


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def identities(batch, keep=None):
    pairs = zip(batch["case"], batch["image"], strict=True)
    return [(case, image.tobytes()) for index, (case, image) in enumerate(pairs) if keep is None or keep[index]]


def stored(folder, split):
    source = tfds.builder_from_directory(folder).as_data_source(split=split)
    return collections.Counter((record["case"].decode(), record["image"].tobytes()) for record in source)


def test_a_batch_holds_what_the_network_and_normalize_need(built):
    config, folder = built
    batch = next(batches.train_batches(config, folder, 0))
    assert batch["image"].shape == (4, 8, 16, 16, 1) and batch["image"].dtype == np.int16
    assert batch["mask"].shape == (4, 8, 16, 16, 1) and batch["mask"].dtype == np.uint8
    assert batch["low"].shape == batch["high"].shape == (4, 1) and batch["low"].dtype == np.float32
    assert len(batch["case"]) == 4 and all(case.startswith("volume-") for case in batch["case"])


def test_a_stopped_loader_goes_on_at_the_exact_batch(built):
    config, folder = built
    expected = take(batches.train_batches(config, folder, 1), 11)
    loader = batches.train_batches(config, folder, 1)
    take(loader, 5)
    state = json.loads(json.dumps(loader.get_state()))
    resumed = batches.train_batches(config, folder, 1)
    next(resumed)
    resumed.set_state(state)
    for one, other in zip(take(resumed, 6), expected[5:], strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_batches_and_positions_are_the_same_with_any_number_of_threads(built, monkeypatch, threads):
    config, folder = built
    usual = batches.train_batches(config, folder, 1)
    expected = take(usual, 9)
    monkeypatch.setattr(batches, "reading", lambda config: grain.ReadOptions(threads, 2 * threads))
    other = batches.train_batches(config, folder, 1)
    for one, same in zip(take(other, 9), expected, strict=True):
        assert_same(one, same)
    assert other.get_state() == usual.get_state()


@pytest.mark.parametrize(
    ("platform", "cores", "devices", "patch", "threads", "ahead"),
    [
        ("cpu", 64, 1, (128, 128, 32), 2, 4),
        ("gpu", 2, 1, (256, 256, 1), 2, 4),
        ("gpu", 16, 1, (256, 256, 1), 4, 8),
        ("gpu", 16, 8, (128, 128, 32), 8, 16),
        ("gpu", 128, 8, (128, 128, 32), 32, 64),
        ("gpu", 128, 8, (512, 512, 256), 2, 2),  # 0.8 GB a batch
    ],
)
def test_threads_follow_cores_and_devices_and_what_they_hold_is_bounded(
    monkeypatch, platform, cores, devices, patch, threads, ahead
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    config = liver_voi.get_config()
    config.patch_size, config.batch_size = patch, 4
    options = batches.reading(config)
    assert (options.num_threads, options.prefetch_buffer_size) == (threads, ahead)


def test_a_record_is_read_as_tfds_reads_it(built):
    config, folder = built
    source = tfds.builder_from_directory(folder).as_data_source(split="fold_0")
    (first, *_) = batches.validation_batches(config, folder, 0)
    for number in range(4):
        for name in ("image", "mask", "low", "high"):
            read, expected = first[name][number], source[number][name]
            assert read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)
        assert first["case"][number] == source[number]["case"].decode()


def test_every_epoch_sees_each_record_once_in_another_order(built):
    config, folder = built
    config = config.copy_and_resolve_references()
    config.batch_size = 1
    size = batches.train_size(config, folder, 0)
    assert size == sum(stored(folder, "fold_1").values())
    seen = [identities(batch)[0] for batch in take(batches.train_batches(config, folder, 0), 2 * size)]
    assert collections.Counter(seen[:size]) == collections.Counter(seen[size:]) == stored(folder, "fold_1")
    assert seen[:size] != seen[size:]
    config.seed = 1
    other = [identities(batch)[0] for batch in take(batches.train_batches(config, folder, 0), size)]
    assert other != seen[:size]


def test_validation_visits_each_record_once_and_marks_the_filling(built):
    config, folder = built
    validation = batches.validation_batches(config, folder, 0)
    for _ in range(2):  # every epoch validates anew
        found = list(validation)
        assert len(found) == len(validation) == -(-sum(stored(folder, "fold_0").values()) // 4)
        seen = collections.Counter(itertools.chain(*(identities(batch, batch["valid"]) for batch in found)))
        assert seen == stored(folder, "fold_0")
        assert all(batch["image"].shape[0] == 4 == len(batch["case"]) for batch in found)
    filling = ~found[-1]["valid"]
    assert filling.sum() == -sum(stored(folder, "fold_0").values()) % 4 and filling.any()
    last_valid = np.flatnonzero(found[-1]["valid"])[-1]
    np.testing.assert_array_equal(found[-1]["image"][-1], found[-1]["image"][last_valid])


def test_folds_are_trained_on_the_others(built):
    config, folder = built
    trained = {case for batch in take(batches.train_batches(config, folder, 0), 20) for case in batch["case"]}
    validated = {case for batch in batches.validation_batches(config, folder, 0) for case in batch["case"]}
    assert trained and validated and not trained & validated


def test_a_batch_that_does_not_divide_over_the_processes_is_refused(built, monkeypatch):
    # that processes together read what one process reads is tested by two real ones, in test_two_processes.py
    config, folder = built
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 processes"):
        batches.train_batches(config, folder, 0)


def test_a_fold_without_records_validates_nothing_and_cannot_be_trained_on(built):
    config, folder = built
    config = config.copy_and_resolve_references()
    config.data.folds = 4  # folds 2 and 3 have no split in the set, as when none of their cases has tumor
    assert list(batches.validation_batches(config, folder, 3)) == []
    assert batches.train_size(config, folder, 3) == sum(stored(folder, "fold_0+fold_1").values())
    config.stage = "coarse"
    assert batches.train_size(config, folder, 0) == 0
    with pytest.raises(ValueError, match="no record to train fold 0 on"):
        batches.train_batches(config, folder, 0)


def test_a_fold_that_does_not_exist_is_said(built):
    config, folder = built
    with pytest.raises(ValueError, match="fold 2 is not one of the 2 folds"):
        batches.train_batches(config, folder, 2)
    config = config.copy_and_resolve_references()
    config.stage = "coarse"
    with pytest.raises(ValueError, match="single model, fold 0; fold 1"):
        batches.validation_batches(config, folder, 1)


def test_a_damaged_shard_names_the_folder_and_the_remedy(built, tmp_path):
    config, folder = built
    copy = tmp_path / "raunet_patches" / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    for shard in copy.glob("*.array_record-*"):
        content = bytearray(shard.read_bytes())
        content[200:4000] = bytes(3800)
        shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{copy} is damaged .* delete it"):
        take(batches.train_batches(config, copy, 0), 10)
