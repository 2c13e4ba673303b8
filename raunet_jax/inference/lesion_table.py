"""The lesions of a case: how large each is, where it lies, how sure the networks are of it, and which were missed.

A lesion is a 26-connected component of tumor or, for recipes that segment one structure alone, of that structure. The
scores count by the LiTS program's rule instead (6 neighbors, see `raunet_jax.scores.lesions`), so that lesions which
touch at an edge or corner are one here and several there.
"""

import itertools
import os
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np

from raunet_jax import files
from raunet_jax.imaging.components import components
from raunet_jax.inference.cascade import Segmentation
from raunet_jax.tasks import stage_of

_CHUNK = 256  # hull vertices whose distances to all others are in memory at once


def lesions_of(
    found: Segmentation, stage: str, affine: np.ndarray, reference: np.ndarray | None = None
) -> list[dict] | None:
    """`tabulate` what the last stage of a cascade found; None where that stage looks for no lesions.

    Args:
        stage: the last stage.
        affine: (4, 4) of the volume, canonical index (x, y, z, 1) -> mm.
        reference: (z, y, x) labels. With them each row begins with "kind": the lesions "found" come first, then the
            reference lesions "missed", of which no voxel was found.
    """
    row = stage_of(stage)
    if not row.lesions:
        return None
    mask = found.labels >= row.foreground
    maps = (found.probabilities.get(row.map_name), found.votes, found.folds)
    if reference is None:
        return tabulate(mask, affine, *maps)
    there = reference >= row.foreground
    missed = [row for row in tabulate(there, affine, *maps, other=mask) if not row["matched"]]
    return [{"kind": "found"} | row for row in tabulate(mask, affine, *maps, other=there)] + [
        {"kind": "missed"} | row for row in missed
    ]


def tabulate(
    mask: np.ndarray,
    affine: np.ndarray,
    probability: np.ndarray | None = None,
    votes: np.ndarray | None = None,
    folds: int = 1,
    other: np.ndarray | None = None,
) -> list[dict]:
    """A row a lesion of `mask` (z, y, x), the largest first; numbers have six significant digits.

    Args:
        affine: (4, 4), index (x, y, z, 1) -> scanner coordinates in mm, RAS+.
        probability: (z, y, x) mean of the folds' probabilities.
        votes: (z, y, x) how many of the `folds` reach the threshold.
        other: (z, y, x) the mask that the lesions are looked for in.

    Returns:
        `volume_mm3`; `diameter_mm`, see `diameter_mm`; `centroid_mm` [x, y, z]; `mean_probability`; `agreement`, the
        mean over the lesion's voxels of the share of folds that reach the threshold there. None stands where there is
        no map, or one fold only. With `other` also `matched`, whether any voxel lies in it, and `overlap`, the share of
        the lesion's voxels that do.
    """
    voxel_mm3 = voxel_volume_mm3(affine)
    rows = []
    for lesion in components(mask):
        where, inside = lesion.slices, lesion.mask
        row = {
            "volume_mm3": _rounded(lesion.voxels * voxel_mm3),
            "diameter_mm": _rounded(diameter_mm(inside, affine)),
            "centroid_mm": [_rounded(mm) for mm in nib.affines.apply_affine(affine, lesion.centroid[::-1])],
            "mean_probability": None if probability is None else _mean(probability[where][inside]),
            "agreement": None if votes is None or folds < 2 else _mean(votes[where][inside] / folds),
        }
        if other is not None:
            overlap = other[where][inside] != 0
            row |= {"matched": bool(overlap.any()), "overlap": _mean(overlap)}
        rows.append(row)
    return rows


def diameter_mm(mask: np.ndarray, affine: np.ndarray) -> float:
    """The largest distance, in any direction in 3D, between two points of the voxels of `mask` (z, y, x, not empty).

    A voxel is the box that it fills, not its center: n voxels in a row measure n times the spacing, and a single voxel
    its own diagonal. Such a solid is never flat, so that the ends can always be looked for on its convex hull.
    """
    from scipy.spatial import ConvexHull  # imported here: it takes as long as all else of this module
    from scipy.spatial.distance import cdist

    corners = np.zeros([size + 1 for size in mask.shape], bool)
    for shift in itertools.product((0, 1), repeat=3):
        corners[tuple(slice(at, at + size) for at, size in zip(shift, mask.shape, strict=True))] |= mask
    rows = corners.any(axis=2)
    first, last = corners.argmax(axis=2), mask.shape[2] - corners[:, :, ::-1].argmax(axis=2)
    ends = np.concatenate([np.column_stack([np.argwhere(rows), column[rows]]) for column in (first, last)])
    hull_mm = ends[ConvexHull(ends).vertices, ::-1] @ affine[:3, :3].T
    return float(max(cdist(hull_mm[at : at + _CHUNK], hull_mm).max() for at in range(0, len(hull_mm), _CHUNK)))


def voxel_volume_mm3(affine: np.ndarray) -> float:
    """Of a voxel, also where a tilted gantry shears it, so that its volume is less than its edges' product."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def write_csv(path: str | os.PathLike, tables: Mapping[str, Sequence[Mapping]]) -> None:
    """Write the lesions of all cases, {case: rows}, a line each; lesions are counted from 1 in every case."""
    lines = []
    for case, rows in tables.items():
        for number, row in enumerate(rows, start=1):
            line = {"case": case, "lesion": number}
            for name, value in row.items():
                if name == "centroid_mm":
                    line |= {f"centroid_{axis}_mm": mm for axis, mm in zip("xyz", value, strict=True)}
                else:
                    line[name] = value
            lines.append(line)
    files.write_csv(path, lines, ["case", "lesion"])


def _mean(values: np.ndarray) -> float:
    return _rounded(values.mean(dtype=np.float64))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
