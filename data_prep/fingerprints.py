"""What the files of a case hold, as hashes: to which patch set they belong, and which cases are one scan twice.

Scans are read once: the hashes are kept in `config.data.prepared`, and used again for files of the same path, size and
modification time.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from data_prep import cases as case_reading
from data_prep.layouts import Case
from data_prep.workers import workers
from raunet_jax.errors import FileError, NotFound, UserError
from raunet_jax.failures import explain
from raunet_jax.files import read_json, write_json
from raunet_jax.imaging.intensity import encode, kind_of
from raunet_jax.imaging.volume import Volume, VolumeError
from raunet_jax.names import is_hidden
from raunet_jax.progress import progress
from raunet_jax.tasks import task_of

log = logging.getLogger("raunet_jax")

CACHE = "fingerprints.json"
FORMAT = 2  # raise it when the same files would give another Fingerprint
WINDOW_HU = (-100, 200)  # of the liver, whatever the recipe's: contents are compared between runs
TELLING_SHARE = 0.01  # of the voxels must lie inside the window; with fewer, other scans would look the same
INT16 = (int(np.iinfo(np.int16).min), int(np.iinfo(np.int16).max))
SMALL = 256 << 20  # bytes: less than this is hashed here, without starting processes
SAVE_SECONDS = 20.0  # the longest stretch of reading that a kill can cost
UNREADABLE = "unreadable"


class Fingerprint(NamedTuple):
    files: str  # SHA-256 over names and bytes of all files of the case, mask included; or UNREADABLE
    content: str | None  # of the scan's intensities; None where it cannot be read, or holds too little to tell by
    labels: tuple[int, ...] | None = None  # above 0 in the mask, as stored; None: there is none that can be read


def fingerprints(cases: Sequence[Case], config: ConfigDict) -> dict[str, Fingerprint]:
    """The Fingerprint of each case by name; a file that cannot be read now is UNREADABLE and tried again next time.

    Args:
        cases: of differing names.
        config: a stage's recipe; `data.prepared` is where hashes are kept, `data.workers` how many processes read, and
            of `stage` and `data` counts what decides how a scan is read.

    Raises:
        RuntimeError: a worker process died.
    """
    cache = Path(config.data.prepared).expanduser() / CACHE
    known = _read_cache(cache)
    keys = {case.name: _key(case, config) for case in cases}
    todo = [case for case in cases if keys[case.name] not in known]
    if todo:
        size = sum(path.stat().st_size for case in todo for path in files_of(case))
        saved = time.monotonic()
        with progress("reading scans for the first time", len(cases), len(cases) - len(todo)) as bar:
            for case, found in _hash_all(todo, config, small=size < SMALL):
                known[keys[case.name]] = found
                bar.advance(1, case.name)
                if time.monotonic() - saved > SAVE_SECONDS:
                    _write_cache(cache, known)
                    saved = time.monotonic()
        _write_cache(cache, known)
    return {case.name: _as_hashed(*known[keys[case.name]]) for case in cases}


def _as_hashed(files: str, content: str | None, labels: Sequence[int] | None) -> Fingerprint:
    return Fingerprint(files, content, None if labels is None else tuple(labels))  # JSON has lists


def fingerprint(case: Case, config: ConfigDict) -> Fingerprint:
    """Hash one case.

    The content is that of a histogram of the intensities (of CT within the liver's window) and of the side lengths in
    order, so that two copies of a scan have one content however their axes lie and whatever file format they come in.
    """
    digest = hashlib.sha256()
    try:
        for name, path in _named_files(case):
            with path.open("rb") as file:
                digest.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        volume = case_reading.read_image(case, config)
        labels = _labels(case, volume, config)
    except VolumeError:
        return Fingerprint(digest.hexdigest(), None)
    except (OSError, MemoryError):
        return Fingerprint(UNREADABLE, None)
    except Exception as error:  # whoever uses the case says more of it
        log.warning(f"{case.name}: {explain(error)}")
        return Fingerprint(UNREADABLE, None)
    kind = kind_of(config.data.modalities)
    windowed = kind == "ct" and not task_of(config.stage).planned
    encoded = encode(volume.voxels, kind).voxels
    low, high = WINDOW_HU if windowed else INT16
    content = hashlib.sha256(repr(sorted(volume.shape)).encode())
    for channel in range(encoded.shape[-1]):
        shades = np.clip(encoded[..., channel], low, high).ravel().astype(np.int32) - low
        histogram = np.bincount(shades, minlength=high - low + 1).astype("<i8")
        if windowed and histogram[1:-1].sum() < TELLING_SHARE * shades.size:
            return Fingerprint(digest.hexdigest(), None, labels)
        content.update(histogram.tobytes())
    return Fingerprint(digest.hexdigest(), content.hexdigest(), labels)


def _labels(case: Case, volume: Volume, config: ConfigDict) -> tuple[int, ...] | None:
    try:
        return None if case.mask is None else case_reading.labels_present(case, volume, config)
    except VolumeError:
        return None


def files_of(case: Case) -> list[Path]:
    """Every file of a case, those in its DICOM folders too, hidden ones left out."""
    return [path for _, path in _named_files(case)]


def _named_files(case: Case) -> Iterator[tuple[str, Path]]:
    """(what tells the file apart from the case's others, its path); a structure's folder in 3DIRCADb is a name too."""
    for role, place in enumerate([*case.images, *([case.mask] if case.mask else [])]):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            inside = path.relative_to(place)
            if not any(map(is_hidden, inside.parts)) and path.is_file():
                yield f"{role}/{inside.as_posix()}", path


def _hash_all(cases: Sequence[Case], config: ConfigDict, small: bool) -> Iterator[tuple[Case, Fingerprint]]:
    if small:
        yield from ((case, fingerprint(case, config)) for case in cases)
        return
    with workers(config, len(cases)) as pool:
        recipe = config.to_dict()
        running = {pool.submit(_in_worker, case, recipe): case for case in cases}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process reading scans was killed, most likely for lack of memory; what was read is kept: run the "
                "command again with fewer of them, such as --config.data.workers=1"
            ) from error


def _in_worker(case: Case, recipe: dict) -> Fingerprint:
    return fingerprint(case, ConfigDict(recipe))


def _key(case: Case, config: ConfigDict) -> str:
    files = [[os.path.abspath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files_of(case)]
    planned = task_of(config.stage).planned
    how = [FORMAT, list(config.data.modalities), case.channels, config.data.repair, planned]
    return hashlib.sha256(json.dumps([files, how]).encode()).hexdigest()


def _read_cache(path: Path) -> dict[str, Sequence]:
    try:
        return read_json(path, "", {str: [str, (str, None), ([int], None)]})
    except (NotFound, FileError):  # none yet, or one that somebody cut short: it is made anew
        return {}


def _write_cache(path: Path, known: dict[str, Sequence]) -> None:
    """Add to what another process may have written meanwhile."""
    lasting = {key: found for key, found in known.items() if found[0] != UNREADABLE}
    try:
        write_json(path, _read_cache(path) | lasting)
    except OSError as error:
        log.warning(
            f"{path} cannot be written ({error.strerror}): scans will be read again; see --config.data.prepared"
        )
