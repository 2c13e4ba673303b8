"""The commands that README.md names, as a user types them: one small cascade is trained, and all else uses it."""

import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from commands import REPOSITORY, SHARED_DATA, checksums, read_json, run, strict_json, succeed
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

REAL_CT = SHARED_DATA / "ct" / "abdomen_ct.nii.gz"
MODELS = ("coarse/fold_0", "voi/fold_0", "tumor/fold_0")


def recipe():
    """The demo made so small that compiling takes most of the time; both 3D stages run the same compiled network."""
    yield from (f"--config={REPOSITORY}/configs/demo.py", "--config.data.prepared=prepared")
    yield from ("--config.data.cases=6", "--config.data.test_cases=1", "--config.data.folds=2")
    yield from ("--config.data.phantom_size=(48, 48, 24)", "--config.data.workers=1")
    for stage, patch, batch, patches in (
        ("coarse", (32, 32, 1), 8, 40),
        ("voi", (32, 32, 32), 4, 16),
        ("tumor", (32, 32, 32), 4, 8),
    ):
        fields = {"network.width": 4, "patch_size": patch, "batch_size": batch, "data.patches_per_case": patches}
        fields |= {"learning_rate": 5e-3, "epochs": 2, "window.step": (0, 0, 0), "window.batch_size": 4}
        yield from (f"--config.stages.{stage}.{name}={value}" for name, value in fields.items())
    yield "--config.stages.voi.threshold=0.05"  # so little training finds something at any rate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def trained(place):
    """What the training command printed; its run is in `place`/run, the phantoms it drew below `place`/prepared."""
    return succeed(place, *recipe(), "--workdir=run")


@pytest.fixture(scope="module")
def phantoms(place, trained):
    (folder,) = (place / "prepared").glob("phantom_*")
    return folder


@pytest.fixture(scope="module")
def test_case(place, trained):
    (case,) = read_json(place / "run" / "scores.json")["cases"]
    return case


def test_training_writes_models_metrics_scores_and_a_page(place, trained, test_case):
    workdir = place / "run"
    for model in MODELS:
        fold, stage = workdir / model, model.split("/")[0]
        rows = [strict_json(line) for line in (fold / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2]
        assert rows[1]["loss"] < rows[0]["loss"]
        assert read_json(fold / "config.json")["stage"] == stage
        assert list(fold.glob("tensorboard/events*")) and list((fold / "checkpoints").iterdir())
    scores = read_json(workdir / "scores.json")
    organ = {"dice_per_case", "dice_global", "jaccard", "voe", "rvd", "assd", "rmsd", "msd"}
    assert organ <= scores["liver"].keys() and organ <= scores["tumor"].keys()
    assert {"precision", "recall", "precision_greater_zero", "recall_greater_zero"} <= scores["detection"].keys()
    assert {"rmse", "max"} <= scores["tumor_burden"].keys()
    assert scores["rule"] == "lits2017" and {"case", "liver", "tumor"} <= test_case.keys()
    record = read_json(workdir / "evaluation" / f"{test_case['case']}.json")
    mask = workdir / "evaluation" / f"{test_case['case']}_seg.nii.gz"
    found, truth = (np.asarray(nib.load(path).dataobj) > 0 for path in (mask, record["mask"]))
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert scores["liver"]["dice_per_case"] == pytest.approx(dice) and dice > 0
    assert (workdir / "scores.csv").read_text().splitlines()[1].startswith(test_case["case"])
    for name in ("seg", "liver", "tumor"):
        assert (workdir / "evaluation" / f"{test_case['case']}_{name}.nii.gz").is_file()
    page = (workdir / "report" / "index.html").read_text()
    assert test_case["case"] in page and "data:image/png;base64," in page
    linked = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", page)
    assert linked and all(target.startswith(("#", "data:")) for target in linked)  # one file holds all


def test_every_tumor_voxel_of_the_reference_is_found_or_lost_by_one_stage(place, trained, test_case):
    record = read_json(place / "run" / "evaluation" / f"{test_case['case']}.json")
    voxels = int((np.asarray(nib.load(record["mask"]).dataobj) == 2).sum())
    assert sum(test_case["attribution"]["tumor_voxels"].values()) == voxels
    assert "Where tumors were lost" in (place / "run" / "report" / "index.html").read_text()


def test_results_go_to_standard_output_and_progress_to_standard_error(trained):
    assert "ours" in trained.stdout and "Kaluva" in trained.stdout  # a row of the paper's own table
    assert "scores: run/scores.json" in trained.stdout and "page: run/report/index.html" in trained.stdout
    assert "liver_voi fold 0: 1" in trained.stderr
    for text in (trained.stdout, trained.stderr):
        assert "Traceback" not in text and "Warning" not in text


def test_a_stages_folder_in_the_cascades_is_a_run_of_its_own_and_what_is_trained_is_not_trained_again(place, trained):
    models = checksums(place, "run")
    assert set(models) == set(MODELS)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in models.values())
    again = succeed(place, "--workdir=run/coarse")
    assert "run/coarse/fold_0: trained already, 20 steps" in again.stderr
    assert checksums(place, "run/coarse") == {"fold_0": models["coarse/fold_0"]}


