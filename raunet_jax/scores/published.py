"""Published scores to stand beside ours, each row with its source; None where the source gives no value.

The RA-UNet paper's Tables IV (liver) and V (tumor) hold its own rows alone, on LiTS and on 3DIRCADb; Tables VI and VII
repeat them among other methods, but for the tumors of 3DIRCADb, of which Table VII has only the Dice.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of a table: a value a column."""

    label: str
    values: tuple[float | None, ...]
    source: str = ""
    statistic: str = ""  # of the scores named by `label`: their standard deviation, an end of their interval
    paper: bool = False  # whether it is the RA-UNet paper's own


def _rows(columns: int, source: str, *rows: tuple, paper: bool = False) -> tuple[Row, ...]:
    """Rows of (label, value, ...) of one source; values that are left out at the end are None."""
    return tuple(
        Row(label, (*values, *[None] * (columns - len(values))), source, paper=paper) for label, *values in rows
    )


_PAPER = "RA-UNet, Jin et al., arXiv 1811.01328"
_FIVE_FOLDS = "five-fold cross-validation on the LiTS training cases"
_REVISITED = f"nnU-Net Revisited, Isensee et al., arXiv 2404.09556: {_FIVE_FOLDS}"
_LEADERBOARD = "LiTS leaderboard (LiTS test set), ensemble of ten"
_DECATHLON = "Medical Segmentation Decathlon, Task03, test set"
_BRATS_2017 = "BraTS 2017 validation set"
_BRATS_2018 = "BraTS 2018 validation set"

