"""JSON that is damaged, or was never what it should be: one sentence that names the file, or for a cache a new one."""

import json
import re
import shutil

import pytest

import tiny_lits
from configs import liver_tumor
from data_prep import cutting, finished_set, patch_dataset
from data_prep.cases import find_cases
from data_prep.description import read_description
from data_prep.fingerprints import fingerprints
from raunet_jax import recipe
from raunet_jax.commands import out_of_fold, run_facts
from raunet_jax.errors import UserError
from raunet_jax.imaging.volume import VolumeError
from raunet_jax.inference.models import load_cascade
from raunet_jax.report import curves, markup, page
from raunet_jax.report.comparison_page import write_comparison
from raunet_jax.report.prediction_page import write_prediction_page
from raunet_jax.run_folder import RunFolder
from raunet_jax.scores.tables import write_scores
from raunet_jax.training import batches
from raunet_jax.training.metrics import MetricsLog
from test_report_page import LIVER_AND_TUMOR
from test_scores_tables import liver_scores

DAMAGE = (b"", b"[]", b"null", b"{}", b"3", bytes(range(128, 256)), b'{"cases": [', b"[" * 100_000)


def put(value, path, new):
    """A copy of JSON `value` with `new` at `path`; None: taken out there."""
    value = json.loads(json.dumps(value))
    *above, last = path
    at = value
    for part in above:
        at = at[part]
    if new is None:
        del at[last]
    else:
        at[last] = new
    return json.dumps(value).encode()


def check(path, use, damage, name=""):
    """`use` fails with a sentence that names `path`, for each `damage`; afterwards the file is as it was."""
    whole = path.read_bytes()
    for content in damage:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            use()
        assert (name or path.name) in str(caught.value), content
        assert re.search("delete|again|put (it )?back|run --mode=|should hold|use the version", str(caught.value)), (
            content
        )
        assert len(str(caught.value)) < 500
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("written") / "run")
    (run.path / "fold_0").mkdir(parents=True)
    run.evaluation.mkdir()
    run.recipe.write_text(recipe.to_json(liver_tumor.get_config()))
    run.split.write_text(json.dumps({"test": {"a": "0"}, "fold_0": {"b": None}}))
    row = {"step": 2, "epoch": 1, "loss": 0.5, "validation_dice": None, "learning_rate": 1e-3}
    run.fold(0).metrics.write_text("".join(json.dumps(row | {"step": step}) + "\n" for step in (2, 4, 6)))
    scores = liver_scores()
    write_scores(run.scores, scores)
    record = {"images": ["scan.nii"], "warnings": [], "box": {"start": [0, 0, 0], "stop": [1, 1, 1]}, "lesions": []}
    (run.evaluation / f"{scores['cases'][0]['case']}.json").write_text(json.dumps(record))
    return run.path


@pytest.fixture
def run(written, tmp_path, monkeypatch):
    def unreadable(*_):
        raise VolumeError("scan.nii", "is not looked at here", "nothing to do")

    monkeypatch.setattr(page, "read_case", unreadable)
    monkeypatch.setattr(curves, "both_themes", lambda *_: markup.tag("p", "a figure"))
    return RunFolder(shutil.copytree(written, tmp_path / "run"))


def test_a_recipe(run):
    saved = json.loads(run.recipe.read_text())
    inner = [(("patch_size",), [1, 2]), (("patch_size",), None), (("data",), []), (("network",), {}), (("seed",), True)]
    inner += [(("of_tomorrow",), 1), (("window", "of_tomorrow"), 1), (("stage",), "kidney"), (("vote",), None)]
    damage = [*DAMAGE, *(put(saved, *change) for change in inner)]
    for use in (run.load_recipe, lambda: load_cascade(run.path), lambda: run_facts.inspect_run(run.path)):
        check(run.recipe, use, damage)
    assert run.load_recipe().to_dict() == liver_tumor.get_config().to_dict()


