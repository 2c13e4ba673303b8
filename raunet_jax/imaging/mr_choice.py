"""Which MR series of a study are the channels of a scan: one a modality, all of them on one grid."""

import itertools
from collections.abc import Sequence

import numpy as np

from raunet_jax.imaging.dicom_series import Series, listed
from raunet_jax.imaging.grid import GRID_TOLERANCE_MM
from raunet_jax.imaging.series_choice import ALL, AUTO, Choice, matching
from raunet_jax.imaging.series_words import mr_contrast, plain

_SAME = {"t1gd": "t1ce", "t1c": "t1ce", "t1post": "t1ce", "t1n": "t1", "t1w": "t1", "t2w": "t2", "t2f": "flair"}
_KNOWN = ("t1", "t1ce", "t2", "flair")
_REGISTER = (
    "register and resample them to one grid (BraTS Toolkit, CaPTk or ANTs do), and give them as NIfTI files, "
    "one a modality"
)


def choose_mr(study: Sequence[Series], wanted: str, modalities: Sequence[str]) -> Choice:
    """Which MR series of one study are the channels `modalities`, by description, contrast agent and echo times.

    `wanted`: unless it is auto or all, no series are looked at but those that `series_choice.matching` finds.
    """
    looked_at = list(study) if wanted in (AUTO, ALL) else matching(study, wanted)
    why = {one: "not named by --series" for one in study} | {one: _unfit(one) for one in looked_at}
    fit = [one for one in looked_at if not why[one]]
    if len(modalities) == 1 and _known(modalities[0]) == "":
        return _choose_single(study, fit, why, modalities[0], wanted)
    channels = {name: [one for one in fit if _shows(one, name)] for name in modalities}
    missing = [name for name, candidates in channels.items() if not candidates]
    if missing:
        problem = f"holds no MR series described as {' or '.join(missing)}; there is {listed(study)}"
        return Choice(tuple(study), (), _passed_over(study, why), problem)
    on_one_grid = [
        scan
        for first in next(iter(channels.values()))
        if (scan := tuple(_best(candidates, first) for candidates in channels.values())) and None not in scan
    ]
    if not on_one_grid:
        return Choice(tuple(study), (), _passed_over(study, why), _not_one_grid(channels))
    scan = min(on_one_grid, key=lambda scan: tuple(map(_rank, scan)))
    for name, one in zip(modalities, scan, strict=True):
        why |= {other: f"{name} is {one}" for other in channels[name] if other is not one}
    return Choice(tuple(study), (scan,), _passed_over(study, why, scan))


def _choose_single(study, fit: Sequence[Series], why: dict[Series, str], name: str, wanted: str) -> Choice:
    named = [one for one in fit if plain(name) in plain(one.description).split()] if wanted == AUTO else fit
    chosen = named or fit
    if wanted == AUTO and len(chosen) > 1:
        problem = f"holds {len(chosen)} MR series: {listed(chosen)}; choose one with --series"
        return Choice(tuple(study), (), _passed_over(study, why), problem)
    if not chosen:
        problem = f"holds no MR series that can be segmented; there is {listed(study)}"
        return Choice(tuple(study), (), _passed_over(study, why), problem)
    return Choice(tuple(study), tuple((one,) for one in chosen), _passed_over(study, why, chosen))


def _passed_over(study, why: dict[Series, str], chosen: Sequence[Series] = ()) -> tuple[tuple[Series, str], ...]:
    return tuple((one, why[one] or "none of the modalities") for one in study if one not in chosen)


def _unfit(one: Series) -> str:
    if one.modality != "MR":
        return f"{one.modality}, not MR"
    return "a single slice" if one.slices == 1 else ""


def _known(name: str) -> str:
    name = plain(name).replace(" ", "")
    name = _SAME.get(name, name)
    return name if name in _KNOWN else ""


def _shows(one: Series, name: str) -> bool:
    known = _known(name)
    return mr_contrast(one) == known if known else plain(name) in plain(one.description).split()


def _rank(one: Series) -> tuple:
    """Smaller is better: as scanned, many slices, first of the study."""
    return "DERIVED" in one.head.image_type, -one.slices, one.number or 0, one.key


def _best(candidates: Sequence[Series], like: Series) -> Series | None:
    return min((one for one in candidates if not _differences(one, like)), key=_rank, default=None)


def _differences(one: Series, other: Series) -> str:
    """In what the grids of two series differ; "" where they are one."""
    if (one.head.rows, one.head.columns, one.slices) != (other.head.rows, other.head.columns, other.slices):
        return f"{_size(one)} voxels, not {_size(other)}"
    if not np.allclose(one.head.orientation, other.head.orientation, atol=1e-2):
        return f"{one.plane} slices, not {other.plane}" if one.plane != other.plane else "slices turned against others"
    if not np.allclose(one.head.spacing, other.head.spacing, rtol=1e-2):
        return "pixels of another size"
    apart = max(np.linalg.norm(np.subtract(a, b)) for a, b in zip(one.ends, other.ends, strict=True))
    if apart > GRID_TOLERANCE_MM:
        return f"{apart:.1f} mm away"
    same_frame = one.facts.frame_of_reference == other.facts.frame_of_reference
    return "" if same_frame else "another frame of reference: the patient may have moved"


def _size(one: Series) -> str:
    return f"{one.head.columns}x{one.head.rows}x{one.slices}"


def _not_one_grid(channels: dict[str, list[Series]]) -> str:
    """For the grid that most modalities have a series on: which have none, and how their best one differs."""
    every = list(itertools.chain(*channels.values()))
    like = max(every, key=lambda first: sum(_best(candidates, first) is not None for candidates in channels.values()))
    on, off = [], []
    for name, candidates in channels.items():
        same = _best(candidates, like)
        one = same or min(candidates, key=_rank)
        (on if same else off).append(f"{name}: {one}" + ("" if same else f", {_differences(one, like)}"))
    return f"holds no {len(channels)} series on one grid: {'; '.join(on)}; but {'; '.join(off)}; {_REGISTER}"
