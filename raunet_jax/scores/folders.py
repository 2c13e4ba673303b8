"""Scoring a folder of masks against a folder of references; neither needs to have been made here."""

import logging
import os
import pathlib
import zlib

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from raunet_jax.imaging.volume import Grid, Volume, VolumeError, read_mask
from raunet_jax.names import case_name, natural, stem
from raunet_jax.progress import progress
from raunet_jax.scores.brats import score_brain_case, summarize_brain
from raunet_jax.scores.custom import score_custom_case, summarize_custom
from raunet_jax.scores.liver import score_liver_case, summarize_liver
from raunet_jax.scores.tables import write_scores

log = logging.getLogger("raunet_jax")

RULES = {
    "liver": (score_liver_case, summarize_liver, (0, 1, 2)),
    "brain": (score_brain_case, summarize_brain, (0, 1, 2, 3, 4)),
    "custom": (score_custom_case, summarize_custom, tuple(range(256))),
}


def score_folders(
    prediction_folder: str | os.PathLike,
    reference_folder: str | os.PathLike,
    output: str | os.PathLike,
    rule: str = "liver",
) -> tuple[dict, list[str]]:
    """Score every mask of `prediction_folder` against the one of `reference_folder` that belongs to the same case.

    Masks are NIfTI files at any depth. They belong together when their names agree once .nii, .nii.gz, the prefixes
    volume-, segmentation-, test-volume-, test-segmentation-, liver_ and the suffix _seg are taken off. In a folder
    where some names have segmentation- or _seg, the other files are taken for images and left alone.

    Args:
        output: path of the scores.json to write (and .csv beside it).
        rule: "liver" (LiTS), "brain" (BraTS, whole tumor) or "custom" (any one structure).

    Returns:
        The scores, and a sentence for every case that could not be scored: unreadable, another grid, no counterpart.

    Raises:
        FileNotFoundError: a folder does not exist or holds no NIfTI file.
        ValueError: not one case could be scored; names each reason.
    """
    if rule not in RULES:
        raise ValueError(f'rule is "{rule}"; it can be {" or ".join(RULES)}')
    score, summarize, labels = RULES[rule]
    predictions, problems = _masks(prediction_folder)
    references, reference_problems = _masks(reference_folder)
    problems += reference_problems
    problems += [
        f"{name}: {paths[name]} has no counterpart in {other}"
        for paths, others, other in (
            (predictions, references, reference_folder),
            (references, predictions, prediction_folder),
        )
        for name in sorted(paths.keys() - others.keys(), key=natural)
    ]
    cases = []
    both = sorted(predictions.keys() & references.keys(), key=natural)
    with progress("score", len(both)) as bar:
        for name in both:
            try:
                masks = _read_pair(predictions[name], references[name], labels)
            except VolumeError as error:
                problems.append(f"{name}: {error}")
                log.warning(problems[-1])
            else:
                cases.append({"case": name} | score(*masks))
            bar.advance(note=name)
    if not cases:
        raise ValueError("not one case could be scored:\n" + "\n".join(problems))
    scores = summarize(cases)
    write_scores(output, scores)
    return scores, problems


def as_stored(mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn a canonical (z, y, x) mask into the file's own axis order (k, j, i), with the spacing that goes with it.

    The LiTS program numbers lesions in the order of the file's array, see `raunet_jax.scores.lesions`.
    """
    spacing_mm = nib.affines.voxel_sizes(grid.affine) * grid.mm_per_unit
    return grid.from_canonical(mask).transpose(2, 1, 0), tuple(float(step) for step in spacing_mm[::-1])


def _masks(folder: str | os.PathLike) -> tuple[dict[str, pathlib.Path], list[str]]:
    folder = pathlib.Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that holds the masks (.nii or .nii.gz)")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .nii or .nii.gz file, at any depth; give the folder of the masks")
    marked = [path for path in paths if "segmentation-" in path.name or stem(path).endswith("_seg")]
    masks, problems = {}, []
    for path in marked or paths:
        name = case_name(path)
        if name in masks:
            problems.append(f"{name}: {path} left out, {masks[name]} is of the same case; keep one of them")
        else:
            masks[name] = path
    return masks, problems


def _read_pair(
    prediction: pathlib.Path, reference: pathlib.Path, labels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    try:
        image = nib.load(reference)
        grid = Grid(tuple(image.shape[:3]), image.affine, image.header)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise VolumeError(reference, f"cannot be read as NIfTI ({error})", "copy or convert it again") from error
    like = Volume(np.empty((0, 0, 0, 0)), grid.affine, grid, str(reference))
    # The reference first: what is wrong with it must not be blamed on the prediction.
    theirs, spacing_mm = as_stored(read_mask(reference, like, labels), grid)
    ours, _ = as_stored(read_mask(prediction, like, labels), grid)
    return ours, theirs, spacing_mm
