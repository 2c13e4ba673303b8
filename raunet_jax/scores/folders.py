"""Scoring a folder of masks against a folder of references; neither needs to have been made here."""

import logging
import os
import pathlib
import re
from collections.abc import Collection

import nibabel as nib
import numpy as np

from raunet_jax.errors import NotFound, UserError
from raunet_jax.files import look_below
from raunet_jax.imaging.nifti_reader import open_header
from raunet_jax.imaging.volume import Grid, Volume, VolumeError, is_prediction, read_mask
from raunet_jax.names import MASK_ENDING, NIFTI, case_name, natural, safe_name, stem
from raunet_jax.progress import progress
from raunet_jax.scores.rules import rule_named
from raunet_jax.scores.tables import write_scores

log = logging.getLogger("raunet_jax")


def score_folders(
    prediction_folder: str | os.PathLike,
    reference_folder: str | os.PathLike,
    output: str | os.PathLike,
    rule: str = "lits2017",
    structure: str = "",
    foreground: Collection[int] = (),
) -> tuple[dict, list[str]]:
    """Score every mask of `prediction_folder` against the one of `reference_folder` that belongs to the same case.

    Masks are NIfTI files at any depth. They belong together when their names agree once .nii, .nii.gz, the prefixes
    volume-, segmentation-, test-volume-, test-segmentation-, liver_ and the suffix _seg are taken off. In a folder
    where some names have segmentation- or _seg, the other files are taken for images and left alone.

    With `foreground` these labels are the one structure that is scored, and all others background: in the references
    and in the predictions. A mask that this program wrote (`is_prediction`) holds that structure as label 1 already,
    whatever its label was in the references; one with labels above 1, of a task of several structures, is not scored.

    Args:
        output: path of the scores.json to write (and .csv beside it).
        rule: row of `rules.RULES`: "lits2017", "brats" (whole tumor) or "custom" (any one structure).
        structure: name of a single structure, which its group of scores gets; "": the rule's.
        foreground: labels to be scored as one, as config.data.foreground has them; none: all above 0 by the rule.

    Returns:
        The scores, and a sentence for every case that could not be scored: unreadable, another grid, no counterpart.

    Raises:
        FileNotFoundError: a folder does not exist or holds no NIfTI file.
        ValueError: there is no such rule, or not one case could be scored; names each reason.
    """
    row = rule_named(rule)
    structure = structure or row.structure
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
    cases, empty = [], {prediction_folder: True, reference_folder: True}
    both = sorted(predictions.keys() & references.keys(), key=natural)
    with progress("score", len(both)) as bar:
        for name in both:
            try:
                ours, theirs, spacing_mm = _read_pair(predictions[name], references[name], row.labels, foreground)
            except VolumeError as error:
                problems.append(f"{name}: {error}")
                log.warning(problems[-1])
            else:
                cases.append({"case": name} | row.score_case(ours, theirs, spacing_mm, structure))
                empty[prediction_folder] &= not ours.any()
                empty[reference_folder] &= not theirs.any()
            bar.advance(note=name)
    if not cases:
        raise UserError("not one case could be scored:\n" + "\n".join(problems))
    for folder, nothing in empty.items():
        if foreground and nothing:
            log.warning(
                f"{folder}: not one mask holds a label of {tuple(foreground)} (config.data.foreground), so each is "
                "scored as empty; name the labels that its masks hold"
            )
    scores = row.summarize(cases, structure)
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
        raise NotFound(f"{folder} is not a folder; give the folder that holds the masks (.nii or .nii.gz)")
    tree = look_below(folder)
    paths = sorted(path for path in tree.files if NIFTI.fullmatch(path.name) and path.is_file())
    if not paths:
        raise NotFound(f"{folder} holds no .nii or .nii.gz file, at any depth; give the folder of the masks")
    marked = [path for path in paths if re.search(rf"segmentation-|{MASK_ENDING}$", stem(path), re.IGNORECASE)]
    masks = {}
    problems = [f"{place}: cannot be looked into ({why}); see that you may read it" for place, why in tree.locked]
    for path in marked or paths:
        name = safe_name(case_name(path))
        if name in masks:
            problems.append(f"{name}: {path} left out, {masks[name]} is of the same case; keep one of them")
        else:
            masks[name] = path
    return masks, problems


def _read_pair(
    prediction: pathlib.Path, reference: pathlib.Path, labels: Collection[int], foreground: Collection[int]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    grid = open_header(reference)[1]
    like = Volume(np.empty((0, 0, 0, 0)), grid.affine, grid, str(reference))
    # The reference first: what is wrong with it must not be blamed on the prediction.
    theirs, spacing_mm = as_stored(_read_labels(reference, like, labels, foreground), grid)
    ours, _ = as_stored(_read_labels(prediction, like, labels, foreground), grid)
    return ours, theirs, spacing_mm


def _read_labels(path: pathlib.Path, like: Volume, labels: Collection[int], foreground: Collection[int]) -> np.ndarray:
    """The labels of one mask on the canonical grid of `like`, (z, y, x) uint8; with `foreground` 0 and 1 alone."""
    if not foreground:
        return read_mask(path, like, labels)
    if is_prediction(path):  # its one structure was merged before it was sought; 2 would be of a model of another task
        return read_mask(path, like, (0, 1))
    return np.isin(read_mask(path, like, labels), tuple(foreground)).astype(np.uint8)
