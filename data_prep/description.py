"""What a dataset.json says of a data set: its channels and its labels (the Decathlon's format, and nnU-Net's)."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from raunet_jax.errors import FileError, UserError
from raunet_jax.files import read_json

# As the Decathlon's Task01 calls what BraTS calls otherwise.
SAME_MODALITY = {"t1w": "t1", "t1gd": "t1ce", "t1c": "t1ce", "t2w": "t2"}
EXAMPLE = '{"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "structure"}}'
REMEDY = f"it should hold at least {EXAMPLE}"


class Description(NamedTuple):
    path: pathlib.Path
    modalities: tuple[str, ...]  # the name of each channel, lower case, BraTS's names where they have one
    structures: dict[int, str]  # label value: name

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(sorted({0, *self.structures}))

    def channels(self, modalities: Sequence[str]) -> tuple[int, ...]:
        """The channel of each of `modalities`. Raises ValueError for one that the data set does not have."""
        missing = [modality for modality in modalities if modality not in self.modalities]
        if missing or not modalities:
            raise UserError(
                f"{self.path}: holds the modalities {self.modalities}, and config.data.modalities={tuple(modalities)} "
                f"asks for {', '.join(missing) or 'none'}; choose among those it holds"
            )
        return tuple(self.modalities.index(modality) for modality in modalities)


def read_description(path: pathlib.Path) -> Description:
    """Read a dataset.json.

    Channels stand under "modality" (the Decathlon) or "channel_names" (nnU-Net), labels under "labels" either way
    round: value to name, or name to value.

    Raises:
        ValueError: it is no JSON, or lacks one of these; the message shows an example.
    """
    try:
        content = read_json(path, REMEDY)
        channels = content["modality"] if "modality" in content else content["channel_names"]
        names = [str(channels[key]) for key in sorted(channels, key=int)]
        structures = dict(pair for item in content["labels"].items() for pair in _values_and_names(*item))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise FileError(path, f"cannot be used ({type(error).__name__}: {error})", REMEDY) from error
    modalities = tuple(SAME_MODALITY.get(name.lower(), name.lower()) for name in names)
    if not modalities or len(set(modalities)) < len(modalities) or any(not 0 <= value <= 255 for value in structures):
        raise UserError(f"{path}: channels {modalities} must differ and labels {sorted(structures)} lie in 0 to 255")
    return Description(path, modalities, structures)


def _values_and_names(key: str, value) -> list[tuple[int, str]]:
    if isinstance(value, list):  # a region of nnU-Net's: several values of one name
        return [(int(part), key) for part in value]
    return [(value, key) if isinstance(value, int) else (int(key), str(value))]
