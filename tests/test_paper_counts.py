"""The patch sets of sections III-E to III-G and IV-F have the paper's sizes, on drawn data sets of as many cases.

Volumes and patches are tiny, so that only the numbers are those of the real data.
"""

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

import tiny_lits
from configs import brats
from data_prep import patch_dataset
from data_prep.cases import find_cases

CASES, WITH_TUMOR, BRAIN_CASES = 130, 118, 285
PATCH = (4, 4, 2)


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    """130 volumes of varying thickness, liver in about a third of the slices, 118 with a tumor."""
    root = tmp_path_factory.mktemp("lits")
    affine = np.diag([0.8, 0.8, 2.0, 1])
    for number in range(CASES):
        rng = np.random.default_rng(number)
        shape = (16, 16, int(rng.integers(9, 24)))
        labels = np.zeros(shape, np.uint8)
        labels[4:12, 4:12, shape[2] // 3 : 2 * shape[2] // 3] = 1
        if number % 11 or number > 121:
            labels[6:8, 6:8, shape[2] // 2] = 2
        hu = rng.normal(50, 30, shape).astype(np.int16)
        nib.Nifti1Image(hu, affine).to_filename(root / f"volume-{number}.nii")
        nib.Nifti1Image(labels, affine).to_filename(root / f"segmentation-{number}.nii")
    return root


def recipe(root, prepared, stage, patch_size=PATCH):
    return tiny_lits.recipe(root, prepared, stage, patch_size, patches_per_case=0, folds=5)


def test_stage_2_has_5096_patches_of_130_volumes(lits, tmp_path):
    patch_set = patch_dataset.prepare(recipe(lits, tmp_path, "voi"))
    assert sum(patch_set.counts.values()) == 5096
    assert sum(len(patch_set.split[fold]) for fold in patch_set.counts) == CASES


def test_stage_3_has_17700_patches_of_the_118_volumes_with_tumor(lits, tmp_path):
    patch_set = patch_dataset.prepare(recipe(lits, tmp_path, "tumor"))
    assert sum(patch_set.counts.values()) == 17_700
    per_case: dict[bytes, int] = {}
    with_tumor = 0
    for fold in patch_set.counts:
        for record in tfds.builder_from_directory(patch_set.folder).as_data_source(split=fold):
            per_case[record["case"]] = per_case.get(record["case"], 0) + 1
            with_tumor += record["mask"].any()
    assert len(per_case) == WITH_TUMOR and set(per_case.values()) == {150}
    assert with_tumor >= 17_700 / 2  # data.foreground_fraction of them are centered on tumor, and others may touch one


def test_stage_1_has_every_slice_with_liver_a_third_of_the_others_and_29_percent_of_them_for_validation(lits, tmp_path):
    patch_set = patch_dataset.prepare(recipe(lits, tmp_path, "coarse", (16, 16, 1)))
    expected = 0
    for path in lits.glob("segmentation-*.nii"):
        liver = (tiny_lits.read_zyx(path) > 0).any((1, 2))
        expected += liver.sum() + round((~liver).sum() / 3)
    train, validation = patch_set.counts["train"], patch_set.counts["validation"]
    assert train + validation == expected
    assert validation / expected == pytest.approx(9463 / 32746, abs=0.02)


def test_brats_has_114000_patches_of_285_patients(tmp_path):
    """Counted from the plan of the whole set; two of its heads are cut."""
    config = brats.get_config()
    config.data.root, config.data.prepared, config.patch_size = str(tmp_path / "brats"), str(tmp_path), (8, 8, 8)
    for number in range(BRAIN_CASES):
        case = tmp_path / "brats" / ("HGG" if number < 210 else "LGG") / f"Brats18_TCIA_{number}_1"
        case.mkdir(parents=True)
        for part in (*config.data.modalities, "seg"):
            (case / f"{case.name}_{part}.nii").touch()
    jobs = patch_dataset._jobs(config, find_cases(config), patch_dataset.assign_splits(config), {})
    assert len(jobs) == BRAIN_CASES and sum(job.patches for job in jobs) == 114_000

    for number in range(2):
        case = tmp_path / "two" / f"Brats18_TCIA_{number}_1"
        case.mkdir(parents=True)
        labels = np.zeros((20, 18, 12), np.uint8)
        labels[5:9, 5:9, 4:8] = 4
        for part in config.data.modalities:
            head = np.random.default_rng(number).integers(0, 900, labels.shape).astype(np.int16)
            nib.Nifti1Image(head, np.eye(4)).to_filename(case / f"{case.name}_{part}.nii")
        nib.Nifti1Image(labels, np.eye(4)).to_filename(case / f"{case.name}_seg.nii")
    config.data.root, config.data.folds = str(tmp_path / "two"), 2
    assert patch_dataset.prepare(config).counts == {"fold_0": 400, "fold_1": 400}
