"""The page of a run and of a prediction: complete, self-contained, and honest about what is missing."""

import base64
import io
import json
import pathlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from configs import brats, common, custom, liver_coarse, liver_tumor, liver_voi
from raunet_jax import recipe, tasks
from raunet_jax.imaging.volume import write_nifti
from raunet_jax.report import case_table, markup, scores_section
from raunet_jax.report.display import display_settings
from raunet_jax.report.page import write_report
from raunet_jax.report.prediction_page import write_prediction_page
from raunet_jax.report.structures import scored_structures
from raunet_jax.scores.brats import score_brain_case, summarize_brain
from raunet_jax.scores.custom import score_custom_case, summarize_custom
from raunet_jax.scores.liver import score_liver_case, summarize_liver
from raunet_jax.scores.tables import write_scores
from raunet_jax.tasks import Stage, Structure, Task
from test_report_figures import has_color, read_png

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SPACING_MM = (5.0, 2.0, 2.0)
LIVER_AND_TUMOR = display_settings(liver_tumor.get_config())


class Outline(HTMLParser):
    """Collects what a page refers to and checks that its elements close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tags = [], [], [], [], []
        self.text, self.pictures = [], {}  # all that is read, the recipe's fields left out; alt -> PNG
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in ("img", "source", "meta", "br"):
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs[name] for name in ("src", "srcset") if name in attrs]
        if tag == "img":
            self.text.append(attrs["alt"])
            self.pictures[attrs["alt"]] = base64.b64decode(attrs["src"].split(",")[1])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script", "pre"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(self.text).lower()


def read_page(path: pathlib.Path) -> tuple[str, Outline]:
    page = path.read_text(encoding="utf-8")
    outline = Outline(page)
    assert all(source.startswith("data:image/png;base64,") for source in outline.sources)
    assert all(link[1:] in outline.ids for link in outline.links)
    assert not re.search(r"https?://|url\(|@import", page)
    return page, outline


def draw(shape=(8, 32, 32)):
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    labels[1:7, 8:24, 12:28] = 1
    labels[3:5, 12:18, 16:22] = 2
    scan = rng.normal(40, 10, shape) + 60 * (labels == 1)
    found = labels.copy()
    found[3:5, 12:14] = np.minimum(found[3:5, 12:14], 1)
    return scan.astype(np.int16), labels, found


def add_case(run: pathlib.Path, name: str, **changed) -> dict:
    """Write a case's scan, masks, map and JSON; return its scores."""
    scan, labels, found = draw()
    images, mask = run / "data" / f"{name}.nii.gz", run / "data" / f"{name}_truth.nii.gz"
    write_nifti(images, scan, AFFINE, "LPS")
    write_nifti(mask, labels, AFFINE, "LPS")
    evaluation = run / "evaluation"
    write_nifti(evaluation / f"{name}_seg.nii.gz", found, AFFINE, "LPS")
    write_nifti(evaluation / f"{name}_tumor.nii.gz", (found == 2).astype(np.float32), AFFINE, "LPS")
    record = {"case": name, "images": [str(images)], "mask": str(mask), "seconds": 1.5, "warnings": []}
    record |= {"box": {"start": [0, 4, 8], "stop": [8, 28, 32]}, "stages": {"coarse": 0.5}}
    (evaluation / f"{name}.json").write_text(json.dumps(record | changed))
    return {"case": name} | score_liver_case(found, labels, SPACING_MM)


def add_metrics(folder: pathlib.Path, epochs: int = 3, end: str = "\n") -> None:
    folder.mkdir(parents=True)
    row = {"step": 10, "loss": 0.5, "validation_dice": 0.4, "learning_rate": 1e-3, "patches_per_second": 7.0}
    rows = [row | {"epoch": epoch, "seconds": 60.0 * epoch} for epoch in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + end)


