"""What the files of a case hold, as hashes: to which patch set they belong, and which cases are one scan twice.

Scans are read once: the hashes are kept in `config.data.prepared`, and used again for files of the same path, size and
modification time.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep import cases as case_reading
from data_prep.layouts import Case
from data_prep.workers import workers
from raunet_jax.files import write_json
from raunet_jax.intensity import encode, kind_of
from raunet_jax.progress import progress

CACHE = "fingerprints.json"
WINDOW_HU = (-100, 200)  # whatever the recipe's: a content is to be compared between runs
SMALL = 256 << 20  # bytes: less than this is hashed here, without starting processes


class Fingerprint(NamedTuple):
    files: str  # SHA-256 over the bytes of all files of the case, mask included
    content: str | None  # of the scan's windowed intensities; None where it cannot be read


def fingerprints(cases: Sequence[Case], config: ConfigDict) -> dict[str, Fingerprint]:
    """The Fingerprint of each case by name."""
    cache = Path(config.data.prepared).expanduser() / CACHE
    known = _read_cache(cache)
    keys = {case.name: _key(case, config) for case in cases}
    todo = [case for case in cases if keys[case.name] not in known]
    if todo:
        size = sum(path.stat().st_size for case in todo for path in files_of(case))
        with progress("reading scans for the first time", len(cases), len(cases) - len(todo)) as bar:
            for case, found in _hash_all(todo, config, small=size < SMALL):
                known[keys[case.name]] = found
                bar.advance(1, case.name)
        write_json(cache, _read_cache(cache) | known)  # another process may have added to it meanwhile
    return {case.name: Fingerprint(*known[keys[case.name]]) for case in cases}


def fingerprint(case: Case, config: ConfigDict) -> Fingerprint:
    """Hash one case.

    The content is that of a histogram of the windowed voxels and of the side lengths in order, so that two copies of a
    scan have one content however their axes lie and whatever file format they come in.
    """
    digest = hashlib.sha256()
    for path in files_of(case):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    kind = kind_of(config.data.modalities)
    try:
        volume = case_reading.read_image(case, config)
        encoded = encode(volume.voxels, kind, WINDOW_HU).voxels
    except (ValueError, OSError, EOFError, MemoryError):
        return Fingerprint(digest.hexdigest(), None)
    low, high = WINDOW_HU if kind == "ct" else (0, np.iinfo(np.int16).max)
    content = hashlib.sha256(repr(sorted(volume.shape)).encode())
    for channel in range(encoded.shape[-1]):
        shades = np.clip(encoded[..., channel], low, high).ravel() - np.int16(low)
        content.update(np.bincount(shades, minlength=high - low + 1).astype("<i8").tobytes())
    return Fingerprint(digest.hexdigest(), content.hexdigest())


def files_of(case: Case) -> list[Path]:
    """Every file of a case, those in its DICOM folders too."""
    places = [*case.images, *([case.mask] if case.mask else [])]
    paths = [path for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [path for path in paths if path.is_file()]


def _hash_all(cases: Sequence[Case], config: ConfigDict, small: bool):
    if small:
        yield from ((case, fingerprint(case, config)) for case in cases)
        return
    with workers(config, len(cases)) as pool:
        yield from zip(cases, pool.map(_in_worker, cases, [config.to_dict()] * len(cases)), strict=True)


def _in_worker(case: Case, recipe: dict) -> Fingerprint:
    return fingerprint(case, ConfigDict(recipe))


def _key(case: Case, config: ConfigDict) -> str:
    files = [[os.path.abspath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files_of(case)]
    return hashlib.sha256(
        json.dumps([files, list(config.data.modalities), case.channels, config.data.repair]).encode()
    ).hexdigest()


def _read_cache(path: Path) -> dict[str, Sequence]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):  # none yet, or one that somebody cut short: it is made anew
        return {}
