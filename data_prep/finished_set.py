"""A finished patch set: what it holds, by its own account, and whether its files still are what was written."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data_prep.cutting import MANIFEST, MANIFEST_SHAPE, PatchSetError, features, intact
from raunet_jax import files
from raunet_jax.errors import UserError
from raunet_jax.run_folder import SPLIT, SPLIT_SHAPE, Parts


@dataclasses.dataclass(frozen=True)
class PatchSet:
    """A finished patch set.

    Attributes:
        folder: of the TFDS data set.
        failed: (case, reason) of each case that had to be left out.
        counts: records a split.
        split: {split: {case: content hash}} as `assign_splits` gives it.
    """

    folder: Path
    failed: tuple[tuple[str, str], ...]
    counts: dict[str, int]
    split: Parts


def damaged(folder: Path) -> list[str]:
    """Names of the shards in a finished patch set whose bytes are no longer those that were written."""
    lines = _manifest(folder)
    return [line["shard"] for line in lines if line.get("records") and not intact(folder / line["shard"], line)]


def _manifest(target: Path) -> list[dict]:
    """The manifest's lines. Raises PatchSetError for one that is not whole."""
    try:
        lines, wrong = files.read_json_lines(target / MANIFEST, again(target), MANIFEST_SHAPE)
    except UserError as error:
        raise PatchSetError(str(error)) from None
    for error in wrong.values():
        raise PatchSetError(str(error))
    for line in lines:
        told = {"records", "failed"} & line.keys()
        whole = {"bytes", "sha256", "shard"} <= line.keys() and line["shard"] == Path(line["shard"]).name
        if len(told) != 1 or (line.get("records") and not whole):
            raise PatchSetError(f"{target / MANIFEST}: the line of {line['case']} is not whole; {again(target)}")
    return lines


def again(target: Path) -> str:
    return f"delete {target} and it is built again"


def read(target: Path, config: ConfigDict) -> PatchSet:
    """What the finished set says of itself.

    Raises:
        PatchSetError: one of its files is missing, cut short, or is not what was written.
    """
    lines = _manifest(target)
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["split"]] = counts.get(line["split"], 0) + line.get("records", 0)
        shard = target / line.get("shard", "")
        if line.get("records") and (not shard.is_file() or shard.stat().st_size != line["bytes"]):
            raise PatchSetError(f"{shard} is missing or cut short; {again(target)}")
    counts = {name: counts[name] for name in sorted(counts)}
    failed = tuple((line["case"], line["failed"]) for line in lines if "failed" in line)
    try:
        split = files.read_json(target / SPLIT, again(target), SPLIT_SHAPE)
    except UserError as error:
        raise PatchSetError(str(error)) from None
    _check_description(target, config, lines)
    return PatchSet(target, failed, counts, split)


def _check_description(target: Path, config: ConfigDict, lines: Sequence[dict]) -> None:
    """Raise PatchSetError where TFDS is told of other records than the manifest, or of records of other arrays."""
    expected, lengths = features(config), {}
    for line in lines:
        if line.get("records"):
            lengths.setdefault(line["split"], []).append(line["records"])
    info, described = target / "dataset_info.json", target / "features.json"
    try:
        builder = tfds.builder_from_directory(target)
        told = {name: list(split.shard_lengths) for name, split in builder.info.splits.items()}
        # Of another version of TFDS the file's text may be another one, but not what that version's features are here.
        same = files.read_json(described, again(target)) == expected.to_json()
        same = same or builder.info.features.to_json() == expected.to_json()
    except Exception as error:  # what a damaged file makes TFDS raise is no fixed set
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise PatchSetError(f"{info} or {described.name} cannot be used ({why}); {again(target)}") from error
    if told != lengths:
        raise PatchSetError(f"{info} tells of other records than {MANIFEST}; {again(target)}")
    if not same:
        raise PatchSetError(f"{described} tells of other arrays than this recipe cuts; {again(target)}")