@pytest.fixture
def cascade(tmp_path) -> pathlib.Path:
    config = common.get_config()
    config.name = "liver"
    stages = {"coarse": liver_coarse, "voi": liver_voi, "tumor": liver_tumor}
    with config.unlocked():
        config.stages = {name: module.get_config() for name, module in stages.items()}
    (tmp_path / "config.json").write_text(recipe.to_json(config))
    return tmp_path


def test_cascade_page_has_scores_cases_curves_pictures_and_recipe(cascade):
    for stage, folds in (("coarse", 1), ("voi", 2), ("tumor", 2)):
        for fold in range(folds):
            add_metrics(cascade / stage / f"fold_{fold}")
    cases = [add_case(cascade, name) for name in ("volume-2", "volume-10")]
    write_scores(cascade / "scores.json", summarize_liver(cases))
    path = write_report(cascade)
    assert path == cascade / "report" / "index.html"
    page, outline = read_page(path)
    assert {"scores", "cases", "training", "intensities", "pictures", "recipe"} <= set(outline.ids)
    assert page.index("volume-2") < page.index("volume-10")
    assert f"{cases[0]['tumor']['dice']:.3f}" in page
    assert "RA-UNet (paper)" in page
    assert page.index("coarse fold 0") < page.index("voi fold 1") < page.index("tumor fold 0")
    assert page.count("three planes") == 2
    assert "prefers-color-scheme: dark" in page
    for source in outline.sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).verify()


def test_the_papers_rows_are_marked_in_every_table_and_those_of_its_own_data_stand_on_the_tiles(cascade):
    scores = summarize_liver([add_case(cascade, "volume-2")])
    page = str(scores_section.section(scores))
    # Tables IV to VI of the paper: LiTS and 3DIRCADb, liver and tumor
    assert re.findall(r'<tr class="paper"><t[dh][^>]*>(.*?)</t', page) == ["RA-UNet (paper)"] * 4
    assert "Liver, DC" in page and "Tumor, DG" in page and "Liver, external test, DC" not in page


def test_cases_that_the_last_evaluation_did_not_score_are_not_shown(cascade):
    add_case(cascade, "volume-1")
    write_scores(cascade / "scores.json", summarize_liver([add_case(cascade, "volume-2")]))
    page, _ = read_page(write_report(cascade))
    assert "volume-2" in page and "volume-1" not in page
    (cascade / "scores.json").unlink()
    page, _ = read_page(write_report(cascade))
    assert "volume-2" in page and "volume-1" in page


def test_cases_that_a_model_was_trained_on_are_told_above_the_scores(cascade):
    cases = [add_case(cascade, name) for name in ("volume-1", "volume-2")]
    cases[0] |= {"stage_1_trained_on_it": True, "leak": True}
    unseen = {"cases": 1, "liver_dice": 0.75, "tumor_dice": 0.5}
    write_scores(cascade / "scores.json", summarize_liver(cases) | {"stage_1_unseen": unseen})
    page, _ = read_page(write_report(cascade))
    notices = re.findall(r'<p class="notice">(.*?)</p>', page)
    assert "trained on 1 of these 2 cases; over the 1 it had not seen the Dice is 0.750 (liver)" in notices[0]
    assert "1 of these 2 cases is a scan that the run was trained on" in notices[1]
    assert page.index(notices[1]) < page.index("RA-UNet (paper)")


def test_run_without_scores_or_epochs_says_so(cascade):
    page, outline = read_page(write_report(cascade))
    assert "No scores yet" in page
    assert "No epoch has been finished yet" in page
    assert "pictures" not in outline.ids


def test_text_from_files_is_escaped(cascade):
    add_case(cascade, "volume-1", warnings=['<script>alert("x")</script> & more'])
    page, outline = read_page(write_report(cascade))
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more" in page
    assert outline.tags.count("script") == 1


def test_scan_that_is_gone_is_named_and_the_other_cases_are_drawn(cascade):
    add_case(cascade, "volume-1")
    add_case(cascade, "volume-2")
    gone = cascade / "data" / "volume-1.nii.gz"
    gone.unlink()
    page, _ = read_page(write_report(cascade))
    assert "No pictures" in page and str(gone) in page
    assert page.count("three planes") == 1


