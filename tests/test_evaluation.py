"""Whole-volume evaluation: on cases the models never saw, scored as by hand, with rules in place of networks."""

import csv
import errno
import json

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

import exact_models
import tiny_lits
from configs import liver
from data_prep import patch_dataset
from data_prep.cases import find_cases, split_cases
from exact_models import model, rule
from raunet_jax.commands import evaluate as evaluation
from raunet_jax.commands.score_tables import print_tables
from raunet_jax.files import write_json, write_text
from raunet_jax.inference import results
from raunet_jax.recipe import stages_of, to_json
from raunet_jax.report.page import write_report

MARGIN = 2  # of tiny_lits.recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_lits.write(tmp_path_factory.mktemp("lits"))


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    exact_models.use_rules(monkeypatch)


def use_models(monkeypatch, *stages, margin=MARGIN, **rules):
    """Let the run's models follow rules; returns what was evaluated: (fold asked for, case) in order."""
    loaded, evaluated = [], []

    def load_cascade(workdir, config, fold):
        loaded.append(fold)
        return {stage: model(stage, rules.get(stage, rule((-2000, 2000))), box_margin=margin) for stage in stages}

    def segment(volume, *arguments, **options):
        evaluated.append((loaded[-1], volume.name))
        return real(volume, *arguments, **options)

    real = evaluation.segment
    monkeypatch.setattr(evaluation, "load_cascade", load_cascade)
    monkeypatch.setattr(evaluation, "segment", segment)
    return evaluated


def recipe(root, tmp_path, **fields):
    """`folds` are those trained, and `data_folds` how many the cases are dealt into."""
    data = {"folds": fields.pop("data_folds", 3), "test_cases": fields.pop("test_cases", 0)}
    config = tiny_lits.recipe(root, tmp_path / "prepared", fields.pop("stage", "tumor"), (32, 32, 32), **data)
    config.update({"folds": (0, 1, 2)} | fields)
    return config


def train(config, workdir):
    """Leave what evaluation reads of a run trained on the recipe's own split; returns the last stage's."""
    for name, stage in stages_of(config).items():
        run = workdir / name if "stages" in config else workdir
        split = patch_dataset.assign_splits(stage)
        write_json(run / "split.json", split)
        write_text(run / "config.json", to_json(stage))
    return split


def evaluate(config, workdir):
    train(config, workdir)
    return evaluation.evaluate(config, workdir)


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which JSON has not")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def split_names(config):
    split = split_cases(find_cases(config), config)
    return [case.name for case in split.test], [[case.name for case in fold] for fold in split.folds]


@pytest.mark.parametrize("folds", [(0, 1, 2), (1,)])
def test_each_case_is_segmented_by_the_one_model_that_never_saw_it(root, tmp_path, monkeypatch, folds):
    evaluated = use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path, folds=folds)
    summary, failed = evaluate(config, tmp_path)
    assert failed == []
    _, parts = split_names(config)
    for fold, name in evaluated:
        trained_on = {case for other, part in enumerate(parts) if other != fold for case in part}
        assert fold in folds and name not in trained_on
    expected = sorted(name for fold in folds for name in parts[fold])
    assert sorted(name for _, name in evaluated) == expected
    assert sorted(case["case"] for case in summary["cases"]) == expected


def test_test_cases_are_segmented_by_all_folds_together_and_nothing_else_is(root, tmp_path, monkeypatch):
    evaluated = use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path, test_cases=2)
    evaluate(config, tmp_path)
    test, parts = split_names(config)
    assert evaluated == [(None, name) for name in test]
    assert len(test) == 2 and not set(test) & {name for part in parts for name in part}


def test_stage_coarse_is_evaluated_on_its_validation_cases(root, tmp_path, monkeypatch):
    evaluated = use_models(monkeypatch, "coarse")
    config = recipe(root, tmp_path, stage="coarse", folds=(0,))
    evaluate(config, tmp_path)
    _, (_, validation) = split_names(config)
    assert [name for _, name in evaluated] == validation and 0 < len(validation) < tiny_lits.CASES


def cascade_recipe(root, **data):
    """The paper's cascade; stage coarse deals its cases out by its own share, not by folds."""
    config = liver.get_config()
    config.data.update({"root": str(root), "folds": 3, "validation_share": 0.5} | data)
    return config


