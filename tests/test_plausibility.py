"""What is said of results that cannot be: drawn bodies of known size, and real scans where they are at hand."""

import contextlib
import csv
import dataclasses
import html
import json
import pathlib

import numpy as np
import pytest

import exact_models
from data_prep.phantom_abdomen import draw_abdomen
from data_prep.phantom_head import draw_head
from raunet_jax.commands.predict import predict
from raunet_jax.imaging.volume import Grid, Volume, read_mask, read_modalities, read_nifti
from raunet_jax.inference.cascade import Segmentation
from raunet_jax.inference.plausibility import judge
from raunet_jax.inference.results import Result, write_case

REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPE, SPACING_XYZ = (44, 72, 104), (4.0, 4.0, 5.0)  # (z, y, x), mm
BODY_MM, LIVER_MM = (170, 115), (75, 80, 60)  # half axes of the body (x, y) and of the liver (x, y, z)
MIDDLE_MM = (60, 15, -5)  # of the liver, from the middle of the body
LIVER_HU, NOISE_HU = 105, 12


def volume(hu, spacing_xyz=SPACING_XYZ):
    voxels = hu if hu.ndim == 4 else np.rint(hu).astype(np.int16)[..., None]
    affine = np.diag([*spacing_xyz, 1.0])
    return Volume(voxels, affine, Grid(voxels.shape[2::-1], affine, None), "scan")


def millimeters():
    """z, y and x of every voxel, from the middle of the volume."""
    lines = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING_XYZ[::-1], strict=True)]
    return np.meshgrid(*lines, indexing="ij")


def ellipsoid(middle, half):
    z, y, x = millimeters()
    return sum(((a - m) / h) ** 2 for a, m, h in zip((x, y, z), middle, half, strict=True)) < 1


def abdomen(liver_hu=LIVER_HU):
    """HU and labels: a body of water and fat, lungs above the liver, a spine and a table under the back."""
    z, y, x = millimeters()
    hu = np.full(SHAPE, -1000.0)
    body = (x / BODY_MM[0]) ** 2 + (y / BODY_MM[1]) ** 2 < 1
    hu[body] = -100
    hu[(x / 155) ** 2 + (y / 100) ** 2 < 1] = 45
    lungs = ((x / 140) ** 2 + (y / 85) ** 2 < 1) & (z > 60)
    hu[lungs] = -820
    hu[(np.abs(x) < 20) & (np.abs(y + 80) < 18)] = 400
    hu[(np.abs(y + 128) < 7) & (np.abs(x) < 180)] = 60
    liver = ellipsoid(MIDDLE_MM, LIVER_MM)
    hu[liver] = liver_hu
    return hu + np.random.default_rng(0).normal(0, NOISE_HU, SHAPE), liver.astype(np.uint8)


def said(hu, labels, stage="tumor", **how):
    return judge(volume(hu, **how), labels, stage).warnings


def test_of_a_usual_abdomen_all_is_measured_and_nothing_said():
    hu, labels = abdomen()
    labels[ellipsoid((80, 20, 0), (15, 15, 15))] = 2  # tumors are of the liver's volume, not of its HU
    hu[labels == 2] = 30
    found = judge(volume(hu), labels, "tumor")
    values = found.values
    assert found.warnings == []
    assert values["liver_ml"] == pytest.approx(4 / 3 * np.pi * np.prod(LIVER_MM) / 1000, rel=0.01)
    assert values["liver_hu_mean"] == pytest.approx(LIVER_HU, abs=1)
    assert values["liver_hu_sd"] == pytest.approx(NOISE_HU, abs=0.5)
    # the middle of the body is at a half
    expected = [0.5 + middle / (2 * half) for middle, half in zip(MIDDLE_MM, BODY_MM, strict=False)]
    assert values["liver_position"] == pytest.approx(expected, abs=0.01)
    assert values["body_width_mm"] == pytest.approx(2 * BODY_MM[0], abs=8)
    assert values["scan_height_mm"] == 220 and values["liver_cut_mm2"] == [0, 0]
    assert values["liver_largest_share"] == 1 and values["liver_outside_body"] == 0
    assert values["lung_slices_share"] == pytest.approx(10 / 44, abs=1e-3)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_finer_voxels_of_the_same_scan_measure_the_same():
    hu, labels = abdomen()
    coarse = judge(volume(hu), labels, "voi").values
    for axis in range(3):
        hu, labels = np.repeat(hu, 3, axis), np.repeat(labels, 3, axis)
    fine = judge(volume(hu, [step / 3 for step in SPACING_XYZ]), labels, "voi").values
    assert fine.keys() == coarse.keys()
    for name, value in coarse.items():
        assert fine[name] == pytest.approx(value, rel=0.02, abs=0.02), name


