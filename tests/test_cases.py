import os

import numpy as np
import pytest

from configs import brats, liver_coarse, liver_tumor, liver_voi
from data_prep import cases as case_reading
from data_prep.cases import DataNotFound, find_cases, split_cases
from data_prep.layouts import Case
from locked import lock
from raunet_jax.imaging.volume import VolumeError, write_nifti

MODALITIES = ("t1", "t1ce", "t2", "flair")
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])


def lits(root, **data):
    return _recipe(liver_voi, root, **data)


def mr(root, **data):
    return _recipe(brats, root, **data)


def _recipe(module, root, **data):
    config = module.get_config()
    config.data.root = str(root)
    config.data.prepared = str(root)
    config.data.update(data)
    return config


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def brats_case(root, folder, endings=(*MODALITIES, "seg")):
    name = folder.rsplit("/", 1)[-1]
    touch(root, *(f"{folder}/{name}_{ending}.nii.gz" for ending in endings))


def cases(count):
    return [Case(f"volume-{number}", (), None, f"volume-{number}") for number in range(count)]


def test_lits_is_found_at_any_depth_in_natural_order(tmp_path):
    touch(tmp_path, "a/volume-10.nii", "a/volume-2.nii.gz", "b/c/segmentation-2.nii", "segmentation-10.nii.gz", "x.txt")
    first, second = find_cases(lits(tmp_path))
    assert (first.name, second.name) == ("volume-2", "volume-10")
    assert first.images == (tmp_path / "a/volume-2.nii.gz",) and first.mask == tmp_path / "b/c/segmentation-2.nii"
    assert first.patient == "volume-2"


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "disk", "volume-0.nii", "segmentation-0.nii")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "disk", root / "link")
    os.symlink(root, tmp_path / "disk" / "loop")
    assert [case.name for case in find_cases(lits(root))] == ["volume-0"]


def test_hidden_files_are_not_cases(tmp_path):
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "._volume-1.nii", ".half/volume-2.nii")
    assert len(find_cases(lits(tmp_path), need_masks=False)) == 1


def test_a_lits_volume_without_mask_is_reported_and_left_out_unless_masks_are_not_needed(tmp_path, capsys):
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "volume-1.nii")
    assert [case.name for case in find_cases(lits(tmp_path))] == ["volume-0"]
    said = capsys.readouterr().err
    assert f"volume-1 is left out: {tmp_path}/volume-1.nii has no mask segmentation-1.nii[.gz]" in said
    assert "copy that file under config.data.root" in said
    assert [case.mask is None for case in find_cases(lits(tmp_path), need_masks=False)] == [False, True]


def test_a_lits_mask_without_volume_is_reported(tmp_path, capsys):
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "segmentation-7.nii")
    find_cases(lits(tmp_path))
    assert f"{tmp_path}/segmentation-7.nii has no volume-7.nii[.gz]" in capsys.readouterr().err


def test_two_files_of_one_case_are_both_named_and_the_case_left_out(tmp_path, capsys):
    touch(tmp_path, "a/volume-3.nii", "b/volume-3.nii.gz")
    touch(tmp_path, "volume-4.nii", "segmentation-4.nii")
    assert [case.name for case in find_cases(lits(tmp_path))] == ["volume-4"]
    said = capsys.readouterr().err
    assert f"{tmp_path}/a/volume-3.nii and {tmp_path}/b/volume-3.nii.gz claim to be the same file of one case" in said


def test_the_limit_takes_the_first_cases(tmp_path):
    touch(tmp_path, *(f"{kind}-{number}.nii" for kind in ("volume", "segmentation") for number in range(12)))
    assert [case.name for case in find_cases(lits(tmp_path, cases=3))] == ["volume-0", "volume-1", "volume-2"]


