"""What is left of a segmented case: masks, maps and its record; the one writer of them, for predict and evaluate."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from raunet_jax import names, tasks
from raunet_jax.imaging.components import component_sizes
from raunet_jax.imaging.volume import Volume, write_map, write_mask, write_scanned_mask
from raunet_jax.inference import lesion_table, plausibility
from raunet_jax.inference.cascade import Segmentation
from raunet_jax.inference.uncertainty import uncertainty_map
from raunet_jax.read_ahead import Saving


@dataclasses.dataclass(frozen=True)
class Result:
    """A segmented case."""

    name: str
    images: tuple[pathlib.Path, ...]  # the files, or the one DICOM folder, that it was read from
    channels: tuple[int, ...]  # which volumes of a single file that holds several
    volume: Volume
    found: Segmentation
    stage: str  # the last that was run
    reference: np.ndarray | None = None  # (z, y, x) labels
    series: tuple[str, ...] = ()  # which of the DICOM series below each folder


def write_case(
    folder: pathlib.Path, result: Result, saving: Saving, probabilities: bool = False, uncertainty: bool = False
) -> dict:
    """Write the files of one case into `folder`, on the grid of the scan's own file, and return its record.

    CASE_seg.nii.gz; where there is a reference, CASE_reference.nii.gz; with `probabilities` a float32 map for each
    structure; with `uncertainty` CASE_uncertainty.nii.gz, see `uncertainty_map`; of a scan with unevenly spaced slices
    CASE_seg_slices.nii.gz too, see `write_scanned_mask`. A further output format is one more row of `_files`.

    Args:
        saving: held around the writing of each file, see `read_ahead.pipeline`.

    Returns:
        "case", "images", "channels", "series", "box" {"start", "stop"} (z, y, x) or None, "warnings", "plausibility",
        the values of `plausibility.judge`, and "lesions", those of `lesion_table.lesions_of`.

    Raises:
        OSError: a file cannot be written.
    """
    for ending, write, values in _files(result, probabilities, uncertainty):
        with saving():
            write(result_file(folder, result.name, ending), values(), result.volume)
    box, scanned = result.found.box, result.volume.grid.scanned
    written = []
    if scanned:
        mask = result_file(folder, result.name, names.SCANNED_MASK_ENDING).name
        written = [f"{mask} holds the mask on the {len(scanned)} slices that were scanned, in the order of positions"]
    plausible = plausibility.judge(result.volume, result.found.labels, result.stage)
    return {
        "case": result.name,
        "images": [str(path.absolute()) for path in result.images],
        "channels": list(result.channels),
        "series": list(result.series),
        "box": box and {"start": box.start, "stop": box.stop},
        "warnings": [*result.volume.warnings, *written, *result.found.warnings, *plausible.warnings],
        "plausibility": plausible.values,
        "lesions": lesion_table.lesions_of(result.found, result.stage, result.volume.affine, result.reference),
    }


def result_file(folder: pathlib.Path, case: str, ending: str = names.MASK_ENDING) -> pathlib.Path:
    """Where a mask or map of a case lies."""
    return folder / f"{case}{ending}.nii.gz"


def _files(result: Result, probabilities: bool, uncertainty: bool) -> list[tuple[str, Callable, Callable]]:
    """(ending of the name, who writes it, what makes the values) of each file."""
    found = result.found
    files = [(names.MASK_ENDING, write_mask, lambda: found.labels)]
    if result.volume.grid.scanned:
        files.append((names.SCANNED_MASK_ENDING, write_scanned_mask, lambda: found.labels))
    if result.reference is not None:
        files.append((names.REFERENCE_ENDING, write_mask, lambda: result.reference))
    if probabilities:
        files += [(f"_{name}", write_map, lambda values=values: values) for name, values in found.probabilities.items()]
    if uncertainty:
        files.append((names.UNCERTAINTY_ENDING, write_map, lambda: uncertainty_map(found, result.stage)))
    return files


def volumes_of(result: Result) -> dict[str, float | int | None]:
    """Volumes in mL of what was looked for, STRUCTURE_ml; of one that lies inside another also number and burden.

    TUMOR_count is of 26-connected components, TUMOR_burden its volume over that of the structure around it, here called
    by the names of the liver's task; None where there is nothing around it.
    """
    voxel_ml = lesion_table.voxel_volume_mm3(result.volume.affine) / 1000
    task, stage, labels = tasks.task_of(result.stage), tasks.stage_of(result.stage), result.found.labels
    voxels = {name: int((labels >= structure.label).sum()) for name, structure in task.structures.items()}
    if len(voxels) == 1:
        (count,) = voxels.values()
        return {f"{stage.structure}_ml": round(count * voxel_ml, 3)}
    outer, inner = voxels
    volumes = {f"{outer}_ml": round(voxels[outer] * voxel_ml, 3)}
    if stage.structure == inner:
        volumes[f"{inner}_ml"] = round(voxels[inner] * voxel_ml, 3)
        volumes[f"{inner}_count"] = len(component_sizes(labels >= stage.foreground))
        volumes[f"{inner}_burden"] = voxels[inner] / voxels[outer] if voxels[outer] else None
    return volumes
