"""The brain recipe from training to prediction as a user types it, on drawn heads and a very narrow network."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from commands import REPOSITORY, checksums, read_json, run, succeed

MODALITIES = ("t1", "t1ce", "t2", "flair")


def recipe():
    yield from (f"--config={REPOSITORY}/configs/brats.py", "--config.data.source=phantom")
    yield from ("--config.data.prepared=prepared", "--config.data.cases=3", "--config.data.test_cases=1")
    yield from ("--config.data.folds=2", "--config.data.phantom_size=(48, 48, 32)", "--config.data.workers=1")
    yield from ("--config.data.patches_per_case=8", "--config.patch_size=(32, 32, 32)", "--config.batch_size=4")
    yield from ("--config.network.width=4", "--config.network.stem_width=4", "--config.network.bottom_width=64")
    yield from ("--config.network.momentum=0.5", "--config.learning_rate=5e-3", "--config.epochs=1")
    yield from ("--config.folds=(0,)", "--config.window.batch_size=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def evaluated(place):
    """The one test case's scores, after training and evaluation by two commands."""
    succeed(place, *recipe(), "--workdir=run")
    succeed(place, "--mode=evaluate", "--workdir=run")
    (case,) = read_json(place / "run" / "scores.json")["cases"]
    return case


@pytest.fixture(scope="module")
def predicted(place, evaluated):
    """The finished command, given the test case's folder and a copy of it that lacks a modality."""
    (folder,) = (place / "prepared").glob(f"phantom_head_*/*/{evaluated['case']}")
    (place / "incomplete").mkdir()
    for modality in MODALITIES[:3]:
        shutil.copy(folder / f"{folder.name}_{modality}.nii.gz", place / "incomplete" / f"Cut_{modality}.nii.gz")
    return run(place, "--mode=predict", "--workdir=run", f"--input={folder}", "--input=incomplete", "--output=masks")


def test_a_single_recipe_is_trained_and_its_test_case_scored(place, evaluated):
    assert set(checksums(place, "run")) == {"fold_0"}
    scores = read_json(place / "run" / "scores.json")
    assert scores["rule"] == "brats" and scores["source"] == "phantom"
    assert {"dice", "sensitivity", "specificity", "hausdorff95"} == scores["whole_tumor"].keys()
    assert 0 <= scores["whole_tumor"]["dice"] <= 1
    assert evaluated["case"] in (place / "run" / "report" / "index.html").read_text()


def test_a_case_folder_is_segmented_as_the_evaluation_segmented_it(place, evaluated, predicted):
    (case,) = read_json(place / "masks" / "summary.json")["cases"]
    assert case["case"] == evaluated["case"]
    mask, scan = nib.load(case["mask"]), nib.load(case["images"][0])
    assert mask.shape == scan.shape and len(case["images"]) == len(MODALITIES)
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    labels = np.asarray(mask.dataobj)
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1}
    same = nib.load(place / "run" / "evaluation" / f"{evaluated['case']}_seg.nii.gz")
    np.testing.assert_array_equal(labels, np.asarray(same.dataobj))
    voxel_ml = np.prod(nib.affines.voxel_sizes(scan.affine)) / 1000
    assert case["whole_tumor_ml"] == pytest.approx(labels.sum() * voxel_ml, abs=1e-3)
    assert (place / "masks" / f"{evaluated['case']}.png").is_file()


def test_a_folder_that_lacks_a_modality_makes_the_exit_status_1_and_the_file_is_named(place, predicted):
    assert predicted.returncode == 1
    assert "incomplete lacks Cut_flair.nii[.gz]" in predicted.stderr and "Traceback" not in predicted.stderr
    (failure,) = read_json(place / "masks" / "summary.json")["failed"]
    assert "Cut_flair.nii[.gz]" in failure["reason"]
