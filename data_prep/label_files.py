"""Which files of a folder hold labels or results and no scan, in the layouts that data sets and predictions come in."""

import functools
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from data_prep import brats_names
from data_prep.layouts import LITS_FILE
from raunet_jax.imaging.label_maps import is_label_map, is_stored_in_bytes
from raunet_jax.imaging.volume import is_prediction
from raunet_jax.names import MASK_ENDING, NIFTI, REFERENCE_ENDING, SCANNED_MASK_ENDING, UNCERTAINTY_ENDING
from raunet_jax.tasks import map_names

# Of the Decathlon, nnU-Net, AMOS; of 3DIRCADb.
LABEL_FOLDERS = re.compile(r"labels(tr|ts|va|val)|masks_dicom|labelled_dicom", re.IGNORECASE)
# Of TotalSegmentator and many others; but such a name alone does not make labels of scans.
LIKELY_FOLDERS = re.compile(r"labels?|masks?|segmentations?|segs?|gt|ground_?truth", re.IGNORECASE)
ANY_LABELS = 128  # different values that a label map in such a folder may hold: TotalSegmentator has 117 structures


def label_files(files: Sequence[pathlib.Path], root: pathlib.Path) -> set[pathlib.Path]:
    """Which of `files`, all of those below `root`, are labels, masks or results.

    All below a folder that a data set's makers keep labels in; what lies beside the scan, or the mask, that it belongs
    to, see `_beside`; and NIfTI files that hold labels by their values: a few, or more in a folder that is called so.
    """
    inside = {path: (root.absolute().name, *path.relative_to(root).parts[:-1]) for path in files}
    labels = {path for path, folders in inside.items() if any(map(LABEL_FOLDERS.fullmatch, folders))}
    by_folder = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    for beside in by_folder.values():
        labels |= _beside(beside)
    labels |= _segmentations(files)
    for beside in by_folder.values():
        unknown = [path for path in beside if path not in labels and NIFTI.fullmatch(path.name) and path.is_file()]
        likely = any(map(LIKELY_FOLDERS.fullmatch, inside[beside[0]]))
        labels |= _in_a_likely_folder(unknown) if likely else set(filter(is_label_map, unknown))
    return labels


def _in_a_likely_folder(files: Sequence[pathlib.Path]) -> set[pathlib.Path]:
    """Which files of a folder that is called so hold labels, were it none at all, as of an organ that is not there.

    Once one does, the others are known by their type alone: TotalSegmentator has 117 of them a scan.
    """
    holds = functools.partial(is_label_map, most=ANY_LABELS, empty=True)
    if not any(map(holds, files)):
        return set()
    return {path for path in files if is_stored_in_bytes(path) or holds(path)}


def _segmentations(files: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """The segmentation-N whose volume-N is there, wherever it lies."""
    numbered = [(path, match) for path in files if (match := LITS_FILE.fullmatch(path.name))]
    volumes = {int(match[2]) for _, match in numbered if match[1].lower() == "volume"}
    return {path for path, match in numbered if match[1].lower() == "segmentation" and int(match[2]) in volumes}


def _beside(files: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Which NIfTI files of one folder lie beside the scan, or the mask, that they belong to.

    NAME_seg beside NAME (or its first channel, NAME_0000, or a modality of BraTS), or written by predict; NAME_liver,
    NAME_uncertainty and the like beside such a NAME_seg. A lone P1_brain is a scan: skull-stripped MR are called so.
    """
    names = {path: match[1].lower() for path in files if (match := NIFTI.fullmatch(path.name))}
    there = set(names.values())
    cases = {part.case.lower() for part in map(brats_names.part_of, names) if part and part.role != brats_names.SEG}
    masks = set()
    for path, name in names.items():
        scan = re.sub(f"[-_]{MASK_ENDING[1:]}$", "", name)
        if scan != name and (there & {scan, f"{scan}_0000"} or scan in cases or is_prediction(path)):
            masks.add(name)
    maps = (f"_{name}" for name in map_names())
    endings = (*maps, SCANNED_MASK_ENDING, REFERENCE_ENDING, UNCERTAINTY_ENDING)  # beside a mask
    results = masks | {f"{mask.removesuffix(MASK_ENDING)}{ending}" for mask in masks for ending in endings}
    return {path for path, name in names.items() if name in results}
