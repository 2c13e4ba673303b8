"""Whether a finished patch set is what was written: its manifest, and what TFDS is told of it."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data_prep.cutting import MANIFEST, MANIFEST_SHAPE, PatchSetError, features
from raunet_jax import files
from raunet_jax.errors import UserError


def read_manifest(target: Path) -> list[dict]:
    """The manifest's lines. Raises PatchSetError for one that is not whole."""
    try:
        lines, wrong = files.read_json_lines(target / MANIFEST, remedy(target), MANIFEST_SHAPE)
    except UserError as error:
        raise PatchSetError(str(error)) from None
    for error in wrong.values():
        raise PatchSetError(str(error))
    for line in lines:
        told = {"records", "failed"} & line.keys()
        whole = {"bytes", "sha256", "shard"} <= line.keys() and line["shard"] == Path(line["shard"]).name
        if len(told) != 1 or (line.get("records") and not whole):
            raise PatchSetError(f"{target / MANIFEST}: the line of {line['case']} is not whole; {remedy(target)}")
    return lines


def remedy(target: Path) -> str:
    return f"delete {target} and it is built again"


def check_description(target: Path, config: ConfigDict, lines: Sequence[dict]) -> None:
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
        same = files.read_json(described, remedy(target)) == expected.to_json()
        same = same or builder.info.features.to_json() == expected.to_json()
    except Exception as error:  # what a damaged file makes TFDS raise is no fixed set
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise PatchSetError(f"{info} or {described.name} cannot be used ({why}); {remedy(target)}") from error
    if told != lengths:
        raise PatchSetError(f"{info} tells of other records than {MANIFEST}; {remedy(target)}")
    if not same:
        raise PatchSetError(f"{described} tells of other arrays than this recipe cuts; {remedy(target)}")
