"""What is wrong with the files of a recipe's data source, said in words before hours of training find out."""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep import layouts
from raunet_jax.progress import progress
from raunet_jax.volume import Volume, VolumeError

FAT_HU = -30  # everything but the brain has fat around it or air beside it
BLOOD_HU = 30
PADDING_HU = -1500  # air is -1000; scanners mark what they did not measure by -2048 or -3024
PIPE_WIDTH = 10_000  # columns: a table that is not on a terminal is not folded


class Finding(NamedTuple):
    case: str
    check: str
    value: str  # what was found
    remedy: str
    fatal: bool  # the case cannot be used


def verify(config: ConfigDict) -> list[Finding]:
    """Read every case of the recipe's source and return what is wrong, case by case in natural order.

    A bad case is a finding and never stops the others. Raises DataNotFound when there is not a single case, and
    ValueError for a source that does not exist.
    """
    return _check_source(config)[0]


def main(config: ConfigDict) -> int:
    """Print the findings as a table to standard output; 1 if any case is unusable, else 0."""
    findings, names = _check_source(config)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    if findings:
        table = Table("case", "", "check", "found", "what to do", title=f"{config.data.source} data of {config.name}")
        for finding in findings:
            style, word = ("red", "unusable") if finding.fatal else ("yellow", "warning")
            row = (finding.case, word, finding.check, finding.value, finding.remedy)
            table.add_row(*(Text(cell, style=style if cell is word else "") for cell in row))
        console.print(table)
    unusable = {finding.case for finding in findings if finding.fatal}
    console.print(f"{len(names)} cases, {len(names) - len(unusable)} usable, {len(unusable)} unusable", highlight=False)
    return 1 if unusable else 0


def _check_source(config: ConfigDict) -> tuple[list[Finding], list[str]]:
    cases, incomplete = layouts.scan_cases(config)
    if not cases and not incomplete:
        layouts.find_cases(config)  # raises DataNotFound with its advice
    findings = [Finding(item.name, "files", item.reason, item.remedy, fatal=True) for item in incomplete]
    if config.data.cases > 0:
        cases = cases[: config.data.cases]
    with progress("verifying", len(cases)) as bar:
        for case in cases:
            findings += _check_case(case, config)
            bar.advance(note=case.name)
    return findings, [case.name for case in cases] + [item.name for item in incomplete]


def _check_case(case: layouts.Case, config: ConfigDict) -> list[Finding]:
    try:
        volume = layouts.read_image(case, config)
    except (VolumeError, OSError, MemoryError) as error:
        return [_from_error(case, "image", error)]
    findings = _check_image(case, volume, config)
    if case.mask is None:
        _, reason, remedy = layouts.no_mask(case)
        return findings + [Finding(case.name, "mask", reason, remedy, fatal=True)]
    try:
        mask = layouts.read_labels(case, volume, config)
    except (VolumeError, OSError, MemoryError) as error:
        return findings + [_from_error(case, "mask", error)]
    return findings + _check_mask(case, mask)


def _from_error(case: layouts.Case, check: str, error: Exception) -> Finding:
    # VolumeError's own message ends with the remedy
    return Finding(case.name, check, str(error) or type(error).__name__, "until then the case is left out", fatal=True)


def _check_image(case: layouts.Case, volume: Volume, config: ConfigDict) -> list[Finding]:
    findings = []

    def warn(check: str, value: str, remedy: str, fatal: bool = False) -> None:
        findings.append(Finding(case.name, check, value, remedy, fatal))

    path = case.images[0]
    low, high = volume.voxels.min(axis=(0, 1, 2)), volume.voxels.max(axis=(0, 1, 2))
    if tuple(config.data.modalities) == ("ct",):
        if low[0] > FAT_HU or high[0] < BLOOD_HU:
            warn(
                "intensity",
                f"{path}: values from {low[0]} to {high[0]} are not HU (air is -1000, blood 40)",
                "export the scan again with its rescale slope and intercept",
                fatal=True,
            )
        elif low[0] < PADDING_HU:
            warn("padding", f"{path}: lowest value {low[0]} HU", "nothing: config.window_hu cuts it off")
        if np.array_equal(volume.grid.affine, np.eye(4)):
            warn(
                "spacing",
                f"{path}: identity affine, 1 x 1 x 1 mm",
                "restore the true spacing (LiTS volumes 28 to 47 have lost it): until then mm and mL are wrong",
            )
    else:
        for modality, file, least, most in zip(config.data.modalities, case.images, low, high, strict=True):
            if least == most:
                warn("intensity", f"{file}: {modality} is {least:g} everywhere", "download the case again", fatal=True)

    sides = {"tumor": "xyz", "brain": "xyz", "voi": "z"}.get(config.stage, "")
    small = [
        f"{side} {size} < {patch}"
        for side, size, patch in zip("xyz", volume.shape[::-1], config.patch_size, strict=True)
        if side in sides and size < patch
    ]
    if small:
        warn(
            "size",
            f"{path}: smaller than config.patch_size ({', '.join(small)} voxels)",
            "nothing: it is padded with its minimum",
        )
    return findings


def _check_mask(case: layouts.Case, mask: np.ndarray) -> list[Finding]:
    findings = []
    stored = nib.load(case.mask).get_data_dtype()
    if stored.kind not in "iu":
        value = f"{case.mask}: stored as {stored}, all its values are whole"
        findings.append(Finding(case.name, "mask type", value, "nothing: it is read as whole numbers", fatal=False))
    if not mask.any():
        value = f"{case.mask}: no voxel is labelled"
        findings.append(Finding(case.name, "mask", value, "label the case, or move it away", fatal=True))
    return findings
