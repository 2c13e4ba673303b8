"""Our scores beside what was published, and scores on disk as JSON and CSV."""

import csv
import dataclasses
import os
import pathlib

from rich.console import Console
from rich.table import Table

from raunet_jax.files import replacing, write_json

LIVER_COLUMNS = {
    "DC": "dice_per_case",
    "DG": "dice_global",
    "Jaccard": "jaccard",
    "VOE": "voe",
    "RVD": "rvd",
    "ASSD": "assd",
    "MSD": "msd",
}
BRAIN_COLUMNS = {"Dice": "dice", "Sensitivity": "sensitivity", "Specificity": "specificity", "HD95": "hausdorff95"}
CUSTOM_COLUMNS = {
    "Dice": "dice",
    "std": "dice_std",
    "Jaccard": "jaccard",
    "Sensitivity": "sensitivity",
    "RVD": "rvd",
    "ASSD": "assd",
    "HD95": "hausdorff95",
}

# RA-UNet, Jin et al., arXiv 1811.01328, Table VI: scores of the closed LiTS test set.
LITS_LIVER = (
    ("Kaluva", 0.912, 0.923, 0.850, 0.150, -0.008, 6.465, 45.928),
    ("Bi", 0.959, None, 0.922, None, None, None, None),
    ("Li (H-DenseUNet)", 0.961, 0.965, None, 0.074, -0.018, 1.450, 27.118),
    ("MEDDIIR", 0.950, 0.955, None, 0.094, 0.047, 1.597, 28.911),
    ("Yuan", 0.963, 0.967, None, 0.071, -0.010, 1.104, 23.847),
    ("Summer", 0.941, 0.945, None, 0.108, -0.066, 6.552, 152.350),
    ("RA-UNet (paper)", 0.961, 0.963, 0.926, 0.074, 0.002, 1.214, 26.948),
)
LITS_TUMOR = (
    ("Kaluva", 0.492, 0.625, 0.589, 0.411, 19.705, 1.441, 7.515),
    ("Bi", 0.500, None, 0.388, None, None, None, None),
    ("Li (H-DenseUNet)", 0.722, 0.824, None, 0.366, 4.272, 1.102, 6.228),
    ("MEDDIIR", 0.658, 0.819, None, 0.380, -0.129, 1.113, 6.323),
    ("Yuan", 0.657, 0.820, None, 0.378, 0.288, 1.151, 6.269),
    ("Summer", 0.631, 0.786, None, 0.400, -0.181, 1.184, 6.367),
    ("RA-UNet (paper)", 0.595, 0.795, 0.611, 0.389, -0.152, 1.289, 6.775),
)
# Table VII: the external test on 3DIRCADb.
IRCAD_LIVER = (
    ("Christ", 0.943, None, None, 0.107, -0.014, 1.6, 24),
    ("U-Net", 0.729, None, None, 0.39, 0.87, 19.4, 119),
    ("Li", 0.945, None, None, 0.068, -0.112, 1.6, 28.2),
    ("Maya", None, None, None, 0.0554, 0.0093, 0.78, 15.6),
    ("Lu", None, None, None, 0.0936, 0.0097, 1.89, 33.14),
    ("RA-UNet (paper)", 0.977, None, 0.977, 0.045, -0.001, 0.587, 18.617),
)
IRCAD_TUMOR = (
    ("Christ", 0.56, None, None, None, None, None, None),
    ("RA-UNet (paper)", 0.830, None, 0.744, 0.255, 0.740, 2.230, 53.324),
)
# Table IX: whole tumor on the BraTS validation sets.
BRATS = (
    ("2018 radiomics-miu", 0.8764, 0.8628, 0.9950, 4.9014),
    ("2018 GBMNet", 0.8833, 0.9340, 0.9898, 5.4614),
    ("2018 mmonteiro2", 0.8709, 0.8745, 0.9932, 5.7859),
    ("2018 UNeImage", 0.8991, 0.9101, 0.9941, 5.1043),
    ("2018 MIC-DKFZ", 0.9125, 0.9187, 0.9954, 4.2679),
    ("2018 RA-UNet (paper)", 0.8912, 0.8942, 0.9938, 5.8718),
    ("2017 BCVUniandes", 0.8688, 0.8420, 0.9959, 18.4569),
    ("2017 BRATZZ27", 0.8800, 0.8566, 0.9960, 5.7178),
    ("2017 CISA", 0.8733, 0.8548, 0.9946, 5.1805),
    ("2017 CMR", 0.8569, 0.8111, 0.9968, 5.8720),
    ("2017 MIC-DKFZ", 0.9026, 0.9018, 0.9957, 6.7673),
    ("2017 Zhouch", 0.9038, 0.9032, 0.9953, 4.7447),
    ("2017 RA-UNet (paper)", 0.8863, 0.8697, 0.9951, 5.1112),
)
# Five-fold cross-validation on the LiTS training cases, the fair protocol while the test labels are closed.
NNUNET_LIVER = ("nnU-Net 3d_fullres, 5 folds", 0.957, *[None] * 6)
NNUNET_TUMOR = ("nnU-Net 3d_fullres, 5 folds", 0.640, *[None] * 6)

