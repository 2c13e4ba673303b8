"""A LiTS folder small enough to cut in milliseconds, written with nibabel alone so that it can judge our readers."""

import concurrent.futures
import contextlib

import nibabel as nib
import numpy as np

from configs import common
from data_prep import cutting

SHAPES = ((40, 36, 14), (36, 40, 20), (44, 40, 9), (40, 40, 16), (38, 36, 15), (36, 36, 18))
NO_TUMOR = 4
CASES = len(SHAPES)


def write(root, cases=CASES):
    """Write `cases` CT volumes with a block of liver and, but for case NO_TUMOR, a tumor in it."""
    root.mkdir(parents=True, exist_ok=True)
    for number, shape in enumerate(SHAPES[:cases]):
        rng = np.random.default_rng(number)
        labels = np.zeros(shape, np.uint8)
        labels[8:30, 10:28, 2:8] = 1
        if number != NO_TUMOR:
            labels[12:16, 12:17, 3:5] = 2
        hu = (rng.normal(40, 12, shape) + 60 * (labels == 1)).astype(np.int16)
        hu[0, 0] = -1024
        affine = np.diag([0.8, 0.8, 2.5, 1])
        nib.Nifti1Image(hu, affine).to_filename(root / f"volume-{number}.nii.gz")
        nib.Nifti1Image(labels, affine).to_filename(root / f"segmentation-{number}.nii.gz")
    return root


def recipe(root, prepared, stage="tumor", patch_size=(16, 16, 8), **data):
    config = common.get_config()
    config.stage, config.patch_size, config.batch_size, config.box_margin = stage, patch_size, 4, 2
    config.data.update({"root": str(root), "prepared": str(prepared), "folds": 2, "workers": 1})
    config.data.update({"patches_per_case": 3.5} | data)
    return config


def narrow(config):
    """Give a recipe of 32 x 32 slices the network of test_earlier_runs.py and of its file.

    With three steps an epoch too, whoever trains it after them finds the step compiled: two minutes of a CPU.
    """
    config.network.update({"width": 4, "bottom_width": 4, "stem_width": 4, "momentum": 0.8})
    return config


def read_zyx(path):
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


class _Here:
    """A pool of no processes."""

    def submit(self, function, *arguments):
        future = concurrent.futures.Future()
        future.set_result(function(*arguments))
        return future


def cut_here(monkeypatch):
    """Cut patches in this process: faults can be planted, and no process need start."""
    monkeypatch.setattr(cutting, "workers", lambda config, jobs: contextlib.nullcontext(_Here()))