@pytest.mark.parametrize(
    "folder, patient",
    [
        ("HGG/Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB"),
        ("LGG/Brats17_TCIA_130_1", "Brats17_TCIA_130"),
        ("deep/down/BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00000", "BraTS2021_00000"),
    ],
)
def test_brats_is_found_in_the_layouts_of_its_years(tmp_path, folder, patient):
    brats_case(tmp_path, folder)
    (case,) = find_cases(mr(tmp_path))
    assert case.name == folder.rsplit("/", 1)[-1] and case.patient == patient
    assert [path.name for path in case.images] == [f"{case.name}_{modality}.nii.gz" for modality in MODALITIES]
    assert case.mask.name == f"{case.name}_seg.nii.gz"


@pytest.mark.parametrize(
    "case, patient",
    [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000"),
        ("BraTS-GLI-00005-101", "BraTS-GLI-00005"),
        ("BraTS-MET-00001-000", "BraTS-MET-00001"),
        ("BraTS-SSA-00002-000", "BraTS-SSA-00002"),
        ("BraTS-PED-00003-000", "BraTS-PED-00003"),
        ("BraTS-MEN-RT-0004-1", "BraTS-MEN-RT-0004"),
    ],
)
def test_brats_of_2023_and_later_is_found_and_visits_are_of_one_patient(tmp_path, case, patient):
    touch(tmp_path, *(f"{case}/{case}-{word}.nii.gz" for word in ("t2f", "t1n", "t1c", "t2w", "seg")))
    (found,) = find_cases(mr(tmp_path))
    assert (found.name, found.patient, found.mask.name) == (case, patient, f"{case}-seg.nii.gz")
    assert [path.name for path in found.images] == [f"{case}-{word}.nii.gz" for word in ("t1n", "t1c", "t2w", "t2f")]


def test_files_that_bear_the_modality_alone_are_of_the_case_that_their_folder_is_called(tmp_path):
    touch(tmp_path, *(f"pat123/{name}.nii.gz" for name in (*MODALITIES, "seg")))
    touch(tmp_path, *(f"pat124/{name}.nii" for name in ("T1N", "t1c", "T2w", "t2f", "seg")))
    one, two = find_cases(mr(tmp_path))
    assert (one.name, two.name) == ("pat123", "pat124")
    assert [path.name for path in one.images] == [f"{name}.nii.gz" for name in MODALITIES]
    assert [path.name for path in two.images] == ["T1N.nii", "t1c.nii", "T2w.nii", "t2f.nii"]


def test_capitals_and_endings_may_be_mixed(tmp_path):
    names = ("CaseA_T1.nii", "CaseA_T1CE.NII.GZ", "CaseA_t2.nii.gz", "CaseA_FLAIR.nii", "CaseA_SEG.nii")
    touch(tmp_path, *names)
    (case,) = find_cases(mr(tmp_path))
    assert [path.name for path in (*case.images, case.mask)] == list(names)


def test_the_misnamed_mask_of_brats_2020_is_taken_and_said(tmp_path, capsys):
    name = "BraTS20_Training_355"
    brats_case(tmp_path, name, MODALITIES)
    touch(tmp_path, f"{name}/W39_1998.09.19_Segm.nii")
    (case,) = find_cases(mr(tmp_path))
    assert case.mask == tmp_path / name / "W39_1998.09.19_Segm.nii"
    assert f"{name}: {case.mask} is taken for its mask, as there is no {name}_seg.nii[.gz]" in capsys.readouterr().err
    touch(tmp_path, f"{name}/second_segmentation.nii")  # which of the two is meant, nobody knows
    assert find_cases(mr(tmp_path), need_masks=False)[0].mask is None


def test_a_mask_of_another_name_in_a_folder_of_several_cases_is_nobodys(tmp_path):
    touch(tmp_path, *(f"{case}_{name}.nii" for case in "AB" for name in MODALITIES), "W39_Segm.nii")
    assert [case.mask for case in find_cases(mr(tmp_path), need_masks=False)] == [None, None]


