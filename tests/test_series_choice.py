"""Which series of a study are segmented, and what is said of the others."""

import pathlib

import pytest

from raunet_jax.imaging.dicom_headers import Facts, Header
from raunet_jax.imaging.dicom_series import Series
from raunet_jax.imaging.mr_choice import choose_mr
from raunet_jax.imaging.series_choice import by_study, choose_ct, matching
from raunet_jax.imaging.series_words import mr_contrast, phase, region, tissue

AXIAL, CORONAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)
MODALITIES = ("t1", "t1ce", "t2", "flair")
NO_FACTS = dict.fromkeys(Facts.__dataclass_fields__, "") | dict.fromkeys(
    ("number", "thickness", "between", "echo_time", "repetition_time", "inversion_time")
)


def series(
    description="",
    number=1,
    slices=200,
    step=1.5,
    modality="CT",
    orientation=AXIAL,
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    key="",
    part="",
    size=512,
    start=0.0,
    **facts,
):
    uid = key.partition("/")[0] or f"1.2.{number}"
    place = (orientation, (0.8, 0.8), ((0.0, 0.0, start),))
    header = Header(pathlib.Path("IM1"), None, "", "P", "1.2", uid, modality, image_type, size, size, *place)
    ends = ((0.0, 0.0, start), (0.0, 0.0, start + step * (slices - 1)))
    told = Facts(**NO_FACTS | {"number": number, "description": description} | facts)
    files = tuple(pathlib.Path(f"p/{number}/IM{index}") for index in range(2 if slices > 1 else 1))
    place = ("1.2", key or uid, pathlib.Path("p"), files, slices, step, slices * step)
    return Series(*place, header, told, ends, part)


def chosen(study, wanted="auto", **options):
    return [one.description for (one,) in choose_ct(study, wanted, **options).scans]


def why(study, wanted="auto", **options):
    return {one.description: said for one, said in choose_ct(study, wanted, **options).passed_over}


PACS = [
    series("Topogram", 1, 1, 300, orientation=CORONAL),
    series("Abdomen nativ 5.0 B30f", 2, 60, 5.0, kernel="B30f"),
    series("Abdomen art 1.5 B30f", 3, kernel="B30f"),
    series("Abdomen portalvenös 5.0 B30f", 4, 60, 5.0, kernel="B30f"),
    series("Abdomen portalvenös 1.5 B30f", 5, kernel="B30f"),
    series("Abdomen portalvenös 1.0 B70f", 6, 300, 1.0, kernel="B70f"),
    series("Abdomen pv cor", 7, 100, 3.0, orientation=CORONAL, kernel="B30f"),
    series("Abdomen pv MIP", 8, 100, 3.0, image_type=("DERIVED", "SECONDARY", "MIP")),
    series("PET AC", 9, modality="PT"),
]


def test_of_a_study_the_thin_portal_venous_soft_tissue_stack_is_chosen_and_the_others_have_reasons():
    assert chosen(PACS) == ["Abdomen portalvenös 1.5 B30f"]
    assert why(PACS) == {
        "Topogram": "a single slice",
        "Abdomen nativ 5.0 B30f": "native phase",
        "Abdomen art 1.5 B30f": "arterial phase",
        "Abdomen portalvenös 5.0 B30f": "slices of 5 mm",
        "Abdomen portalvenös 1.0 B70f": "sharp kernel B70f, for lungs or bones",
        "Abdomen pv cor": "coronal slices",
        "Abdomen pv MIP": "no plain slices by its description or ImageType",
        "PET AC": "PT, not CT",
    }


def test_the_order_of_the_series_changes_nothing():
    for study in (PACS[::-1], PACS[4:] + PACS[:4]):
        assert chosen(study) == chosen(PACS) and why(study) == why(PACS)
    twins = [series("a", 3), series("b", 2)]
    assert chosen(twins) == chosen(twins[::-1]) == ["b"]
    assert why(twins) == {"a": "as good, but numbered later"}


