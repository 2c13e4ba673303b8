"""The patch set of a recipe: a sharded TFDS data set, split by patient, the same bytes every time it is built.

TFDS's ordinary writer is not used: its shuffler needs TensorFlow once a split passes 1 GiB, as LiTS does. `cutting`
writes the shards, a case at a time, and TFDS describes them by `tfds.folder_dataset.write_metadata`. A killed build
keeps its finished shards in `.building/` beside the set and goes on from there; the set itself appears by one rename
when all is written.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data_prep import finished_set, sampling
from data_prep.cases import find_cases, join_copies, split_cases, usable_cases
from data_prep.cutting import MANIFEST, Job, PatchSetError, cut_all, features
from data_prep.fingerprints import Fingerprint, fingerprints
from data_prep.finished_set import PatchSet
from data_prep.layouts import Case
from raunet_jax import files, locks, tasks
from raunet_jax.imaging.geometry import Box
from raunet_jax.run_folder import SPLIT, TEST, TRAIN, VALIDATION, Parts, fold_part

log = logging.getLogger("raunet_jax")

NAME = "raunet_patches"
VERSION = "1.0.0"  # of the data set's folder; what the bytes follow from is in the name above it
FORMAT = 2  # raise it when the same recipe and files would give other bytes


def split_names(config: ConfigDict) -> tuple[str, ...]:
    """The splits of a recipe's patch set, in the order of `cases.split_cases`."""
    if tasks.stage_of(config.stage).single_model:
        return (TRAIN, VALIDATION)
    return tuple(fold_part(fold) for fold in range(config.data.folds))


def folder(config: ConfigDict, boxes: Mapping[str, Box] = MappingProxyType({})) -> Path:
    """Where the recipe's patch set lies, keyed by all that decides its bytes: recipe fields and the files' SHA-256.

    Raises:
        DataNotFound: no case under `config.data.root`.
    """
    cases = find_cases(config)
    return _folder(config, cases, fingerprints(cases, config), boxes)


def assign_splits(config: ConfigDict) -> Parts:
    """{split: {case: content hash}} of the recipe's cases, those held out under "test"; None where there is no hash.

    Raises:
        DataNotFound: no case under `config.data.root`.
        ValueError: too few patients, or fewer than two folds.
    """
    cases = find_cases(config)
    return _assign_splits(config, cases, fingerprints(cases, config))


def prepare(config: ConfigDict, boxes: Mapping[str, Box] = MappingProxyType({})) -> PatchSet:
    """Build the recipe's patch set unless it is there, and say what it holds.

    A case that cannot be used is left out, reported, and listed in `failed`. Only one process builds a set at a time;
    others wait for it. Files that were changed or repaired give another key, so that the set is built anew.

    Args:
        config: recipe of one stage; `stage`, `seed`, `data`, `patch_size`, `window_hu` and `box_margin` are read.
        boxes: the liver's by case name, in voxels, without margin; a case without one is cut around its reference.

    Raises:
        DataNotFound: no case under `config.data.root`.
        PatchSetError: no case gave a patch, a worker process died, or a shard of a finished set is missing or cut
            short.
        OSError: too little free space (ENOSPC), or the folder cannot be written.
    """
    cases, incomplete = usable_cases(config)
    prints = fingerprints(cases, config)
    target, split = _folder(config, cases, prints, boxes), _assign_splits(config, cases, prints)
    if not target.exists():
        with _alone(target.parent):
            if not target.exists():
                _build(config, _jobs(config, cases, split, boxes), split, target)
    patch_set = finished_set.read(target, config)
    if patch_set.split != split:
        raise PatchSetError(
            f"{target / SPLIT} holds another split than this recipe makes; {finished_set.again(target)}"
        )
    for case, reason in patch_set.failed:
        log.warning(f"left out of the patch set: {case}: {reason}")
    left_out = tuple((case, f"{reason}; {remedy}") for case, reason, remedy in incomplete)
    return dataclasses.replace(patch_set, failed=left_out + patch_set.failed)


def key_beginning(config: ConfigDict) -> str:
    """What the names of all patch sets of the recipe's stage and patch size begin with."""
    return f"{config.stage}_{'x'.join(str(int(length)) for length in config.patch_size)}_"


def finished(config: ConfigDict) -> list[Path]:
    """Folders of the finished sets of the recipe's stage and patch size, whatever cases they are of."""
    prepared = Path(config.data.prepared).expanduser() / NAME
    return sorted(path.parent for path in prepared.glob(f"{key_beginning(config)}*/{VERSION}/{MANIFEST}"))


