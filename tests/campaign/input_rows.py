"""The odd inputs, and the outcome that is wanted of each: data only."""

import dataclasses

from tests.campaign.processes import REPOSITORY

LIVER, CUSTOM, BRATS = (f"--config={REPOSITORY}/configs/{name}.py" for name in ("liver", "custom", "brats"))
PREPARED = "--config.data.prepared=prepared"


OF_VALUES = "HU|[Rr]escale|intensit|values|everywhere|number a voxel"  # words of a sentence about a scan's values
OF_SIZES = "mm|spacing|size|units|form|affine|pixdim"


@dataclasses.dataclass(frozen=True)
class Row:
    """An input and what is wanted of it.

    Attributes:
        writer: beginning of a program's name in shared/cases, or a name in `writers.ODD`; it writes into case/.
        arguments: of run.py.
        status: whether the exit status is to be 0; None: either.
        masks: end of the path of each scan that must be segmented as the plain one is.
        either: the same, or it is named in what is said: refused, or segmented with a warning.
        named: patterns of what must be in a line of what is said, or in a warning.
        silent: end of the path of what may be segmented only with a warning of its values.
        count: how many masks there are to be.
        scored: how many cases are to be scored, or named as not scored.
        before: commands that go before it.
        stand_in: see `entry.stand_ins`.
        locked: whether permissions of files are to count, whoever the user is.
    """

    writer: str
    arguments: tuple[str, ...]
    status: int | None = None
    masks: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    count: int | None = None
    scored: int | None = None
    before: tuple[tuple[str, ...], ...] = ()
    stand_in: str = "liver"
    locked: bool = False


def predict(path: str = "case") -> tuple[str, ...]:
    return ("--mode=predict", "--workdir=none", f"--input={path}", "--output=masks")


def _of(words: str, *names: str) -> tuple[str, ...]:
    """Patterns of lines that name a scan and use one of the words."""
    return tuple(rf"\b{name}\b.*({words})" for name in names)


def verify(recipe: str, root: str, *fields: str, mode: str = "verify") -> tuple[str, ...]:
    return (f"--mode={mode}", recipe, f"--config.data.root={root}", PREPARED, "--config.data.workers=1", *fields)


def score(output: str = "scores.json") -> tuple[str, ...]:
    return ("--mode=score", "--prediction=case/pred", "--reference=case/ref", f"--output={output}")


_HEADERS = (
    *("slope_nan", "slope_zero", "zero_pixdim_z", "negative_pixdim", "pixdim_mismatch", "units_unknown", "int64"),
    *("uint16", "float64", "float32", "big_endian", "nifti2", "oblique", "sheared"),
)
_FIRST, _SECOND = predict("case/a/ct.nii.gz"), predict("case/b/ct.nii.gz")
_FEW = ("--config.data.source=lits", PREPARED, "--config.data.workers=1", "--workdir=run")