@pytest.mark.parametrize("folds", [(0, 1, 2), (1,)])
def test_a_cascade_is_cross_validated_and_says_which_cases_stage_1_had_seen(root, tmp_path, monkeypatch, folds):
    evaluated = use_models(monkeypatch, "coarse", "voi", "tumor")
    config = cascade_recipe(root)
    config.folds = folds
    summary, _ = evaluate(config, tmp_path)
    _, (coarse_trained_on, _) = split_names(config.stages.coarse)
    _, parts = split_names(config.stages.tumor)
    wanted = {name for fold in folds for name in parts[fold]}
    first = dict.fromkeys(name for _, name in evaluated)  # attribution runs stages 2 and 3 once more
    assert set(first) == wanted and all(name in parts[fold] for fold, name in evaluated)
    marked = {case["case"] for case in summary["cases"] if case.get("stage_1_trained_on_it")}
    assert marked == wanted & set(coarse_trained_on)
    unseen = [case for case in summary["cases"] if case["case"] not in marked]
    if unseen and marked:
        assert summary["stage_1_unseen"]["cases"] == len(unseen)
        expected = np.mean([case["liver"]["dice"] for case in unseen])
        assert summary["stage_1_unseen"]["liver_dice"] == pytest.approx(expected)


def labels_of(root, name):
    return tiny_lits.read_zyx(root / f"{name.replace('volume', 'segmentation')}.nii.gz")


def test_stage_tumor_alone_is_given_the_reference_liver(root, tmp_path, monkeypatch):
    """A network that answers tumor everywhere then finds the whole liver, and nothing outside it."""
    use_models(monkeypatch, "tumor")
    summary, _ = evaluate(recipe(root, tmp_path), tmp_path)
    assert len(summary["cases"]) == tiny_lits.CASES
    for case in summary["cases"]:
        labels = labels_of(root, case["case"])
        liver, tumor = (labels > 0).sum(), (labels == 2).sum()
        assert case["tumor"]["dice"] == pytest.approx(2 * tumor / (liver + tumor))
        found = tiny_lits.read_zyx(tmp_path / "evaluation" / f"{case['case']}_seg.nii.gz")
        np.testing.assert_array_equal(found, 2 * (labels > 0))


def test_stage_voi_alone_is_given_the_box_around_the_reference_liver(root, tmp_path, monkeypatch):
    use_models(monkeypatch, "voi")
    summary, _ = evaluate(recipe(root, tmp_path, stage="voi"), tmp_path)
    for case in summary["cases"]:
        labels = labels_of(root, case["case"])
        # the block of tiny_lits, 6 x 18 x 22, and 2 voxels around it, clipped at the first and maybe the last slice
        slices = min(labels.shape[0], 8 + MARGIN)
        box = slices * (18 + 2 * MARGIN) * (22 + 2 * MARGIN)
        assert case["liver"]["dice"] == pytest.approx(2 * (labels > 0).sum() / ((labels > 0).sum() + box))
        record = strict_json(tmp_path / "evaluation" / f"{case['case']}.json")
        assert record["box"] == {"start": [0, 8, 6], "stop": [slices, 30, 32]}


def test_scores_of_organs_that_a_run_has_no_stage_for_are_null(root, tmp_path, monkeypatch):
    of_tumors = [
        "tumor",
        "tumor_corrected",
        "tumor_burden",
        "tumor_burden_corrected",
        "detection",
        "detection_corrected",
    ]
    expected = {"tumor": (of_tumors, ["liver"]), "voi": (["liver"], of_tumors)}
    for stage, (known, unknown) in expected.items():
        workdir = tmp_path / stage
        use_models(monkeypatch, stage)
        config = recipe(root, tmp_path, stage=stage, data_folds=tiny_lits.CASES, folds=(0,))  # one case to draw
        workdir.mkdir()
        (workdir / "config.json").write_text(config.to_json())
        summary, _ = evaluate(config, workdir)
        on_disk = strict_json(workdir / "scores.json")
        assert on_disk == json.loads(json.dumps(summary))
        for name in unknown:
            assert on_disk[name] is None, name
            assert all(case.get(name) is None for case in on_disk["cases"]), name  # not all of them are a case's
        for name in known:
            assert on_disk[name] is not None, name
        # All that shows scores has to live with that.
        print_tables(summary, Console(quiet=True))
        assert write_report(workdir).is_file()
        with (workdir / "scores.csv").open(newline="", encoding="utf-8") as file:
            assert [row["case"] for row in csv.DictReader(file)] == [case["case"] for case in on_disk["cases"]]


