"""A tumor voxel and a lesion are lost to the one stage that lost them, counted by hand on drawn masks."""

import tracemalloc

import numpy as np
import pytest

import exact_models
from exact_models import model, rule
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import read_nifti
from raunet_jax.inference.attribution import attribute
from raunet_jax.inference.cascade import segment
from raunet_jax.scores.attribution import OUTCOMES, lesion_outcomes, summarize, voxel_outcomes


def test_every_reference_tumor_voxel_has_one_outcome():
    reference = np.ones((4, 6, 10), np.uint8)
    reference[1, 2, :8] = 2
    labels = np.zeros_like(reference)
    labels[:, :, 2:6] = 1  # the liver that was found
    labels[1, 2, 5] = 2  # and the tumor in it
    outcomes = voxel_outcomes(reference, labels, Box((0, 0, 1), (4, 6, 10)))
    # x = 0 lies outside the box; 1, 6 and 7 inside it but in no liver; 2, 3 and 4 were called liver
    assert outcomes[1, 2, :8].tolist() == [0, 1, 2, 2, 2, 3, 1, 1]
    assert (outcomes[reference != 2] == -1).all()


def test_without_a_box_nothing_is_lost_to_it():
    reference = np.zeros((2, 3, 4), np.uint8)
    reference[0, 0, 0] = 2
    assert voxel_outcomes(reference, np.zeros_like(reference), None)[0, 0, 0] == 1


def test_no_array_of_wide_numbers_is_made_of_a_whole_volume():
    reference = np.full((50, 100, 100), 2, np.uint8)
    tracemalloc.start()
    outcomes = voxel_outcomes(reference, reference, Box((1, 0, 0), (50, 100, 100)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (outcomes[0] == 0).all() and (outcomes[1:] == 3).all()
    assert peak < 6 * reference.size  # bytes: int8 and a few masks; one int64 array alone is 8 a voxel


@pytest.fixture
def scan(tmp_path, monkeypatch):
    exact_models.use_rules(monkeypatch)
    hu, labels = exact_models.abdomen()
    return read_nifti(exact_models.write(tmp_path / "ct.nii.gz", hu)), labels


def test_a_perfect_cascade_loses_nothing(scan):
    volume, labels = scan
    models = exact_models.models()
    record = attribute(volume, labels, segment(volume, models), models)
    voxels = int((labels == 2).sum())
    assert record["tumor_voxels"] == {
        "lost_to_box": 0,
        "lost_to_liver_mask": 0,
        "lost_to_tumor_network": 0,
        "found": voxels,
    }
    assert record["lesions"]["found"] == 2 and sum(record["lesions"].values()) == 2
    assert record["liver_voxels_outside_box"] == 0
    assert record["given_reference"] == {"liver_dice": 1, "tumor_dice": 1}


def test_a_blind_tumor_network_is_blamed_for_all(scan):
    volume, labels = scan
    models = exact_models.models() | {"tumor": model("tumor", rule(exact_models.NOTHING))}
    record = attribute(volume, labels, segment(volume, models), models)
    assert record["tumor_voxels"]["lost_to_tumor_network"] == (labels == 2).sum()
    assert record["lesions"]["lost_to_tumor_network"] == 2
    assert record["given_reference"] == {"liver_dice": 1, "tumor_dice": 0}


def test_a_liver_mask_that_leaves_tumors_out_is_blamed_and_stage_3_alone_would_have_found_them(scan):
    """A liver network that sees nothing as bright as tumor in the liver."""
    volume, labels = scan
    models = exact_models.models() | {"voi": model("voi", rule((90, 130)))}
    record = attribute(volume, labels, segment(volume, models), models)
    assert record["tumor_voxels"]["lost_to_liver_mask"] == (labels == 2).sum()
    assert record["lesions"]["lost_to_liver_mask"] == 2 and record["given_reference"]["tumor_dice"] == 1
    liver = labels >= 1
    # what is left of the liver: 2 |A| / (|A| + |B|), A = liver without tumors
    left = int((labels == 1).sum())
    assert record["given_reference"]["liver_dice"] == pytest.approx(2 * left / (left + liver.sum()))


def test_a_box_in_the_wrong_place_is_blamed(scan):
    """Localization takes the spleen for the liver."""
    volume, labels = scan
    result = segment(volume, exact_models.models())
    result.box = Box((4, 44, 44), (8, 60, 60))
    result.labels[:] = 0
    record = attribute(volume, labels, result, exact_models.models())
    assert record["tumor_voxels"]["lost_to_box"] == (labels == 2).sum() and record["lesions"]["lost_to_box"] == 2
    assert record["liver_voxels_outside_box"] == (labels >= 1).sum()


def test_a_lesion_lost_bit_by_bit_is_counted_for_the_stage_that_lost_most_of_it():
    reference = np.zeros((3, 5, 12), np.uint8)
    reference[1, 1, :10] = 2  # one lesion of ten voxels
    labels = np.zeros_like(reference)
    labels[:, :, 4:] = 1
    outcomes = voxel_outcomes(reference, labels, Box((0, 0, 3), (3, 5, 12)))
    assert [int((outcomes == outcome).sum()) for outcome in range(4)] == [3, 1, 6, 0]
    assert lesion_outcomes(reference, outcomes) == dict(zip(OUTCOMES, (0, 0, 1, 0), strict=True))


def test_sums_over_cases():
    record = {
        "tumor_voxels": dict(zip(OUTCOMES, (1, 2, 3, 4), strict=True)),
        "lesions": dict(zip(OUTCOMES, (0, 1, 0, 1), strict=True)),
        "liver_voxels_outside_box": 5,
        "given_reference": {"liver_dice": 0.5, "tumor_dice": None},
    }
    other = record | {"given_reference": {"liver_dice": 1.0, "tumor_dice": 0.25}}
    summary = summarize([{"attribution": record}, {"attribution": other}, {"case": "without"}])
    assert list(summary["tumor_voxels"].values()) == [2, 4, 6, 8] and summary["lesions"]["found"] == 2
    assert summary["liver_voxels_outside_box"] == 10
    assert summary["given_reference"] == {"liver_dice": 0.75, "tumor_dice": 0.25}
    assert summarize([{"case": "without"}]) is None