@pytest.mark.parametrize(
    "files, lacking",
    [
        (["C/C-t1n.nii.gz", "C/C-t1c.nii.gz"], "C-t2w.nii[.gz], C-t2f.nii[.gz]"),
        (["C/t1.nii.gz", "C/t1ce.nii.gz"], "t2.nii[.gz], flair.nii[.gz]"),
        (["C/t1n.nii.gz", "C/t1c.nii.gz"], "t2w.nii[.gz], t2f.nii[.gz]"),
    ],
)
def test_what_a_case_lacks_is_called_as_its_other_files_are(tmp_path, files, lacking):
    touch(tmp_path, *files)
    with pytest.raises(DataNotFound, match="incomplete") as caught:
        find_cases(mr(tmp_path))
    assert f"C lacks {lacking}" in str(caught.value)


def test_the_wanted_mask_of_a_new_case_is_called_as_its_other_files_are(tmp_path, capsys):
    for case in ("C-000", "C-001"):
        touch(tmp_path, *(f"{case}/{case}-{word}.nii" for word in ("t1n", "t1c", "t2w", "t2f")))
    touch(tmp_path, "C-000/C-000-seg.nii")
    assert len(find_cases(mr(tmp_path))) == 1
    assert "C-001-t1n.nii has no mask C-001-seg.nii[.gz]" in capsys.readouterr().err


def test_an_empty_folder_among_those_of_cases_is_a_case_that_is_not_there(tmp_path, capsys):
    brats_case(tmp_path, "data/C1")
    (tmp_path / "data" / "C2").mkdir()
    (tmp_path / "elsewhere").mkdir()
    assert [case.name for case in find_cases(mr(tmp_path))] == ["C1"]
    said = capsys.readouterr().err
    assert f"C2 is left out: {tmp_path}/data/C2 is empty; copy its files again" in said and "elsewhere" not in said


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, capsys, monkeypatch):
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "locked/volume-1.nii", "locked/segmentation-1.nii")
    lock(monkeypatch, "locked")
    assert [case.name for case in find_cases(lits(tmp_path))] == ["volume-0"]
    said = f"{tmp_path}/locked is left out: {tmp_path}/locked cannot be looked into (Permission denied); see that you"
    assert said in capsys.readouterr().err
    with pytest.raises(DataNotFound, match="locked cannot be looked into"):
        find_cases(lits(tmp_path / "locked"))


def test_what_systems_lock_for_themselves_goes_unsaid(tmp_path, capsys, monkeypatch):
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "lost+found/x", "System Volume Information/x", ".Trash/x")
    lock(monkeypatch, "lost+found", "System Volume Information", ".Trash")
    assert len(find_cases(lits(tmp_path))) == 1 and capsys.readouterr().err == ""


def test_names_that_are_no_text_become_text(tmp_path):
    folder = os.fsencode(tmp_path)
    for ending in (*MODALITIES, "seg"):
        for name in (b"l\xe9sion", b"l\xe8sion"):
            open(os.path.join(folder, name + b"_" + ending.encode() + b".nii"), "wb").close()
    found = find_cases(mr(tmp_path))
    assert sorted(case.name for case in found) == sorted(case.patient for case in found) == ["l%E8sion", "l%E9sion"]
    assert all(case.mask.is_file() for case in found)


def test_modalities_come_in_the_recipes_order(tmp_path):
    brats_case(tmp_path, "BraTS2021_00000", ("flair", "t1ce", "seg"))
    (case,) = find_cases(mr(tmp_path, modalities=("flair", "t1ce")))
    assert [path.name[-12:] for path in case.images] == ["flair.nii.gz", "_t1ce.nii.gz"]


def test_a_missing_modality_is_named_and_the_case_left_out(tmp_path, capsys):
    brats_case(tmp_path, "HGG/Brats18_A_1")
    brats_case(tmp_path, "HGG/Brats18_B_1", ("t1", "flair", "seg"))
    assert [case.name for case in find_cases(mr(tmp_path))] == ["Brats18_A_1"]
    said = capsys.readouterr().err
    assert "Brats18_B_1 is left out" in said
    assert "lacks Brats18_B_1_t1ce.nii[.gz], Brats18_B_1_t2.nii[.gz]; copy that again" in said


