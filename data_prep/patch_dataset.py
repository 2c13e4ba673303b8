"""The patch set of a recipe: a sharded TFDS data set, split by patient, the same bytes every time it is built.

TFDS's ordinary writer is not used: its shuffler needs TensorFlow once a split passes 1 GiB, as LiTS does. `cutting`
writes the shards, a case at a time; what TFDS would have checked (unique keys) and shown (progress) is done here and
there. A killed build keeps its finished shards in `.building/` beside the set and goes on from there; the set itself
appears by one rename when all is written.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import absl.logging
import tensorflow_datasets as tfds

from data_prep import sampling
from data_prep.cases import find_cases, join_copies, split_cases, usable_cases
from data_prep.cutting import MANIFEST, Job, PatchSetError, cut_all, features, intact, records
from data_prep.fingerprints import Fingerprint, fingerprints
from data_prep.layouts import Case
from raunet_jax import files
from raunet_jax.imaging.geometry import Box

log = logging.getLogger("raunet_jax")

NAME = "raunet_patches"
SPLIT = "split.json"  # in a patch set, and in the folder of each stage trained on it: what `assign_splits` gives
VERSION = "1.0.0"  # of the data set's folder; what the bytes follow from is in the name above it
FORMAT = 2  # raise it when the same recipe and files would give other bytes


@dataclasses.dataclass(frozen=True)
class PatchSet:
    """A finished patch set."""

    folder: Path  # of the TFDS data set
    failed: tuple[tuple[str, str], ...]  # cases that had to be left out, with the reason
    counts: dict[str, int]  # records a split
    split: dict[str, dict[str, str | None]]  # as `assign_splits` gives it


def split_names(config) -> tuple[str, ...]:
    """The splits of a recipe's patch set, in the order of `cases.split_cases`."""
    if config.stage == "coarse":
        return ("train", "validation")
    return tuple(f"fold_{fold}" for fold in range(config.data.folds))


def folder(config, boxes: Mapping[str, Box] = MappingProxyType({})) -> Path:
    """Where the recipe's patch set lies, keyed by all that decides its bytes: recipe fields and the files' SHA-256.

    Raises:
      DataNotFound: no case under `config.data.root`.
    """
    cases = find_cases(config)
    return _folder(config, cases, fingerprints(cases, config), boxes)


def assign_splits(config) -> dict[str, dict[str, str | None]]:
    """How the recipe's cases are dealt out: by split, and "test", the content hash of each case by name.

    Raises:
      DataNotFound: no case under `config.data.root`. ValueError: too few patients, or fewer than two folds.
    """
    cases = find_cases(config)
    return _assign_splits(config, cases, fingerprints(cases, config))


def prepare(config, boxes: Mapping[str, Box] = MappingProxyType({})) -> PatchSet:
    """Build the recipe's patch set unless it is there, and say what it holds.

    `boxes` are the liver's by case name, in voxels, without margin; a case without one is cut around its reference.

    A case that cannot be used is left out, reported, and listed in `failed`. Only one process builds a set at a time;
    others wait for it. Files that were changed or repaired give another key, so that the set is built anew.

    Raises:
      DataNotFound: no case under `config.data.root`.
      PatchSetError: no case gave a patch, a worker process died, or a shard of a finished set is missing or cut short.
      OSError: too little free space (ENOSPC), or the folder cannot be written.
    """
    cases, incomplete = usable_cases(config)
    prints = fingerprints(cases, config)
    target = _folder(config, cases, prints, boxes)
    if not target.exists():
        with _alone(target.parent):
            if not target.exists():
                split = _assign_splits(config, cases, prints)
                _build(config, _jobs(config, cases, split, boxes), split, target)
    patch_set = _finished(target)
    for case, reason in patch_set.failed:
        log.warning(f"left out of the patch set: {case}: {reason}")
    left_out = tuple((case, f"{reason}; {remedy}") for case, reason, remedy in incomplete)
    return dataclasses.replace(patch_set, failed=left_out + patch_set.failed)


def key_beginning(config) -> str:
    """What the names of all patch sets of the recipe's stage and patch size begin with."""
    return f"{config.stage}_{'x'.join(str(int(length)) for length in config.patch_size)}_"


def damaged(folder: Path) -> list[str]:
    """Names of the shards in a finished patch set whose bytes are no longer those that were written."""
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]
    return [line["shard"] for line in lines if line.get("records") and not intact(folder / line["shard"], line)]


class LocalInfo(tfds.core.DatasetInfo):
    """Of a data set that is nobody's but the user's."""

    def initialize_from_bucket(self):
        """TFDS would look for a published copy, and leave an empty folder in the temporary one for each look."""