# DC, DG, Jaccard, VOE, RVD, ASSD, MSD
LITS_LIVER = (
    *_rows(
        7,
        f"{_PAPER}, Table VI: LiTS test set",
        ("Kaluva", 0.912, 0.923, 0.850, 0.150, -0.008, 6.465, 45.928),
        ("Bi", 0.959, None, 0.922),
        ("Li (H-DenseUNet)", 0.961, 0.965, None, 0.074, -0.018, 1.450, 27.118),
        ("MEDDIIR", 0.950, 0.955, None, 0.094, 0.047, 1.597, 28.911),
        ("Yuan", 0.963, 0.967, None, 0.071, -0.010, 1.104, 23.847),
        ("Summer", 0.941, 0.945, None, 0.108, -0.066, 6.552, 152.350),
    ),
    *_rows(
        7,
        f"{_PAPER}, Tables IV and VI: LiTS test set",
        ("RA-UNet (paper)", 0.961, 0.963, 0.926, 0.074, 0.002, 1.214, 26.948),
        paper=True,
    ),
    *_rows(7, f"nnU-Net 3d_fullres: {_FIVE_FOLDS}", ("nnU-Net, 5 folds", 0.957)),
    *_rows(7, _LEADERBOARD, ("nnU-Net, LiTS test", 0.967)),
    *_rows(7, _DECATHLON, ("nnU-Net, Decathlon", 0.958)),
)
LITS_TUMOR = (
    *_rows(
        7,
        f"{_PAPER}, Table VI: LiTS test set",
        ("Kaluva", 0.492, 0.625, 0.589, 0.411, 19.705, 1.441, 7.515),
        ("Bi", 0.500, None, 0.388),
        ("Li (H-DenseUNet)", 0.722, 0.824, None, 0.366, 4.272, 1.102, 6.228),
        ("MEDDIIR", 0.658, 0.819, None, 0.380, -0.129, 1.113, 6.323),
        ("Yuan", 0.657, 0.820, None, 0.378, 0.288, 1.151, 6.269),
        ("Summer", 0.631, 0.786, None, 0.400, -0.181, 1.184, 6.367),
    ),
    *_rows(
        7,
        f"{_PAPER}, Tables V and VI: LiTS test set",
        ("RA-UNet (paper)", 0.595, 0.795, 0.611, 0.389, -0.152, 1.289, 6.775),
        paper=True,
    ),
    *_rows(7, f"nnU-Net 3d_fullres: {_FIVE_FOLDS} (.567 to .706 by fold)", ("nnU-Net, 5 folds", 0.640)),
    *_rows(7, _LEADERBOARD, ("nnU-Net, LiTS test", 0.763)),
    *_rows(7, _DECATHLON, ("nnU-Net, Decathlon", 0.760)),
)
# DC: the mean of the liver's and the tumor's
LITS_BOTH = _rows(1, _REVISITED, ("nnU-Net ResEnc-L", 0.816), ("MedNeXt-L", 0.823))
IRCAD_LIVER = (
    *_rows(
        7,
        f"{_PAPER}, Table VII: 3DIRCADb",
        ("Christ", 0.943, None, None, 0.107, -0.014, 1.6, 24.0),
        ("U-Net", 0.729, None, None, 0.39, 0.87, 19.4, 119.0),
        ("Li", 0.945, None, None, 0.068, -0.112, 1.6, 28.2),
        ("Maya", None, None, None, 0.0554, 0.0093, 0.78, 15.6),
        ("Lu", None, None, None, 0.0936, 0.0097, 1.89, 33.14),
    ),
    *_rows(
        7,
        f"{_PAPER}, Tables IV and VII: 3DIRCADb",
        ("RA-UNet (paper)", 0.977, None, 0.977, 0.045, -0.001, 0.587, 18.617),
        paper=True,
    ),
)
IRCAD_TUMOR = (
    *_rows(7, f"{_PAPER}, Table VII: 3DIRCADb", ("Christ", 0.56)),
    *_rows(
        7,
        f"{_PAPER}, Tables V and VII: 3DIRCADb",
        ("RA-UNet (paper)", 0.830, None, 0.744, 0.255, 0.740, 2.230, 53.324),
        paper=True,
    ),
)
# Dice, sensitivity, specificity, HD95
BRATS = (
    *_rows(
        4,
        f"{_PAPER}, Table IX: {_BRATS_2018}",
        ("2018 radiomics-miu", 0.8764, 0.8628, 0.9950, 4.9014),
        ("2018 GBMNet", 0.8833, 0.9340, 0.9898, 5.4614),
        ("2018 mmonteiro2", 0.8709, 0.8745, 0.9932, 5.7859),
        ("2018 UNeImage", 0.8991, 0.9101, 0.9941, 5.1043),
        ("2018 MIC-DKFZ", 0.9125, 0.9187, 0.9954, 4.2679),
    ),
    *_rows(
        4,
        f"{_PAPER}, Table IX: {_BRATS_2018}",
        ("2018 RA-UNet (paper)", 0.8912, 0.8942, 0.9938, 5.8718),
        paper=True,
    ),
    *_rows(
        4,
        f"{_PAPER}, Table IX: {_BRATS_2017}",
        ("2017 BCVUniandes", 0.8688, 0.8420, 0.9959, 18.4569),
        ("2017 BRATZZ27", 0.8800, 0.8566, 0.9960, 5.7178),
        ("2017 CISA", 0.8733, 0.8548, 0.9946, 5.1805),
        ("2017 CMR", 0.8569, 0.8111, 0.9968, 5.8720),
        ("2017 MIC-DKFZ", 0.9026, 0.9018, 0.9957, 6.7673),
        ("2017 Zhouch", 0.9038, 0.9032, 0.9953, 4.7447),
    ),
    *_rows(
        4,
        f"{_PAPER}, Table IX: {_BRATS_2017}",
        ("2017 RA-UNet (paper)", 0.8863, 0.8697, 0.9951, 5.1112),
        paper=True,
    ),
    *_rows(4, f"Isensee et al., arXiv 1809.10483: {_BRATS_2018}", ("2018 Isensee", 0.913)),
    *_rows(4, f"Myronenko, arXiv 1810.11654: {_BRATS_2018}", ("2018 Myronenko", 0.910)),
    *_rows(
        4,
        "MONAI model zoo, brats_mri_segmentation: 42 cases of the BraTS 2018 training set, chosen there",
        ("2018 MONAI bundle", 0.903),
    ),
)