def test_a_brats_case_without_mask_is_reported(tmp_path, capsys):
    brats_case(tmp_path, "BraTS2021_00000")
    brats_case(tmp_path, "BraTS2021_00001", MODALITIES)
    assert len(find_cases(mr(tmp_path))) == 1
    assert "has no mask BraTS2021_00001_seg.nii[.gz]" in capsys.readouterr().err


@pytest.mark.parametrize("recipe, pattern", [(lits, "volume-N.nii[.gz]"), (mr, "CASE_{t1,t1ce,t2,flair,seg}.nii[.gz]")])
def test_nothing_found_says_what_where_and_what_to_do(tmp_path, recipe, pattern):
    touch(tmp_path, "liver_0.nii.gz", "readme.txt")
    with pytest.raises(DataNotFound) as caught:
        find_cases(recipe(tmp_path))
    said = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert pattern in said and str(tmp_path.resolve()) in said
    assert "found 2 files there, 1 of them NIfTI (liver_0.nii.gz)" in said
    assert "registration" in said and "--config.data.source=phantom" in said


def test_a_folder_that_is_not_there_is_said_so_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFound, match=f"{tmp_path}/nowhere .*that folder does not exist.*Decathlon"):
        find_cases(lits("nowhere"))


def test_when_every_case_is_incomplete_the_first_reason_is_given(tmp_path):
    touch(tmp_path, "volume-1.nii")
    with pytest.raises(DataNotFound, match=r"1 incomplete cases \(first: .*has no mask segmentation-1"):
        find_cases(lits(tmp_path))


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match="config.data.source='mars' is not known; choose lits, decathlon, ircadb, brats"
    ):
        find_cases(lits(tmp_path, source="mars"))


def test_unknown_modalities_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"modalities=\('pet',\) are not in source brats, which holds \('t1'"):
        find_cases(mr(tmp_path, modalities=("pet",)))


def test_a_source_that_does_not_hold_the_recipes_modalities_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"modalities=\('ct',\) are not in source brats"):
        find_cases(lits(tmp_path, source="brats"))
    with pytest.raises(ValueError, match="source='lits' holds CT, and this recipe reads.*choose brats"):
        find_cases(mr(tmp_path, source="lits"))


def test_phantoms_are_drawn_when_missing_and_read_back(tmp_path):
    config = lits(tmp_path, source="phantom", cases=2, phantom_size=(32, 32, 8))
    found = find_cases(config)
    folder = case_reading.phantom_folder(config)
    assert folder.parent == tmp_path and "32x32x8" in folder.name
    assert [case.images[0] for case in found] == [folder / "volume-0.nii.gz", folder / "volume-1.nii.gz"]
    volume, mask = case_reading.read_case(found[1], config)
    assert volume.name == "volume-1" and volume.voxels.dtype == np.int16 and mask.shape == volume.shape
    assert set(np.unique(mask)) <= {0, 1, 2} and mask.any()


def test_fewer_phantoms_than_lie_there_are_the_first_ones(tmp_path):
    config = lits(tmp_path, source="phantom", cases=3, phantom_size=(32, 32, 8))
    find_cases(config)
    config.data.cases = 1
    assert [case.name for case in find_cases(config)] == ["volume-0"]


def test_phantom_folders_differ_by_kind_size_and_seed(tmp_path):
    base, head, size, seed = lits(tmp_path), mr(tmp_path), lits(tmp_path, phantom_size=(64, 64, 8)), lits(tmp_path)
    seed.seed = 1
    assert len({case_reading.phantom_folder(config) for config in (base, head, size, seed)}) == 4


def test_brats_labels_are_merged_to_whole_tumor_and_channels_stacked(tmp_path):
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2] = (0, 1, 2, 4, 0)
    for value, modality in enumerate(MODALITIES):
        write_nifti(tmp_path / f"A_{modality}.nii.gz", np.full((3, 4, 5), value + 1, np.int16), AFFINE)
    write_nifti(tmp_path / "A_seg.nii.gz", labels, AFFINE)
    config = mr(tmp_path)
    volume, mask = case_reading.read_case(find_cases(config)[0], config)
    assert volume.voxels[0, 0, 0].tolist() == [1, 2, 3, 4] and volume.name == "A"
    np.testing.assert_array_equal(mask, labels > 0)
    assert mask.dtype == np.uint8