def write_dicom(folder, path):
    """The scan in `path` as a series of axial DICOM slices that lies at the same place."""
    image = nib.as_closest_canonical(nib.load(path))
    hu, to_lps = np.asarray(image.dataobj), np.diag([-1, -1, 1, 1]) @ image.affine
    spacing = nib.affines.voxel_sizes(image.affine)
    series, frame = generate_uid(), generate_uid()
    folder.mkdir()
    for index in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.FrameOfReferenceUID = "CT", series, frame
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImagePositionPatient = [f"{value:.8g}" for value in (to_lps @ (0, 0, index, 1))[:3]]
        along = to_lps[:3, :2] / spacing[:2]
        data.ImageOrientationPatient = [f"{value:.8g}" for value in (*along[:, 0], *along[:, 1])]
        data.PixelSpacing, data.SliceThickness = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"], f"{spacing[2]:.8g}"
        data.Columns, data.Rows = hu.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -2000
        data.PixelData = (hu[:, :, index].T.astype(np.int32) + 2000).astype("<u2").tobytes()
        data.save_as(folder / f"IM{97 * index % 1000:04d}", enforce_file_format=True)


@pytest.fixture(scope="module")
def predicted(place, phantoms, test_case):
    """The finished command, given a NIfTI file, the same scan as DICOM, a file that ends early, and a real CT."""
    scan = phantoms / f"{test_case['case']}.nii.gz"
    cut = place / "cut.nii.gz"
    cut.write_bytes(scan.read_bytes()[:1000])
    write_dicom(place / "patient7", scan)
    inputs = [f"--input={path}" for path in (scan, cut, "patient7", *([REAL_CT] if REAL_CT.is_file() else []))]
    return run(place, "--mode=predict", "--workdir=run", *inputs, "--output=masks", "--probabilities")


def test_a_bad_file_makes_the_exit_status_1_and_is_named_and_the_others_are_segmented(place, predicted, test_case):
    assert predicted.returncode == 1
    assert "cut.nii.gz: the gzip ends early" in predicted.stderr and "Traceback" not in predicted.stderr
    summary = read_json(place / "masks" / "summary.json")
    assert [failure["input"] for failure in summary["failed"]] == [str(place / "cut.nii.gz")]
    assert [case["case"] for case in summary["cases"]][:2] == [test_case["case"], "patient7"]
    assert f"{len(summary['cases'])} segmented, 1 failed" in predicted.stdout
    assert all(case["liver_ml"] > 0 for case in summary["cases"][:2])
    rows = (place / "masks" / "summary.csv").read_text().splitlines()
    assert len(rows) == 1 + len(summary["cases"])
    page = (place / "masks" / "index.html").read_text()
    assert "cut.nii.gz" in page and "patient7" in page


def grid_and_labels(path):
    image = nib.load(path)
    canonical = nib.as_closest_canonical(image)
    return image.shape, image.affine, np.asarray(canonical.dataobj)


def test_masks_have_the_scans_own_grid_and_are_those_of_the_evaluation(place, predicted, phantoms, test_case):
    shape, affine, labels = grid_and_labels(place / "masks" / f"{test_case['case']}_seg.nii.gz")
    scan = nib.load(phantoms / f"{test_case['case']}.nii.gz")
    assert shape == scan.shape
    np.testing.assert_allclose(affine, scan.affine, atol=1e-5)
    _, _, evaluated = grid_and_labels(place / "run" / "evaluation" / f"{test_case['case']}_seg.nii.gz")
    np.testing.assert_array_equal(labels, evaluated)
    assert set(np.unique(labels)) <= {0, 1, 2} and (labels > 0).any()
    for name in ("liver", "tumor"):
        image = nib.load(place / "masks" / f"{test_case['case']}_{name}.nii.gz")
        values = np.asarray(image.dataobj)
        assert image.shape == scan.shape and values.dtype == np.float32 and 0 <= values.min() <= values.max() <= 1