def test_line_of_metrics_that_a_kill_cut_short_is_left_out(cascade):
    add_metrics(cascade / "coarse" / "fold_0", epochs=2, end='\n{"step": 30, "ep')
    page, _ = read_page(write_report(cascade))
    assert "coarse fold 0" in page


def test_damaged_line_inside_metrics_is_named(cascade):
    add_metrics(cascade / "coarse" / "fold_0", epochs=1, end="\n{broken\n{}\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 2 is not JSON"):
        write_report(cascade)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json"):
        write_report(tmp_path)


def test_single_stage_run_shows_its_folds_and_compares_livers_only(tmp_path):
    (tmp_path / "config.json").write_text(recipe.to_json(liver_voi.get_config()))
    add_metrics(tmp_path / "fold_0")
    summary = summarize_liver([add_case(tmp_path, "volume-1")])
    for values in (summary, *summary["cases"]):  # as evaluate leaves out what the run has no stage for
        values |= {name: None for name in values if name.startswith(("tumor", "detection", "lesions"))}
    write_scores(tmp_path / "scores.json", summary)
    page, outline = read_page(write_report(tmp_path))
    assert ">fold 0<" in page and "liver dice" in outline.words and "liver hd95, mm" in outline.words
    assert "224 × 224 × 32" in page
    assert "tumor" not in outline.words
    for alt in ("surfaces of what was found", "three planes with outlines and probabilities"):
        assert not has_color(read_png(outline.pictures[f"volume-1: {alt}"]), tasks.TUMOR.color, 8)


def test_a_page_is_made_without_jax_and_matplotlib_waits_until_something_is_drawn():
    modules = "page", "prediction_page", "comparison_page"
    imports = "; ".join(f"import raunet_jax.report.{module}" for module in modules)
    code = f"{imports}; import sys; print([name for name in ('jax', 'flax', 'matplotlib') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def own_recipe(stage: str):
    """A custom recipe of CTs as `plan` completes it."""
    config = custom.get_config()
    config.stage, config.data.modalities, config.window_hu = stage, ("ct",), (-50.0, 150.0)
    config.patch_size, config.batch_size = (64, 64, 32), 2
    return config


def add_own_case(folder: pathlib.Path, name: str, ending: str) -> tuple[dict, np.ndarray, np.ndarray]:
    """A scan, its reference, what was found and its map; return the record, what was found and the reference."""
    scan, labels, found = draw()
    reference, found = (labels == 2).astype(np.uint8) * 200, (found == 2).astype(np.uint8)
    images, mask = folder / "data" / f"{name}.nii.gz", folder / "data" / f"{name}_labels.nii.gz"
    write_nifti(images, scan, AFFINE, "LPS")
    write_nifti(mask, reference, AFFINE, "LPS")
    evaluation = folder / "evaluation"
    write_nifti(evaluation / f"{name}_seg.nii.gz", found, AFFINE, "LPS")
    write_nifti(evaluation / f"{name}_{ending}.nii.gz", found.astype(np.float32), AFFINE, "LPS")
    record = {"case": name, "images": [str(images)], "mask": str(mask), "box": None, "seconds": 1.5, "warnings": []}
    (evaluation / f"{name}.json").write_text(json.dumps(record))
    return record, found, reference


def test_page_of_anybodys_own_task_speaks_of_its_foreground_alone(tmp_path):
    (tmp_path / "config.json").write_text(recipe.to_json(own_recipe("custom")))
    record, found, reference = add_own_case(tmp_path, "case-1", "foreground")
    case = {"case": "case-1"} | score_custom_case(found, reference, SPACING_MM)
    write_scores(tmp_path / "scores.json", summarize_custom([case]))
    page, outline = read_page(write_report(tmp_path))
    assert "No pictures" not in page  # any label of the reference may be foreground
    assert "RA-UNet: foreground" in page and f"{case['foreground']['dice']:.3f}" in page
    assert "from −50 to 150 HU" in page
    assert "liver" not in outline.words and "tumor" not in outline.words
    surfaces = read_png(outline.pictures["case-1: surfaces of what was found"])
    assert has_color(surfaces, tasks.TASKS["custom"].structures["foreground"].color, 8)  # of the legend
    for organ in (tasks.LIVER, tasks.TUMOR):
        assert not has_color(surfaces, organ.color, 8)