def test_a_cascades_recipe(tmp_path):
    from configs import demo

    path = tmp_path / "config.json"
    path.write_text(recipe.to_json(demo.get_config()))
    saved = json.loads(path.read_text())
    inner = [(("stages",), []), (("stages",), {}), (("stages", "voi"), []), (("stages", "kidney"), {}), (("data",), 3)]
    inner += [(("folds",), "all"), (("stages", "voi", "window", "step"), [0]), (("of_tomorrow",), 1)]
    check(path, RunFolder(tmp_path).load_recipe, [put(saved, *change) for change in inner])


def test_a_split(run):
    saved = json.loads(run.split.read_text())
    damage = [content for content in DAMAGE if content != b"{}"]
    check(run.split, run.read_split, [*damage, put(saved, ["test"], []), put(saved, ["fold_0", "b"], 3)])
    check(run.split, lambda: run.keep_split(saved), damage)


def test_metrics(run, capsys):
    lines = run.fold(0).metrics.read_bytes().splitlines()
    for content in (b"[]", b"null", b"{}", b"\xff", b'{"step": 4, "epoch": [], "learning_rate": 1}'):
        damage = [b"\n".join([lines[0], content, lines[2]])]
        check(run.fold(0).metrics, lambda: page.write_report(run.path), damage, "metrics.jsonl: line 2")
        check(run.fold(0).metrics, lambda: run_facts.inspect_run(run.path), damage, "metrics.jsonl: line 2")
    run.fold(0).metrics.write_bytes(b"\n".join([lines[0], b"[]", lines[2]]))
    log = MetricsLog(run.fold(0), 6)
    log.write(json.loads(lines[0]) | {"step": 8, "patches_per_second": 1.0})
    log.close()
    assert [row["step"] for row in run.fold(0).read_metrics()[0]] == [2, 6, 8]
    assert "metrics.jsonl: line 2 holds a list where an object is expected; this line is left out" in re.sub(
        r"metrics.jsonl: +line", "metrics.jsonl: line", capsys.readouterr().err
    )


def test_scores(run, tmp_path):
    saved = json.loads(run.scores.read_text())
    inner = [(("cases",), {}), (("cases", 0), []), (("cases", 0, "case"), 3), (("rule",), "kidney"), (("rule",), None)]
    inner += [(("cases", 0, "liver"), []), (("cases", 0, "liver", "dice"), "x")]
    for_tables = [(("liver",), []), (("liver", "dice_per_case"), None), (("tumor", "voe"), {}), (("detection",), [])]
    for_tables += [(("intervals", "liver"), 3), (("intervals", "liver", "voe", "low"), []), (("tumor_burden",), 3)]
    for_tables += [(("attribution",), {"lesions": 3}), (("stage_1_unseen",), [])]
    damage = [*DAMAGE, *(put(saved, *change) for change in inner)]
    check(run.scores, lambda: write_comparison(run.path, run.path), damage)
    damage += [put(saved, *change) for change in for_tables]
    check(run.scores, lambda: page.write_report(run.path), damage)
    check(run.scores, lambda: run_facts.inspect_run(run.path), [content for content in DAMAGE if content != b"{}"])


def test_the_record_of_an_evaluated_case(run):
    (path,) = run.evaluation.glob("*.json")
    saved = json.loads(path.read_text())
    inner = [(("images",), []), (("images",), None), (("images",), [3]), (("box",), [1]), (("box", "stop"), [1, 2])]
    inner += [(("warnings",), [{}]), (("lesions",), {}), (("lesions",), [3]), (("channels",), "t1"), (("mask",), [])]
    check(path, lambda: page.write_report(run.path), [*DAMAGE, *(put(saved, *change) for change in inner)])