ROWS = (
    # of shared/cases
    Row("00", predict(), 0, masks=("reference.nii.gz", "reference_series"), count=2),
    Row("04", predict(), 1, masks=("good",), named=("gap", "two_phases", "copies", "half_step")),
    Row("08", predict("case/first"), masks=("first",), count=1),
    Row("08", predict("case/beside"), named=(), masks=("beside",)),
    Row("08", predict("case/mixed"), masks=("patient1.nii.gz", "patient2.nii.gz"), named=("IM0001",)),
    Row(
        "11",
        predict(),
        either=("no_instance_number", "no_spacing", "no_modality"),
        named=_of(OF_VALUES, "no_rescale", "empty_rescale"),
        silent=("no_rescale", "empty_rescale"),
    ),
    *(Row("13", predict(f"case/{name}"), masks=(name,), count=1) for name in ("rtdose", "seg", "sr", "petct")),
    Row("13", predict("case/two_series"), named=("two_series",)),
    Row(
        "21",
        predict(),
        1,
        either=(*(f"{name}.nii" for name in _HEADERS[:12]), *(f"{name}.nii.gz" for name in _HEADERS[12:])),
        masks=("four_d.nii.gz", "five_d.nii.gz", "extension.nii.gz"),
        named=_of(*(OF_SIZES, "zero_pixdim", "zero_pixdim_z_no_form", "negative_pixdim_no_form", "singular")),
    ),
    Row(
        "22",
        predict(),
        1,
        named=_of(f"{OF_VALUES}|type", "rgb", "complex", "nan", "unit", "byte", "plus1024"),
        silent=("unit.nii.gz", "byte.nii.gz", "plus1024.nii.gz", "nan.nii.gz"),
        either=("inf.nii.gz",),
    ),
    Row(
        "23",
        predict(),
        1,
        masks=(
            *("good.nii.gz", "plain.nii.gz", "zipped.nii", "UPPER.NII.GZ", "with space (1).nii.gz"),
            *("Lebér größe 肝.nii.gz", "n" * 230 + ".nii.gz"),
        ),
        named=("broken_link", "page.nii.gz", "half.nii.gz", "empty.nii.gz"),
    ),
    Row("23", predict("case_latin1"), 0, masks=("a_first.nii.gz", "z_last.nii.gz"), count=3),
    Row("24", predict("case/decathlon"), count=3, masks=("imagesTr/liver_0.nii.gz", "imagesTs/liver_9.nii.gz")),
    Row("24", predict("case/totalsegmentator"), count=2, masks=("s0001/ct.nii.gz", "s0002/ct.nii.gz")),
    Row("24", predict("case/nnunet"), count=1, masks=("case1_0000.nii.gz",)),
    Row(
        "24",
        predict("case/ircadb"),
        count=2,
        masks=("3Dircadb1.1/PATIENT_DICOM", "3Dircadb1.2/PATIENT_DICOM"),
        named=("MASKS_DICOM",),
    ),
    Row(
        "25",
        predict("case/scans"),
        1,
        masks=("good1.nii.gz", "good2.nii.gz", "series"),
        named=("locked.nii.gz", "locked_slice", "locked_folder"),
        locked=True,
    ),
    Row("26", verify(LIVER, "case"), 1, named=("locked",), stand_in="", locked=True),
    Row("27", verify(CUSTOM, "case/all"), 0, stand_in=""),
    Row("27", verify(CUSTOM, "case/some"), 0, stand_in=""),
    Row("27", verify(CUSTOM, "case/some", mode="prepare"), 0, stand_in=""),
    Row("29", _SECOND, count=2, masks=("a/ct.nii.gz",), before=(_FIRST,)),
    *(Row("40", verify(BRATS, f"case/{year}"), 0, stand_in="") for year in ("b2018", "b2021", "b2023", "mixed")),
    Row("40", verify(BRATS, "case/b2020"), named=("355",), stand_in=""),
    Row("40", verify(BRATS, "case/empty"), named=("C2",), stand_in=""),
    Row("42", predict(), named=("pat123|called",), stand_in="brain"),
    Row("50", score(), scored=13, stand_in=""),
    Row("51", score(), 0, scored=3, stand_in=""),
    Row("60", (LIVER, "--config.data.root=case/one", *_FEW), 1, named=("too few|one case|1 case|folds",), stand_in=""),
    Row("60", (LIVER, "--config.data.root=case/three", *_FEW), 1, named=("too few|folds",), stand_in=""),
    Row("60", verify(LIVER, "case/no_tumor"), named=("no .*tumor|tumor.*(none|no )",), stand_in=""),
    # of our own
    Row("plain", predict(), 0, masks=("scan.nii.gz", "series"), count=2),
    Row("missing slice", predict(), 1, masks=("good",), named=("gap",)),
    Row(
        "not HU",
        predict(),
        named=_of(OF_VALUES, "plus1024", "unit", "constant"),
        silent=("plus1024.nii.gz", "unit.nii.gz", "constant.nii.gz"),
    ),
    Row("names", predict(), 1, masks=("plain.nii.gz", "UPPER.NII.GZ"), named=("half.nii.gz", "empty.nii.gz")),
    Row(
        "same name", predict("case/b/ct.nii.gz"), count=2, masks=("a/ct.nii.gz",), before=(predict("case/a/ct.nii.gz"),)
    ),
    Row("stray object", predict(), masks=("patient1.nii.gz",), named=("IM0001",)),
    Row("no size", predict(), named=_of(OF_SIZES, "no_size")),
)
