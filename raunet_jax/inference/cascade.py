"""From a scan to labels: localization, liver, tumor (sections III-E to III-G), or one network on the whole scan."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.imaging.components import largest_and_sizes
from raunet_jax.imaging.geometry import Box, View, bounding_box, expand, pad_to, resize_in_plane, whole
from raunet_jax.imaging.intensity import Encoded, encode, kind_of
from raunet_jax.imaging.views import view_for
from raunet_jax.imaging.volume import Volume
from raunet_jax.inference.windows import check_window, empty_windows, make_forward, predict_windows, window_origins
from raunet_jax.networks.folding import fold
from raunet_jax.networks.raunet import make_network

INFERENCE_FIELDS = ("threshold", "vote", "window")  # what a user may change after training
WHOLE_VOLUME = {"brain": "brain", "custom": "foreground"}  # stages that see a volume whole: name of their map
MAPS = {"coarse": "liver", "voi": "liver", "tumor": "tumor"} | WHOLE_VOLUME  # name of each stage's probability map
_SLAB = 32  # slices of a mask brought back to full size at once, so that a long CT's never lies in memory as float32
VOTES = ("mean", "majority")
RIVAL_SHARE = 0.5  # of the largest component's size, from which the second largest is worth a warning
Announce = Callable[[str, int], Callable[[int], None]]  # (stage, windows) -> advance(count)


class ModelMissing(FileNotFoundError):
    """A run folder lacks a trained model; the message names it and the command that trains it."""


@dataclasses.dataclass(frozen=True)
class StageModel:
    """The trained networks of one stage, one a fold, and the recipe they share."""

    config: ConfigDict
    variables: tuple[dict, ...]  # `params` and `batch_stats` of each fold, by `folding.fold`
    steps: tuple[int, ...] = ()  # of training, at which each was saved


@dataclasses.dataclass
class Segmentation:
    """What the cascade found in one volume; arrays are on the volume's canonical grid (z, y, x)."""

    labels: np.ndarray  # uint8: 0 background, 1 liver, 2 tumor; of brains 1 = whole tumor, of other tasks 1
    probabilities: dict[str, np.ndarray]  # float32 maps: "liver" and "tumor", or "brain", or "foreground"
    box: Box | None  # what stages 2 and 3 looked at
    warnings: list[str] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by stage
    votes: np.ndarray | None = None  # uint8: how many `folds` reach the threshold, of stage tumor, brain, custom
    folds: int = 1


def load_stage(run: pathlib.Path, folds: Sequence[int] | None = None) -> StageModel:
    """The best checkpoint of each fold trained in `run` (of those in `folds`). Raises ModelMissing."""
    trained = sorted(run.glob("fold_*/checkpoints"))
    if folds is not None:
        trained = [run / f"fold_{fold}" / "checkpoints" for fold in folds]
    config, variables, steps = None, [], []
    for folder in trained:
        step = None
        if folder.is_dir():
            with Checkpoints(folder) as checkpoints:
                step = checkpoints.best_step()
                if step is not None:
                    state = checkpoints.restore_tree(step)
                    config = checkpoints.recipe(step)
                    variables.append(fold(state))
                    steps.append(step)
        if step is None:
            raise ModelMissing(f"{folder} holds no checkpoint: this fold has not been trained; run --mode=train first")
    if config is None:
        raise ModelMissing(f"{run} holds no trained model (fold_K/checkpoints); run --mode=train first")
    return StageModel(config, tuple(jax.device_put(variables)), tuple(steps))