LIVER_RULE = (
    "LiTS's rule: liver is label 1 or 2; a case predicted without any voxel of label 1 scores Dice 0, VOE 1, RVD and "
    "distances 9001."
)
TUMOR_RULE = (
    "LiTS's rule: tumor Dice of a case is 1 when both masks are empty, 0 when one is. DG pools all voxels. Jaccard to "
    "MSD are means over detected lesions (overlap > 0.5), 9001 for RVD and distances when none is."
)
IRCAD_SLIP = "The paper's own Jaccard here is a slip: 1 - VOE is .955."
CUSTOM_RULE = (
    "Means over cases. Both masks empty: Dice 1; one empty: Dice 0, and no distance, which its mean leaves out."
)
BRAIN_RULE = "BraTS's rule: both masks empty: Dice 1, HD95 0; one empty: Dice 0, HD95 373.13."


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table to print or draw: `ours` and `published` rows are a label and a value (or None) a column."""

    title: str
    source: str  # where the published rows come from
    columns: tuple[str, ...]
    ours: tuple[tuple, ...]
    published: tuple[tuple, ...]
    note: str  # how empty masks are scored


def comparison_tables(scores: dict) -> list[Comparison]:
    """Return our rows beside the paper's for the dict that one of the `summarise_*` functions made.

    An organ whose scores are None, because the run has no stage for it, has no table. `source` in `scores`, the
    recipe's data source where it is known, marks rows of drawn phantoms, which no published row compares with.
    """
    number = len(scores["cases"])
    drawn = "drawn " if scores.get("source") == "phantom" else ""
    ours = f"ours ({number} {drawn}case{'' if number == 1 else 's'})"
    if scores["rule"] == "brats":
        columns, values = tuple(BRAIN_COLUMNS), scores["whole_tumor"]
        row = (ours, *(values[key] for key in BRAIN_COLUMNS.values()))
        source = "BraTS validation sets, paper's Table IX"
        return [Comparison("Brain, whole tumor", source, columns, (row,), BRATS, BRAIN_RULE)]

    if scores["rule"] == "custom":
        columns, values = tuple(CUSTOM_COLUMNS), scores["foreground"]
        row = (ours, *(values[key] for key in CUSTOM_COLUMNS.values()))
        return [Comparison("Foreground", "nothing published to compare with", columns, (row,), (), CUSTOM_RULE)]

    columns = tuple(LIVER_COLUMNS)

    def row(label: str, organ: str) -> tuple:
        return (label, *(scores[organ][key] for key in LIVER_COLUMNS.values()))

    test = "LiTS test set, paper's Table VI; nnU-Net: LiTS training cases, cross-validation"
    external = "3DIRCADb, paper's Table VII"
    tables = []
    if scores["liver"]:
        rows, note = (row(ours, "liver"),), f"{LIVER_RULE} {IRCAD_SLIP}"
        tables.append(Comparison("Liver", test, columns, rows, (*LITS_LIVER, NNUNET_LIVER), LIVER_RULE))
        if not drawn:
            tables.append(Comparison("Liver, external test", external, columns, rows, IRCAD_LIVER, note))
    if scores["tumor"]:
        rows = (row(ours, "tumor"), row("ours, without LiTS's habits", "tumor_without_habits"))
        tables.append(Comparison("Tumor", test, columns, rows, (*LITS_TUMOR, NNUNET_TUMOR), TUMOR_RULE))
        if not drawn:
            tables.append(Comparison("Tumor, external test", external, columns, rows, IRCAD_TUMOR, TUMOR_RULE))
    return tables


def print_tables(scores: dict, console: Console) -> None:
    """Print our scores beside the paper's, the rule for empty masks under each table, then detection and burden."""
    for comparison in comparison_tables(scores):
        table = Table(title=f"{comparison.title} ({comparison.source})", caption=comparison.note, title_justify="left")
        table.add_column("")
        for column in comparison.columns:
            table.add_column(column, justify="right")
        for row in comparison.ours:
            table.add_row(row[0], *map(_shown, row[1:]), style="bold")
        table.add_section()
        for row in comparison.published:
            table.add_row(row[0], *map(_shown, row[1:]))
        console.print(table)
    if scores.get("detection"):
        table = Table(title="Lesion detection and tumor burden", title_justify="left")
        for column in ("", "as LiTS's program", "without its habits"):
            table.add_column(column, justify="right" if column else "left")
        for group, title in (("detection", "lesion"), ("tumor_burden", "burden error")):
            for name, value in scores[group].items():
                label = f"{title} {name}".replace("_greater_zero", " (overlap > 0)").replace("_", " ")
                table.add_row(label, _shown(value), _shown(scores[f"{group}_without_habits"][name]))
        console.print(table)


def write_scores(path: str | os.PathLike, scores: dict) -> None:
    """Write `scores` as strict JSON to `path` and, with the ending .csv, a row a case beside it (undefined = empty)."""
    path = pathlib.Path(path)
    if path.suffix == ".csv":
        raise ValueError(f"{path}: scores are written as JSON with a .csv beside it; give a name that ends in .json")
    rows = [_flat(case) for case in scores["cases"]]
    columns = list(dict.fromkeys(["case"] + [name for row in rows for name in row]))
    write_json(path, scores)
    with replacing(path.with_suffix(".csv")) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
