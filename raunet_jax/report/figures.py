"""Pictures of one case: outlines, agreement with the reference and probabilities in three planes; MR modalities."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.colors import to_rgba

from raunet_jax.imaging.components import largest_component
from raunet_jax.imaging.geometry import Box, bounding_box, whole
from raunet_jax.imaging.intensity import normalize
from raunet_jax.imaging.volume import Volume
from raunet_jax.report import drawing
from raunet_jax.report.planes import HEAT, PLANES, Cut, Plane, Sheet, scale_bar_mm

LIVER = {"liver": 1, "tumor": 2}  # a structure is all voxels whose label is at least this
BRAIN = {"whole tumor": 1}
CT_WINDOW_HU = (-100.0, 200.0)

_AGREEMENT_KEYS = [
    ("true positive", drawing.TRUE_POSITIVE, "fill"),
    ("false positive", drawing.FALSE_POSITIVE, "fill"),
    ("false negative", drawing.FALSE_NEGATIVE, "fill"),
]


def focus_point(*masks: np.ndarray | None) -> tuple[int, int, int] | None:
    """A voxel (z, y, x) in the middle of the largest piece of the highest label; None when every mask is empty.

    The highest label of any mask decides, so a tumor only the prediction shows goes before the reference's liver; of
    two masks that have it the first is taken. It is the piece's voxel closest to its centroid, because the centroid
    of a bent piece lies outside of it.
    """
    masks = [mask for mask in masks if mask is not None]
    highest = max((int(mask.max()) for mask in masks), default=0)
    if highest == 0:
        return None
    wanted = next(mask for mask in masks if mask.max() == highest) == highest
    box = bounding_box(wanted)
    voxels = np.argwhere(largest_component(wanted[box.slices].astype(np.uint8)))
    nearest = np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))
    return tuple(int(v) + a for v, a in zip(voxels[nearest], box.start, strict=True))


def agreement_colors(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(rows, columns) booleans -> (rows, columns, 4) RGBA: what was found lightly, what is wrong strongly painted."""
    painted = np.zeros((*prediction.shape, 4), np.float32)
    painted[prediction & reference] = to_rgba(drawing.TRUE_POSITIVE, 0.35)
    painted[prediction & ~reference] = to_rgba(drawing.FALSE_POSITIVE, 0.8)
    painted[~prediction & reference] = to_rgba(drawing.FALSE_NEGATIVE, 0.8)
    return painted


def heat_colors(probability: np.ndarray) -> np.ndarray:
    """(rows, columns) probabilities -> RGBA, more opaque the surer: where it is 0 the scan itself is seen."""
    probability = np.clip(np.nan_to_num(probability), 0, 1)
    painted = HEAT(0.15 + 0.85 * probability)
    painted[..., 3] = 0.6 * np.minimum(1, probability / 0.2)
    return painted


def _gray(volume: Volume, kind: str, window_hu, channel: int) -> Callable[[Plane, int], np.ndarray]:
    """A function (plane, index) -> (rows, columns) gray in [0, 1] of one channel."""
    voxels = volume.voxels[..., channel]
    low, high = window_hu
    if kind == "mr":  # MR units mean nothing in themselves, and its few brightest voxels are vessels and artifacts
        inside = voxels[voxels != 0]
        low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 1.0)
        low = min(low, 0.0)  # outside the head is 0; below it only where intensities were centered
    bounds = np.float32([low]), np.float32([high])
    return lambda plane, index: normalize(plane.cut(voxels, index)[..., None], *bounds)[..., 0]


def _patient(gray, focus, shape) -> Box:
    """The volume without the air around the patient, judged on the planes through `focus`."""
    start, stop = list(shape), [0, 0, 0]
    for plane in PLANES:
        tissue = gray(plane, focus[plane.axis])[::-1, ::-1] > 0
        for axis, across in zip(plane.rows_columns, (1, 0), strict=True):
            used = np.flatnonzero(tissue.mean(axis=across) > 0.01)  # a line of air has a noisy pixel at most
            if used.size:
                start[axis], stop[axis] = min(start[axis], int(used[0])), max(stop[axis], int(used[-1]) + 1)
    return Box(tuple(start), tuple(stop)) if all(a < b for a, b in zip(start, stop, strict=True)) else whole(shape)


def _outlines(reference, prediction) -> list[tuple[np.ndarray, str, str]]:
    both = [(reference, "reference", drawing.REFERENCE), (prediction, "prediction", drawing.PREDICTION)]
    return [outline for outline in both if outline[0] is not None]


