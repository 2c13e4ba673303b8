import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np
import pytest

import ircadb_writer
import small_layouts
import tiny_lits
from configs import liver
from data_prep import patch_dataset, verify, workers
from data_prep.cases import DataNotFound
from data_prep.faults import check_case
from locked import lock
from raunet_jax.commands import verify as command
from raunet_jax.commands.request import Request
from raunet_jax.imaging import volume
from small_layouts import AFFINE, scan, write

EMPTY = np.zeros(small_layouts.SHAPE, np.uint8)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def config(root, tmp_path):
    return small_layouts.recipe("lits", root, tmp_path / "prepared")


@pytest.fixture(autouse=True)
def few_cases_suffice(monkeypatch):
    """Whether they can be trained on is test_stage_check's: here a folder of one or two stands for a data set."""
    monkeypatch.setattr(verify, "check_stages", lambda stages, cases: [])


def printed(config, capsys, as_json=False):
    capsys.readouterr()
    status = command.run(Request(config, None, json=as_json))
    return status, capsys.readouterr().out


def plant(root):
    """Cases 0 and 10 are good, 1 is cut short, 2 has an empty mask, 3 is padded."""
    for number in (0, 1, 10):
        write("lits", root, number)
    broken = root / "volume-1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-300])
    write("lits", root, 2, mask=EMPTY)
    padded = scan("lits", 3)
    padded[0] = -2048
    write("lits", root, 3, image=padded)
    return [("volume-1", "image"), ("volume-2", "mask"), ("volume-3", "padding")]


def test_bad_cases_stop_no_other_and_come_in_natural_order(config, root):
    expected = plant(root)
    write("lits", root, 5, image=scan("lits", 0))
    write("lits", root, 11, mask=EMPTY)
    (root / "segmentation-4.nii.gz").write_bytes(b"")
    verified = verify.verify(config)
    expected = [("segmentation-4", "files"), *expected, ("volume-5", "copy"), ("volume-11", "mask")]
    assert [(one.case, one.check) for one in verified.findings] == expected
    assert verified.unusable == {"volume-1", "volume-2", "volume-11", "segmentation-4"} and len(verified.cases) == 8


def test_there_is_a_line_a_finding_and_the_status_is_one(config, root, capsys):
    plant(root)
    status, out = printed(config, capsys)
    assert status == 1
    lines = out.splitlines()
    (bad,) = [line for line in lines if "volume-1: " in line]
    (odd,) = [line for line in lines if "volume-3: " in line]
    assert "unusable" in bad and "the gzip ends early" in bad and "copy or download" in bad
    assert "warning" in odd and "-2048 HU" in odd and "config.window_hu" in odd
    assert lines[-1] == "5 cases, 3 usable, 2 unusable"


def test_on_a_terminal_it_is_a_table(config, root, capsys, monkeypatch):
    plant(root)
    monkeypatch.setattr(command, "Console", functools.partial(command.Console, force_terminal=True, width=400))
    status, out = printed(config, capsys)
    (bad,) = [line for line in out.splitlines() if "volume-1 " in line]
    assert status == 1 and "lits data of liver_voi" in out
    assert [cell for cell in bad.split("│") if "unusable" in cell] and "the gzip ends early" in bad


def test_json_is_all_there_is_on_standard_output(config, root, capsys):
    expected = plant(root)
    status, out = printed(config, capsys, as_json=True)
    assert status == 1
    facts = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert facts["counts"] == {"cases": 5, "usable": 3, "unusable": 2, "repaired": 0, "warnings": 1}
    assert facts["recipe"] == "liver_voi" and facts["source"] == "lits" and facts["root"] == str(root)
    assert [(one["case"], one["check"]) for one in facts["findings"]] == expected
    first = facts["findings"][0]
    assert set(first) == {"case", "check", "value", "remedy", "level"} and first["level"] == "unusable"
    assert first["value"] == f"{root}/volume-1.nii.gz: the gzip ends early"