def test_all_are_the_axial_stacks_of_anatomy():
    assert chosen(PACS, "all") == [one.description for one in PACS[1:6]]


@pytest.mark.parametrize(
    "wanted, descriptions",
    [
        ("*portal*", ["Abdomen portalvenös 5.0 B30f", "Abdomen portalvenös 1.5 B30f", "Abdomen portalvenös 1.0 B70f"]),
        ("ABDOMEN P* B30F", ["Abdomen portalvenös 5.0 B30f", "Abdomen portalvenös 1.5 B30f"]),
        ("portal*", []),  # the whole description
        ("PORTALVENÖS 5", ["Abdomen portalvenös 5.0 B30f"]),  # a part of it
        ("abdomen pv cor", ["Abdomen pv cor"]),
        ("7", ["Abdomen pv cor"]),
        ("1.2.6", ["Abdomen portalvenös 1.0 B70f"]),
        ("77", []),
        ("1.3", []),
    ],
)
def test_series_are_named_by_number_uid_or_description(wanted, descriptions):
    assert [one.description for one in matching(PACS, wanted)] == descriptions
    choice = choose_ct(PACS, wanted)
    assert [one.description for (one,) in choice.scans] == descriptions
    if not descriptions:
        assert f"holds no series that --series={wanted} names; there is 1 'Topogram' (CT, 1 slice); " in choice.problem
        assert "and 3 more" in choice.problem and len(choice.problem) < 600


def test_a_key_is_that_stack_alone_and_the_beginning_of_uids_all_of_them():
    stacks = [series("a", key="1.2.5"), series("b", key="1.2.5/2"), series("c", key="1.2.50")]
    assert [one.description for one in matching(stacks, "1.2.5")] == ["a"]
    assert [one.description for one in matching(stacks, "1.2.5/2")] == ["b"]
    assert [one.description for one in matching(stacks, "1.2.")] == ["a", "b", "c"]


def test_what_is_named_and_no_ct_is_refused():
    assert "holds no CT series that --series=9 names" in choose_ct(PACS, "9").problem


@pytest.mark.parametrize(
    "study, best",
    [
        ([series("a", 1, 20, 1.0), series("b", 2, 40, 5.0)], "b"),  # 20 mm against 200
        ([series("thorax", 1, 300, 1.0), series("abdomen", 2, 60, 5.0)], "abdomen"),
        ([series("", 1, body_part="HEAD"), series("", 2, 60, 5.0, body_part="ABDOMEN")], ""),
        ([series("a", 1, 60, 5.0), series("b", 2, 30, 10.0)], "a"),
        ([series("a", 1, 1200, 0.25), series("b", 2, 300, 1.0)], "b"),  # of an inner ear
        ([series("cor", 1, 100, 3, orientation=CORONAL)], "cor"),  # there is no other
        ([series("VNC 1.5", 1, 300, 1.0), series("Mono 70 keV", 2)], "Mono 70 keV"),
        ([series("abd", 1, agent="Ultravist"), series("abd 2", 2, 300, 1.0)], "abd"),
        ([series("abd", 1), series("abd derived mpr", 2, 300, 1.0, image_type=("DERIVED", "SECONDARY"))], "abd"),
    ],
)
def test_what_counts_most_comes_first(study, best):
    assert chosen(study) == [best]


def test_phase_and_region_count_for_livers_alone():
    study = [series("thorax nativ", 1, 300, 1.0), series("abdomen portal", 2, 60, 5.0)]
    assert chosen(study) == ["abdomen portal"] and chosen(study, of_liver=False) == ["thorax nativ"]


@pytest.mark.parametrize("study", [[series("a", slices=1)], [series("PET", modality="PT")], [series("Iodine map")]])
def test_a_study_without_a_stack_of_ct_is_refused_with_what_is_there(study):
    choice = choose_ct(study)
    assert choice.scans == () and f"holds no CT series that can be segmented; there is {study[0]}" == choice.problem


