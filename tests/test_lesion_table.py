"""Lesions measured by hand, in oblique space, against scipy; how far the folds agree; and the table evaluate leaves."""

import csv
import json
import time

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

import exact_models
import tiny_lits
from data_prep import patch_dataset
from exact_models import NOTHING, TUMOR, TUMORS, VOXEL_ML, model, models, rule
from raunet_jax.commands import evaluate as evaluation
from raunet_jax.files import write_json, write_text
from raunet_jax.imaging.volume import Grid, Volume
from raunet_jax.inference.cascade import Segmentation, segment
from raunet_jax.inference.lesion_table import diameter_mm, lesions_of, tabulate, voxel_volume_mm3, write_csv
from raunet_jax.recipe import to_json

SPACING_XYZ = (0.5, 2.0, 4.0)
TURN = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()


def oblique(spacing_xyz=SPACING_XYZ, origin=(-80.0, 40.0, 1200.0)):
    affine = np.eye(4)
    affine[:3, :3] = TURN * np.array(spacing_xyz)
    affine[:3, 3] = origin
    return affine


def block(shape, *where):
    mask = np.zeros(shape, np.uint8)
    for part in where:
        mask[part] = 1
    return mask


def test_a_cube_of_eight_voxels_is_measured_as_by_hand():
    (row,) = tabulate(block((9, 8, 7), np.s_[3:5, 2:4, 4:6]), oblique())
    assert row["volume_mm3"] == 8 * 0.5 * 2 * 4
    assert row["diameter_mm"] == pytest.approx(np.sqrt(1**2 + 4**2 + 8**2), rel=1e-5)  # of 1 x 4 x 8 mm
    center = (TURN * SPACING_XYZ) @ np.array([4.5, 2.5, 3.5]) + (-80, 40, 1200)
    assert row["centroid_mm"] == pytest.approx(list(center), rel=1e-5)
    assert list(row) == ["volume_mm3", "diameter_mm", "centroid_mm", "mean_probability", "agreement"]
    assert (row["mean_probability"], row["agreement"]) == (None, None)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (4, 1, 1), (1, 3, 4), (2, 3, 4)])
def test_voxels_rows_and_planes_are_as_long_as_their_box(shape):
    """Voxels are boxes: one measures its own diagonal, and a lesion of a single slice has that slice's thickness."""
    edges_mm = np.array(shape[::-1]) * SPACING_XYZ
    assert diameter_mm(np.ones(shape, bool), oblique()) == pytest.approx(np.sqrt((edges_mm**2).sum()))


@pytest.mark.parametrize("seed", range(4))
def test_the_diameter_is_the_largest_of_all_distances_between_corners(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 6, 7)) < 0.15
    mask[2, 3, 3] = True
    affine = oblique(rng.uniform(0.5, 3, 3))
    affine[:3, 1] += 0.3 * affine[:3, 2]  # sheared, as by a tilted gantry
    corners = {(x + i, y + j, z + k) for z, y, x in np.argwhere(mask) for i in (0, 1) for j in (0, 1) for k in (0, 1)}
    expected = pdist(np.array(sorted(corners)) @ affine[:3, :3].T).max()
    assert diameter_mm(mask, affine) == pytest.approx(expected)


def test_a_ball_of_a_hundred_thousand_voxels_is_measured_fast():
    z, y, x = np.mgrid[-30:31, -30:31, -30:31]
    ball = z**2 + y**2 + x**2 <= 29.5**2
    assert ball.sum() > 1e5
    begin = time.monotonic()
    diameter = diameter_mm(ball, np.eye(4))
    assert time.monotonic() - begin < 5  # all pairs of its voxels would take minutes
    assert 2 * 29 + 1 <= diameter <= 2 * 29.5 + np.sqrt(3)


def test_a_sheared_voxel_has_the_volume_of_its_parallelepiped():
    affine = oblique((1, 1, 2))
    affine[:3, 2] += affine[:3, 1]
    a, b, c = affine[:3, :3].T
    assert abs(np.dot(a, np.cross(b, c))) == pytest.approx(2)  # while its edges' product is 2 * sqrt(5 / 4)
    assert voxel_volume_mm3(affine) == pytest.approx(2)


@pytest.mark.parametrize("seed", range(3))
def test_lesions_are_those_of_scipy_and_the_largest_comes_first(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 13, 14), np.uint8)
    mask[2:11, 1:12, 3:12] = rng.random((9, 11, 9)) < 0.08
    probability = rng.random(mask.shape).astype(np.float32)
    votes, other = rng.integers(0, 6, mask.shape).astype(np.uint8), rng.random(mask.shape) < 0.3
    labels, total = ndimage.label(mask, np.ones((3, 3, 3)))
    expected = {}
    for number in range(1, total + 1):
        lesion = labels == number
        centroid = tuple(np.round(np.argwhere(lesion).mean(axis=0)[::-1], 3))
        expected[centroid] = (
            lesion.sum(),
            probability[lesion].mean(),
            votes[lesion].mean() / 5,
            other[lesion].any(),
            other[lesion].mean(),
        )
    rows = tabulate(mask, np.eye(4), probability, votes, 5, other)
    fields = ("volume_mm3", "mean_probability", "agreement", "matched", "overlap")
    assert {tuple(np.round(row["centroid_mm"], 3)): tuple(row[field] for field in fields) for row in rows} == {
        centroid: pytest.approx(values, rel=1e-4) for centroid, values in expected.items()
    }
    volumes = [row["volume_mm3"] for row in rows]
    assert len(rows) == total > 5 and volumes == sorted(volumes, reverse=True)


