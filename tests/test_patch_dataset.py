import collections
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from fractions import Fraction

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

import tiny_lits
from data_prep import cutting, finished_set, patch_dataset, workers
from data_prep.cases import find_cases, split_cases
from raunet_jax import tasks
from raunet_jax.failures import explain
from raunet_jax.imaging.geometry import Box

REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    return tiny_lits.write(tmp_path_factory.mktemp("lits"))


@pytest.fixture(scope="module")
def built(lits, tmp_path_factory):
    """A finished set of stage tumor, cut by one worker; tests that change it work on a copy."""
    config = tiny_lits.recipe(lits, tmp_path_factory.mktemp("one"))
    return config, patch_dataset.prepare(config)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records_of(folder, split):
    return list(tfds.builder_from_directory(folder).as_data_source(split=split))


def run_python(code, *arguments, path=()):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, REPOSITORY, REPOSITORY / "tests")))}
    # A file, not -c: spawned workers import the main module again.
    return subprocess.run(
        [sys.executable, code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120
    )


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_records_are_what_numpy_cuts_from_the_files(lits, built):
    config, patch_set = built
    seen = 0
    for split in ("fold_0", "fold_1"):
        for record in records_of(patch_set.folder, split):
            number = record["case"].decode().removeprefix("volume-")
            hu = tiny_lits.read_zyx(lits / f"volume-{number}.nii.gz")
            labels = tiny_lits.read_zyx(lits / f"segmentation-{number}.nii.gz")
            # the liver is [2:8, 10:28, 8:30] (z, y, x), with 2 voxels of margin around it
            box = tuple(slice(max(0, a - 2), b + 2) for a, b in ((2, 8), (10, 28), (8, 30)))
            window = tuple(slice(o, o + n) for o, n in zip(record["origin"], (8, 16, 16), strict=True))
            np.testing.assert_array_equal(record["image"][..., 0], hu[box][window])
            np.testing.assert_array_equal(record["mask"][..., 0], labels[box][window] == 2)
            assert record["image"].dtype == np.int16 and record["mask"].dtype == np.uint8
            assert record["low"] == -100 and record["high"] == min(200, hu.max())
            seen += 1
    # floor((i + 1) * 3.5) - floor(i * 3.5) patches of cases 0-5, but none of case 4, which has no tumor
    assert seen == sum((3, 4, 3, 4, 4)) == sum(patch_set.counts.values())


def test_no_case_is_in_two_folds_and_folds_are_those_of_the_split(lits, built):
    config, patch_set = built
    inside = {
        split: {record["case"].decode() for record in records_of(patch_set.folder, split)}
        for split in ("fold_0", "fold_1")
    }
    assert not inside["fold_0"] & inside["fold_1"]
    for number, fold in enumerate(split_cases(find_cases(config), config).folds):
        assert inside[f"fold_{number}"] == {case.name for case in fold} - {f"volume-{tiny_lits.NO_TUMOR}"}


def test_bytes_do_not_depend_on_the_number_of_workers(lits, built, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path, workers=2)
    assert files_of(patch_dataset.prepare(config).folder) == files_of(built[1].folder)


def test_test_cases_are_in_no_split(lits, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path, test_cases=2)
    cases = find_cases(config)
    kept = {job.case.name for job in patch_dataset._jobs(config, cases, patch_dataset.assign_splits(config), {})}
    assert kept == {case.name for case in cases} - {case.name for case in split_cases(cases, config).test}
    assert len(kept) == 4


KILLED = """
    import multiprocessing, os, signal, sys
    import tiny_lits
    from data_prep import patch_dataset
    from raunet_jax import progress

    class Killer(progress._Plain):
        def advance(self, count=1, note=""):
            super().advance(count, note)
            if self._done == 3 and multiprocessing.active_children():
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

    progress._Plain = Killer
    if __name__ == "__main__":
        patch_dataset.prepare(tiny_lits.recipe(sys.argv[1], sys.argv[2], workers=2))
"""


def ended(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_build_goes_on_where_it_was_and_ends_with_the_same_bytes(lits, built, tmp_path):
    prepared = tmp_path / "prepared"
    config = tiny_lits.recipe(lits, prepared)
    killed = run_python(script(tmp_path, KILLED), lits, prepared)
    assert killed.returncode == -9, killed.stderr
    target = patch_dataset.folder(config)
    assert not target.exists() and not list(prepared.rglob("dataset_info.json"))

    workers = [int(pid) for pid in killed.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while not all(map(ended, workers)):
        assert time.monotonic() < deadline, "a worker outlives its killed parent"
        time.sleep(0.05)

    staging = target.parent / ".building"
    lines = [json.loads(line) for line in (staging / "manifest.jsonl").read_text().splitlines()]
    shards = [staging / line["shard"] for line in lines if line["records"]]
    with (staging / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"case": "volume-5", "rec')  # as a kill in the middle of a write leaves it
    damaged = bytearray(shards[-1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shards[-1].write_bytes(damaged)
    kept = {path.stat().st_ino for path in shards[:-1]}
    assert kept

    patch_set = patch_dataset.prepare(config)
    assert files_of(patch_set.folder) == files_of(built[1].folder)
    assert kept <= {path.stat().st_ino for path in patch_set.folder.iterdir()}
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "1.0.0"]


def test_a_truncated_scan_is_left_out_with_its_reason_and_cut_once_repaired(tmp_path, capfd):
    root = tiny_lits.write(tmp_path / "lits", cases=3)
    whole = (root / "volume-1.nii.gz").read_bytes()
    (root / "volume-1.nii.gz").write_bytes(whole[: len(whole) // 2])
    config = tiny_lits.recipe(root, tmp_path / "prepared")
    patch_set = patch_dataset.prepare(config)
    [(case, reason)] = patch_set.failed
    assert case == "volume-1" and str(root / "volume-1.nii.gz") in reason
    assert sum(patch_set.counts.values()) == 3 + 3
    assert patch_dataset.prepare(config) == patch_set  # still said when the set is there already
    assert capfd.readouterr().err.count("left out of the patch set: volume-1: ") == 2
    (root / "volume-1.nii.gz").write_bytes(whole)
    repaired = patch_dataset.prepare(config)
    assert not repaired.failed and sum(repaired.counts.values()) == 3 + 4 + 3


def test_a_set_of_unusable_cases_only_is_an_error_that_says_why(tmp_path):
    root = tiny_lits.write(tmp_path / "lits", cases=2)
    for number in range(2):
        (root / f"volume-{number}.nii.gz").write_bytes(b"\x1f\x8b")
    config = tiny_lits.recipe(root, tmp_path / "prepared")
    with pytest.raises(patch_dataset.PatchSetError, match="none of the 2 cases gave a patch: volume-0: .*volume-0.nii"):
        patch_dataset.prepare(config)
    assert not patch_dataset.folder(config).exists()


def test_slices_are_the_down_sampled_scan_and_validation_is_a_split(lits, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path, stage="coarse", patch_size=(16, 16, 1), patches_per_case=0, cases=3)
    patch_set = patch_dataset.prepare(config)
    # 6 slices of each case have liver, and a third of the other 8, 14 and 3 are kept
    assert sum(patch_set.counts.values()) == 3 * 6 + 3 + 5 + 1
    assert set(patch_set.counts) == {"train", "validation"}
    for record in records_of(patch_set.folder, "train+validation"):
        assert record["image"].shape == (16, 16, 1) == record["mask"].shape
        assert not record["origin"][1:].any()
        assert record["mask"].max() <= 1  # tumor lies in the liver, and liver is all that this stage looks for
        hu = tiny_lits.read_zyx(lits / f"{record['case'].decode()}.nii.gz")[record["origin"][0]]
        assert abs(record["image"].mean() - hu[1:].mean()) < 6


def test_thin_scans_are_padded_with_their_minimum(lits, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path, stage="voi", patch_size=(16, 16, 16), cases=2)
    for record in records_of(patch_dataset.prepare(config).folder, "fold_0+fold_1"):
        assert (record["image"][10:] == -1024).all() and (record["image"][:10] > -500).all()
        assert not record["mask"][10:].any() and record["mask"][:10].any()
        assert not record["origin"].any()


def test_head_scans_keep_their_modalities_and_merge_their_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("Brats18_A_1", "Brats18_B_1"):
        folder = tmp_path / "brats" / "HGG" / name
        folder.mkdir(parents=True)
        for modality in ("t1", "flair"):
            voxels = rng.uniform(5, 900, (12, 11, 10)).astype(np.float32)
            nib.Nifti1Image(voxels, np.eye(4)).to_filename(folder / f"{name}_{modality}.nii.gz")
        labels = np.zeros((12, 11, 10), np.uint8)
        labels[4:7, 4:7, 4:7], labels[5, 5, 5] = 4, 1
        nib.Nifti1Image(labels, np.eye(4)).to_filename(folder / f"{name}_seg.nii.gz")
    config = tiny_lits.recipe(tmp_path / "brats", tmp_path / "prepared", stage="brain", patch_size=(8, 8, 8))
    config.data.update({"source": "brats", "modalities": ("t1", "flair"), "foreground_fraction": 1.0})
    patch_set = patch_dataset.prepare(config)
    assert sorted(patch_set.counts.values()) == [3, 4]
    for record in records_of(patch_set.folder, "fold_0+fold_1"):
        assert record["image"].shape == (8, 8, 8, 2) and set(np.unique(record["mask"])) == {0, 1}
        assert record["low"].tolist() == [0, 0] and record["high"].tolist() == [32767, 32767]


@pytest.mark.parametrize("single_model", [False, True])
def test_a_new_task_is_a_row_of_the_table_and_a_recipe(lits, tmp_path, monkeypatch, single_model):
    """Of whole volumes and any label: patches around foreground, at the scan's own resolution."""
    row = tasks.Stage("spleen", "spleen", 1, "volume", False, "centered", Fraction(3), single_model=single_model)
    spleen = tasks.Task(
        {"spleen": tasks.Structure(1, "#ffffff")}, None, "custom", {"spleen": row}, merged=True, planned=True
    )
    monkeypatch.setitem(tasks.TASKS, "spleen", spleen)
    tiny_lits.cut_here(monkeypatch)
    config = tiny_lits.recipe(lits, tmp_path, "spleen", patches_per_case=0, foreground_fraction=1.0)
    patch_set = patch_dataset.prepare(config)
    splits = {"train", "validation"} if single_model else {"fold_0", "fold_1"}
    assert set(patch_set.counts) == splits == set(patch_set.split) - {"test"}
    assert sum(patch_set.counts.values()) == 3 * tiny_lits.CASES
    for record in records_of(patch_set.folder, "+".join(splits)):
        number = record["case"].decode().removeprefix("volume-")
        window = tuple(slice(o, o + n) for o, n in zip(record["origin"], (8, 16, 16), strict=True))
        hu, labels = (tiny_lits.read_zyx(lits / f"{kind}-{number}.nii.gz") for kind in ("volume", "segmentation"))
        np.testing.assert_array_equal(record["image"][..., 0], hu[window])
        np.testing.assert_array_equal(record["mask"][..., 0], labels[window] > 0)
        assert record["mask"].any()

    config.data.foreground = (1,)
    assert patch_dataset.folder(config) != patch_set.folder


def test_two_builders_of_one_set_build_it_once(lits, tmp_path, monkeypatch):
    config = tiny_lits.recipe(lits, tmp_path, cases=2)
    calls, sets = [], []
    cut_all = patch_dataset.cut_all
    monkeypatch.setattr(patch_dataset, "cut_all", lambda *arguments: calls.append(1) or cut_all(*arguments))
    threads = [threading.Thread(target=lambda: sets.append(patch_dataset.prepare(config))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(sets) == 2 and sets[0] == sets[1]


def test_tensorflow_is_never_imported(lits, tmp_path):
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')\n")
    code = script(
        tmp_path,
        """
        import sys
        import tiny_lits
        from data_prep import patch_dataset
        from raunet_jax.training import batches

        if __name__ == "__main__":
            config = tiny_lits.recipe(sys.argv[1], sys.argv[2], cases=3)
            patch_set = patch_dataset.prepare(config)
            next(batches.train_batches(config, patch_set.folder, 0))
            assert not patch_set.failed and "tensorflow" not in sys.modules
    """,
    )
    done = run_python(code, lits, tmp_path / "prepared", path=[tmp_path / "trap"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # kept for results


def test_a_build_leaves_nothing_in_the_temporary_folder(lits, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    patch_dataset.prepare(tiny_lits.recipe(lits, tmp_path, cases=2))
    assert list(temporary.iterdir()) == []


def test_a_set_killed_while_it_was_put_together_is_put_together_again(lits, built, tmp_path, monkeypatch):
    config = tiny_lits.recipe(lits, tmp_path)
    write_metadata = tfds.folder_dataset.write_metadata

    def killed(**arguments):
        write_metadata(**arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(tfds.folder_dataset, "write_metadata", killed)
    with pytest.raises(KeyboardInterrupt):
        patch_dataset.prepare(config)
    target = patch_dataset.folder(config)
    assert not target.exists() and list(target.parent.glob("incomplete.*"))
    monkeypatch.undo()
    assert files_of(patch_dataset.prepare(config).folder) == files_of(built[1].folder)
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "1.0.0"]


def test_the_key_follows_what_decides_the_bytes_and_nothing_else(lits, tmp_path):
    def folder(change=None, value=None):
        config = tiny_lits.recipe(lits, tmp_path)
        if change:
            config.update_from_flattened_dict({change: value})
        return patch_dataset.folder(config)

    assert folder("data.workers", 2) == folder("epochs", 3) == folder("batch_size", 8) == folder()
    changes = {
        "seed": 1,
        "window_hu": (-50.0, 200.0),
        "box_margin": 3,
        "patch_size": (16, 16, 4),
        "data.cases": 4,
        "data.folds": 3,
        "data.foreground_fraction": 0.4,
        "data.patches_per_case": 2.0,
        "data.test_cases": 1,
        "stage": "voi",
    }
    folders = [folder(), *(folder(change, value) for change, value in changes.items())]
    assert len(set(folders)) == len(folders)


def test_a_worker_that_dies_is_said_with_its_remedy(lits, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_follow_parent", functools.partial(os._exit, 9))
    with pytest.raises(patch_dataset.PatchSetError, match="lack of memory; .*--config.data.workers=1"):
        patch_dataset.prepare(tiny_lits.recipe(lits, tmp_path))


def test_too_little_space_is_said_before_anything_is_cut(lits, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(cutting.shutil, "disk_usage", lambda path: usage)
    config = tiny_lits.recipe(lits, tmp_path)
    with pytest.raises(OSError) as caught:
        patch_dataset.prepare(config)
    assert "GiB are free" in explain(caught.value) and "config.data.prepared" in explain(caught.value)
    assert not patch_dataset.folder(config).exists()


def test_a_shard_cut_short_is_refused_and_a_changed_one_found_by_its_hash(lits, built, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path)
    target = patch_dataset.folder(config)
    shutil.copytree(built[1].folder, target)
    assert finished_set.damaged(target) == []
    shard = next(target.glob("*fold_1*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert finished_set.damaged(target) == [shard.name]
    shard.write_bytes(content[:100])
    with pytest.raises(patch_dataset.PatchSetError, match=f"{shard.name} is missing or cut short; delete"):
        patch_dataset.prepare(config)


def test_a_case_that_fails_for_lack_of_memory_is_tried_again_and_the_others_are_kept(lits, tmp_path, monkeypatch):
    config = tiny_lits.recipe(lits, tmp_path)
    real = cutting.records

    def out_of_memory(config, job):
        if job.case.name == "volume-2":
            raise MemoryError
        yield from real(config, job)

    tiny_lits.cut_here(monkeypatch)
    monkeypatch.setattr(cutting, "records", out_of_memory)
    with pytest.raises(cutting.PatchSetError, match="volume-2: the memory is used up; .* cases are cut and kept"):
        patch_dataset.prepare(config)
    cut = []
    monkeypatch.setattr(cutting, "records", lambda config, job: cut.append(job.case.name) or real(config, job))
    assert patch_dataset.prepare(config).failed == () and cut == ["volume-2"]


def test_a_scan_without_its_mask_is_among_the_failed(tmp_path):
    root = tiny_lits.write(tmp_path / "lits", 5)
    (root / "segmentation-3.nii.gz").unlink()
    ((name, reason),) = patch_dataset.prepare(tiny_lits.recipe(root, tmp_path)).failed
    assert name == "volume-3" and "has no mask segmentation-3.nii[.gz]" in reason


def test_intensities_that_cannot_be_hu_are_not_trained_on(tmp_path):
    root = tiny_lits.write(tmp_path / "lits", 4)
    image = nib.load(root / "volume-1.nii.gz")
    unscaled = np.asarray(image.dataobj) + np.int16(1024)
    nib.Nifti1Image(unscaled, image.affine).to_filename(root / "volume-1.nii.gz")
    ((name, reason),) = patch_dataset.prepare(tiny_lits.recipe(root, tmp_path)).failed
    assert name == "volume-1" and "are not HU (air is -1000, blood 40)" in reason and "rescale slope" in reason
    assert patch_dataset.prepare(tiny_lits.recipe(root, tmp_path, check="warn")).failed == ()  # as the reason says


def test_a_predicted_box_is_cut_around_in_place_of_the_reference_liver(lits, built, tmp_path):
    config = tiny_lits.recipe(lits, tmp_path)
    boxes = {"volume-0": Box((2, 9, 7), (7, 20, 25))}
    patch_set = patch_dataset.prepare(config, boxes)
    assert patch_set.folder != patch_dataset.folder(config)
    records = [record for split in patch_set.counts for record in records_of(patch_set.folder, split)]
    hu = tiny_lits.read_zyx(lits / "volume-0.nii.gz")[0:9, 7:22, 5:27]  # the box and 2 voxels on every side
    hu = np.pad(hu, [(0, 0), (0, 1), (0, 0)], constant_values=tiny_lits.read_zyx(lits / "volume-0.nii.gz").min())
    mine = [record for record in records if record["case"] == b"volume-0"]
    for record in mine:
        window = tuple(slice(o, o + n) for o, n in zip(record["origin"], (8, 16, 16), strict=True))
        np.testing.assert_array_equal(record["image"][..., 0], hu[window])
    others = {path.name for path in patch_set.folder.glob("*.array_record*")}
    assert len(mine) == 3 and len(others) == len(list(built[1].folder.glob("*.array_record*")))


def test_workers_leave_ctrl_c_to_their_parent_from_their_first_instant(tmp_path):
    with workers.workers(tiny_lits.recipe(tmp_path, tmp_path, workers=1), 1) as pool:
        blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert blocked == {signal.SIGINT} and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