def test_the_whole_cascade_finds_a_perfect_answer_perfect(tmp_path, monkeypatch):
    """In several orientations, and with the spleen and the rib that only the right order of stages leaves out."""
    hu, labels = exact_models.abdomen()
    for number, orientation in enumerate(("LPS", "RAS", "PIR", "LAI")):
        hu[0, 0, 0] = number  # four scans, not four copies of one
        exact_models.write(tmp_path / "lits" / f"volume-{number}.nii.gz", hu, orientation)
        exact_models.write(tmp_path / "lits" / f"segmentation-{number}.nii.gz", labels, orientation)
    finds = {stage: rule(exact_models.FINDS[stage]) for stage in ("coarse", "voi", "tumor")}
    use_models(monkeypatch, "coarse", "voi", "tumor", margin=10, **finds)
    config = recipe(tmp_path / "lits", tmp_path, test_cases=2, data_folds=2, box_margin=10)
    summary, failed = evaluate(config, tmp_path)
    assert failed == [] and len(summary["cases"]) == 2
    assert summary["rule"] == "lits2017"
    for organ in ("liver", "tumor"):
        assert summary[organ]["dice_per_case"] == summary[organ]["dice_global"] == 1
        assert summary[organ]["assd"] == 0
    assert summary["detection"]["recall"] == summary["detection"]["precision"] == 1
    for case in summary["cases"]:
        folder = tmp_path / "evaluation"
        reference = nib.load(tmp_path / "lits" / f"{case['case'].replace('volume', 'segmentation')}.nii.gz")
        mask = nib.load(folder / f"{case['case']}_seg.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(reference.dataobj))
        np.testing.assert_allclose(mask.affine, reference.affine)
        record = strict_json(folder / f"{case['case']}.json")
        assert record["images"] == [str(tmp_path / "lits" / f"{case['case']}.nii.gz")]
        stored = nib.load(record["mask"])
        np.testing.assert_array_equal(np.asarray(stored.dataobj), np.asarray(reference.dataobj))
        assert record["box"] == {"start": [0, 10, 6], "stop": [20, 42, 38]}
        assert list(record["stages"]) == ["coarse", "voi", "tumor"]
        assert record["seconds"] == pytest.approx(sum(record["stages"].values()))
        for organ in ("liver", "tumor"):
            assert nib.load(folder / f"{case['case']}_{organ}.nii.gz").get_data_dtype() == np.float32


def test_a_case_that_cannot_be_read_is_reported_and_the_others_are_scored(tmp_path, monkeypatch, capsys):
    root = tiny_lits.write(tmp_path / "lits", 4)
    use_models(monkeypatch, "tumor")
    cut = root / "segmentation-2.nii.gz"
    cut.write_bytes(cut.read_bytes()[:60])
    summary, failed = evaluate(recipe(root, tmp_path), tmp_path)
    assert sorted(case["case"] for case in summary["cases"]) == ["volume-0", "volume-1", "volume-3"]
    (sentence,) = failed
    assert sentence.startswith(f"volume-2: {cut}: the gzip ends early")
    assert sentence in capsys.readouterr().err


def test_a_full_disk_is_reported_for_its_case_in_the_cases_order(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 5)
    use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path, test_cases=3, data_folds=2)
    first, second, third = (case.name for case in split_cases(find_cases(config), config).test)
    write_mask = results.write_mask

    def find_the_disk_full(path, *arguments):
        if path.name == f"{first}_reference.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_mask(path, *arguments)

    monkeypatch.setattr(results, "write_mask", find_the_disk_full)
    (root / f"{second.replace('volume', 'segmentation')}.nii.gz").write_bytes(b"")
    summary, failed = evaluate(config, tmp_path)
    assert [case["case"] for case in summary["cases"]] == [third]
    assert [line.split(":")[0] for line in failed] == [first, second]
    assert "No space left on device" in failed[0] and "not a NIfTI file" in failed[1]
    assert not (tmp_path / "evaluation" / f"{first}.json").exists()


def test_when_no_case_can_be_scored_each_reason_is_given(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 3)
    use_models(monkeypatch, "tumor")
    for path in root.glob("segmentation-*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="not one case could be scored:\n(volume-.*not a NIfTI file.*\n?){3}"):
        evaluate(recipe(root, tmp_path), tmp_path)
    assert not (tmp_path / "scores.json").exists()


def test_a_case_without_a_liver_is_scored_too(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 3)
    mask = nib.load(root / "segmentation-1.nii.gz")
    nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine).to_filename(root / "segmentation-1.nii.gz")
    for stage in ("voi", "tumor"):
        use_models(monkeypatch, stage)
        summary, failed = evaluate(recipe(root, tmp_path, stage=stage), tmp_path / stage)
        assert failed == [] and len(summary["cases"]) == 3