def test_where_labels_are_merged_the_recipe_may_pick_some(tmp_path):
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2] = (0, 1, 2, 4, 0)
    for modality in MODALITIES:
        write_nifti(tmp_path / f"A_{modality}.nii.gz", np.ones((3, 4, 5), np.int16), AFFINE)
    write_nifti(tmp_path / "A_seg.nii.gz", labels, AFFINE)
    config = mr(tmp_path)
    config.data.foreground = (1, 4)
    _, mask = case_reading.read_case(find_cases(config)[0], config)
    np.testing.assert_array_equal(mask, (labels == 1) | (labels == 4))


def test_a_case_without_mask_reads_as_none(tmp_path):
    write_nifti(tmp_path / "volume-0.nii", np.zeros((3, 4, 5), np.int16), AFFINE)
    config = lits(tmp_path)
    (case,) = find_cases(config, need_masks=False)
    assert case_reading.read_case(case, config)[1] is None


def test_a_label_of_another_data_set_is_refused(tmp_path):
    write_nifti(tmp_path / "volume-0.nii", np.zeros((3, 4, 5), np.int16), AFFINE)
    write_nifti(tmp_path / "segmentation-0.nii", np.full((3, 4, 5), 4, np.uint8), AFFINE)
    config = lits(tmp_path)
    with pytest.raises(VolumeError, match=r"segmentation-0\.nii.*4.*\(0, 1, 2\)"):
        case_reading.read_case(find_cases(config)[0], config)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("count, held_out", [(8, 0), (8, 3), (23, 1), (40, 2)])
def test_every_case_falls_into_one_part_and_folds_are_balanced(count, held_out, folds, seed):
    config = liver_tumor.get_config()
    config.seed, config.data.folds, config.data.test_cases = seed, folds, held_out
    split = split_cases(cases(count), config)
    parts = (split.test, *split.folds)
    assert sorted(case.name for part in parts for case in part) == sorted(case.name for case in cases(count))
    sizes = [len(fold) for fold in split.folds]
    assert len(sizes) == folds and max(sizes) - min(sizes) <= 1 and len(split.test) == held_out


def test_cases_of_one_patient_stay_together():
    config = brats.get_config()
    config.data.folds = 3
    visits = [Case(f"p{patient}_{visit}", (), None, f"p{patient}") for patient in range(7) for visit in range(3)]
    split = split_cases(visits, config)
    patients = [{case.patient for case in fold} for fold in split.folds]
    assert sum(map(len, patients)) == 7 == len(set.union(*patients))


def test_the_three_stages_of_a_cascade_hold_out_the_same_cases():
    tests, folds = [], []
    for module in (liver_coarse, liver_voi, liver_tumor):
        config = module.get_config()
        config.data.test_cases = 4
        split = split_cases(cases(20), config)
        tests.append(split.test)
        folds.append(split.folds)
    assert tests[0] == tests[1] == tests[2] and len(tests[0]) == 4
    assert folds[1] == folds[2]


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_files():
    config = liver_voi.get_config()
    first = split_cases(cases(20), config)
    assert split_cases(cases(20)[::-1], config) == first
    config.seed = 1
    assert split_cases(cases(20), config) != first


def test_coarse_validates_on_the_papers_share_but_at_least_one():
    config = liver_coarse.get_config()
    assert [len(part) for part in split_cases(cases(130), config).folds] == [92, 38]
    assert [len(part) for part in split_cases(cases(2), config).folds] == [1, 1]


def test_too_few_patients_are_counted():
    config = liver_voi.get_config()
    config.data.test_cases = 2
    with pytest.raises(ValueError, match=r"6 patients are too few for 2 test cases .* and 5 folds .*lower these"):
        split_cases(cases(6), config)


def test_a_single_fold_is_refused():
    config = liver_voi.get_config()
    config.data.folds = 1
    with pytest.raises(ValueError, match="config.data.folds=1 leaves nothing to train on; use at least 2"):
        split_cases(cases(6), config)