@pytest.mark.parametrize(
    "hu, words",
    [
        (52, "lower than in the portal venous phase (about 90 to 130), which the models are trained on: no contrast"),
        (20, "less than any liver but a fatty one has"),
        (200, "higher than in the portal venous phase (about 90 to 130)"),
    ],
)
def test_the_phase_is_told_by_the_mean(hu, words):
    (warning,) = said(*abdomen(hu))
    assert warning.startswith(f"scan: mean of the liver {hu} HU: {words}")


def mirrored(hu, labels):
    return hu[:, :, ::-1], labels[:, :, ::-1]


def cut_below(hu, labels):
    return hu[18:], labels[18:]


def cut_above_and_below(hu, labels):
    return hu[14:28], labels[14:28]


def small(hu, labels):
    labels = ellipsoid(MIDDLE_MM, (40, 40, 40)).astype(np.uint8)
    return hu, labels


def large(hu, labels):
    labels = ellipsoid((30, 0, 0), (140, 95, 80)).astype(np.uint8)
    return np.where(labels > 0, LIVER_HU, hu), labels


def in_pieces(hu, labels):
    labels[:, :, 70:74] = 0
    return hu, labels


def beside_the_body(hu, labels):
    labels[20:30, 0:6, :60] = 1
    return np.where(labels > 0, LIVER_HU, hu), labels


def all_tumor(hu, labels):
    labels[(labels > 0) & (np.indices(SHAPE)[0] < 27)] = 2
    return hu, labels


def scattered(hu, labels):
    return np.where(labels > 0, LIVER_HU + 100 * np.sign(hu - LIVER_HU), hu), labels


def at_the_back(hu, labels):
    labels = ellipsoid((70, -65, 0), (80, 42, 60)).astype(np.uint8)
    return np.where(labels > 0, LIVER_HU, hu), labels


def narrow_view(hu, labels):
    return hu[:, 16:60, 30:90], labels[:, 16:60, 30:90]


def short(hu, labels):
    return hu[:6], labels[:6]


def pelvis(hu, labels):
    return hu[:26], 0 * labels[:26]


def thorax(hu, labels):
    return np.repeat(hu[36:], 4, 0), np.repeat(0 * labels[36:], 4, 0)


def head(hu, labels):
    hu = np.full(SHAPE, -1000.0)
    hu[ellipsoid((0, 0, 0), (76, 95, 200))] = 1000
    hu[ellipsoid((0, 0, 0), (69, 88, 200))] = 35
    return hu, 0 * labels


def nothing_there(hu, labels):
    return np.full(SHAPE, -1000.0), 0 * labels


@pytest.mark.parametrize(
    "change, words",
    [
        (mirrored, "32% of the body's width from the patient's left, where it is not: is the scan mirrored"),
        (cut_below, "the liver is cut by the lowest slice: its volumes are too small"),
        (cut_above_and_below, "the liver is cut by the lowest and the highest slice"),
        (small, "the liver has 268 mL, an adult's about 600 to 3,000"),
        (large, " mL, an adult's about 600 to 3,000: enlarged"),
        (in_pieces, "the liver is in pieces: the largest is"),
        (beside_the_body, "of the liver lies outside of the body"),
        (all_tumor, "tumors are 84% of the liver: more than tumor was found"),
        (scattered, "HU in the liver scatter by 100 about their mean"),
        (at_the_back, "of its depth from the back, which is no place for a liver"),
        (narrow_view, "of the sides of the images: the field of view cuts it"),
        (short, "the scan is 30 mm tall, too short for a whole liver"),
        (pelvis, "no slice shows lung, which lies above every liver"),
        (thorax, "100% of the slices show lung: a thorax"),
        (head, "mm wide and 16% of it is bone: a head or a limb"),
        (nothing_there, "the scan holds 0 mL of soft tissue (0 to 100 HU): no body"),
    ],
)
def test_what_cannot_be_is_said_with_its_number(change, words):
    warnings = said(*change(*abdomen()))
    assert all(warning.startswith("scan: ") for warning in warnings)
    assert any(words in warning for warning in warnings), warnings


def test_a_round_field_of_view_with_padding_outside_is_a_field_of_view():
    z, y, x = millimeters()
    hu, labels = abdomen()
    outside = x**2 + y**2 > 190**2
    assert said(np.where(outside, -2048, hu), labels) == []
    narrow = x**2 + y**2 > 130**2
    (warning,) = said(np.where(narrow, -2048, hu), np.where(narrow, 0, labels))
    assert "the field of view cuts it" in warning


@pytest.mark.parametrize("seed", range(3))
def test_drawn_abdomens_and_heads_raise_no_alarm(seed):
    scan, labels = draw_abdomen(np.random.default_rng(seed), (96, 96, 40))
    assert judge(scan, labels, "tumor").warnings == []
    scan, labels = draw_head(np.random.default_rng(seed), (64, 64, 40))
    assert judge(scan, labels, "brain").warnings == []


