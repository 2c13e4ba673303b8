"""From a scan to labels: localization, liver, tumor (sections III-E to III-G), or one network on the whole scan."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from raunet_jax import tasks
from raunet_jax.errors import UserError
from raunet_jax.imaging.components import largest_and_sizes
from raunet_jax.imaging.geometry import Box, View, bounding_box, expand, pad_to, resize_in_plane, whole
from raunet_jax.imaging.intensity import Encoded, encode, kind_of
from raunet_jax.imaging.views import view_for
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference.models import StageModel, patch_shape
from raunet_jax.inference.windows import empty_windows, make_forward, predict_maps, window_origins, windows_a_call
from raunet_jax.networks.raunet import make_network

RIVAL_SHARE = 0.5  # of the largest component's size, from which the second largest is worth a warning
_SLAB = 32  # slices of a mask brought back to full size at once, so that a long CT's never lies in memory as float32
Announce = Callable[[str, int], Callable[[int], None]]  # (stage, windows) -> advance(count)


@dataclasses.dataclass
class Segmentation:
    """What the stages so far found in one volume; arrays are on the volume's canonical grid (z, y, x)."""

    labels: np.ndarray  # uint8 label map. Liver: 0 background, 1 liver, 2 tumor. Brain: 1 whole tumor. Custom: 1
    probabilities: dict[str, np.ndarray]  # float32 maps by `tasks.Stage.map_name`
    box: Box | None = None  # the liver's with its margin, in which stages 2 and 3 look
    liver: np.ndarray | None = None  # mask that the next stage looks inside; None: none yet, or none any more
    warnings: list[str] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by stage
    votes: np.ndarray | None = None  # uint8: how many of the last stage's `folds` reach the threshold
    folds: int = 1


class _Scan(NamedTuple):
    """What a stage is given of a volume."""

    name: str  # of the case, for warnings
    encoded: Encoded
    later: tuple[str, ...]  # the stages that run after this one
    announce: Announce

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.encoded.voxels.shape[:3]


class _Vote(NamedTuple):
    """Of the folds of one stage, on the grid of its view."""

    mean: np.ndarray  # float32: mean probability
    mask: np.ndarray  # uint8
    votes: np.ndarray  # uint8: how many folds' own probability reaches the threshold


def segment(
    volume: Volume,
    models: Mapping[str, StageModel],
    reference_liver: np.ndarray | None = None,
    announce: Announce = lambda stage, windows: lambda count: None,
) -> Segmentation:
    """Run the stages that `models` has, each on what the ones before found.

    No liver, or no tumor, is an answer like any other: an empty mask and a warning.

    Args:
        volume: the scan.
        models: by stage, in any order.
        reference_liver: (z, y, x), stands in for the result of a stage that is not there; without it the liver stage
            is given the whole volume.
        announce: told of every stage and its number of windows; what it returns is told of windows done.

    Raises:
        UserError: stage tumor alone, and no `reference_liver` for it to look into; or a network gives NaN.
    """
    stages = [name for name in tasks.stage_names() if name in models]
    if reference_liver is None and needs_reference_liver(models):
        raise UserError(f"{volume.name}: stage {stages[0]} alone looks inside a liver that nobody has segmented")
    kind = kind_of(models[stages[0]].config.data.modalities)
    found = Segmentation(np.zeros(volume.shape, np.uint8), {}, liver=reference_liver)
    for number, stage in enumerate(stages, start=1):
        begin = time.monotonic()
        encoded = encode(volume.voxels, kind, tuple(models[stage].config.window_hu))  # stages may differ in it
        scan = _Scan(volume.name, encoded, tuple(stages[number:]), announce)
        found = _step_of(stage)(scan, models[stage], found)
        found.seconds[stage] = time.monotonic() - begin
    if not found.labels.any():
        what = "no liver" if "liver" in tasks.task_of(stages[0]).structures else "nothing"
        found.warnings.append(f"{volume.name}: {what} found; the mask is empty")
    return dataclasses.replace(found, liver=None)  # `labels` say as much


def needs_reference_liver(models: Mapping[str, StageModel]) -> bool:
    """Whether the first of the stages looks inside a liver that another stage should have found."""
    return _step_of(next(name for name in tasks.stage_names() if name in models)) is _segment_inside_liver


