"""Pictures of one case: outlines, agreement with the reference and probabilities in three planes; MR modalities."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raunet_jax.imaging.components import largest_component
from raunet_jax.imaging.geometry import Box, bounding_box, whole
from raunet_jax.imaging.intensity import normalize
from raunet_jax.report import drawing
from raunet_jax.report.display import CaseImages, DisplaySettings
from raunet_jax.report.planes import PLANES, Cut, Key, Plane, Row, heat, scale_bar_mm, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MASK_KEYS = {
    "reference": Key("reference", drawing.REFERENCE, "line"),
    "prediction": Key("prediction", drawing.PREDICTION, "line"),
}
_BOX_KEY = Key("box the cascade worked in", drawing.BOX, "dash")
_AGREEMENT_KEYS = [
    Key("true positive", drawing.TRUE_POSITIVE, "fill"),
    Key("false positive", drawing.FALSE_POSITIVE, "fill"),
    Key("false negative", drawing.FALSE_NEGATIVE, "fill"),
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
    from matplotlib.colors import to_rgba

    painted = np.zeros((*prediction.shape, 4), np.float32)
    painted[prediction & reference] = to_rgba(drawing.TRUE_POSITIVE, 0.35)
    painted[prediction & ~reference] = to_rgba(drawing.FALSE_POSITIVE, 0.8)
    painted[~prediction & reference] = to_rgba(drawing.FALSE_NEGATIVE, 0.8)
    return painted


def heat_colors(probability: np.ndarray) -> np.ndarray:
    """(rows, columns) probabilities -> RGBA, more opaque the surer: where it is 0 the scan itself is seen."""
    probability = np.clip(np.nan_to_num(probability), 0, 1)
    painted = heat(0.15 + 0.85 * probability)
    painted[..., 3] = 0.6 * np.minimum(1, probability / 0.2)
    return painted


def _gray(case: CaseImages, settings: DisplaySettings, channel: int) -> Callable[[Plane, int], np.ndarray]:
    """A function (plane, index) -> (rows, columns) gray in [0, 1] of one channel."""
    voxels = case.volume.voxels[..., channel]
    low, high = settings.window_hu
    if settings.modality == "mr":  # MR units mean nothing in themselves, and the few brightest voxels are artifacts
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


def _around(parts: list[Box | None], shape, spacing_mm, margin_mm: float = 8.0) -> Box:
    """The smallest box around all `parts` with a margin; the whole volume when there is no part."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return whole(shape)
    margin = [int(np.ceil(margin_mm / s)) for s in spacing_mm]
    start = tuple(max(0, min(part.start[a] for part in parts) - margin[a]) for a in range(3))
    return Box(start, tuple(min(shape[a], max(part.stop[a] for part in parts) + margin[a]) for a in range(3)))


class _View(NamedTuple):
    """A row of three planes: which part of the volume they show, and what is painted over the scan."""

    title: str
    keys: list[Key]
    shown: Box
    paint: Callable[[Cut], None]


def case_planes(case: CaseImages, settings: DisplaySettings) -> "Figure":
    """Axial, coronal and sagittal planes through the largest piece of the innermost structure that there is.

    Row by row: the whole scan with all outlines and the box the cascade worked in; then, closer, for each structure
    the voxels found, added and missed (when there is a reference); then each probability map as heat. Of several
    channels the last is shown.
    """
    gray = _gray(case, settings, channel=-1)
    focus = _focus(case)
    labeled = [*map(bounding_box, case.masks.values()), case.box]
    overview = _around([_patient(gray, focus, case.shape), *labeled], case.shape, case.spacing_mm)
    close = _around(labeled, case.shape, case.spacing_mm)
    views = [
        _outlines(case, settings, overview),
        *_agreement(case, settings, close),
        *_probabilities(case, close),
    ]
    sizes = [[_size_mm(case, view.shown, plane) for plane in PLANES] for view in views]
    figure, rows = sheet([Row(view.title, view.keys, size) for view, size in zip(views, sizes, strict=True)])
    for view, size, panels in zip(views, sizes, rows, strict=True):
        for axes, plane in zip(panels, PLANES, strict=True):
            cut = Cut(axes, plane, focus[plane.axis], case.shape, case.spacing_mm, view.shown)
            cut.picture(gray(plane, cut.index))
            cut.annotate(scale_bar_mm(size[0][0]) if plane is PLANES[0] else None)
            view.paint(cut)
    return figure