def brain(background=0.0, half=(62, 80, 60)):
    """A head with two channels, a ball of brain and one of tumor; and the labels."""
    inside = ellipsoid((0, 0, 0), half)
    voxels = np.random.default_rng(0).normal(100, 10, (*SHAPE, 2)).astype(np.float32)
    voxels[~inside] = background
    return voxels, ellipsoid((20, 0, 0), (20, 20, 20)).astype(np.uint8)


@pytest.mark.parametrize("background", [0.0, -2.5, 300.0])
def test_a_brain_alone_is_measured_whatever_the_value_around_it(background):
    voxels, labels = brain(background)
    found = judge(volume(voxels), labels, "brain")
    assert found.warnings == []
    assert found.values["brain_ml"] == pytest.approx(4 / 3 * np.pi * 62 * 80 * 60 / 1000, rel=0.01)
    assert found.values["tumor_share"] == pytest.approx(20**3 / (62 * 80 * 60), rel=0.05)


def test_what_cannot_be_of_a_brain_is_said():
    voxels, labels = brain()
    (warning,) = said(voxels, 0 * labels, "brain")
    assert "the whole tumor has 0 mL" in warning
    (warning,) = said(voxels, ellipsoid((0, 0, 0), (55, 70, 50)).astype(np.uint8), "brain")
    assert "the tumor is 64% of the brain" in warning
    (warning,) = said(voxels + np.random.default_rng(1).random(voxels.shape, np.float32), labels, "brain")
    assert "0% of the image is background of one value: it is not skull-stripped" in warning
    (warning,) = said(*brain(half=(85, 105, 100)), "brain")
    assert "mL of the image are no background" in warning and "skull stripped" in warning
    (warning,) = said(brain(half=(40, 40, 40))[0], labels, "brain")
    assert "266 mL of the image are no background" in warning


def test_nothing_is_known_of_custom_tasks():
    assert judge(volume(np.zeros(SHAPE)), np.zeros(SHAPE, np.uint8), "custom") == ({}, [])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (2, 512, 1)])
@pytest.mark.parametrize("stage", ["coarse", "tumor", "brain"])
def test_any_shape_is_measured(shape, stage):
    for value in (-1000, 40):
        for labels in (np.zeros(shape, np.uint8), np.ones(shape, np.uint8)):
            found = judge(volume(np.full(shape, value)), labels, stage)
            json.dumps(found.values, allow_nan=False)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
def test_real_scans_raise_the_alarms_that_are_true_of_them():
    scan = read_nifti(REAL / "ct/abdomen_ct.nii.gz")
    found = judge(scan, read_mask(REAL / "ct/abdomen_liver.nii.gz", scan), "tumor")
    # 90 mm of an unenhanced abdomen
    assert [warning.split(": ")[1] for warning in found.warnings] == [
        "the liver is cut by the lowest and the highest slice",
        "mean of the liver 45 HU",
    ]
    for folder in sorted((REAL / "brats2015").glob("brats*"))[:1]:
        scan = read_modalities([folder / f"{name}_subtrMeanDivStd.nii.gz" for name in ("Flair", "T1c")])
        labels = read_mask(folder / "OTMultiClass.nii.gz", scan, range(5))
        assert judge(scan, labels, "brain").warnings == []


def test_every_warning_of_the_summary_is_on_the_page_and_in_the_table(tmp_path, monkeypatch):
    exact_models.use_rules(monkeypatch)
    scans, output = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    hu, _ = exact_models.abdomen()
    exact_models.write(scans / "a.nii.gz", hu)
    exact_models.write(scans / "b & <c>.nii.gz", np.where(hu > 100, exact_models.BODY, hu))
    summary = predict(exact_models.models(), [scans], output)
    assert json.loads(json.dumps(summary)) == json.loads((output / "summary.json").read_text(encoding="utf-8"))
    with (output / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = {row["case"]: row["warnings"] for row in rows}
    assert "plausibility" not in rows[0]  # numbers within numbers are no cell
    page = html.unescape((output / "index.html").read_text(encoding="utf-8"))
    for case in summary["cases"]:
        assert len(case["warnings"]) >= 3 and case["plausibility"]["scan_height_mm"] == 80
        for warning in case["warnings"]:
            assert warning in table[case["case"]] and warning in page
        assert table[case["case"]] == "; ".join(case["warnings"])


def test_a_volume_s_own_warnings_come_first(tmp_path, monkeypatch):
    hu, labels = abdomen(52)
    scan = dataclasses.replace(volume(hu), warnings=("scan: its size is a guess",))
    found = Segmentation(labels, {}, warnings=["scan: two pieces"])
    record = write_case(tmp_path, Result("scan", (), (), scan, found, "voi"), contextlib.nullcontext)
    assert record["warnings"][:2] == ["scan: its size is a guess", "scan: two pieces"]
    assert "mean of the liver 52 HU" in record["warnings"][2] and len(record["warnings"]) == 3