class RaunetPatches(tfds.core.GeneratorBasedBuilder):
    """The TFDS side of a build: names, features and splits; the shards are written by `cutting.cut_all`."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, config, jobs: list[Job], split: dict, staging: Path, prepared: Path, key: str):
        self._recipe, self._jobs, self._split, self._staging = config, jobs, split, staging
        builder_config = tfds.core.BuilderConfig(name=key, description=json.dumps(_recipe(config)))
        super().__init__(data_dir=prepared, config=builder_config, file_format="array_record")

    def _info(self) -> LocalInfo:
        return LocalInfo(builder=self, features=features(self._recipe), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: [job for job in self._jobs if job.split == split] for split in split_names(self._recipe)}

    def _generate_examples(self, job: Job):
        return records(self._recipe, job)

    def _generate_splits(self, dl_manager, download_config):
        lines = cut_all(self._recipe, self._jobs, self._staging)
        if not any(line.get("records") for line in lines.values()):
            reasons = [f"{case}: {line['failed']}" for case, line in lines.items() if "failed" in line]
            why = "; ".join(reasons[:5]) or f"stage {self._recipe.stage} keeps no patch of any of them"
            raise PatchSetError(
                f"none of the {len(lines)} cases gave a patch: {why}; --mode=verify says what is wrong with each"
            )
        splits = []
        for split, jobs in self._split_generators(dl_manager).items():
            template = self._get_filename_template(split_name=split)
            full = [line for line in (lines[job.case.name] for job in jobs) if line.get("records")]
            for index, line in enumerate(full):
                shard = Path(template.sharded_filepath(shard_index=index, num_shards=len(full)))
                _link(self._staging / line["shard"], shard)
                line["shard"] = shard.name
            if full:  # TFDS knows no empty split; whoever asks for one learns from the recipe that it is empty
                lengths = [line["records"] for line in full]
                splits.append(tfds.core.SplitInfo(split, lengths, sum(line["bytes"] for line in full), template))
        manifest = "".join(json.dumps(lines[job.case.name]) + "\n" for job in self._jobs)
        files.write_text(Path(self.data_path) / MANIFEST, manifest)
        files.write_json(Path(self.data_path) / SPLIT, self._split)
        return splits

    def _log_download_bytes(self):
        """TFDS would print a download to standard output, which is kept for results."""

    _log_download_done = _log_download_bytes


def _recipe(config) -> dict:
    """All that decides the bytes of a patch set, but for the files themselves."""
    data = config.data
    return {
        "format": FORMAT,
        "stage": config.stage,
        "seed": config.seed,
        "patch_size": list(config.patch_size),
        "window_hu": list(config.window_hu),
        "box_margin": config.box_margin,
        "source": data.source,
        "phantom_size": list(data.phantom_size) if data.source == "phantom" else [],
        "modalities": list(data.modalities),
        "foreground": list(data.foreground) if config.stage == "custom" else [],
        "repair": data.repair,
        "cases": data.cases,
        "test_cases": data.test_cases,
        "folds": data.folds,
        "validation_share": data.validation_share,
        "patches_per_case": data.patches_per_case,
        "tumor_share": data.foreground_fraction,  # under the name of its first days, or every patch set were cut anew
    }


def _folder(config, cases: list[Case], prints: dict[str, Fingerprint], boxes: Mapping[str, Box]) -> Path:
    of_cases = [
        [case.name, prints[case.name].files, case.channels, case.labels, boxes.get(case.name)] for case in cases
    ]
    key = [_recipe(config), of_cases]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    prepared = Path(config.data.prepared).expanduser().absolute()
    return prepared / NAME / (key_beginning(config) + digest[:16]) / VERSION


def _assign_splits(config, cases: list[Case], prints: dict[str, Fingerprint]) -> dict[str, dict[str, str | None]]:
    contents = {name: found.content for name, found in prints.items()}
    test, folds = split_cases(join_copies(cases, contents), config)
    parts = zip(("test", *split_names(config)), (test, *folds), strict=True)
    return {name: {case.name: contents[case.name] for case in part} for name, part in parts}


def _jobs(config, cases: list[Case], split: dict[str, dict], boxes: Mapping[str, Box]) -> list[Job]:
    place = {case: name for name, part in split.items() if name != "test" for case in part}
    kept = [case for case in cases if case.name in place]
    mean = sampling.mean_patches(config.stage, config.data.source, config.data.patches_per_case)
    return [
        Job(case, number, place[case.name], sampling.case_patches(number, mean), boxes.get(case.name))
        for number, case in enumerate(kept)
    ]


def _build(config, jobs: list[Job], split: dict[str, dict], target: Path) -> None:
    for abandoned in target.parent.glob("incomplete.*"):  # of killed builds: the lock is ours, so nobody writes there
        shutil.rmtree(abandoned)
    staging = target.parent / ".building"
    staging.mkdir(exist_ok=True)
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS warns about every builder config made at run time
    try:
        prepared, key = target.parent.parent.parent, target.parent.name
        builder = RaunetPatches(config, jobs, split, staging, prepared, key)
        builder.download_and_prepare(download_dir=staging)
    finally:
        absl.logging.set_verbosity(verbosity)
    shutil.rmtree(staging)


def _finished(target: Path) -> PatchSet:
    lines = [json.loads(line) for line in (target / MANIFEST).read_text(encoding="utf-8").splitlines()]
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["split"]] = counts.get(line["split"], 0) + line.get("records", 0)
        shard = target / line.get("shard", "")
        if line.get("records") and (not shard.is_file() or shard.stat().st_size != line["bytes"]):
            raise PatchSetError(f"{shard} is missing or cut short; delete {target} and it is built again")
    counts = {name: counts[name] for name in sorted(counts)}
    failed = tuple((line["case"], line["failed"]) for line in lines if "failed" in line)
    return PatchSet(target, failed, counts, json.loads((target / SPLIT).read_text(encoding="utf-8")))


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the set's lock, which the system drops when its holder dies."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{place} cannot be made ({error.strerror}); name a folder that can with --config.data.prepared"
        ) from error
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"another process is preparing {place}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links; a copy would need the space twice
        os.replace(source, target)