def load_cascade(
    workdir: pathlib.Path,
    config: ConfigDict | None = None,
    fold: int | None = None,
    stages: Sequence[str] | None = None,
) -> dict[str, StageModel]:
    """The StageModel of each stage (of `stages`) of the run in `workdir`, in the order they run.

    Thresholds, votes and windows are those of `config`, by default of the recipe saved in `workdir`. `fold` picks one
    model of the stages that have several. Raises FileNotFoundError when `workdir` is no run folder, ModelMissing when a
    stage was not trained, ValueError when its windows cannot be merged as asked for.
    """
    config = config or recipe.load(workdir / "config.json")
    models = {}
    for name, stage in recipe.stages_of(config).items():
        if stages is not None and name not in stages:
            continue
        run = workdir / name if "stages" in config else workdir
        model = load_stage(run, None if fold is None or name == "coarse" else [fold])
        with model.config.ignore_type():
            for field in INFERENCE_FIELDS:
                model.config[field] = stage[field]
        check_inference(model.config)
        models[name] = model
    return models


def check_inference(config: ConfigDict) -> None:
    """Raise ValueError for a stage's recipe by which windows cannot be merged, or folds not be joined."""
    check_window(config.window, _patch(config))
    if config.vote not in VOTES:
        raise ValueError(f"config.vote is {config.vote!r}; choose {' or '.join(VOTES)}")


def segment(
    volume: Volume,
    models: Mapping[str, StageModel],
    reference_liver: np.ndarray | None = None,
    announce: Announce = lambda stage, windows: lambda count: None,
) -> Segmentation:
    """Run the stages that `models` has, each on what the one before found.

    `reference_liver` (z, y, x) stands in for the result of a stage that is not there; without it the liver stage is
    given the whole volume, and the tumor stage raises ValueError. No liver, or no tumor, is an answer like any other:
    an empty mask and a warning.
    """
    kind = kind_of(next(iter(models.values())).config.data.modalities)
    found = Segmentation(np.zeros(volume.shape, np.uint8), {}, None)

    def timed(stage: str, function: Callable, *arguments):
        begin = time.monotonic()
        encoded = encode(volume.voxels, kind, tuple(models[stage].config.window_hu))  # stages may differ in it
        result = function(encoded, models[stage], *arguments, announce=announce)
        found.seconds[stage] = time.monotonic() - begin
        return result

    for stage, name in WHOLE_VOLUME.items():
        if stage in models:
            found.probabilities[name], found.labels, found.votes = timed(stage, _whole_view)
            found.folds = len(models[stage].variables)
            if not found.labels.any():
                found.warnings.append(f"{volume.name}: nothing found; the mask is empty")
            return found

    liver = reference_liver
    if "coarse" in models:
        probabilities, liver, sizes = timed("coarse", _locate_liver, "voi" not in models)
        if probabilities is not None:
            found.probabilities["liver"] = probabilities
        found.warnings += _rivals(volume.name, "coarse", sizes)
        if not liver.any() and len(models) > 1:
            found.warnings.append(f"{volume.name}: stage coarse found no liver; the whole volume is searched instead")
            liver = None
    if "voi" in models:
        box = whole(volume.shape) if liver is None or not liver.any() else bounding_box(liver)
        found.box = expand(box, models["voi"].config.box_margin, volume.shape)
        found.probabilities["liver"], liver, sizes = timed("voi", _segment_liver, box)
        found.warnings += _rivals(volume.name, "voi", sizes) + _cut(volume.name, liver, found.box)
    if liver is not None and liver.any():
        found.labels = liver.astype(np.uint8)
        margin = next(iter(models.values())).config.box_margin
        found.box = found.box or expand(bounding_box(liver), margin, volume.shape)
        if "tumor" in models:
            found.probabilities["tumor"], tumor, found.votes = timed("tumor", _segment_tumor, liver)
            found.folds = len(models["tumor"].variables)
            found.labels[tumor > 0] = 2
    elif liver is None and set(models) == {"tumor"}:
        raise ValueError(
            f"{volume.name}: stage tumor alone looks inside a liver that nobody has segmented; predict with the run "
            "of a whole cascade (--config=configs/liver.py)"
        )
    else:
        found.warnings.append(f"{volume.name}: no liver found; the mask is empty")
    return found


def _whole_view(encoded: Encoded, model: StageModel, announce: Announce):
    shape = encoded.voxels.shape[:3]
    return _vote(_fold_maps(encoded, model, view_for(model.config.stage, shape, None, model.config), announce), model)


