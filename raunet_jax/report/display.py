"""What is shown of a case, and how: the scan with all that lies on its grid, and what its recipe says about it."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from raunet_jax import tasks
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Volume
from raunet_jax.tasks import Structure


@dataclasses.dataclass(frozen=True)
class DisplaySettings:
    """What of a recipe decides how its cases are shown.

    Attributes:
        modality: "ct", shown in `window_hu`, or "mr", each channel up to its own 99.5th percentile.
        channels: name of each channel of a scan.
        window_hu: HU that are shown black and white.
        structures: those of the label map that the recipe's stages find, the outer one first.
        maps: ending of a probability map's file, CASE_ENDING.nii.gz -> name of the structure that it is of.
        reference_labels: values that a reference mask may hold; those above the highest of `structures` are shown as
            that one.
        predicted_labels: values that a predicted mask may hold.
    """

    modality: str
    channels: tuple[str, ...]
    window_hu: tuple[float, float]
    structures: Mapping[str, Structure]
    maps: Mapping[str, str]
    reference_labels: tuple[int, ...]
    predicted_labels: tuple[int, ...]

    @property
    def highest_label(self) -> int:
        return max(structure.label for structure in self.structures.values())


def display_settings(config: ConfigDict) -> DisplaySettings:
    """How a case is shown whose labels the stage of `config` made, the last stage of a cascade.

    Args:
        config: recipe of one stage; stage, data.modalities and window_hu are read.
    """
    task, stage = tasks.task_of(config.stage), tasks.stage_of(config.stage)
    structures = {name: one for name, one in task.structures.items() if one.label <= stage.foreground}
    names = {structure.label: name for name, structure in structures.items()}
    return DisplaySettings(
        modality=kind_of(config.data.modalities),
        channels=tuple(config.data.modalities),
        window_hu=tuple(config.window_hu),
        structures=structures,
        maps={row.map_name: names[row.foreground] for row in task.stages.values() if row.foreground in names},
        reference_labels=task.labels or tuple(range(256)),  # all that a uint8 mask can hold
        predicted_labels=(0, *(structure.label for structure in task.structures.values())),
    )


@dataclasses.dataclass(frozen=True)
class CaseImages:
    """A scan and what lies on its grid.

    Attributes:
        volume: voxels (z, y, x, channel).
        reference: uint8 (z, y, x) labels, or None where there is none.
        prediction: the same.
        box: in which the later stages of the cascade worked.
        probabilities: name of a structure -> float32 (z, y, x) in [0, 1].
    """

    volume: Volume
    reference: np.ndarray | None = None
    prediction: np.ndarray | None = None
    box: Box | None = None
    probabilities: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Those that there are, by name."""
        both = {"reference": self.reference, "prediction": self.prediction}
        return {name: mask for name, mask in both.items() if mask is not None}

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.volume.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(z, y, x)."""
        return self.volume.spacing_mm