def test_an_empty_mask_has_no_rows_and_a_single_fold_agrees_with_nobody():
    assert tabulate(np.zeros((3, 4, 5), np.uint8), np.eye(4)) == []
    mask = np.ones((1, 1, 2), np.uint8)
    (row,) = tabulate(mask, np.eye(4), mask.astype(np.float32), votes=mask, folds=1)
    assert (row["mean_probability"], row["agreement"]) == (1, None)


def scan(hu):
    return Volume(hu[..., None], exact_models.affine(), Grid(hu.shape[::-1], exact_models.affine(), None), "case")


def test_three_folds_that_see_different_lesions(monkeypatch):
    """Fold 0 sees both tumors, fold 1 the first and half of the second, fold 2 the first only."""
    exact_models.use_rules(monkeypatch)
    hu, _ = exact_models.abdomen()
    z, y, x = TUMORS[1]  # 1 x 2 x 4 voxels
    hu[z, y, 22:24], hu[z, y, 24:26] = TUMOR + 1, TUMOR + 2
    three = model("tumor", *[rule((TUMOR, TUMOR + most), 0.9, 0.4) for most in (2, 1, 0)])
    found = segment(scan(hu), models("coarse", "voi") | {"tumor": three})
    first, second = lesions_of(found, "tumor", exact_models.affine())
    assert first["agreement"] == 1 and first["mean_probability"] == pytest.approx(0.9)
    # One fold is enough for the mean: of 0.9, 0.4, 0.4 it is 0.57.
    assert second["agreement"] == pytest.approx((2 / 3 + 1 / 3) / 2, rel=1e-5)
    assert second["mean_probability"] == pytest.approx(((0.9 + 0.9 + 0.4) / 3 + (0.9 + 0.4 + 0.4) / 3) / 2, rel=1e-5)
    assert first["volume_mm3"] == second["volume_mm3"] == pytest.approx(8000 * VOXEL_ML)
    assert first["centroid_mm"] == pytest.approx([0.5 * 18.5 - 12, 2 * 22.5 + 7, 4 * 8.5 + 300])


def test_found_and_missed_lesions_are_told_apart():
    reference, labels = np.ones((6, 20, 20), np.uint8), np.ones((6, 20, 20), np.uint8)
    reference[1:3, 2:4, 2:6] = 2  # found by half
    labels[1:3, 2:4, 4:8] = 2
    reference[4, 15, 15] = 2  # missed
    labels[4, 10, 10:12] = 2  # invented
    maps = {"tumor": np.where(labels == 2, 0.8, 0.25).astype(np.float32)}
    votes = (labels == 2).astype(np.uint8) * 2
    found = Segmentation(labels, maps, None, votes=votes, folds=2)
    rows = lesions_of(found, "tumor", np.eye(4), reference)
    fields = ("kind", "volume_mm3", "matched", "overlap", "mean_probability", "agreement")
    assert [tuple(row[field] for field in fields) for row in rows] == [
        ("found", 16, True, 0.5, pytest.approx(0.8), 1),
        ("found", 2, False, 0, pytest.approx(0.8), 1),
        ("missed", 1, False, 0, pytest.approx(0.25), 0),
    ]
    assert rows[2]["centroid_mm"] == [15, 15, 4]
    assert rows[2]["diameter_mm"] == pytest.approx(np.sqrt(3), rel=1e-5)
    json.dumps(rows, allow_nan=False)


def test_without_a_liver_every_lesion_of_the_reference_is_missed():
    reference = np.zeros((4, 5, 6), np.uint8)
    reference[1, 2, 3] = 2
    found = Segmentation(np.zeros_like(reference), {"liver": np.zeros(reference.shape, np.float32)}, None)
    (row,) = lesions_of(found, "tumor", np.eye(4), reference)
    assert row["kind"] == "missed" and row["mean_probability"] is None and row["agreement"] is None


