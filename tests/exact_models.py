"""Stage models that answer by a rule known by hand, and a scan whose segmentation by them is known to the voxel.

The rule, in place of a network: probability `inside` where a voxel's HU lies in `range`, elsewhere `outside`.
"""

import jax.numpy as jnp
import numpy as np

from configs import common
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import read_nifti, write_nifti
from raunet_jax.inference import cascade, results
from raunet_jax.inference.models import StageModel
from raunet_jax.inference.plausibility import Plausibility

FAT, BODY, LIVER, TUMOR, BONE = -90, 40, 110, 150, 180  # HU
PATCHES = {"coarse": (32, 32, 1), "voi": (32, 32, 32), "tumor": (32, 32, 32), "brain": (32, 32, 32)}
FINDS = {"coarse": (90, 165), "voi": (90, 165), "tumor": (140, 200), "brain": (1, 32767)}
NOTHING = (5000, 6000)
SPACING_XYZ = (0.5, 2.0, 4.0)
VOXEL_ML = 0.5 * 2 * 4 / 1000

# Stage coarse halves the 64 x 64 pixels; the box with its margin of 10 is 32 x 32: on even pixels both are exact.
SHAPE = (20, 64, 64)
LIVER_BOX = np.s_[6:14, 20:32, 16:28]
VOI = Box((0, 10, 6), (20, 42, 38))
TUMORS = (np.s_[8:10, 22:24, 18:20], np.s_[11:12, 26:28, 22:26])
SPLEEN = np.s_[4:8, 50:54, 50:54]  # as bright as liver, and smaller
RIB = np.s_[8:10, 36:38, 30:32]  # in the box around the liver, as bright as tumor


def rule_forward(network):
    def forward(variables, windows, low, high):
        (least, most), inside, outside = variables["range"], variables["inside"], variables["outside"]
        hu = windows.max(axis=-1)
        return jnp.where((hu >= least) & (hu <= most), jnp.float32(inside), jnp.float32(outside))

    return forward


def use_rules(monkeypatch) -> None:
    monkeypatch.setattr(cascade, "make_forward", rule_forward)


def pass_for_a_body(monkeypatch) -> None:
    """Let nothing be said of the scan, which is 80 mm tall and has a liver of 5 mL."""
    monkeypatch.setattr(results.plausibility, "judge", lambda *_: Plausibility({}, []))


def rule(finds, inside=1.0, outside=0.0) -> dict:
    return {"range": finds, "inside": inside, "outside": outside}


def model(stage, *rules, **fields) -> StageModel:
    """A stage's model of one or several folds; without `rules`, one that finds what the stage is to find."""
    config = common.get_config()
    config.name, config.stage, config.patch_size = stage, stage, PATCHES[stage]
    config.network.width = 4
    config.window.batch_size = 3
    if stage == "brain":
        config.data.modalities = ("t1", "t1ce", "t2", "flair")
    config.update(fields)
    return StageModel(config, rules or (rule(FINDS[stage]),))


def models(*stages) -> dict[str, StageModel]:
    return {stage: model(stage) for stage in stages or ("coarse", "voi", "tumor")}


def abdomen() -> tuple[np.ndarray, np.ndarray]:
    """HU (z, y, x) int16 and the labels that the cascade is to find in it."""
    hu, labels = np.full(SHAPE, BODY, np.int16), np.zeros(SHAPE, np.uint8)
    hu[LIVER_BOX], labels[LIVER_BOX] = LIVER, 1
    for tumor in TUMORS:
        hu[tumor], labels[tumor] = TUMOR, 2
    hu[SPLEEN], hu[RIB] = LIVER, BONE
    hu[:, -1, -4:] = FAT
    return hu, labels


def affine() -> np.ndarray:
    affine = np.diag([*SPACING_XYZ, 1.0])
    affine[:3, 3] = (-12, 7, 300)
    return affine


def write(path, hu, orientation="RAS"):
    write_nifti(path, hu, affine(), orientation)
    return path


def scan(folder, hu=None, name="scan", orientation="RAS"):
    """The scan written and read again: a Volume with the grid of a file."""
    return read_nifti(write(folder / f"{name}.nii.gz", abdomen()[0] if hu is None else hu, orientation))