def _around(parts: list[Box | None], shape, spacing_mm, margin_mm: float = 8.0) -> Box:
    """The smallest box around all `parts` with a margin; the whole volume when there is no part."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return whole(shape)
    margin = [int(np.ceil(margin_mm / s)) for s in spacing_mm]
    start = tuple(max(0, min(part.start[a] for part in parts) - margin[a]) for a in range(3))
    return Box(start, tuple(min(shape[a], max(part.stop[a] for part in parts) + margin[a]) for a in range(3)))


def case_planes(
    volume: Volume,
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    box: Box | None = None,
    probabilities: Mapping[str, np.ndarray] | None = None,
    structures: Mapping[str, int] = LIVER,
    kind: str = "ct",
    window_hu: tuple[float, float] = CT_WINDOW_HU,
) -> bytes:
    """PNG of axial, coronal and sagittal planes through the largest tumor, or the liver when there is none.

    Row by row: the whole scan with all outlines and the box the cascade worked in; then, closer, for each structure
    the voxels found, added and missed (when there is a reference); then each probability map as heat.

    Args:
      volume: voxels (z, y, x, channel), of which the last channel is shown, with its spacing in mm.
      reference, prediction: uint8 (z, y, x) label masks, or None where there is none.
      probabilities: name of a structure -> float32 (z, y, x) in [0, 1].
      structures: name -> lowest label that belongs to it.
      kind: "ct" is shown in `window_hu`, "mr" up to its 99.5th percentile.
    """
    shape, spacing_mm = volume.voxels.shape[:3], tuple(float(s) for s in volume.spacing_mm)
    gray = _gray(volume, kind, window_hu, channel=-1)
    focus = focus_point(reference, prediction) or tuple(n // 2 for n in shape)
    outlines = _outlines(reference, prediction)
    labeled = [bounding_box(mask) for mask, _, _ in outlines] + [box]
    overview = _around([_patient(gray, focus, shape), *labeled], shape, spacing_mm)
    close = _around(labeled, shape, spacing_mm)
    compared, probabilities = {}, dict(probabilities or {})
    if len(outlines) == 2:
        compared = {n: s for n, s in structures.items() if (reference >= s).any() or (prediction >= s).any()}

    def sizes_mm(shown: Box) -> list[tuple[float, float]]:
        limits = (plane.limits_mm(shown, shape, spacing_mm) for plane in PLANES)
        return [(right - left, bottom - top) for left, right, top, bottom in limits]

    views = [overview] + [close] * (len(compared) + len(probabilities))
    sheet = Sheet([sizes_mm(view) for view in views])

    def row(title: str, keys) -> list[Cut]:
        shown, cuts = views[sheet.rows_drawn], []
        bar_mm = scale_bar_mm(sizes_mm(shown)[0][0])
        for axes, plane in zip(sheet.row(title, keys), PLANES, strict=True):
            cut = Cut(axes, plane, focus[plane.axis], shape, spacing_mm, shown)
            cut.picture(gray(plane, cut.index))
            cut.annotate(bar_mm if plane.name == "axial" else None)
            cuts.append(cut)
        return cuts

    keys = [(name, color, "line") for _, name, color in outlines]
    for cut in row("Outlines", keys + [("box the cascade worked in", drawing.BOX, "dash")] * bool(box)):
        for mask, _, color in outlines:
            labels = cut.plane.cut(mask, cut.index)
            for lowest in structures.values():
                cut.contour(labels >= lowest, color)
        if box:
            cut.box(box)
    for name, lowest in compared.items():
        for cut in row(f"{name.capitalize()}: agreement with the reference", _AGREEMENT_KEYS):
            found, truth = (cut.plane.cut(mask, cut.index) >= lowest for mask in (prediction, reference))
            cut.picture(agreement_colors(found, truth), interpolation="nearest")
    for name, probability in probabilities.items():
        for cut in row(f"{name.capitalize()}: probability", [("1", "", "heat")]):
            cut.picture(heat_colors(cut.plane.cut(probability, cut.index)))
    return drawing.png_bytes(sheet.figure, palette=True)


def modality_planes(
    volume: Volume, names: tuple[str, ...], reference: np.ndarray | None, prediction: np.ndarray | None
) -> bytes:
    """PNG of the axial plane through the tumor in every modality of an MR case, outlines drawn over each.

    Layout after Fig. 11 of the RA-UNet paper: a patient's four scans beside the segmentation.
    """
    shape, spacing_mm = volume.voxels.shape[:3], tuple(float(s) for s in volume.spacing_mm)
    focus = focus_point(reference, prediction) or tuple(n // 2 for n in shape)
    axial = PLANES[0]
    grays = [_gray(volume, "mr", CT_WINDOW_HU, channel) for channel in range(len(names))]
    shown = _around([_patient(grays[0], focus, shape)], shape, spacing_mm)
    left, right, top, bottom = axial.limits_mm(shown, shape, spacing_mm)
    sheet = Sheet([[(right - left, bottom - top)] * len(names)])
    outlines = _outlines(reference, prediction)
    keys = [(name, color, "line") for _, name, color in outlines]
    bar_mm = scale_bar_mm(right - left)
    for name, gray, axes in zip(names, grays, sheet.row("Modalities, axial", keys), strict=True):
        cut = Cut(axes, axial, focus[0], shape, spacing_mm, shown)
        cut.picture(gray(axial, cut.index))
        for mask, _, color in outlines:
            cut.contour(axial.cut(mask, cut.index) >= 1, color)
        cut.annotate(bar_mm if name == names[0] else None, caption=name)
    return drawing.png_bytes(sheet.figure, palette=True)