def _locate_liver(scan: _Scan, model: StageModel, found: Segmentation) -> Segmentation:
    """Stage 1. The largest component is chosen on the small slices, as the paper does, then brought back to full size.

    Its probabilities are kept only where no later stage gives those of the liver.
    """
    stage, shape = model.config.stage, scan.shape
    view = view_for(stage, shape, None, model.config)
    vote = _vote(_fold_maps(scan, model, view), model)
    largest, sizes = largest_and_sizes(vote.mask)
    liver = np.empty(shape, bool)
    for first in range(0, shape[0], _SLAB):
        slab = largest[first : first + _SLAB].astype(np.float32)
        liver[first : first + _SLAB] = resize_in_plane(slab, shape[1:]) >= 0.5
    name = tasks.stage_of(stage).map_name
    probabilities = {}
    if all(tasks.stage_of(later).map_name != name for later in scan.later):
        probabilities = {name: resize_in_plane(vote.mean, shape[1:])}
    warnings = _rivals(scan.name, stage, sizes)
    box = None
    if liver.any():
        box = expand(bounding_box(liver), model.config.box_margin, shape)
    elif scan.later:
        warnings.append(f"{scan.name}: stage {stage} found no liver; the whole volume is searched instead")
    return dataclasses.replace(
        found,
        labels=liver.view(np.uint8),
        liver=liver,
        box=box,
        probabilities=found.probabilities | probabilities,
        warnings=found.warnings + warnings,
    )


def _segment_liver(scan: _Scan, model: StageModel, found: Segmentation) -> Segmentation:
    """Stage 2, in the box around the liver that is known so far, or else in the whole volume."""
    stage, shape = model.config.stage, scan.shape
    box = whole(shape) if found.liver is None or not found.liver.any() else bounding_box(found.liver)
    view = view_for(stage, shape, box, model.config)
    in_plane = view.box.shape[1:]
    vote = _vote((resize_in_plane(small, in_plane) for small in _fold_maps(scan, model, view)), model)
    largest, sizes = largest_and_sizes(vote.mask)
    liver = _embed(largest, view.box, shape)
    probabilities = {tasks.stage_of(stage).map_name: _embed(vote.mean, view.box, shape)}
    return dataclasses.replace(
        found,
        labels=liver,
        liver=liver,
        box=view.box,
        probabilities=found.probabilities | probabilities,
        warnings=found.warnings + _rivals(scan.name, stage, sizes) + _cut(scan.name, liver, view.box),
    )


def _segment_inside_liver(scan: _Scan, model: StageModel, found: Segmentation) -> Segmentation:
    """Stage 3, at the scan's own resolution; voxels outside the liver are none of it."""
    if found.liver is None or not found.liver.any():
        return found
    stage, shape, liver_box = model.config.stage, scan.shape, bounding_box(found.liver)
    view = view_for(stage, shape, liver_box, model.config)
    vote = _vote(_fold_maps(scan, model, view), model)
    mask = vote.mask & (found.liver[view.box.slices] > 0)
    labels = (found.liver > 0).astype(np.uint8)
    labels[view.box.slices][mask > 0] = tasks.stage_of(stage).foreground
    probabilities = {tasks.stage_of(stage).map_name: _embed(vote.mean, view.box, shape)}
    return dataclasses.replace(
        found,
        labels=labels,
        box=found.box or view.box,
        probabilities=found.probabilities | probabilities,
        votes=_embed(vote.votes, view.box, shape),
        folds=len(model.variables),
    )


def _segment_volume(scan: _Scan, model: StageModel, found: Segmentation) -> Segmentation:
    """The one stage of a task that needs no liver."""
    stage = model.config.stage
    vote = _vote(_fold_maps(scan, model, view_for(stage, scan.shape, None, model.config)), model)
    probabilities = {tasks.stage_of(stage).map_name: vote.mean}
    return dataclasses.replace(
        found, labels=vote.mask, probabilities=probabilities, votes=vote.votes, folds=len(model.variables)
    )


_STEPS = {  # by what a stage is shown of a scan, and whether that is resized
    ("volume", True): _locate_liver,
    ("liver box", True): _segment_liver,
    ("liver box", False): _segment_inside_liver,
    ("volume", False): _segment_volume,
}