def test_stages_that_segment_one_structure_list_its_pieces_and_the_livers_none():
    labels = block((4, 5, 6), np.s_[0, 0, 0], np.s_[2:4, 2:4, 2:4])
    for stage, name in (("brain", "brain"), ("custom", "foreground")):
        rows = lesions_of(Segmentation(labels, {name: labels.astype(np.float32)}, None), stage, np.eye(4))
        assert [(row["volume_mm3"], row["mean_probability"]) for row in rows] == [(8, 1), (1, 1)]
    for stage in ("coarse", "voi"):
        assert lesions_of(Segmentation(labels, {"liver": labels}, None), stage, np.eye(4), labels) is None


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_line_a_lesion_counted_case_by_case(tmp_path):
    mask = block((4, 5, 6), np.s_[0, 0, 0], np.s_[2:4, 2:4, 2:4])
    write_csv(tmp_path / "lesions.csv", {"a": tabulate(mask, oblique()), "none": [], "b,c": tabulate(mask, np.eye(4))})
    rows = read_csv(tmp_path / "lesions.csv")
    assert [(row["case"], row["lesion"], float(row["volume_mm3"])) for row in rows] == [
        ("a", "1", 32),
        ("a", "2", 4),
        ("b,c", "1", 8),
        ("b,c", "2", 1),
    ]
    assert [float(rows[2][f"centroid_{axis}_mm"]) for axis in "xyz"] == [2.5, 2.5, 2.5]
    assert rows[0]["agreement"] == ""
    write_csv(tmp_path / "lesions.csv", {"none": []})
    assert read_csv(tmp_path / "lesions.csv") == []


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_lits.write(tmp_path_factory.mktemp("lits"), 4)


def evaluate(monkeypatch, root, place, *rules, uncertainty=False):
    """With a run whose stage tumor follows `rules`, of the whole data set but for the two cases trained on."""
    exact_models.use_rules(monkeypatch)
    stages = {"tumor": model("tumor", *rules, box_margin=2)}
    monkeypatch.setattr(evaluation, "load_cascade", lambda workdir, config, fold: stages)
    config = tiny_lits.recipe(root, place / "prepared", "tumor", (32, 32, 32), folds=2, test_cases=2)
    config.folds = (0, 1)
    write_json(place / "split.json", patch_dataset.assign_splits(config))
    write_text(place / "config.json", to_json(config))
    summary, failed = evaluation.evaluate(config, place, None, uncertainty)
    assert failed == []
    return [case["case"] for case in summary["cases"]]


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which JSON has not")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_evaluate_lists_the_lesions_of_all_cases_found_and_missed(root, tmp_path, monkeypatch):
    """The tumor of tiny_lits has 4 x 5 x 2 voxels of 0.8 x 0.8 x 2.5 mm; the liver around it has 22 x 18 x 6."""
    volumes_mm3 = {"missed": 40 * 0.8 * 0.8 * 2.5, "found": 22 * 18 * 6 * 0.8 * 0.8 * 2.5}
    edges_mm = {"missed": (4 * 0.8, 5 * 0.8, 2 * 2.5), "found": (22 * 0.8, 18 * 0.8, 6 * 2.5)}
    rules = {"missed": [rule(NOTHING), rule(NOTHING)], "found": [rule((-2000, 2000), 0.9), rule(NOTHING, 0.0, 0.3)]}
    for kind, folds in rules.items():
        cases = evaluate(monkeypatch, root, tmp_path / kind, *folds, uncertainty=kind == "found")
        rows = read_csv(tmp_path / kind / "evaluation" / "lesions.csv")
        assert [(row["case"], row["lesion"], row["kind"]) for row in rows] == [(case, "1", kind) for case in cases]
        for case, row in zip(cases, rows, strict=True):
            assert float(row["volume_mm3"]) == pytest.approx(volumes_mm3[kind])
            assert float(row["diameter_mm"]) == pytest.approx(np.linalg.norm(edges_mm[kind]), rel=1e-5)
            assert row["matched"] == str(kind == "found")
            record = strict_json(tmp_path / kind / "evaluation" / f"{case}.json")
            assert len(record["lesions"]) == 1 and record["lesions"][0]["kind"] == kind
        path = tmp_path / kind / "evaluation" / f"{cases[0]}_uncertainty.nii.gz"
        assert path.is_file() == (kind == "found")
    # In the reference's center of voxels 12-15, 12-16, 3-4, as nibabel places them.
    missed = read_csv(tmp_path / "missed" / "evaluation" / "lesions.csv")[0]
    center = [float(missed[f"centroid_{axis}_mm"]) for axis in "xyz"]
    assert center == pytest.approx([13.5 * 0.8, 14 * 0.8, 3.5 * 2.5])
    assert (float(missed["mean_probability"]), float(missed["agreement"])) == (0, 0)
    found = read_csv(tmp_path / "found" / "evaluation" / "lesions.csv")[0]
    assert (float(found["mean_probability"]), float(found["agreement"])) == (pytest.approx(0.6), 0.5)
    assert float(found["overlap"]) == pytest.approx(40 / (22 * 18 * 6), rel=1e-5)
    entropy = tiny_lits.read_zyx(path)
    assert entropy.max() == pytest.approx(-0.6 * np.log2(0.6) - 0.4 * np.log2(0.4), rel=1e-5) and entropy.min() == 0