def test_the_summary_of_a_prediction(tmp_path):
    path = tmp_path / "summary.json"
    case = {"case": "a", "input": "a.nii", "mask": "a_seg.nii.gz", "warnings": [], "lesions": None, "box": None}
    saved = {"cases": [case], "failed": []}
    path.write_text(json.dumps(saved))
    inner = [(("cases",), {}), (("cases", 0), []), (("cases", 0, "input"), 3), (("failed",), [3]), (("failed",), {})]
    inner += [(("cases", 0, "box"), []), (("cases", 0, "warnings"), "none")]
    use = lambda: write_prediction_page(tmp_path, LIVER_AND_TUMOR)  # noqa: E731
    check(path, use, [*DAMAGE, *(put(saved, *change) for change in inner)])


@pytest.mark.parametrize("content", [*DAMAGE, b'{"boxes": []}', b'{"boxes": {"a": [[1, 2, 3]]}}'])
def test_boxes_are_found_again(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_bytes(content)
    assert out_of_fold._known(path) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"labels": 3}', b"\xff", b"[" * 100_000])
def test_the_description_of_a_data_set(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text('{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}')
    check(path, lambda: read_description(path), [content])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A recipe with its patch set."""
    place = tmp_path_factory.mktemp("built")
    config = tiny_lits.recipe(tiny_lits.write(place / "lits", 4), place / "prepared", cases=4)
    with pytest.MonkeyPatch.context() as patch:
        tiny_lits.cut_here(patch)
        return config, patch_dataset.prepare(config)


@pytest.mark.parametrize("name", ["manifest.jsonl", "split.json", "dataset_info.json", "features.json"])
def test_what_a_patch_set_says_of_itself(built, name):
    config, patch_set = built
    path = patch_set.folder / name
    whole = path.read_bytes()
    first, *others = whole.splitlines(keepends=True) if name == "manifest.jsonl" else [whole]
    saved = json.loads(first)
    changed = {
        "manifest.jsonl": [(("case",), None), (("records",), "3"), (("records",), None), (("shard",), "../x")],
        "split.json": [(("fold_0",), {}), (("fold_1",), []), (("test",), None)],
        "dataset_info.json": [(("splits",), []), (("splits", 0), None), (("splits", 0, "shardLengths", 0), "1")],
        "features.json": [(("featuresDict", "features", "low"), None)],
    }
    damage = [content + b"".join(others) for content in DAMAGE[1:-1]]
    damage += [put(saved, *change) + b"\n" + b"".join(others) for change in changed[name]]
    check(path, lambda: patch_dataset.prepare(config), [b"", *damage])
    if name == "manifest.jsonl":
        check(path, lambda: finished_set.damaged(patch_set.folder), damage)
    if name in ("dataset_info.json", "features.json"):
        folder = re.escape(str(patch_set.folder))
        path.write_bytes(b"[]")
        with pytest.raises(UserError, match=f"{folder} is damaged .*; delete it and it is built again"):
            batches.train_batches(config, patch_set.folder, 0)
        path.write_bytes(whole)
    assert patch_dataset.prepare(config) == patch_set


def test_lines_of_a_killed_build_that_are_none_are_cut_again(built, tmp_path):
    config, patch_set = built
    cases = find_cases(config)
    jobs = patch_dataset._jobs(config, cases, patch_set.split, {})
    line = json.dumps({"case": "volume-0", "split": "fold_0", "records": 0})
    (tmp_path / "manifest.jsonl").write_bytes(b"\n".join([b"[]", b"null", line.encode(), b'{"case": 3}', b"\xff"]))
    assert list(cutting._kept(jobs, tmp_path)) == ["volume-0"]


@pytest.mark.parametrize("content", [*DAMAGE, b'{"key": 3}', b'{"key": []}', b'{"key": [null, "x"]}'])
def test_the_cache_of_fingerprints_is_made_anew(built, tmp_path, content):
    config, _ = built
    cases = find_cases(config)
    cache = tmp_path / "fingerprints.json"
    known = fingerprints(cases, config)
    cache.write_bytes(content)
    config = tiny_lits.recipe(config.data.root, tmp_path, cases=4)
    assert fingerprints(cases, config) == known
    assert len(json.loads(cache.read_text())) == 4
