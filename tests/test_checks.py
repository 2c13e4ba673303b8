"""Intensities that cannot be HU are told from those that are, by a drawn body in air and what is done to its values."""

import pathlib

import numpy as np
import pytest

import exact_models
import spleen_task
from configs import brats, liver_voi
from data_prep import faults
from data_prep.layouts import Case
from raunet_jax.commands.evaluate import _Evaluation
from raunet_jax.commands.predict import predict
from raunet_jax.errors import UserError
from raunet_jax.imaging.checks import UNUSABLE, WARNING, admit, find_doubts
from raunet_jax.imaging.grid import Grid, Repair, Volume, VolumeError
from raunet_jax.imaging.volume import read_nifti, write_nifti

CT = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "ct" / "abdomen_ct.nii.gz"
AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])


def body(shape=(16, 48, 64)) -> np.ndarray:
    """HU (z, y, x) of air around fat around an organ around a spine, noisy as scans are."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[1:]), indexing="ij")
    radius = np.hypot(x / 0.85, y / 0.8)
    plane = np.select([np.hypot(x, y + 0.4) < 0.12, radius < 0.8, radius < 1], [450, 60, -100], -1000)
    return plane + np.random.default_rng(0).normal(0, 12, shape)


@pytest.fixture(scope="module", params=["drawn", "real"])
def hu(request):
    if request.param == "drawn":
        return body()
    if not CT.exists():
        pytest.skip("no real scan here")
    return read_nifti(CT).voxels[..., 0].astype(float)


def volume(values: np.ndarray, repairs=()) -> Volume:
    voxels = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return Volume(voxels[..., None], AFFINE, Grid(voxels.shape[::-1], AFFINE, None), "scan", repairs)


def doubts(values: np.ndarray, **fields):
    config = liver_voi.get_config()
    config.data.update(fields)
    return find_doubts(volume(values), config)


def windowed(hu, high=1.0):
    return np.clip((hu + 160) / 400, 0, 1) * high


def on_some(hu, change):
    """Every third slice changed, from the second on."""
    values = hu.copy()
    values[1::3] = change(values[1::3])
    return values


WRONG = {
    "1024 too high": lambda hu: hu + 1024,
    "1000 too high": lambda hu: hu + 1000,
    "1024 too high, noisy": lambda hu: hu + 1024 + np.random.default_rng(1).normal(0, 40, hu.shape),
    "1024 too high, padded with air": lambda hu: np.pad(hu + 1024, ((0, 0), (4, 0), (0, 0)), constant_values=-1000),
    "1024 too high, padded": lambda hu: np.pad(hu + 1024, ((0, 0), (4, 0), (0, 0)), constant_values=-2000),
    "1024 too low": lambda hu: hu - 1024,
    "ten times": lambda hu: hu * 10,
    "0 to 1": windowed,
    "0 to 255": lambda hu: windowed(hu, 255),
    "z scores": lambda hu: (hu - hu.mean()) / hu.std(),
    "negative values lost": lambda hu: np.maximum(hu, 0),
    "signed read as unsigned": lambda hu: np.where(hu < 0, hu + 65536, hu),
    "one value": lambda hu: hu * 0 - 1000,
    "air alone": lambda hu: np.random.default_rng(1).normal(-1000, 12, hu.shape),
    "a mask": lambda hu: (hu > 0) * 1.0,
    "some slices 1024 higher": lambda hu: on_some(hu, lambda values: values + 1024),
    "some slices 1024 lower": lambda hu: on_some(hu, lambda values: values - 1024),
    "some slices of twice the slope": lambda hu: on_some(hu, lambda values: (values + 1024) * 2 - 1024),
    "the last slice 1024 higher": lambda hu: np.concatenate([hu[:-1], hu[-1:] + 1024]),
}
RIGHT = {
    "as it is": lambda hu: hu,
    "of 12 bits": lambda hu: np.clip(hu, -1024, 3071),
    "padded": lambda hu: np.pad(hu, ((0, 0), (4, 0), (0, 0)), constant_values=-3024),
    "padded twice": lambda hu: np.pad(hu, ((0, 0), (4, 0), (0, 4)), constant_values=((0, 0), (-2000, 0), (0, -32768))),
    "metal": lambda hu: np.where(np.random.default_rng(1).random(hu.shape) < 0.01, 3071, hu),
    "a crop without air": lambda hu: hu[4:14, 10:-10, 12:-12],
    "thick slices": lambda hu: hu[::4],
    "thin slices": lambda hu: hu.repeat(3, axis=0),
    "one slice": lambda hu: hu[8:9].repeat(8, axis=0),
    "empty slices at its ends": lambda hu: np.pad(hu, ((2, 2), (0, 0), (0, 0)), constant_values=-1000),
    "few pixels": lambda hu: hu[:, ::4, ::4],
}


@pytest.mark.parametrize("what", WRONG)
def test_values_that_cannot_be_hu_are_unusable_unless_a_user_knows_better(hu, what):
    (doubt,) = doubts(WRONG[what](hu))
    assert (doubt.check, doubt.level) == ("intensity", UNUSABLE)
    assert doubt.remedy.endswith("go on all the same (--config.data.check=warn)")
    (warned,) = doubts(WRONG[what](hu), check="warn")
    assert warned == doubt._replace(level=WARNING, remedy=warned.remedy)
    assert "again" in warned.remedy and "config.data.check" not in warned.remedy


@pytest.mark.parametrize("what", RIGHT)
def test_values_that_are_hu_are_no_doubt(hu, what):
    assert [doubt for doubt in doubts(RIGHT[what](hu)) if doubt.check == "intensity"] == []


def test_a_scan_cut_to_a_window_is_warned_of(hu):
    (doubt,) = doubts(np.clip(hu, -160, 240))
    assert doubt.level == WARNING and "none lies below -160, where many lie, or above 240" in doubt.problem


def test_the_slice_and_what_is_done_to_it_are_named():
    hu = body()
    hu[5] += 1024
    assert doubts(hu)[0].problem.startswith("slice 6 of 16, counted from the feet, is shifted by +102")
    hu = body()
    hu[5:] = (hu[5:] + 1024) * 2 - 1024
    assert doubts(hu)[0].problem.startswith("slice 6 of 16, counted from the feet, is scaled by 2 against")


def test_a_custom_task_may_be_of_anything(monkeypatch):
    spleen_task.add(monkeypatch)
    config = liver_voi.get_config()
    config.stage = "spleen"
    assert [doubt.level for doubt in find_doubts(volume(body() + 1024), config)] == [WARNING]


def test_a_check_that_there_is_none_of_is_refused():
    with pytest.raises(UserError, match="config.data.check is 'off'; choose refuse or warn"):
        doubts(body(), check="off")


def test_modalities_of_one_value_are_refused_and_the_same_image_twice_is_said():
    config, images = brats.get_config(), [f"{name}.nii" for name in ("t1", "t1ce", "t2", "flair")]
    voxels = np.random.default_rng(0).gamma(2, 100, (9, 10, 11, 4)).astype(np.float32)
    voxels[..., 2] = voxels[..., 0]
    head = Volume(voxels, AFFINE, Grid((11, 10, 9), AFFINE, None), "head")
    (warning,) = admit(head, images, config).warnings
    assert warning.startswith("t1 and t2 are the same image, voxel by voxel; ")
    voxels[..., 3] = 7
    with pytest.raises(VolumeError, match="^flair.nii: flair is 7 everywhere; download"):
        admit(head, images, config)


def test_what_was_repaired_is_among_the_warnings():
    config, repair = liver_voi.get_config(), Repair("a.nii", "NaN", "replace", "3 NaN voxels are taken as -1024")
    assert admit(volume(body(), (repair,)), ["a.nii"], config).warnings == (
        "repaired on reading: 3 NaN voxels are taken as -1024",
    )


def test_verify_predict_and_evaluate_say_the_same_of_a_scan_and_the_others_go_on(tmp_path, monkeypatch):
    exact_models.use_rules(monkeypatch)
    hu, _ = exact_models.abdomen()
    good = exact_models.write(tmp_path / "scans" / "good.nii.gz", hu)
    bad = exact_models.write(tmp_path / "scans" / "bad.nii.gz", hu + np.int16(1024))
    models = exact_models.models()
    summary = predict(models, [good.parent], tmp_path / "masks")
    assert [case["case"] for case in summary["cases"]] == ["good"]
    (failure,) = summary["failed"]

    write_nifti(tmp_path / "mask.nii.gz", (hu > 100).astype(np.uint8), exact_models.affine())
    case = Case("bad", images=(bad,), mask=tmp_path / "mask.nii.gz", patient="bad")
    config = models["tumor"].config
    found = [finding for finding in faults.check_case(case, config.to_dict()) if finding.fatal]
    assert [f"{finding.value}; {finding.remedy}." for finding in found] == [failure["reason"]]
    evaluation = _Evaluation(config, models, tmp_path, {}, False, None)
    with pytest.raises(VolumeError) as refused:
        evaluation.read(case)
    assert str(refused.value) == failure["reason"]

    config.data.check = "warn"
    summary = predict(models, [bad], tmp_path / "masks")
    assert any("are not HU" in warning for warning in summary["cases"][0]["warnings"])
    assert any("are not HU" in warning for warning in evaluation.read(case).volume.warnings)