def test_the_brain_is_scored_by_its_own_rule(tmp_path, monkeypatch):
    for number in range(3):
        case = tmp_path / "brats" / f"Brats18_A{number}_1"
        case.mkdir(parents=True)
        labels = np.zeros((12, 14, 16), np.uint8)
        labels[2:6, 3:7, 4:8], labels[3, 4, 5], labels[4, 4, 5] = 2, 1, 4
        for modality in ("t1", "t1ce", "t2", "flair"):
            image = np.where(labels > 0, 90, 0).astype(np.int16)
            image[3, 4, 5] -= number  # three scans, not three copies of one
            nib.Nifti1Image(image, np.eye(4)).to_filename(case / f"{case.name}_{modality}.nii.gz")
        nib.Nifti1Image(labels, np.eye(4)).to_filename(case / f"{case.name}_seg.nii.gz")
    use_models(monkeypatch, "brain", brain=rule((1, 32767)))
    config = recipe(tmp_path / "brats", tmp_path, stage="brain")
    config.data.source, config.data.modalities = "brats", ("t1", "t1ce", "t2", "flair")
    summary, failed = evaluate(config, tmp_path)
    assert failed == [] and summary["rule"] == "brats" and len(summary["cases"]) == 3
    assert summary["whole_tumor"] == {"dice": 1, "sensitivity": 1, "specificity": 1, "hausdorff95": 0}


def copy_under_other_names(root, target, *numbers):
    """The same scans as `root` has, with other numbers and stored upside down."""
    target.mkdir(exist_ok=True)
    for number in numbers:
        for kind in ("volume", "segmentation"):
            image = nib.load(root / f"{kind}-{number}.nii.gz")
            voxels, affine = np.asarray(image.dataobj)[:, :, ::-1], image.affine @ np.diag([1, 1, -1, 1])
            nib.Nifti1Image(voxels, affine).to_filename(target / f"{kind}-{number + 100}.nii.gz")
    return target


def other_scans(target):
    """Three scans with numbers from 50 on that are no copies of those of `tiny_lits.write`."""
    tiny_lits.write(target, 3)
    for number in range(3):
        for kind in ("volume", "segmentation"):
            (target / f"{kind}-{number}.nii.gz").rename(target / f"{kind}-{number + 50}.nii.gz")
    for number in range(50, 53):
        image = nib.load(target / f"volume-{number}.nii.gz")
        nib.Nifti1Image(np.asarray(image.dataobj) + np.int16(7), image.affine).to_filename(
            target / f"volume-{number}.nii.gz"
        )
    return target


@pytest.mark.parametrize("on_leak", ["exclude", "warn"])
def test_scans_of_an_external_test_that_the_run_trained_on_are_excluded_or_marked(
    root, tmp_path, monkeypatch, capsys, on_leak
):
    evaluated = use_models(monkeypatch, "tumor")
    trained = recipe(root, tmp_path)
    external = recipe(copy_under_other_names(root, other_scans(tmp_path / "external"), 1, 3), tmp_path)
    external.data.on_leak = on_leak
    train(trained, tmp_path)
    with pytest.raises(ValueError, match="is not the data set that .* was trained on; name a folder .*--output"):
        evaluation.evaluate(external, tmp_path)
    summary, failed = evaluation.evaluate(external, tmp_path, tmp_path / "out")
    unseen, seen = {"volume-50", "volume-51", "volume-52"}, {"volume-101", "volume-103"}
    assert failed == [] and all(fold is None for fold, _ in evaluated)
    assert {name for _, name in evaluated} == (unseen if on_leak == "exclude" else unseen | seen)
    assert {case["case"] for case in summary["cases"] if case.get("leak")} == (set() if on_leak == "exclude" else seen)
    said = capsys.readouterr().err
    assert all(f"{name} is a scan that this run has trained on" in said for name in seen)
    assert (tmp_path / "out" / "scores.json").is_file() and not (tmp_path / "scores.json").exists()


def test_what_is_to_be_done_with_leaks_is_exclude_or_warn_and_nothing_else(root, tmp_path, monkeypatch):
    evaluated = use_models(monkeypatch, "tumor")
    external = recipe(other_scans(tmp_path / "external"), tmp_path)
    external.data.on_leak = "keep"
    train(recipe(root, tmp_path), tmp_path)
    with pytest.raises(ValueError, match="config.data.on_leak is 'keep'; choose exclude or warn"):
        evaluation.evaluate(external, tmp_path, tmp_path / "out")
    assert evaluated == [] and not (tmp_path / "out").exists()