def test_between_acquisitions_that_nothing_describes_nobody_chooses():
    parts = ("AcquisitionNumber 1", "AcquisitionNumber 2")
    study = [series("abd", 2, key=key, part=part) for key, part in zip(("1.9", "1.9/2"), parts, strict=True)]
    choice = choose_ct(study)
    assert choice.scans == () and "told apart by AcquisitionNumber alone" in choice.problem
    assert "--series=1.9 (AcquisitionNumber 1), --series=1.9/2 (AcquisitionNumber 2)" in choice.problem
    assert chosen(study, "1.9/2") == ["abd"] and len(chosen(study, "all")) == 2


def test_series_are_of_a_study_by_uid_and_patient():
    one, other = series("a"), series("b", 2)
    assert by_study([one, other]) == [(one, other)]


@pytest.mark.parametrize(
    "description, name",
    [
        ("ABD PORTAL VENOUS 3.0", "portal venous"),
        ("Abdomen pv 1.5", "portal venous"),
        ("liver 70s", "portal venous"),
        ("Foie temps portal", "portal venous"),
        ("TAP veineux", "portal venous"),
        ("Oberbauch portalvenös", "portal venous"),
        ("Buk venös fas", "portal venous"),
        ("Abdomen portovenosa", "portal venous"),
        ("PVP_2mm", "portal venous"),
        ("腹部 门静脉期", "portal venous"),
        ("портальная фаза", "portal venous"),
        ("late portal", "portal venous"),
        ("Leber arteriell", "arterial"),
        ("late arterial 1.25", "arterial"),
        ("foie artériel", "arterial"),
        ("HAP 35s", "arterial"),
        ("Abdomen nativ", "native"),
        ("sans injection", "native"),
        ("W/O CONTRAST", "native"),
        ("non-contrast abd", "native"),
        ("ohne KM", "native"),
        ("sin contraste", "native"),
        ("delayed 5min", "delayed"),
        ("Spätphase", "delayed"),
        ("tardif", "delayed"),
        ("180s", "delayed"),
        ("Abdomen +C", "contrast"),
        ("Bauch mit KM", "contrast"),
        ("ABDOMEN 5mm", ""),
        ("Partial recon", ""),
        ("spine", ""),
    ],
)
def test_phases_are_read_from_descriptions_of_many_languages(description, name):
    assert phase(series(description)) == name


def test_the_protocol_and_the_agent_speak_where_the_description_does_not():
    assert phase(series("3mm", protocol="Leber portal")) == "portal venous"
    assert phase(series("nativ", protocol="Leber portal", agent="Ultravist")) == "native"
    assert phase(series("3mm", agent="Ultravist")) == "contrast"


@pytest.mark.parametrize(
    "kernel, rank",
    [("B30f", 0), ("Br40d", 0), ("I31f", 0), ("FC08", 0), ("STANDARD", 0), ("B", 0), ("", 0), ("B50f", 1)]
    + [("B70f", 2), ("Bl64d", 2), ("FC52", 2), ("LUNG", 2), ("BONEPLUS", 2), ("L", 2), ("YD", 2)],
)
def test_kernels_of_four_makers_are_known(kernel, rank):
    assert tissue(series(kernel=kernel)) == rank


def test_regions():
    assert [region(series(words)) for words in ("Thorax Abdomen", "THORAX", "5mm", "Kopf nativ")] == [0, 2, 1, 2]
    assert region(series(body_part="LIVER")) == 0


def mr(description, number=1, slices=155, size=240, modality="MR", **others):
    return series(description, number, slices, 1.0, modality, size=size, **others)