@pytest.fixture
def spleen(monkeypatch):
    """One more row of the table of tasks, which is all that a new task needs."""
    stage = Stage("spleen of dogs", "dog_spleen", 1, "volume", False, "centered", map="milt")
    task = Task({"dog spleen": Structure(1, "#3366ff")}, None, "custom", {"spleen": stage}, merged=True)
    monkeypatch.setitem(tasks.TASKS, "spleen", task)
    return own_recipe("spleen")


def test_a_new_task_names_and_colors_its_own_pages(tmp_path, spleen):
    (tmp_path / "config.json").write_text(recipe.to_json(spleen))
    record, _, _ = add_own_case(tmp_path, "case-1", "milt")
    page, outline = read_page(write_report(tmp_path))
    assert "RA-UNet: spleen of dogs" in page and ">spleen of dogs<" in page
    summary = {"cases": [record | {"input": record["images"][0], "dog_spleen_ml": 3.125}], "failed": []}
    output = tmp_path / "evaluation"
    (output / "summary.json").write_text(json.dumps(summary))
    page, predicted = read_page(write_prediction_page(output, display_settings(spleen)))
    assert "dog spleen, mL" in page and "3.12" in page
    for each in (outline, predicted):
        for words in ("liver", "tumor", "foreground", "no pictures"):
            assert words not in each.words
        assert has_color(read_png(each.pictures["case-1: surfaces of what was found"]), "#3366ff", 8)
    assert display_settings(spleen).maps == {"milt": "dog spleen"}


def test_scores_of_a_new_task_are_found_under_the_name_of_its_structure(spleen):
    def scores(**structures):
        return {
            "rule": "custom",
            "structure": "dog_spleen",
            "cases": [{"case": "one", "voxels": {"n": 1}} | structures],
        }

    one = {"dice": 0.75, "sensitivity": 0.5, "rvd": None, "hausdorff95": 2.25, "assd": 1.0}
    table = case_table.section([], scores(dog_spleen=one), {})
    assert re.findall(r'<th scope="col">(.*?)</th>', table)[:-2] == [
        "case",
        "Dice",
        "sensitivity",
        "HD95, mm",
        "ASSD, mm",
    ]
    assert "0.750" in table and "2.2" in table
    assert scored_structures(scores(kidney=one, dog_spleen=one, tumor=one, liver=one)["cases"]) == [
        "liver",
        "tumor",
        "dog_spleen",
        "kidney",
    ]


def test_brain_run_shows_every_modality_and_its_own_scores(tmp_path):
    (tmp_path / "config.json").write_text(recipe.to_json(brats.get_config()))
    scan, labels, found = draw()
    truth = np.where(labels == 2, 4, labels).astype(np.uint8)
    images = [tmp_path / "data" / f"B1_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")]
    for path in images:
        write_nifti(path, scan.astype(np.float32), AFFINE)
    write_nifti(tmp_path / "data" / "B1_seg.nii.gz", truth, AFFINE)
    found = (found >= 1).astype(np.uint8)
    write_nifti(tmp_path / "evaluation" / "B1_seg.nii.gz", found, AFFINE)
    write_nifti(tmp_path / "evaluation" / "B1_brain.nii.gz", found.astype(np.float32), AFFINE)
    record = {"case": "B1", "images": [str(path) for path in images], "mask": str(tmp_path / "data" / "B1_seg.nii.gz")}
    record |= {"box": None, "seconds": 2.0, "warnings": [], "stages": {}}
    (tmp_path / "evaluation" / "B1.json").write_text(json.dumps(record))
    scores = summarize_brain([{"case": "B1"} | score_brain_case(found, truth, SPACING_MM)])
    write_scores(tmp_path / "scores.json", scores)
    page, outline = read_page(write_report(tmp_path))
    assert "B1: every modality" in page
    assert "Sensitivity" in page
    assert "RA-UNet: whole brain tumor" in page
    assert "intensities" not in outline.ids
    assert "liver" not in outline.words and "foreground" not in outline.words