def test_good_cases_have_no_finding(config, root, capsys):
    write("lits", root)
    assert printed(config, capsys) == (0, "1 cases, 1 usable, 0 unusable\n")
    status, out = printed(config, capsys, as_json=True)
    assert status == 0 and json.loads(out)["findings"] == []


def test_warnings_and_repairs_alone_leave_the_status_zero(config, root, capsys):
    write("lits", root, affine=np.eye(4))
    write("lits", root, 1, mask_affine=np.diag([0.8, 0.8, 3, 1]))
    assert printed(config, capsys)[0] == 1
    config.data.repair = True
    status, out = printed(config, capsys, as_json=True)
    assert status == 0 and json.loads(out)["counts"] == {
        "cases": 2,
        "usable": 2,
        "unusable": 0,
        "repaired": 1,
        "warnings": 1,
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("repair", [False, True])
def test_a_repair_is_told_in_full_while_a_bar_is_drawn_on_a_terminal(config, root, monkeypatch, repair):
    image = scan("lits").astype(np.float32)
    image[3, 4, 5:8] = np.nan
    case = write("lits", root, image=image)
    config.data.repair = repair
    read = volume.read_nifti

    def slowly(*arguments, **options):
        time.sleep(0.3)  # longer than from one redrawing of the bar to the next
        return read(*arguments, **options)

    monkeypatch.setattr(volume, "read_nifti", slowly)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal whatever standard error is put in its place
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    (found,) = verify.verify(config).findings
    done = f"3 NaN or infinite voxels in slices 5-7 are taken as {np.nanmin(image):g}"
    remedy = (
        "replace them or convert the scan again, or have them read as the lowest value (--config.data.repair=True). "
        f"The repair: {done}"
    )
    assert found.value == f"{case.images[0]}: voxel values are NaN or infinite (3 in slices 5-7)"
    assert found.remedy == (f"nothing: {done} (config.data.repair)" if repair else remedy)
    assert terminal.getvalue().count("verifying") > 2, "the bar was drawn again and again"


def test_no_case_at_all_says_what_was_looked_for(config):
    with pytest.raises(DataNotFound, match="looked for volume-N"):
        verify.verify(config)


def test_the_limit_on_cases_holds(config, root):
    for number in range(3):
        write("lits", root, number, affine=np.eye(4))
    config.data.cases = 2
    assert {finding.case for finding in verify.verify(config).findings} == {"volume-0", "volume-1"}


def snapshot(root):
    files = sorted(path for path in root.rglob("*"))
    return {
        path: (
            path.stat().st_mtime_ns,
            path.stat().st_size,
            path.is_file() and hashlib.sha256(path.read_bytes()).digest(),
        )
        for path in files
    }


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("layout", small_layouts.LAYOUTS)
def test_nothing_below_the_root_is_changed(layout, root, tmp_path, repair):
    config = small_layouts.recipe(layout, root, tmp_path / "prepared")
    config.data.repair = repair
    image = scan(layout, 9).astype(np.float32)
    image[2, 3, 4] = np.nan
    write(layout, root, image=image)
    write(layout, root, 1, mask_affine=np.diag([0.8, 0.8, 3, 1]))
    broken = write(layout, root, 2).images[-1]
    broken.write_bytes(broken.read_bytes()[:-100])
    write(layout, root, 3)
    before = snapshot(root)
    levels = [finding.level for finding in verify.verify(config).findings]
    assert sorted(levels) == ["repaired"] * 2 * repair + ["unusable"] * (1 if repair else 3)
    assert snapshot(root) == before


def test_a_scan_that_is_there_twice_gives_both_names_and_files(config, root):
    write("lits", root, 2)
    write("lits", root, 5)
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    write("lits", root, 9, image=scan("lits", 2)[::-1].astype(np.int32), affine=flipped)
    (found,) = verify.verify(config).findings
    assert (found.case, found.level) == ("volume-9", "warning")
    assert found.value == f"{root}/volume-9.nii.gz is the same scan as {root}/volume-2.nii.gz of volume-2"
    assert "never fall into different folds" in found.remedy


@pytest.mark.parametrize("layout, name", [("lits", "volume"), ("task03", "liver")])
def test_patients_of_3dircadb_among_lits_are_one_line(layout, name, root, tmp_path):
    config = small_layouts.recipe(layout, root, tmp_path / "prepared")
    separator = "-" if layout == "lits" else "_"
    for number in (27, 28, 35, 48, 49):
        write(layout, root, number)
    (found,) = verify.verify(config).findings
    assert (found.check, found.level) == ("leak", "warning")
    assert f"{root}: 3 cases, {name}{separator}28 to {name}{separator}48, bear the numbers" in found.value
    assert "3DIRCADb" in found.value and "by content" not in found.value
    assert "leaves out" in found.remedy and "config.data.on_leak=exclude" in found.remedy
    config.data.on_leak = "warn"
    (found,) = verify.verify(config).findings
    assert "marks the scans" in found.remedy and "config.data.on_leak=warn" in found.remedy


def test_numbers_of_other_data_sets_say_nothing_of_3dircadb(root, tmp_path):
    config = small_layouts.recipe("task01", root, tmp_path / "prepared")
    write("task01", root, 30)
    assert verify.verify(config).findings == ()


def test_patients_of_3dircadb_below_the_same_root_are_told_by_their_content(config, root):
    hu, liver_mask, _ = ircadb_writer.draw()
    ircadb_writer.write_patient(root / "3Dircadb1.7", hu, {"liver": liver_mask})
    dz, dy, dx = ircadb_writer.SPACING_MM
    write(
        "lits",
        root,
        3,
        image=hu.transpose(2, 1, 0),
        mask=liver_mask.transpose(2, 1, 0).astype(np.uint8),
        affine=np.diag([dx, dy, dz, 1]),
    )
    write("lits", root, 4)
    (found,) = verify.verify(config).findings
    assert found.check == "leak" and found.value == f"by content volume-3 is {root}/3Dircadb1.7/PATIENT_DICOM"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    place = tmp_path_factory.mktemp("built")
    config = tiny_lits.recipe(tiny_lits.write(place / "lits"), place / "prepared")
    config.name = "tiny"
    return config, patch_dataset.prepare(config).folder


def flip(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage, words",
    [(flip, "changed or missing: {shard}"), (pathlib.Path.unlink, "changed or missing: {shard}")],
    ids=["changed", "gone"],
)
def test_a_damaged_shard_is_named_with_the_folder_to_delete(built, tmp_path, capsys, damage, words):
    config, folder = built
    assert "patch set" not in printed(config, capsys)[1]
    kept = shutil.copytree(folder, tmp_path / "kept")
    shard = next(folder.glob("*fold_1*"))
    damage(shard)
    status, out = printed(config, capsys, as_json=True)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    facts = json.loads(out)
    (found,) = [finding for finding in facts["findings"] if finding["check"] == "patch set"]
    assert found["case"] == "patch set of tiny" and found["level"] == "unusable"
    assert found["value"] == f"{folder}: {words.format(shard=shard.name)}"
    assert found["remedy"] == f"delete {folder}: it is built again"
    assert status == 1 and facts["counts"]["unusable"] == 0  # no case is


def test_a_patch_set_without_a_manifest_that_can_be_read(built, capsys):
    config, folder = built
    manifest = folder / "manifest.jsonl"
    content = manifest.read_text()
    manifest.write_text(content[:-20])
    (found,) = verify.check_patches(config)
    manifest.write_text(content)
    assert f"{folder}: its manifest cannot be read" in found.value and found.fatal
    assert verify.check_patches(config) == []


def test_every_stage_of_a_cascade_has_its_patch_set_looked_at_and_the_cases_are_read_once(root, tmp_path, monkeypatch):
    config = liver.get_config()
    config.data.update({"root": str(root), "prepared": str(tmp_path / "prepared"), "workers": 1})
    write("lits", root, mask=EMPTY)
    stages, read = [], []
    monkeypatch.setattr(verify, "check_patches", lambda stage: stages.append(stage.name) or [])
    monkeypatch.setattr(
        verify, "check_case", lambda case, recipe: read.append(recipe["stage"]) or check_case(case, recipe)
    )
    findings = verify.verify(config).findings
    assert stages == ["liver_coarse", "liver_voi", "liver_tumor"] and read == ["tumor"]
    assert [finding.check for finding in findings] == ["size", "mask"]


@pytest.mark.parametrize("count", [1, 2])
def test_worker_processes_find_the_same_in_the_same_order(config, root, monkeypatch, count):
    plant(root)
    config.data.workers = count
    here = verify.verify(config)
    monkeypatch.setattr(verify, "SMALL", 0)
    assert verify.verify(config).findings == here.findings


def test_a_worker_that_dies_is_a_finding(config, root, monkeypatch):
    write("lits", root)
    monkeypatch.setattr(verify, "SMALL", 0)
    monkeypatch.setattr(workers, "_follow_parent", functools.partial(os._exit, 9))
    (found,) = verify.verify(config).findings
    assert found.value == f"{root}/volume-0.nii.gz: the process that read it was killed, most likely for lack of memory"
    assert found.fatal and found.remedy == "free memory, or crop the scan"


def die_of_case_one(case, recipe):
    if case.name == "volume-1":
        os._exit(9)
    return check_case(case, recipe)


def test_a_worker_that_dies_takes_no_other_case_with_it(config, root, monkeypatch):
    write("lits", root, 1)
    write("lits", root, 2, mask=EMPTY)
    monkeypatch.setattr(verify, "SMALL", 0)
    monkeypatch.setattr(verify, "check_case", die_of_case_one)
    found = verify.verify(config).findings
    assert [one.case for one in found] == ["volume-1", "volume-2"]
    assert "was killed" in found[0].value and "no voxel is labeled" in found[1].value


def test_a_folder_for_hashes_that_cannot_be_written_costs_only_time_and_is_said(config, root, tmp_path, capsys):
    write("lits", root)
    (tmp_path / "prepared").write_text("a file")
    assert verify.verify(config).findings == ()
    assert "scans will be read again; see --config.data.prepared" in capsys.readouterr().err


def test_a_task_none_of_whose_scans_can_be_read_is_still_looked_through(root, tmp_path):
    config = small_layouts.recipe("custom", root, tmp_path / "prepared")
    case = write("custom", root)
    case.images[0].write_bytes(b"nothing")
    found = verify.verify(config).findings
    assert [(one.case, one.check) for one in found] == [("case_0", "image"), ("recipe", "plan")]
    assert f"{case.images[0]}: not a NIfTI file" in found[0].value


def test_a_label_that_the_data_set_does_not_have_is_said(root, tmp_path):
    config = small_layouts.recipe("custom", root, tmp_path / "prepared")
    config.data.foreground = (2,)
    write("custom", root)
    (*_, found) = verify.verify(config).findings
    assert found.check == "plan" and found.fatal and f"{root}/dataset.json has no label [2]" in found.value


def test_a_folder_that_cannot_be_looked_into_is_a_finding(config, root, capsys, monkeypatch):
    write("lits", root, 0)
    (root / "locked").mkdir()
    lock(monkeypatch, "locked")
    status, out = printed(config, capsys)
    said = f"{root}/locked: unusable: files: {root}/locked cannot be looked into (Permission denied); see that you may"
    assert status == 1 and said in out


def test_a_name_that_is_no_text_is_said_in_text(tmp_path, capsys):
    config = small_layouts.recipe("custom", tmp_path / "data", tmp_path / "prepared")
    for number in range(2):
        write("custom", tmp_path / "data", number)
    for path in list((tmp_path / "data").rglob("*.nii.gz")):
        name = os.fsencode(path.name).replace(b"1", b"\xe9")
        path.rename(path.with_name(os.fsdecode(name)))
    findings = verify.verify(config).findings
    assert findings == () and any("%E9" in name for name in verify.verify(config).cases)