def _recipe(config: ConfigDict) -> dict:
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
        "foreground": list(data.foreground) if tasks.task_of(config.stage).merged else [],
        "repair": data.repair,
        **({"check": data.check} if data.check != "refuse" else {}),  # sets cut before it was a field keep their key
        "cases": data.cases,
        "test_cases": data.test_cases,
        "folds": data.folds,
        "validation_share": data.validation_share,
        "patches_per_case": data.patches_per_case,
        "tumor_share": data.foreground_fraction,  # the field's first name: with today's, every set would be cut anew
    }


def _folder(
    config: ConfigDict, cases: Sequence[Case], prints: Mapping[str, Fingerprint], boxes: Mapping[str, Box]
) -> Path:
    of_cases = [
        [case.name, prints[case.name].files, case.channels, case.labels, boxes.get(case.name)] for case in cases
    ]
    key = [_recipe(config), of_cases]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    prepared = Path(config.data.prepared).expanduser().absolute()
    return prepared / NAME / (key_beginning(config) + digest[:16]) / VERSION


def _assign_splits(config: ConfigDict, cases: Sequence[Case], prints: Mapping[str, Fingerprint]) -> Parts:
    contents = {name: found.content for name, found in prints.items()}
    test, folds = split_cases(join_copies(cases, contents), config)
    parts = zip((TEST, *split_names(config)), (test, *folds), strict=True)
    return {name: {case.name: contents[case.name] for case in part} for name, part in parts}


def _jobs(config: ConfigDict, cases: Sequence[Case], split: Parts, boxes: Mapping[str, Box]) -> list[Job]:
    place = {case: name for name, part in split.items() if name != TEST for case in part}
    kept = [case for case in cases if case.name in place]
    mean = sampling.mean_patches(config.stage, config.data.source, config.data.patches_per_case)
    return [
        Job(case, number, place[case.name], sampling.case_patches(number, mean), boxes.get(case.name))
        for number, case in enumerate(kept)
    ]


def _build(config: ConfigDict, jobs: Sequence[Job], split: Parts, target: Path) -> None:
    """Cut what is not cut yet, and let the whole set appear as `target` at once."""
    for abandoned in target.parent.glob("incomplete.*"):  # of killed builds: the lock is ours, so nobody writes there
        shutil.rmtree(abandoned)
    staging = target.parent / ".building"
    staging.mkdir(exist_ok=True)
    lines = cut_all(config, jobs, staging)
    if not any(line.get("records") for line in lines.values()):
        reasons = [f"{case}: {line['failed']}" for case, line in lines.items() if "failed" in line]
        why = "; ".join(reasons[:5]) or f"stage {config.stage} keeps no patch of any of them"
        raise PatchSetError(
            f"none of the {len(lines)} cases gave a patch: {why}; --mode=verify says what is wrong with each"
        )
    incomplete = target.with_name(f"incomplete.{target.name}")
    incomplete.mkdir()
    _assemble(config, [lines[job.case.name] for job in jobs], split, staging, incomplete)
    os.rename(incomplete, target)
    shutil.rmtree(staging)


def _assemble(config: ConfigDict, lines: Sequence[dict], split: Parts, staging: Path, place: Path) -> None:
    """Make `place` a TFDS data set of the shards in `staging`, with split.json and a manifest of `lines`."""
    manifest = {line["case"]: line for line in lines}
    split_infos = []
    for name in split_names(config):
        template = tfds.core.ShardedFileTemplate(
            data_dir=place, dataset_name=NAME, split=name, filetype_suffix="array_record"
        )
        full = [line for line in lines if line["split"] == name and line.get("records")]
        for index, line in enumerate(full):
            shard = Path(template.sharded_filepath(shard_index=index, num_shards=len(full)))
            _link(staging / line["shard"], shard)
            manifest[line["case"]] = line | {"shard": shard.name}
        if full:  # TFDS knows no empty split; whoever asks for one learns from the recipe that it is empty
            lengths = [line["records"] for line in full]
            split_infos.append(tfds.core.SplitInfo(name, lengths, sum(line["bytes"] for line in full), template))
    tfds.folder_dataset.write_metadata(
        data_dir=place,
        features=features(config),
        split_infos=split_infos,
        version=VERSION,
        check_data=False,  # it would read a record through TensorFlow
        description=json.dumps(_recipe(config)),
        disable_shuffling=True,
    )
    files.write_text(place / MANIFEST, "".join(json.dumps(line) + "\n" for line in manifest.values()))
    files.write_json(place / SPLIT, split)


def _alone(place: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the set's lock, waiting for whoever has it."""
    return locks.alone(place, lambda holder: log.info(f"{holder} is preparing {place}; waiting for it"))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links; a copy would need the space twice
        os.replace(source, target)