def _focus(case: CaseImages) -> tuple[int, int, int]:
    return focus_point(case.reference, case.prediction) or tuple(length // 2 for length in case.shape)


def _size_mm(case: CaseImages, shown: Box, plane: Plane) -> tuple[float, float]:
    left, right, top, bottom = plane.limits_mm(shown, case.shape, case.spacing_mm)
    return right - left, bottom - top


def _outlines(case: CaseImages, settings: DisplaySettings, shown: Box) -> _View:
    def paint(cut: Cut) -> None:
        for name, mask in case.masks.items():
            labels = cut.plane.cut(mask, cut.index)
            for structure in settings.structures.values():
                cut.contour(labels >= structure.label, _MASK_KEYS[name].color)
        if case.box:
            cut.box(case.box)

    return _View("Outlines", [_MASK_KEYS[name] for name in case.masks] + [_BOX_KEY] * bool(case.box), shown, paint)


def _agreement(case: CaseImages, settings: DisplaySettings, shown: Box) -> list[_View]:
    """A row for each structure of which either mask has a voxel; none without a reference and a prediction."""
    if len(case.masks) < 2:
        return []

    def view(name: str, label: int) -> _View:
        def paint(cut: Cut) -> None:
            found, truth = (cut.plane.cut(mask, cut.index) >= label for mask in (case.prediction, case.reference))
            cut.picture(agreement_colors(found, truth), interpolation="nearest")

        return _View(f"{name.capitalize()}: agreement with the reference", _AGREEMENT_KEYS, shown, paint)

    highest = max(mask.max() for mask in case.masks.values())
    return [view(name, one.label) for name, one in settings.structures.items() if one.label <= highest]


def _probabilities(case: CaseImages, shown: Box) -> list[_View]:
    def view(name: str, probability: np.ndarray) -> _View:
        def paint(cut: Cut) -> None:
            cut.picture(heat_colors(cut.plane.cut(probability, cut.index)))

        return _View(f"{name.capitalize()}: probability", [Key("1", "", "heat")], shown, paint)

    return [view(name, probability) for name, probability in case.probabilities.items()]


def modality_planes(case: CaseImages, settings: DisplaySettings) -> "Figure":
    """The axial plane through the tumor in every channel of an MR case, outlines drawn over each.

    Layout after Fig. 11 of the RA-UNet paper: a patient's four scans beside the segmentation.
    """
    focus, axial = _focus(case), PLANES[0]
    channels = case.volume.voxels.shape[-1]
    named = len(settings.channels) == channels
    names = settings.channels if named else [f"channel {channel}" for channel in range(channels)]
    grays = [_gray(case, settings, channel) for channel in range(channels)]
    shown = _around([_patient(grays[0], focus, case.shape)], case.shape, case.spacing_mm)
    size = _size_mm(case, shown, axial)
    keys = [_MASK_KEYS[name] for name in case.masks]
    figure, (panels,) = sheet([Row("Modalities, axial", keys, [size] * channels)])
    for index, (name, gray, axes) in enumerate(zip(names, grays, panels, strict=True)):
        cut = Cut(axes, axial, focus[0], case.shape, case.spacing_mm, shown)
        cut.picture(gray(axial, cut.index))
        for mask_name, mask in case.masks.items():
            cut.contour(axial.cut(mask, cut.index) >= 1, _MASK_KEYS[mask_name].color)
        cut.annotate(None if index else scale_bar_mm(size[0]), caption=name)
    return figure
