import json

import nibabel as nib
import numpy as np
import pytest

import spleen_task
from configs import custom, liver_voi
from data_prep.planning import PATCH_VOXELS, patch_size, plan

CT = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "kidney", "2": "cyst"}}


def write_task(
    root, description=CT, shapes=((70, 60, 40), (64, 64, 33), (80, 50, 20)), spacing=(0.8, 0.8, 3.0), channels=1
):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    for number, shape in enumerate(shapes):
        rng = np.random.default_rng(number)
        labels = np.zeros(shape, np.uint8)
        labels[10:20, 10:20, 5:15] = 1
        labels[12:14, 12:14, 6:8] = 2
        voxels = rng.integers(-1000, 1000, (*shape, channels)).astype(np.int16)
        voxels[labels > 0] = rng.integers(33, 178, (int((labels > 0).sum()), channels))
        for folder, values in (("images", voxels[..., 0] if channels == 1 else voxels), ("labels", labels)):
            (root / folder).mkdir(exist_ok=True)
            nib.Nifti1Image(values, np.diag([*spacing, 1])).to_filename(root / folder / f"case_{number}.nii.gz")
    return root


def recipe(root, **data):
    config = custom.get_config()
    config.data.root, config.data.prepared = str(root), str(root / "prepared")
    config.data.update(data)
    return config


@pytest.mark.parametrize(
    "shape, spacing, expected",
    [
        ((35, 50, 36), (1, 1, 1), (32, 64, 32)),  # small scans: nearly whole, each side the nearest multiple of 32
        ((20, 20, 20), (1, 1, 1), (32, 32, 32)),
        ((240, 240, 155), (1, 1, 1), (96, 64, 64)),
        ((512, 512, 64), (0.7, 0.7, 5), (128, 128, 32)),  # thick slices: few of them, as they are long in mm
    ],
)
def test_the_patch_follows_shape_and_spacing(shape, spacing, expected):
    size = patch_size(shape, spacing)
    assert sorted(size) == sorted(expected) and np.prod(size) <= PATCH_VOXELS
    assert all(side % 32 == 0 for side in size)


def test_no_side_of_a_large_patch_is_longer_in_mm_than_another_by_more_than_a_unit_or_so():
    spacing = np.array((0.8, 0.8, 2.5))
    size = np.array(patch_size((512, 512, 300), spacing))
    longest, shortest = (size * spacing).argmax(), (size * spacing).argmin()
    shorter = size - 32 * (np.arange(3) == longest)
    assert (shorter * spacing)[longest] <= (size * spacing)[shortest] + 1e-9 or size[longest] == 32
    assert np.prod(size) <= PATCH_VOXELS


def test_what_custom_leaves_open_is_worked_out_and_said(tmp_path, capsys):
    config = recipe(write_task(tmp_path / "task"))
    planned = plan(config)
    assert planned.data.modalities == ("ct",) and planned.patch_size == (64, 64, 32)
    assert planned.batch_size == 2 * 128 * 128 * 32 // (64 * 64 * 32)
    assert planned.data.patches_per_case == 3.0  # two scans' worth of voxels, 2 x 70 x 60 x 33 of 131,072, rounded up
    low, high = planned.window_hu
    assert (low, high) == (30, 180)  # the labeled voxels lie between 33 and 177 HU
    assert "custom: 3 cases, ct, median 70x60x33 voxels of 0.8x0.8x3 mm; patch 64x64x32" in capsys.readouterr().err
    assert config.patch_size == (0, 0, 0)  # the recipe itself stays open
    assert plan(planned) == planned


def test_what_the_user_sets_stays(tmp_path):
    config = recipe(write_task(tmp_path / "task"), patches_per_case=7.0)
    config.patch_size, config.batch_size, config.window_hu = (32, 32, 32), 5, (-10.0, 20.0)
    planned = plan(config)
    assert (planned.patch_size, planned.batch_size, planned.window_hu) == ((32, 32, 32), 5, (-10.0, 20.0))
    assert planned.data.patches_per_case == 7


def test_channels_are_all_that_dataset_json_names_unless_some_are_chosen(tmp_path):
    description = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "zone", "2": "zone"}}
    root = write_task(tmp_path / "task", description, channels=2)
    assert plan(recipe(root)).data.modalities == ("t2", "adc")
    assert plan(recipe(root, modalities=("adc",))).data.modalities == ("adc",)
    assert plan(recipe(root)).window_hu == (0, 0)  # no HU, no window


def test_a_foreground_that_the_labels_do_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"foreground=\(1, 7\).*dataset.json has no label \[7\].*kidney"):
        plan(recipe(write_task(tmp_path / "task"), foreground=(1, 7)))


def test_data_sets_with_other_channels_below_one_root_are_refused(tmp_path):
    write_task(tmp_path / "one")
    write_task(tmp_path / "two", {"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "a"}})
    with pytest.raises(ValueError, match=r"one/dataset.json and .*two/dataset.json name other channels"):
        plan(recipe(tmp_path))


def test_a_scan_that_cannot_be_read_does_not_stop_the_plan(tmp_path, capsys):
    root = write_task(tmp_path / "task")
    (root / "images" / "case_1.nii.gz").write_bytes(b"nothing")
    assert plan(recipe(root)).patch_size == (64, 64, 32)
    assert f"{root}/images/case_1.nii.gz: not looked at" in capsys.readouterr().err


def test_a_window_cannot_be_found_without_a_label(tmp_path):
    root = write_task(tmp_path / "task")
    for path in (root / "labels").iterdir():
        image = nib.load(path)
        nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_filename(path)
    with pytest.raises(ValueError, match="no voxel is labeled in 3 cases; set config.window_hu"):
        plan(recipe(root))


def test_the_papers_recipes_are_left_as_they_are():
    config = liver_voi.get_config()
    assert plan(config) is config


def test_a_task_of_ones_own_leaves_to_be_planned_what_custom_does(tmp_path, monkeypatch):
    spleen_task.add(monkeypatch)
    config = recipe(write_task(tmp_path / "task"))
    expected = plan(config).to_dict() | {"stage": "spleen"}
    config.stage = "spleen"
    assert plan(config).to_dict() == expected and 0 not in expected["patch_size"]
    spleen_task.add(monkeypatch, planned=False)
    assert plan(config) is config