def test_the_same_scan_as_dicom_gives_the_same_mask_at_the_same_place(place, predicted, test_case):
    paths = (place / "masks" / f"{name}_seg.nii.gz" for name in ("patient7", test_case["case"]))
    dicom, nifti = (nib.as_closest_canonical(nib.load(path)) for path in paths)
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(dicom.dataobj), np.asarray(nifti.dataobj))


@pytest.mark.skipif(not REAL_CT.is_file(), reason="the real scan is no part of the repository")
def test_a_real_ct_is_segmented(place, predicted):
    real = read_json(place / "masks" / "summary.json")["cases"][-1]
    assert real["input"] == str(REAL_CT)
    shape, affine, labels = grid_and_labels(real["mask"])
    assert shape == nib.load(REAL_CT).shape == (122, 101, 30)
    np.testing.assert_allclose(affine, nib.load(REAL_CT).affine, atol=1e-5)
    # 3 mm voxels are .027 mL each; a liver trained on nothing but drawings may lie anywhere, and still adds up
    assert real["liver_ml"] == pytest.approx((labels > 0).sum() * 0.027, rel=1e-3, abs=1e-3)
    assert real["liver_ml"] > 0 or real["warnings"]


def test_masks_in_folders_are_scored_as_the_evaluation_scored_them(place, predicted, phantoms, test_case):
    reference = place / "reference"
    reference.mkdir()
    number = test_case["case"].removeprefix("volume-")
    shutil.copy(phantoms / f"segmentation-{number}.nii.gz", reference)
    (place / "mine").mkdir()
    shutil.copy(place / "masks" / f"{test_case['case']}_seg.nii.gz", place / "mine")
    scored = succeed(place, "--mode=score", "--prediction=mine", "--reference=reference", "--output=scores.json")
    (case,) = read_json(place / "scores.json")["cases"]
    assert case["case"] == number and "scores: scores.json" in scored.stdout
    for organ in ("liver", "tumor"):
        assert case[organ] == test_case[organ]


def test_inspect_prints_the_papers_total(place):
    """4M, says the paper: at any patch size, which the recipe takes as its argument."""
    shown = succeed(place, "--mode=inspect", f"--config={REPOSITORY}/configs/liver_tumor.py:32x32x32")
    assert "total parameters: 4,420,849" in shown.stdout


def test_good_phantoms_are_verified(place, trained):
    verified = succeed(place, "--mode=verify", *recipe())
    assert "6 cases, 6 usable, 0 unusable" in verified.stdout


def test_prediction_without_a_place_for_the_masks_names_the_flag(place, trained):
    done = run(place, "--mode=predict", "--workdir=run", "--input=series")
    assert done.returncode == 1
    assert "error: --output is needed in this mode" in done.stderr and "Traceback" not in done.stderr


def test_the_page_is_rebuilt(place, trained):
    page = place / "run" / "report" / "index.html"
    page.unlink()
    succeed(place, "--mode=report", "--workdir=run")
    assert page.is_file()


def test_missing_data_is_named_with_where_it_was_looked_for_and_how_to_do_without(place):
    done = run(place, f"--config={REPOSITORY}/configs/liver.py", "--config.data.root=nowhere", "--workdir=other")
    assert done.returncode == 1
    for words in (
        "looked for volume-N.nii[.gz] with segmentation-N.nii[.gz]",
        f"{place}/nowhere (config.data.root)",
        "that folder does not exist",
        "--config.data.source=phantom",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_field_that_the_recipe_does_not_have_is_said_in_one_line(place):
    done = run(place, f"--config={REPOSITORY}/configs/liver.py", "--config.stages.voi.epoch=3")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert """error: the recipe has no field 'epoch' Did you mean "epochs" instead of "epoch"?""" in done.stderr
    renamed = run(place, f"--config={REPOSITORY}/configs/liver.py", "--config.voi=reference")
    assert "error: the recipe has no field 'voi'; voi is liver_source now" in renamed.stderr
