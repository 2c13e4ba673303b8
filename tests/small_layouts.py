"""A good case in each layout that data sets come in, written with nibabel alone; arrays are (x, y, z[, channel])."""

import json
import pathlib
import re
from typing import NamedTuple

import nibabel as nib
import numpy as np

from configs import brats, custom, liver_voi
from data_prep import verify

SHAPE = (10, 12, 34)
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])
MODALITIES = ("t1", "t1ce", "t2", "flair")
LAYOUTS = ("lits", "task03", "task01", "brats", "custom")
ALLOWED = {
    "lits": (0, 1, 2),
    "task03": (0, 1, 2),
    "task01": (0, 1, 2, 3),
    "brats": (0, 1, 2, 3, 4),
    "custom": (0, 1, 3),
}


class Written(NamedTuple):
    name: str
    images: tuple[pathlib.Path, ...]
    mask: pathlib.Path


def recipe(layout: str, root: pathlib.Path, prepared: pathlib.Path):
    config = {"lits": liver_voi, "task03": liver_voi, "custom": custom}.get(layout, brats).get_config()
    config.patch_size = (8, 8, 8)
    config.data.source = "decathlon" if layout.startswith("task") else layout
    config.data.update({"root": str(root), "prepared": str(prepared), "workers": 1, "patches_per_case": 2.0})
    config.data.folds = 2
    return config


def scan(layout: str, seed: int = 0) -> np.ndarray:
    """(x, y, z) int16 HU, or float32 (x, y, z, channel) of MR; no two seeds alike."""
    rng = np.random.default_rng(seed)
    if layout in ("lits", "task03"):
        return rng.integers(-1000, 400, SHAPE, np.int16)
    return rng.gamma(2, 100, (*SHAPE, 1 if layout == "custom" else 4)).astype(np.float32)


def labels() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:8, 2:9, 4:30] = 1
    return mask


def write(layout, root, number=0, image=None, mask=None, affine=AFFINE, mask_affine=None) -> Written:
    image = scan(layout, number) if image is None else image
    if layout == "lits":
        name, images, truth = f"volume-{number}", [f"volume-{number}.nii.gz"], f"segmentation-{number}.nii.gz"
    elif layout == "brats":
        name = f"Brats18_X{number}_1"
        folder = f"HGG/{name}/{name}"
        images, truth = [f"{folder}_{modality}.nii.gz" for modality in MODALITIES], f"{folder}_seg.nii.gz"
    else:
        name = {"task03": "liver", "task01": "BRATS", "custom": "case"}[layout] + f"_{number}"
        images, truth = ("images", "labels") if layout == "custom" else ("imagesTr", "labelsTr")
        images, truth = [f"{images}/{name}.nii.gz"], f"{truth}/{name}.nii.gz"
        _describe(layout, root)
    channels = [image[..., channel] for channel in range(4)] if layout == "brats" else [np.squeeze(image)]
    for file, values in zip(images, channels, strict=True):
        save(root / file, values, affine)
    save(root / truth, labels() if mask is None else mask, affine if mask_affine is None else mask_affine)
    return Written(name, tuple(root / file for file in images), root / truth)


def _describe(layout, root) -> None:
    channels = {"task03": ["CT"], "task01": ["T1w", "T1gd", "T2w", "FLAIR"], "custom": ["MRI"]}[layout]
    content = {
        "modality": {str(index): name for index, name in enumerate(channels)},
        "labels": {str(value): f"structure {value}" for value in ALLOWED[layout]},
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def save(path, values, affine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


class Folder:
    """A data set of one layout, and what is found in it."""

    def __init__(self, layout, tmp_path):
        self.layout, self.root = layout, tmp_path / "data"
        self.config = recipe(layout, self.root, tmp_path / "prepared")

    def write(self, number=0, **change):
        return write(self.layout, self.root, number, **change)

    def findings(self):
        """Of the files; that so few cases are too few to train on is test_stage_check's."""
        return tuple(found for found in verify.verify(self.config).findings if found.check != "training")

    def only(self, case, check, level, value, remedy):
        """The one finding there is: `value` and `remedy` are patterns somewhere in its texts."""
        (found,) = self.findings()
        assert (found.case, found.check, found.level) == (case, check, level)
        assert re.search(value, found.value), found.value
        assert re.search(remedy, found.remedy), found.remedy
        assert "\n" not in found.value + found.remedy


def path(file) -> str:
    """The pattern of a text that begins with the path of `file`."""
    return "^" + re.escape(str(file)) + ": "
