"""Patch sets last: the folders and the records are those of earlier versions, whose sets are found and read.

The scans are whole numbers and no stage resizes them, so that neither a processor's rounding nor a library's shows.
"""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

import tiny_lits
from data_prep import patch_dataset
from raunet_jax.training import batches

SHAPE = (16, 16, 10)  # (x, y, z)
# As the version that still had a TFDS builder class made them: the set's folder, and 64 bits of the SHA-256 of each
# shard's records, by split.
FOLDERS = {
    "coarse": "raunet_patches/coarse_16x16x1_5589a97775f3cc64/1.0.0",
    "voi": "raunet_patches/voi_16x16x4_9586769409119c86/1.0.0",
    "tumor": "raunet_patches/tumor_8x8x4_044a5b1d41599fd6/1.0.0",
    "brain": "raunet_patches/brain_8x8x4_9428a6f8caa0859c/1.0.0",
}
RECORDS = {
    "coarse": {
        "train": ["ecbfab2b1f6874c4", "4c80c7051766c135", "67c244254d423795"],
        "validation": ["c9800731470c3cff"],
    },
    "voi": {
        "fold_0": ["ff2f6060e3013f14", "8825116758e3a58e"],
        "fold_1": ["7250cc56e3f6f53b", "3d3b2a5fff33e2c0"],
    },
    "tumor": {
        "fold_0": ["c124bc80be577363", "def1a20f9427d4b4"],
        "fold_1": ["6a2a2a8c64c6dd6e", "9b92f6ec87a5144f"],
    },
    "brain": {
        "fold_0": ["09d3711aac4c6366", "b44ca555167439cc"],
        "fold_1": ["ca8b0bff01b9a9c2", "07047b6b0c6aa40a"],
    },
}
OLD_INFO = {
    "configDescription": "{}",
    "configName": "tumor_8x8x4_x",
    "disableShuffling": True,
    "fileFormat": "array_record",
    "moduleName": "data_prep.patch_dataset",
    "name": "raunet_patches",
    "version": "1.0.0",
}


def write(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(folder / f"{name}.nii")


def write_scans(root: Path, brain: bool) -> Path:
    """Four scans of whole numbers in a pattern, 12 x 12 x 6 voxels of them label 1 and 3 x 3 x 3 label 2."""
    x, y, z = np.ogrid[tuple(map(slice, SHAPE))]
    for number in range(4):
        pattern = (x * 7 + y * 13 + z * 29 + number * 41) % 211
        labels = np.zeros(SHAPE, np.uint8)
        labels[2:14, 2:14, 2:8], labels[5:8, 6:9, 3:6] = 1, 2
        if brain:
            name = f"Brats18_DRAWN_{number}_1"
            for modality, shift in (("t1", 1), ("flair", 60)):
                inside = np.where(z > 0, pattern + shift, 0).astype(np.int16)
                write(root / name, f"{name}_{modality}", inside)
            write(root / name, f"{name}_seg", labels)
        else:
            write(root, f"volume-{number}", (pattern - 90).astype(np.int16))
            write(root, f"segmentation-{number}", labels)
    return root


def recipe(stage: str, root: Path, prepared: Path):
    patch_size = {"coarse": (16, 16, 1), "voi": (16, 16, 4)}.get(stage, (8, 8, 4))
    config = tiny_lits.recipe(root, prepared, stage, patch_size)
    if stage == "brain":
        config.data.update({"source": "brats", "modalities": ("t1", "flair")})
    return config


def records_sha256(shard: Path) -> str:
    reader = array_record_module.ArrayRecordReader(str(shard))
    digest = hashlib.sha256(b"".join(reader.read_all())).hexdigest()
    reader.close()
    return digest


@pytest.mark.parametrize("stage", ["coarse", "voi", "tumor", "brain"])
def test_folder_and_records_are_those_of_earlier_versions(stage, tmp_path, monkeypatch):
    tiny_lits.cut_here(monkeypatch)
    config = recipe(stage, write_scans(tmp_path / "scans", stage == "brain"), tmp_path / "prepared")
    patch_set = patch_dataset.prepare(config)
    assert str(patch_set.folder.relative_to(tmp_path / "prepared")) == FOLDERS[stage]
    expected = {
        f"raunet_patches-{split}.array_record-{index:05d}-of-{len(shards):05d}": sha256
        for split, shards in RECORDS[stage].items()
        for index, sha256 in enumerate(shards)
    }
    found = {shard.name: records_sha256(shard)[:16] for shard in patch_set.folder.glob("*.array_record-*")}
    assert found == expected


def test_a_set_that_an_earlier_version_described_is_read(tmp_path, monkeypatch):
    tiny_lits.cut_here(monkeypatch)
    config = recipe("tumor", write_scans(tmp_path / "scans", brain=False), tmp_path / "prepared")
    new = patch_dataset.prepare(config)
    info = new.folder / "dataset_info.json"
    expected = list(tfds.builder_from_directory(new.folder).as_data_source(split="fold_0+fold_1"))
    splits = json.loads(info.read_text())["splits"]
    info.write_text(json.dumps(OLD_INFO | {"splits": splits}))
    assert patch_dataset.prepare(config) == new
    found = list(tfds.builder_from_directory(new.folder).as_data_source(split="fold_0+fold_1"))
    assert len(found) == len(expected) == sum(new.counts.values())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert next(batches.train_batches(config, new.folder, 0))["image"].shape == (4, 4, 8, 8, 1)