def _step_of(name: str) -> Callable[[_Scan, StageModel, Segmentation], Segmentation]:
    stage = tasks.stage_of(name)
    return _STEPS[stage.region, stage.resized]


def _rivals(name: str, stage: str, sizes: np.ndarray) -> list[str]:
    """A warning when the component that was dropped second could as well have been the liver."""
    if len(sizes) < 2 or sizes[1] < RIVAL_SHARE * sizes[0]:
        return []
    return [
        f"{name}: stage {stage} found two pieces of like size ({sizes[0]:,} and {sizes[1]:,} of the voxels it sees) "
        "and took the larger for the liver; look at it"
    ]


def _cut(name: str, liver: np.ndarray, box: Box) -> list[str]:
    """A warning when the liver reaches a side of the box that is no border of the volume: more may lie outside."""
    extent = bounding_box(liver)
    if extent is None:
        return []
    sides = [
        f"{axis} {voxel}"
        for axis, low, high, start, stop, size in zip("zyx", *extent, *box, liver.shape, strict=True)
        for voxel, touches in ((start, low == start > 0), (stop, high == stop < size))
        if touches
    ]
    return (
        [f"{name}: the liver reaches the edge of stage 1's box at {', '.join(sides)}; it may be cut"] if sides else []
    )


def _embed(array: np.ndarray, box: Box, shape: tuple[int, int, int]) -> np.ndarray:
    """What was found in `box`, on the volume's grid: 0 outside, where nothing was looked for."""
    if array.shape == shape:
        return array
    out = np.zeros(shape, array.dtype)
    out[box.slices] = array
    return out


def _fold_maps(scan: _Scan, model: StageModel, view: View) -> Iterator[np.ndarray]:
    """Each fold's probabilities on the view's grid; a view thinner than a patch is padded and cropped again."""
    encoded, config, window, patch = scan.encoded, model.config, model.config.window, patch_shape(model.config)
    step = tuple(stride or max(1, size // 2) for stride, size in zip(reversed(window.step), patch, strict=True))
    minimum = encoded.voxels.min(axis=(0, 1, 2))
    part = encoded.voxels[view.box.slices] if view.size is None else view.image(encoded.voxels)
    voxels, inner = pad_to(part, patch, minimum)
    # At or below `low` all intensities are the same to a network, which is then run for one such window.
    empty = empty_windows(voxels, encoded.low, patch, step) if window.skip_empty else None
    forward = make_forward(make_network(config, folded=True))
    count = len(window_origins(voxels.shape[:3], patch, step))
    advance = scan.announce(config.stage, count * len(model.variables))

    def of_fold(variables):
        return lambda windows: forward(variables, windows, encoded.low, encoded.high)

    settings = {"weights": window.weights, "mirror": window.mirror, "empty": empty}
    batch_size = windows_a_call(window.batch_size, patch)
    forwards = [of_fold(variables) for variables in model.variables]
    maps = predict_maps(forwards, voxels, patch, step, batch_size, advance, **settings)
    for number in range(1, len(forwards) + 1):
        try:
            yield next(maps)[inner]
        except FloatingPointError:
            raise UserError(
                f"{scan.name}: stage {config.stage}'s network {number} of {len(model.variables)} gives NaN in place of "
                "probabilities: its weights may be damaged (--mode=inspect), or the scan (--mode=verify)"
            ) from None


def _vote(maps: Iterator[np.ndarray], model: StageModel) -> _Vote:
    """Join the folds' maps, one in memory beside the mean; the first map becomes the mean.

    `mean`: foreground where the mean reaches the threshold. `majority`: where more than half of the folds reach it.
    """
    rule, threshold, folds = model.config.vote, model.config.threshold, len(model.variables)
    mean = next(maps)
    votes = (mean >= threshold).astype(np.uint8)
    for probabilities in maps:
        votes += probabilities >= threshold
        mean += probabilities
        del probabilities  # or it would lie in memory while the next is made
    mean /= np.float32(folds)
    mask = mean >= threshold if rule == "mean" else votes * 2 > folds
    return _Vote(mean, mask.astype(np.uint8), votes)
