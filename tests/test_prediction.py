"""Which scans predict finds, what it writes of them, and that a bad one never stops the others."""

import csv
import errno
import html
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import exact_models
from exact_models import VOXEL_ML, model, models, rule
from raunet_jax.commands import predict as prediction
from raunet_jax.commands.predict import predict
from raunet_jax.imaging.volume import read_nifti, write_nifti
from raunet_jax.inference import results
from raunet_jax.inference.cascade import Segmentation
from raunet_jax.inference.results import Result, volumes_of
from raunet_jax.report import prediction_page

LIVER_ML = 8 * 12 * 12 * VOXEL_ML  # the tumors are part of the liver
TUMOR_ML = (2 * 2 * 2 + 1 * 2 * 4) * VOXEL_ML


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    exact_models.use_rules(monkeypatch)
    exact_models.pass_for_a_body(monkeypatch)


def volumes(scan, stage, labels):
    return volumes_of(Result("a", (), (), scan, Segmentation(labels, {}), stage))


def test_volumes_counts_and_burden_are_those_counted_by_hand(tmp_path):
    hu, labels = exact_models.abdomen()
    scan = exact_models.scan(tmp_path, hu)
    assert volumes(scan, "tumor", labels) == {
        "liver_ml": pytest.approx(LIVER_ML, abs=1e-3),
        "tumor_ml": pytest.approx(TUMOR_ML, abs=1e-3),
        "tumor_count": 2,
        "tumor_burden": pytest.approx(16 / 1152),
    }
    # Lesions that touch at a corner are one.
    touching = np.zeros_like(labels)
    touching[1, 1, 1] = touching[2, 2, 2] = touching[4, 4, 4] = 2
    assert volumes(scan, "tumor", touching)["tumor_count"] == 2
    # Without a tumor stage nothing is known of tumors; without a liver there is none.
    assert set(volumes(scan, "voi", np.minimum(labels, 1))) == {"liver_ml"}
    empty = volumes(scan, "tumor", np.zeros_like(labels))
    assert empty == {"liver_ml": 0, "tumor_ml": 0, "tumor_count": 0, "tumor_burden": None}
    assert volumes(scan, "brain", np.minimum(labels, 1)) == {"whole_tumor_ml": pytest.approx(LIVER_ML, abs=1e-3)}


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which JSON has not")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture
def scans(tmp_path):
    """Two good scans, one without a liver, and one whose file ends early."""
    hu, _ = exact_models.abdomen()
    folder = tmp_path / "scans"
    exact_models.write(folder / "a.nii.gz", hu, "LPS")
    exact_models.write(folder / "c.nii", hu, "PIR")
    exact_models.write(folder / "d-empty.nii.gz", np.minimum(hu, exact_models.BODY))
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "b-cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_truncated_file_among_good_ones_is_listed_and_the_others_are_segmented(tmp_path, scans, capsys):
    output = tmp_path / "out"
    returned = predict(models(), [scans], output, probabilities=True)
    summary = strict_json(output / "summary.json")
    assert summary == json.loads(json.dumps(returned))

    assert [case["case"] for case in summary["cases"]] == ["a", "c", "d-empty"]
    (failure,) = summary["failed"]
    assert failure["input"] == str(scans / "b-cut.nii.gz")
    assert "b-cut.nii.gz: the gzip ends early" in failure["reason"]
    assert "b-cut.nii.gz: the gzip ends early" in capsys.readouterr().err

    for case, (name, orientation) in zip(summary["cases"], (("a.nii.gz", "LPS"), ("c.nii", "PIR")), strict=False):
        assert case["input"] == str(scans / name) and case["images"] == [str(scans / name)]
        assert case["liver_ml"] == pytest.approx(LIVER_ML, abs=1e-3)
        assert case["tumor_ml"] == pytest.approx(TUMOR_ML, abs=1e-3)
        assert (case["tumor_count"], case["warnings"]) == (2, [])
        assert case["box"] == {"start": [0, 10, 6], "stop": [20, 42, 38]}
        scan, mask = nib.load(scans / name), nib.load(case["mask"])
        assert mask.shape == scan.shape and mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, scan.affine)
        assert "".join(nib.aff2axcodes(mask.affine)) == orientation
        in_memory = read_nifti(case["mask"], "ct").voxels[..., 0]
        np.testing.assert_array_equal(in_memory, exact_models.abdomen()[1])

    empty = summary["cases"][2]
    assert (empty["liver_ml"], empty["tumor_ml"], empty["tumor_burden"]) == (0, 0, None)
    assert empty["warnings"][-1] == "d-empty: no liver found; the mask is empty"
    assert not np.asarray(nib.load(empty["mask"]).dataobj).any()

    with (output / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "c", "d-empty"]
    assert float(rows[0]["tumor_ml"]) == summary["cases"][0]["tumor_ml"]
    assert rows[2]["tumor_burden"] == "" and "no liver found" in rows[2]["warnings"]

    probability = nib.load(output / "a_tumor.nii.gz")
    assert probability.get_data_dtype() == np.float32
    assert (np.asarray(probability.dataobj) == 1).sum() == 16 + 2 * 2 * 2  # the rib, which is no liver, included
    assert {path.name for path in output.glob("a*")} == {"a_seg.nii.gz", "a_liver.nii.gz", "a_tumor.nii.gz", "a.png"}
    assert summary["cases"][0]["lesions"] == [
        {
            "volume_mm3": pytest.approx(1000 * 8 * VOXEL_ML),
            "diameter_mm": pytest.approx(np.linalg.norm(edges_mm), rel=1e-5),
            "centroid_mm": pytest.approx(center),
            "mean_probability": 1,
            "agreement": None,  # with a single fold
        }
        for edges_mm, center in (
            # tumors of 2 x 2 x 2 and 4 x 2 x 1 voxels of 0.5 x 2 x 4 mm, the scan's corner voxel being at -12, 7, 300
            ((1, 4, 8), (0.5 * 18.5 - 12, 2 * 22.5 + 7, 4 * 8.5 + 300)),
            ((2, 4, 4), (0.5 * 23.5 - 12, 2 * 26.5 + 7, 4 * 11 + 300)),
        )
    ]
    assert empty["lesions"] == []
    with (output / "lesions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["lesion"]) for row in rows] == [("a", "1"), ("a", "2"), ("c", "1"), ("c", "2")]
    assert [row["agreement"] for row in rows] == [""] * 4

    page = (output / "index.html").read_text(encoding="utf-8")
    assert "b-cut.nii.gz" in page and "data:image/png;base64," in page
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []  # nothing half-written


def test_the_uncertainty_of_folds_lies_on_the_scans_grid(tmp_path, scans):
    """Two folds of stage tumor, of which one sees the tumors: the entropy of their mean, (0.9 + 0.4) / 2."""
    tumor = model("tumor", rule((140, 165), 0.9), rule((140, 165), 0.4), threshold=0.6)
    output = tmp_path / "out"
    summary = predict(models("coarse", "voi") | {"tumor": tumor}, [scans / "c.nii"], output, uncertainty=True)
    (case,) = summary["cases"]
    assert [lesion["agreement"] for lesion in case["lesions"]] == [0.5, 0.5]
    assert [lesion["mean_probability"] for lesion in case["lesions"]] == pytest.approx([0.65, 0.65])
    image, scan = nib.load(output / "c_uncertainty.nii.gz"), nib.load(scans / "c.nii")
    assert image.get_data_dtype() == np.float32 and image.shape == scan.shape
    np.testing.assert_allclose(image.affine, scan.affine)
    tumors = np.asarray(scan.dataobj) == exact_models.TUMOR
    entropy = np.asarray(image.dataobj)
    np.testing.assert_allclose(entropy[tumors], -0.65 * np.log2(0.65) - 0.35 * np.log2(0.35), rtol=1e-5)
    assert (entropy[~tumors] == 0).all()
    assert not (output / "c_tumor.nii.gz").exists()


def test_a_run_that_segments_livers_alone_lists_no_lesions(tmp_path, scans):
    (case,) = predict(models("coarse", "voi"), [scans / "c.nii"], tmp_path / "out")["cases"]
    assert case["lesions"] is None and not (tmp_path / "out" / "lesions.csv").exists()


def test_a_second_prediction_does_not_take_the_firsts_masks_for_scans(tmp_path, scans):
    for other in ("b-cut.nii.gz", "c.nii", "d-empty.nii.gz"):
        (scans / other).unlink()
    for _ in range(2):
        again = predict(models(), [scans], scans, probabilities=True, uncertainty=True)
        assert (scans / "a_uncertainty.nii.gz").is_file()
        assert [case["case"] for case in again["cases"]] == ["a"] and again["failed"] == []
    assert (scans / "a_liver.nii.gz").is_file() and (scans / "a_tumor.nii.gz").is_file()


def test_a_users_own_mask_is_never_replaced(tmp_path, scans):
    (scans / "b-cut.nii.gz").unlink()
    own = scans / "a_seg.nii.gz"
    own.write_bytes(b"drawn by hand")
    for _ in range(2):
        summary = predict(models(), [scans], scans)
        assert own.read_bytes() == b"drawn by hand"
        assert ["choose another --output" in failure["reason"] for failure in summary["failed"]] == [True]


@pytest.mark.parametrize("name", ["a_liver.nii.gz", "a_uncertainty.nii.gz", "a_seg_slices.nii.gz", "a.png"])
def test_no_other_file_of_a_user_is_replaced_either(tmp_path, scans, name):
    out = tmp_path / "out"
    out.mkdir()
    own = out / name
    own.write_bytes(b"made by hand")
    summary = predict(models(), [scans / "a.nii.gz"], out, probabilities=True, uncertainty=True)
    assert own.read_bytes() == b"made by hand" and summary["cases"] == []
    assert f"{own} is there already" in summary["failed"][0]["reason"]


def test_masks_of_any_earlier_prediction_may_be_replaced(tmp_path, scans):
    for name in ("a", "c", "a"):
        (path,) = scans.glob(f"{name}.nii*")
        assert predict(models(), [path], tmp_path / "out")["failed"] == []


def test_a_scan_too_big_for_the_device_fails_alone(tmp_path, scans, monkeypatch):
    (scans / "b-cut.nii.gz").unlink()
    segment = prediction.segment

    def run_out_of_memory(volume, *arguments, **options):
        if volume.name == "a":
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return segment(volume, *arguments, **options)

    monkeypatch.setattr(prediction, "segment", run_out_of_memory)
    summary = predict(models(), [scans], tmp_path / "out")
    assert [case["case"] for case in summary["cases"]] == ["c", "d-empty"]
    (failure,) = summary["failed"]
    assert failure["input"] == str(scans / "a.nii.gz")
    assert failure["reason"].startswith("the device's memory is used up (RESOURCE_EXHAUSTED: Out of memory); end other")


def test_failures_at_any_step_are_listed_in_the_scans_order_and_stop_no_other(tmp_path, scans, monkeypatch, capsys):
    """a cannot be written, b-cut not read, d-empty not segmented: only c is left."""
    segment, write_mask = prediction.segment, results.write_mask

    def run_out_of_memory(volume, *arguments, **options):
        if volume.name == "d-empty":
            raise MemoryError
        return segment(volume, *arguments, **options)

    def find_the_disk_full(path, *arguments):
        if path.name == "a_seg.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_mask(path, *arguments)

    monkeypatch.setattr(prediction, "segment", run_out_of_memory)
    monkeypatch.setattr(results, "write_mask", find_the_disk_full)
    summary = predict(models(), [scans], tmp_path / "out")
    assert [case["case"] for case in summary["cases"]] == ["c"]
    assert (tmp_path / "out" / "c_seg.nii.gz").is_file() and not (tmp_path / "out" / "a_seg.nii.gz").exists()
    full, cut, big = summary["failed"]
    assert "No space left on device" in full["reason"] and full["input"] == str(scans / "a.nii.gz")
    assert "the gzip ends early" in cut["reason"] and big["reason"].startswith("the memory is used up; ")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cannot segment")]
    assert said == [f"cannot segment {failure['input']}: {failure['reason']}" for failure in (full, cut, big)]


def test_an_interrupt_leaves_whole_files_only_and_the_masks_made_so_far(tmp_path, scans, monkeypatch):
    """Ctrl-C while c is segmented and a written: a's mask is finished, its maps are not begun."""
    (scans / "b-cut.nii.gz").unlink()
    segment, write_mask, writing = prediction.segment, results.write_mask, threading.Event()

    def interrupt(volume, *arguments, **options):
        if volume.name == "c":
            assert writing.wait(10)
            raise KeyboardInterrupt
        return segment(volume, *arguments, **options)

    def write_slowly(*arguments):
        writing.set()
        time.sleep(0.1)
        write_mask(*arguments)

    monkeypatch.setattr(prediction, "segment", interrupt)
    monkeypatch.setattr(results, "write_mask", write_slowly)
    with pytest.raises(KeyboardInterrupt):
        predict(models(), [scans], tmp_path / "out", probabilities=True)
    (mask,) = (tmp_path / "out").glob("*.nii.gz")
    assert mask.name == "a_seg.nii.gz"
    summary = strict_json(tmp_path / "out" / "summary.json")
    assert summary["cases"] == [] and [case["case"] for case in summary["unfinished"]] == ["a", "c", "d-empty"]
    np.testing.assert_array_equal(read_nifti(mask, "ct").voxels[..., 0], exact_models.abdomen()[1])


def test_scans_of_any_name_are_segmented_and_written_as_text(tmp_path):
    odd = (b"l\xe9sion", b"two\nlines", b"=cmd", b"-rf", b"<b>", b"n" * 240)
    scan, output = exact_models.write(tmp_path / "x.nii", exact_models.abdomen()[0]), tmp_path / "out"
    (tmp_path / "odd").mkdir()
    for name in odd:
        shutil.copy(scan, os.path.join(os.fsencode(tmp_path / "odd"), name + b".nii"))
    summary = predict(models(), [tmp_path / "odd"], output, uncertainty=True)
    assert summary["failed"] == [] and len({case["case"] for case in summary["cases"]}) == len(odd)
    assert {os.fsencode(pathlib.Path(case["images"][0]).stem) for case in summary["cases"]} == set(odd)
    assert strict_json(output / "summary.json")["cases"] == json.loads(json.dumps(summary["cases"]))
    texts = [(output / name).read_text(encoding="utf-8") for name in ("summary.csv", "lesions.csv", "index.html")]
    for case in summary["cases"]:
        assert case["mask"].encode("utf-8") and read_nifti(case["mask"], "ct").voxels.max() == 2
        assert all(case["case"] in html.unescape(text) for text in texts)
        assert (output / f"{case['case']}.png").is_file()


def test_scans_in_an_archive_are_segmented_and_named_by_it(tmp_path):
    scan = exact_models.write(tmp_path / "ct.nii.gz", exact_models.abdomen()[0])
    with zipfile.ZipFile(tmp_path / "anna.zip", "w") as archive:
        archive.write(scan, "export/ct.nii.gz")
        archive.writestr("export/bad.nii.gz", b"no scan")
    summary = predict(models(), [tmp_path / "anna.zip"], tmp_path / "out")
    ((case,), (failure,)) = summary["cases"], summary["failed"]
    assert case["images"] == [case["input"]] == [f"{tmp_path}/anna.zip!export/ct.nii.gz"] and case["case"] == "anna"
    assert failure["input"] == f"{tmp_path}/anna.zip!export/bad.nii.gz" and failure["input"] in failure["reason"]
    assert read_nifti(case["mask"], "ct").voxels.max() == 2
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "data:image/png" in page and "No pictures" not in page
    assert not list(pathlib.Path(tempfile.gettempdir()).glob(f"raunet_jax_*/0/{tmp_path.name}/anna"))
    (again,) = predict(models(), [tmp_path / "anna.zip"], tmp_path / "out")["cases"]
    assert again["case"] == case["case"]  # the same scan, wherever it was unpacked


def test_nothing_to_segment_still_leaves_a_summary_and_a_page(tmp_path):
    summary = predict(models(), [tmp_path / "nowhere"], tmp_path / "out")
    assert summary["cases"] == [] and len(summary["failed"]) == 1
    assert strict_json(tmp_path / "out" / "summary.json") == summary
    assert "nowhere does not exist" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_the_page_of_a_task_of_its_own_calls_the_result_foreground(tmp_path, scans, monkeypatch):
    shown = []
    monkeypatch.setattr(prediction_page, "write_prediction_page", lambda output, settings, *_: shown.append(settings))
    custom = model("voi", rule((140, 165)), window_hu=(-50.0, 250.0))
    custom.config.stage = "custom"
    assert predict({"custom": custom}, [scans / "c.nii"], tmp_path / "out")["failed"] == []
    (settings,) = shown
    assert [(name, structure.label) for name, structure in settings.structures.items()] == [("foreground", 1)]
    assert (settings.modality, settings.window_hu, settings.channels) == ("ct", (-50, 250), ("ct",))


def test_a_head_is_segmented_from_its_case_folder(tmp_path):
    case = tmp_path / "Brats18_A_1"
    marks = {"t1": (2, 3, 4), "t1ce": (5, 6, 7), "t2": (2, 3, 5), "flair": (9, 9, 9)}
    for modality, (z, y, x) in marks.items():
        values = np.zeros((12, 14, 16), np.float32)
        values[z, y, x] = 90.0
        write_nifti(case / f"{case.name}_{modality}.nii.gz", values, np.eye(4), "LPS")
    brain = {"brain": model("brain", rule((1, 32767)))}
    summary = predict(brain, [tmp_path], tmp_path / "out", probabilities=True)
    assert summary["failed"] == []
    (head,) = summary["cases"]
    assert head["case"] == case.name and head["whole_tumor_ml"] == 0.004
    assert len(head["images"]) == 4
    volumes = [lesion["volume_mm3"] for lesion in head["lesions"]]
    assert volumes == [2, 1, 1]  # two of the four voxels are neighbors
    found = read_nifti(head["mask"], "ct").voxels[..., 0]
    assert {tuple(place) for place in np.argwhere(found)} == set(marks.values())
    assert (tmp_path / "out" / f"{case.name}_brain.nii.gz").is_file()