@pytest.mark.parametrize(
    "description, facts, name",
    [
        ("t1_mprage_sag", {}, "t1"),
        ("T1 tra", {"agent": "Gadovist"}, "t1ce"),
        ("T1 pre", {"agent": "Gadovist"}, "t1"),
        ("t1_mprage_tra+KM", {}, "t1ce"),
        ("AX T1 POST", {}, "t1ce"),
        ("T1 Gd", {}, "t1ce"),
        ("T1 +C", {}, "t1ce"),
        ("t1ce", {}, "t1ce"),
        ("3D T1 MPRAGE inj", {}, "t1ce"),
        ("T1 ohne KM", {}, "t1"),
        ("T2_TSE_tra", {}, "t2"),
        ("AX T2 FLAIR", {}, "flair"),
        ("t2_tirm_tra_dark-fluid", {}, "flair"),
        ("3D FLAIR post", {}, "flair"),
        ("T2* gre", {}, ""),
        ("DWI b1000", {}, ""),
        ("ADC", {}, ""),
        ("SWI", {}, ""),
        ("localizer", {}, ""),
        ("T1 sub", {}, ""),
        ("series", {"echo_time": 3, "repetition_time": 8, "inversion_time": 900}, "t1"),
        ("series", {"echo_time": 100, "repetition_time": 5000}, "t2"),
        ("series", {"echo_time": 120, "repetition_time": 9000, "inversion_time": 2500}, "flair"),
        ("series", {}, ""),
    ],
)
def test_mr_contrasts_are_known_by_description_agent_and_times(description, facts, name):
    assert mr_contrast(mr(description, **facts)) == name


BRAIN = [mr("loc", 1, 3), mr("T1", 2), mr("T2", 3), mr("FLAIR", 4), mr("T1 +C", 5), mr("DWI", 6)]


def test_the_channels_of_a_brain_come_in_the_recipe_s_order():
    choice = choose_mr(BRAIN, "auto", MODALITIES)
    assert [one.description for one in choice.scans[0]] == ["T1", "T1 +C", "T2", "FLAIR"]
    assert {one.description: said for one, said in choice.passed_over} == {
        "loc": "none of the modalities",
        "DWI": "none of the modalities",
    }


def test_a_missing_modality_is_named_with_what_is_there():
    problem = choose_mr(BRAIN[:4], "auto", MODALITIES).problem
    assert "holds no MR series described as t1ce; there is 1 'loc' (MR, 3 slices); 2 'T1'" in problem


@pytest.mark.parametrize(
    "flair, difference",
    [
        (mr("FLAIR", 4, 24), "240x240x24 voxels, not 240x240x155"),
        (mr("FLAIR", 4, start=3.0), "3.0 mm away"),
        (mr("FLAIR", 4, orientation=CORONAL), "coronal slices, not axial"),
        (mr("FLAIR", 4, frame_of_reference="1.9"), "another frame of reference"),
    ],
)
def test_series_that_do_not_lie_on_one_grid_are_refused_by_name(flair, difference):
    study = [mr("T1", 2), mr("T2", 3), flair, mr("T1 +C", 5)]
    if flair.facts.frame_of_reference:
        study = [mr(one.description, one.number, frame_of_reference="1.8") for one in study if one is not flair] + [
            flair
        ]
    problem = choose_mr(study, "auto", MODALITIES).problem
    assert "no 4 series on one grid: t1: 2 'T1'" in problem and "but flair: 4 'FLAIR'" in problem
    assert difference in problem and "register" in problem


def test_of_several_series_of_a_modality_those_on_one_grid_are_taken():
    study = [mr("T1", 1, 30), mr("T2", 2, 30), mr("FLAIR", 3, 30)] + BRAIN[1:5]
    (scan,) = choose_mr(study, "auto", MODALITIES).scans
    assert [one.number for one in scan] == [2, 5, 3, 4] and {one.slices for one in scan} == {155}


def test_series_of_a_single_channel_are_chosen_by_the_user_where_there_are_several():
    assert len(choose_mr([mr("hippocampus")], "auto", ("mri",)).scans) == 1
    assert "choose one with --series" in choose_mr(BRAIN[1:3], "auto", ("mri",)).problem
    assert [one.number for (one,) in choose_mr(BRAIN, "T2", ("mri",)).scans] == [3]
    assert [one.number for (one,) in choose_mr(BRAIN, "auto", ("t2",)).scans] == [3]