def test_a_case_added_after_training_moves_no_other_and_is_not_scored(tmp_path, monkeypatch, capsys):
    root = tiny_lits.write(tmp_path / "lits", 5)
    evaluated = use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path, test_cases=2)
    split = train(config, tmp_path)
    for path in other_scans(tmp_path / "new").iterdir():
        path.rename(root / path.name)
    evaluation.evaluate(config, tmp_path)
    assert [name for _, name in evaluated] == list(split["test"])
    assert "volume-51 is left out: it is not among the cases that this run was trained with" in capsys.readouterr().err


def test_a_held_out_case_that_is_gone_is_a_failure(tmp_path, monkeypatch):
    root = tiny_lits.write(tmp_path / "lits", 5)
    use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path, test_cases=2)
    split = train(config, tmp_path)
    gone, kept = split["test"]
    (root / f"{gone}.nii.gz").unlink()
    summary, failed = evaluation.evaluate(config, tmp_path)
    assert [case["case"] for case in summary["cases"]] == [kept]
    assert failed == [f"{gone}: this run holds it out, and it is no longer there"] == summary["failed"]


def test_a_run_that_does_not_say_what_it_trained_on_is_not_evaluated(root, tmp_path, monkeypatch):
    use_models(monkeypatch, "tumor")
    with pytest.raises(FileNotFoundError, match="split.json is missing: it says which cases the models saw"):
        evaluation.evaluate(recipe(root, tmp_path), tmp_path)


def test_a_held_out_case_that_is_another_scan_now_is_not_scored(tmp_path, monkeypatch):
    """As when files were renumbered: the scan may be one that the fold's model has trained on."""
    root = tiny_lits.write(tmp_path / "lits", 6)
    evaluated = use_models(monkeypatch, "tumor")
    config = recipe(root, tmp_path)
    split = train(config, tmp_path)
    one, other = next(iter(split["fold_0"])), next(iter(split["fold_1"]))
    for kind in ("volume", "segmentation"):
        paths = [root / f"{name.replace('volume', kind)}.nii.gz" for name in (one, other)]
        paths[0].rename(root / "aside")
        paths[1].rename(paths[0])
        (root / "aside").rename(paths[1])
    _, failed = evaluation.evaluate(config, tmp_path)
    assert not {one, other} & {name for _, name in evaluated} and len(evaluated) == 4
    assert all(any(line.startswith(f"{name}: another scan has this name") for line in failed) for name in (one, other))


def test_stages_dealt_out_differently_are_refused(root, tmp_path, monkeypatch):
    use_models(monkeypatch, "coarse", "voi", "tumor")
    config = cascade_recipe(root)
    train(config, tmp_path)
    other = config.stages.voi.copy_and_resolve_references()
    other.seed = 5
    write_json(tmp_path / "voi" / "split.json", patch_dataset.assign_splits(other))
    with pytest.raises(ValueError, match="stage voi was trained on volume-.*all stages must share config.seed"):
        evaluation.evaluate(config, tmp_path)


def test_channels_in_another_order_than_the_run_was_trained_with_are_refused(root, tmp_path, monkeypatch):
    use_models(monkeypatch, "brain")
    config = recipe(root, tmp_path, stage="brain")
    train(config, tmp_path)
    config.data.modalities = ("flair", "t1")
    with pytest.raises(ValueError, match=r"config.data.modalities is \('flair', 't1'\).*was trained with \('ct',\)"):
        evaluation.evaluate(config, tmp_path)


def test_whether_stage_1_saw_a_scan_of_another_data_set_goes_by_what_it_holds(root, tmp_path, monkeypatch):
    use_models(monkeypatch, "coarse", "voi", "tumor")
    config = cascade_recipe(root)
    train(config, tmp_path)
    external = cascade_recipe(other_scans(tmp_path / "external"))
    for path in list((tmp_path / "external").iterdir()):
        path.rename(path.with_name(path.name.replace("-5", "-")))  # names that the run knows, of scans that it does not
    summary, _ = evaluation.evaluate(external, tmp_path, tmp_path / "out")
    assert len(summary["cases"]) == 3 and not any(case.get("stage_1_trained_on_it") for case in summary["cases"])
