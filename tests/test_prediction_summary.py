"""Several predictions into one folder: nobody's mask or line is lost, a scan that comes again replaces its own."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

import exact_models
from exact_models import models
from raunet_jax.commands import predict as prediction
from raunet_jax.commands.predict import predict
from raunet_jax.commands.prediction_summary import PredictionSummary
from raunet_jax.errors import FileError
from raunet_jax.report import prediction_page


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    exact_models.use_rules(monkeypatch)
    exact_models.pass_for_a_body(monkeypatch)


@pytest.fixture
def drawn(monkeypatch):
    """The names of cases whose pictures are drawn, by call; none is drawn."""
    calls = []
    picture = lambda *_: calls[-1].append(_[0]["case"]) or object()  # noqa: E731
    write = prediction_page.write_prediction_page

    def write_page(*arguments):
        calls.append([])
        return write(*arguments)

    monkeypatch.setattr(prediction_page, "write_prediction_page", write_page)
    monkeypatch.setattr(prediction_page, "read_case", picture)
    monkeypatch.setattr(prediction_page, "draw_case", lambda *_: prediction_page.Pictures(b"picture", None, None))
    return calls


def patient(folder, tumors=True):
    hu, labels = exact_models.abdomen()
    if not tumors:
        hu[labels == 2] = exact_models.LIVER
    return exact_models.write(folder / "ct.nii.gz", hu)


def summary_of(output):
    return json.loads((output / "summary.json").read_text())


def tumor_voxels(mask):
    return int((np.asarray(nib.load(mask).dataobj) == 2).sum())


def test_another_patients_scan_of_the_same_name_is_numbered_and_both_are_kept(tmp_path, drawn, capsys):
    one, two, out = patient(tmp_path / "a"), patient(tmp_path / "b", tumors=False), tmp_path / "out"
    assert [case["case"] for case in predict(models(), [one], out)["cases"]] == ["ct"]
    assert [case["case"] for case in predict(models(), [two], out)["cases"]] == ["ct-2"]
    assert f"{two} is called ct-2, as {out} holds a result called ct of {one}" in capsys.readouterr().err
    cases = summary_of(out)["cases"]
    assert [(case["case"], case["input"], case["tumor_count"]) for case in cases] == [
        ("ct", str(one), 2),
        ("ct-2", str(two), 0),
    ]
    assert [tumor_voxels(case["mask"]) for case in cases] == [16, 0]
    assert drawn == [["ct"], ["ct-2"]]  # the first picture is there already
    page = (out / "index.html").read_text()
    assert str(one) in page and str(two) in page and page.count("<img") == 2
    for name in ("summary.csv", "lesions.csv"):
        with (out / name).open(newline="") as file:
            assert {row["case"] for row in csv.DictReader(file)} == ({"ct", "ct-2"} if name[0] == "s" else {"ct"})

    # Each comes again, and replaces its own, whichever way it is given.
    patient(tmp_path / "a", tumors=False)
    again = predict(models(), [tmp_path / "b", one], out)["cases"]
    assert [(case["case"], case["input"]) for case in again] == [("ct-2", str(two)), ("ct", str(one))]
    assert [(case["case"], case["tumor_count"]) for case in summary_of(out)["cases"]] == [("ct", 0), ("ct-2", 0)]
    assert sorted(path.name for path in out.glob("*_seg.nii.gz")) == ["ct-2_seg.nii.gz", "ct_seg.nii.gz"]


def test_a_mask_of_ours_that_no_line_tells_of_is_not_replaced(tmp_path, drawn):
    one, two, out = patient(tmp_path / "a"), patient(tmp_path / "b", tumors=False), tmp_path / "out"
    predict(models(), [one], out)
    (out / "summary.json").unlink()
    (case,) = predict(models(), [two], out)["cases"]
    assert case["case"] == "ct-2" and tumor_voxels(out / "ct_seg.nii.gz") == 16


def test_a_scan_that_fails_when_it_comes_again_keeps_its_earlier_result_and_this_is_said(tmp_path, drawn):
    one, out = patient(tmp_path / "a"), tmp_path / "out"
    predict(models(), [one], out)
    content = one.read_bytes()
    for cut in (100, 50):  # the reason of the last call alone is kept
        one.write_bytes(content[:cut])
        again = predict(models(), [one], out)
        assert again["cases"] == [] and len(again["failed"]) == 1
        summary = summary_of(out)
        (case,), (failure,) = summary["cases"], summary["failed"]
        (warning,) = case["warnings"]
        assert warning.startswith("this is the result of an earlier call; a later one could not segment the scan again")
        assert failure["reason"] in warning
    assert tumor_voxels(out / "ct_seg.nii.gz") == 16
    one.write_bytes(content)
    predict(models(), [one], out)
    summary = summary_of(out)
    assert summary["failed"] == [] and summary["cases"][0]["warnings"] == []


def test_failures_of_other_paths_are_kept_and_those_looked_at_again_are_not(tmp_path, drawn):
    good, out = patient(tmp_path / "good"), tmp_path / "out"
    bad = tmp_path / "scans" / "bad.nii.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"no scan")
    predict(models(), [bad.parent, tmp_path / "gone"], out)
    predict(models(), [good], out)
    assert [failure["input"] for failure in summary_of(out)["failed"]] == [str(tmp_path / "gone"), str(bad)]
    bad.write_bytes(good.read_bytes())
    assert predict(models(), [bad.parent], out)["failed"] == []
    assert [failure["input"] for failure in summary_of(out)["failed"]] == [str(tmp_path / "gone")]


def test_what_an_interrupt_left_unfinished_is_begun_anew_under_its_name(tmp_path, drawn, monkeypatch):
    one, two, out = patient(tmp_path / "a"), patient(tmp_path / "b"), tmp_path / "out"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prediction, "segment", interrupt)
        predict(models(), [one], out)
    assert [case["case"] for case in summary_of(out)["unfinished"]] == ["ct"]
    assert [case["case"] for case in predict(models(), [two], out)["cases"]] == ["ct-2"]
    assert [case["case"] for case in predict(models(), [one], out)["cases"]] == ["ct"]
    assert [case["case"] for case in summary_of(out)["cases"]] == ["ct-2", "ct"]
    assert "unfinished" not in summary_of(out)


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "{", '{"name": "nnU-Net", "results": []}', '{"cases": 3}', '{"cases": [{}]}', '{"failed": ["x"]}'],
)
def test_a_summary_that_cannot_be_read_is_not_overwritten(tmp_path, content):
    one, out = patient(tmp_path / "a"), tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text(content)
    with pytest.raises(FileError, match="summary.json: .*; move it away .*, or name another --output"):
        predict(models(), [one], out)
    assert (out / "summary.json").read_text() == content


def source(path):
    return {"images": [str(path)], "channels": [], "series": []}


def test_lines_of_earlier_versions_are_known_by_their_input(tmp_path):
    old = [{"case": "ct", "input": "/disk/ct.nii.gz", "mask": "x", "lesions": None, "liver_ml": 5, "warnings": []}]
    (tmp_path / "summary.json").write_text(json.dumps({"cases": old, "failed": []}))
    names = PredictionSummary(tmp_path, []).claim(["ct", "ct"], [source("/disk/ct.nii.gz"), source("/b/ct.nii.gz")])
    assert names == ["ct", "ct-2"]
    assert summary_of(tmp_path)["cases"] == old


def test_names_of_other_scans_of_the_same_call_are_not_taken_by_numbers(tmp_path):
    first, second = PredictionSummary(tmp_path, []), PredictionSummary(tmp_path, [])
    assert first.claim(["a", "a-2"], [source("/1"), source("/2")]) == ["a", "a-2"]
    assert second.claim(["a", "a-3"], [source("/3"), source("/4")]) == ["a-3", "a-3-2"]


def test_calls_at_the_same_time_lose_no_line(tmp_path):
    """Each of several adds its own scans, all of one name; locks hold between threads as between processes."""

    def call(mine):
        paths = [f"/{mine}/{number}/ct.nii.gz" for number in range(6)]
        summary = PredictionSummary(tmp_path, paths)
        names = summary.claim(["ct"] * len(paths), [source(path) for path in paths])
        for name, path in zip(names, paths, strict=True):
            summary.add({"case": name, "input": path, "warnings": [], "lesions": []} | source(path))
            summary.write()

    with ThreadPoolExecutor() as pool:
        list(pool.map(call, range(4)))
    cases = summary_of(tmp_path)["cases"]
    assert len({case["case"] for case in cases}) == len({case["input"] for case in cases}) == 24
    assert "unfinished" not in summary_of(tmp_path)