def _locate_liver(encoded: Encoded, model: StageModel, keep_map: bool, announce: Announce):
    """The largest component is chosen on the small slices, as the paper does, and then brought back to full size.

    The probabilities are None unless they are to be kept: where stage voi runs, the liver's are those of that stage.
    """
    shape = encoded.voxels.shape[:3]
    view = view_for("coarse", shape, None, model.config)
    probabilities, mask, _ = _vote(_fold_maps(encoded, model, view, announce), model)
    largest, sizes = largest_and_sizes(mask)
    liver = np.empty(shape, bool)
    for first in range(0, shape[0], _SLAB):
        slab = largest[first : first + _SLAB].astype(np.float32)
        liver[first : first + _SLAB] = resize_in_plane(slab, shape[1:]) >= 0.5
    return resize_in_plane(probabilities, shape[1:]) if keep_map else None, liver, sizes


def _segment_liver(encoded: Encoded, model: StageModel, box: Box, announce: Announce):
    shape = encoded.voxels.shape[:3]
    view = view_for("voi", shape, box, model.config)
    in_plane = view.box.shape[1:]
    maps = (resize_in_plane(small, in_plane) for small in _fold_maps(encoded, model, view, announce))
    probabilities, mask, _ = _vote(maps, model)
    liver, sizes = largest_and_sizes(mask)
    return _embed(probabilities, view.box, shape), _embed(liver, view.box, shape), sizes


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


def _segment_tumor(encoded: Encoded, model: StageModel, liver: np.ndarray, announce: Announce):
    shape = encoded.voxels.shape[:3]
    view = view_for("tumor", shape, bounding_box(liver), model.config)
    probabilities, mask, votes = _vote(_fold_maps(encoded, model, view, announce), model)
    mask &= liver[view.box.slices] > 0
    return tuple(_embed(array, view.box, shape) for array in (probabilities, mask, votes))


def _embed(array: np.ndarray, box: Box, shape: tuple[int, int, int]) -> np.ndarray:
    """What was found in `box`, on the volume's grid: 0 outside, where nothing was looked for."""
    if array.shape == shape:
        return array
    out = np.zeros(shape, array.dtype)
    out[box.slices] = array
    return out


def _patch(config: ConfigDict) -> tuple[int, int, int]:
    return tuple(reversed(config.patch_size))


def _fold_maps(encoded: Encoded, model: StageModel, view: View, announce: Announce) -> Iterator[np.ndarray]:
    """Each fold's probabilities on the view's grid; a view thinner than a patch is padded and cropped again."""
    config, window, patch = model.config, model.config.window, _patch(model.config)
    step = tuple(stride or max(1, size // 2) for stride, size in zip(reversed(window.step), patch, strict=True))
    minimum = encoded.voxels.min(axis=(0, 1, 2))
    part = encoded.voxels[view.box.slices] if view.size is None else view.image(encoded.voxels)
    voxels, inner = pad_to(part, patch, minimum)
    # At or below `low` all intensities are the same to a network, which is then run for one such window.
    empty = empty_windows(voxels, encoded.low, patch, step) if window.skip_empty else None
    forward = make_forward(make_network(config, folded=True))
    count = len(window_origins(voxels.shape[:3], patch, step))
    advance = announce(config.stage, count * len(model.variables))
    for variables in model.variables:

        def probabilities(windows, variables=variables):
            return forward(variables, windows, encoded.low, encoded.high)

        settings = {"weights": window.weights, "mirror": window.mirror, "empty": empty}
        yield predict_windows(probabilities, voxels, patch, step, window.batch_size, advance, **settings)[inner]


def _vote(maps: Iterator[np.ndarray], model: StageModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability float32, mask uint8, votes uint8) of the folds' maps, one in memory beside the mean.

    The first map becomes the mean. Votes: how many folds' own probability reaches the threshold.

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
    return mean, mask.astype(np.uint8), votes