def test_prediction_page_lists_volumes_warnings_and_failures_and_writes_a_picture(tmp_path):
    add_case(tmp_path, "scan")
    output = tmp_path / "evaluation"
    case = {"case": "scan", "input": str(tmp_path / "data" / "scan.nii.gz"), "mask": "scan_seg.nii.gz", "seconds": 3.0}
    case |= {
        "liver_ml": 1530.2,
        "tumor_ml": 12.25,
        "tumor_count": 1,
        "tumor_burden": 0.008,
        "warnings": ["box at border"],
    }
    case |= {"box": None, "lesions": [{"volume_mm3": 12250.0, "centroid_mm": [1.0, -2.0, 3.0]}]}
    failed = [{"input": "bad.nii.gz", "reason": "ends early"}]
    (output / "summary.json").write_text(json.dumps({"cases": [case], "failed": failed}))
    page, _ = read_page(write_prediction_page(output, LIVER_AND_TUMOR))
    for text in (
        ">1,530<",
        ">12.2<",
        "0.80",
        "box at border",
        "bad.nii.gz",
        "ends early",
        "12,250.00",
        "1.0, −2.0, 3.0",
    ):
        assert text in page
    with Image.open(output / "scan.png") as picture:
        assert picture.size[0] > 1000


def test_a_cases_article_lists_the_lesions_found_and_missed(cascade):
    lesion = {"volume_mm3": 1234.5, "diameter_mm": 17.25, "centroid_mm": [1.0, -2.0, 3.0], "mean_probability": 0.875}
    found = {"kind": "found"} | lesion | {"agreement": None, "matched": True, "overlap": 0.5}
    missed = {"kind": "missed"} | lesion | {"volume_mm3": 9.0, "matched": False, "overlap": 0.0}
    add_case(cascade, "volume-1", lesions=[found, missed])
    add_case(cascade, "volume-2", lesions=[])
    page, outline = read_page(write_report(cascade))
    assert page.count("<h3>Lesions</h3>") == 1
    table = page[page.index("<h3>Lesions</h3>") :]
    table = table[: table.index("</table>")]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads[1:5] == ["kind", "volume, mm³", "diameter, mm", "centroid, mm"]
    first, second = re.findall(r"<tr><th.*?</tr>", table.split("<tbody>")[1])
    shown = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", first)]
    assert shown == ["1", "found", "1,234.50", "17.25", "1.0, −2.0, 3.0", "0.88", "–", "yes", "0.50"]
    assert ">missed<" in second and ">no<" in second
    assert 'data-key="1234.5"' in first  # a thousands comma would end the number that the table sorts by


def test_prediction_without_a_single_success_still_has_a_page(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"cases": [], "failed": [{"input": "a", "reason": "b"}]}))
    page, _ = read_page(write_prediction_page(tmp_path, LIVER_AND_TUMOR))
    assert "1 of 1 inputs could not be segmented" in page


def test_prediction_folder_without_summary_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"summary.json is missing"):
        write_prediction_page(tmp_path, LIVER_AND_TUMOR)


def test_numbers_are_read_as_a_person_writes_them():
    assert markup.number(None) == "–"
    assert markup.number(-0.25) == "−0.250"
    assert markup.number(15000) == "15,000"
    assert markup.number(1234.5, 1, "mL") == "1,234.5 mL"


def test_attributes_and_children_are_escaped_once():
    made = markup.tag("a", "a < b", markup.tag("b", "&"), href='x"y', class_="c", data_key=None)
    assert made == '<a href="x&quot;y" class="c">a &lt; b<b>&amp;</b></a>'
