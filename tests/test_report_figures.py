"""Pictures of cases: how they are turned, scaled and colored."""

import io

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from PIL import Image
from scipy import ndimage

from configs import brats, custom, liver_coarse, liver_tumor
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import Grid, Volume
from raunet_jax.report import curves, drawing, figures
from raunet_jax.report.display import CaseImages, display_settings
from raunet_jax.report.planes import PLANES, scale_bar_mm
from raunet_jax.report.surface import shaded, surface_views
from raunet_jax.tasks import LIVER, TUMOR

LIVER_AND_TUMOR = display_settings(liver_tumor.get_config())
BRAIN = display_settings(brats.get_config())


def make_volume(voxels_zyx, spacing_mm=(1.0, 1.0, 1.0)) -> Volume:
    voxels = np.asarray(voxels_zyx)
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    affine = np.diag([*spacing_mm[::-1], 1.0])
    return Volume(voxels, affine, Grid(voxels.shape[2::-1], affine, None), "drawn")


def pixels(figure: Figure, palette: bool = False) -> np.ndarray:
    return read_png(drawing.png_bytes(figure, palette))


def read_png(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def place(figure: Figure, axes, x: float, y: float) -> tuple[int, int]:
    """Row and column of the pixel that a point of `axes` is drawn on."""
    right, up = axes.transData.transform((x, y))
    return int(figure.bbox.height - up), int(right)


def has_color(picture: np.ndarray, color: str, tolerance: int = 24) -> bool:
    wanted = np.array(to_rgb(color)) * 255
    return bool((np.abs(picture - wanted).max(axis=-1) <= tolerance).any())


def test_patient_right_front_and_head_come_first_in_every_plane():
    voxels = np.zeros((2, 3, 4), int)
    voxels[-1, -1, -1] = 1  # z, y, x rise toward head, front and right
    for plane in PLANES:
        last = voxels.shape[plane.axis] - 1
        assert plane.cut(voxels, last)[0, 0] == 1
        assert plane.cut(voxels, last).sum() == 1
    assert [plane.edges for plane in PLANES] == ["RLAP", "RLSI", "APSI"]


def test_box_lands_where_its_voxels_are_drawn():
    shape, spacing_mm = (5, 6, 7), (3.0, 2.0, 0.5)
    box = Box((1, 2, 3), (3, 5, 4))
    mask = np.zeros(shape, bool)
    mask[box.slices] = True
    for plane in PLANES:
        rows, columns = np.nonzero(plane.cut(mask, box.start[plane.axis]))
        down, right = (spacing_mm[axis] for axis in plane.rows_columns)
        expected = columns.min() * right, (columns.max() + 1) * right, rows.min() * down, (rows.max() + 1) * down
        assert plane.limits_mm(box, shape, spacing_mm) == expected


def test_cube_in_millimeters_is_a_square_of_one_size_in_all_planes():
    spacing_mm = (5.0, 1.0, 2.0)
    voxels = np.full((16, 80, 40), -1000, np.int16)
    voxels[4:12, 20:60, 10:30] = 1000  # 40 mm each way
    picture = pixels(figures.case_planes(CaseImages(make_volume(voxels, spacing_mm)), LIVER_AND_TUMOR))
    pieces, _ = ndimage.label(picture.min(axis=-1) > 128)
    sizes = [tuple(s.stop - s.start for s in piece) for piece in ndimage.find_objects(pieces)]
    squares = sorted(sizes, key=lambda size: -size[0] * size[1])[:3]
    for height, width in squares:
        assert height == pytest.approx(squares[0][0], abs=3)
        assert width == pytest.approx(squares[0][0], abs=3)


def test_bright_organ_on_the_patients_right_is_on_the_left_of_the_axial_picture():
    voxels = np.full((8, 40, 40), 0, np.int16)
    voxels[:, 5:12, 25:32] = 1000  # right and back
    picture = pixels(figures.case_planes(CaseImages(make_volume(voxels)), LIVER_AND_TUMOR))
    axial = picture[:, : picture.shape[1] // 3].min(axis=-1)
    pieces, _ = ndimage.label(axial > 230)
    largest = 1 + np.argmax(ndimage.sum_labels(axial > 230, pieces, range(1, pieces.max() + 1)))
    row, column = ndimage.center_of_mass(pieces == largest)
    tissue = np.argwhere((axial > 60) & (axial < 110))
    assert column < tissue[:, 1].mean()
    assert row > tissue[:, 0].mean()


def test_agreement_paints_each_kind_of_voxel_in_its_color():
    prediction = np.array([[True, True], [False, False]])
    reference = np.array([[True, False], [True, False]])
    painted = figures.agreement_colors(prediction, reference)
    assert painted[0, 0, :3] == pytest.approx(to_rgb(drawing.TRUE_POSITIVE), abs=1e-6)
    assert painted[0, 1, :3] == pytest.approx(to_rgb(drawing.FALSE_POSITIVE), abs=1e-6)
    assert painted[1, 0, :3] == pytest.approx(to_rgb(drawing.FALSE_NEGATIVE), abs=1e-6)
    assert painted[1, 1, 3] == 0


def test_heat_shows_the_scan_where_the_probability_is_zero_or_undefined():
    painted = figures.heat_colors(np.array([[0.0, np.nan, 1.0]]))
    assert painted[0, 0, 3] == 0
    assert painted[0, 1, 3] == 0
    assert painted[0, 2, 3] > 0.5


def test_focus_is_in_the_largest_piece_even_when_it_is_bent():
    mask = np.zeros((3, 9, 9), np.uint8)
    mask[1, 0, 0] = 2
    mask[1, 2:9, 2] = mask[1, 2:9, 8] = mask[1, 8, 2:9] = 2  # a U whose centroid is in its gap
    focus = figures.focus_point(mask)
    assert mask[focus] == 2
    assert focus != (1, 0, 0)


def test_focus_prefers_a_tumor_of_the_prediction_to_a_liver_of_the_reference():
    reference, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    reference[0, 0, 0] = 1
    prediction[3, 2, 1] = 2
    assert figures.focus_point(reference, prediction) == (3, 2, 1)
    assert figures.focus_point(None, np.zeros((2, 2, 2), np.uint8)) is None


def test_outlines_keep_their_colors_in_a_noisy_scan():
    noise = np.random.default_rng(0).normal(40, 60, (12, 48, 48)).astype(np.int16)
    reference, prediction = np.zeros((2, 12, 48, 48), np.uint8)
    reference[2:10, 10:30, 10:30] = 1
    reference[4:8, 14:20, 14:20] = 2
    prediction[2:10, 14:36, 14:36] = 1
    box = Box((1, 8, 8), (11, 40, 40))
    maps = {"liver": prediction.astype(np.float32)}
    case = CaseImages(make_volume(noise), reference, prediction, box, maps)
    picture = pixels(figures.case_planes(case, LIVER_AND_TUMOR), palette=True)
    for color in (drawing.REFERENCE, drawing.PREDICTION, drawing.FALSE_NEGATIVE, drawing.FALSE_POSITIVE):
        assert has_color(picture, color)


def test_rows_of_a_case_are_named_after_its_structures_in_order():
    reference, prediction = np.zeros((2, 6, 20, 20), np.uint8)
    reference[1:5, 2:18, 2:18] = prediction[1:5, 3:18, 2:18] = 1
    reference[2:4, 5:9, 5:9] = 2
    maps = {"tumor": np.zeros(reference.shape, np.float32)}
    case = CaseImages(make_volume(np.zeros(reference.shape, np.int16)), reference, prediction, None, maps)
    titles = [text for text in texts(figures.case_planes(case, LIVER_AND_TUMOR)) if text[0].isupper() and text[1:]]
    agreement = "agreement with the reference"
    assert titles == ["Outlines", f"Liver: {agreement}", f"Tumor: {agreement}", "Tumor: probability"]
    whole = CaseImages(make_volume(np.zeros((6, 20, 20, 4), np.float32)), reference > 1, prediction)
    assert f"Whole tumor: {agreement}" in texts(figures.case_planes(whole, BRAIN))


def test_a_voxel_is_painted_where_it_lies_in_each_plane():
    """One voxel missed at index (z, y, x) = (4, 7, 3), one found where there is none at (4, 2, 3)."""
    shape, spacing_mm = (6, 10, 8), (5.0, 2.0, 1.0)
    reference, prediction = np.zeros((2, *shape), np.uint8)
    reference[3:6, 5, 2:5] = prediction[3:6, 5, 2:5] = 1
    reference[4, 7, 3] = prediction[4, 2, 3] = 1
    case = CaseImages(make_volume(np.full(shape, -1000, np.int16), spacing_mm), reference, prediction)
    figure = figures.case_planes(case, display_settings(liver_coarse.get_config()))
    picture = pixels(figure)
    axial = figure.axes[5]  # a row is its legend and three planes
    for y, color in ((7, drawing.FALSE_NEGATIVE), (2, drawing.FALSE_POSITIVE)):
        # x and y rise toward the patient's right and front, which are drawn at the left and on top
        here = picture[place(figure, axial, (shape[2] - 3 - 0.5) * 1.0, (shape[1] - y - 0.5) * 2.0)]
        assert here == pytest.approx(0.8 * 255 * np.array(to_rgb(color)), abs=3)  # the scan below is black
    beside = picture[place(figure, axial, (shape[2] - 3 - 0.5) * 1.0, (shape[1] - 8 - 0.5) * 2.0)]
    assert beside.max() == 0


@pytest.mark.parametrize(
    "shape, hu, gray",
    [((2, 5, 5), -1000, 0), ((1, 1, 1), 50, 255 * 150 / 300)],  # in a window from -100 to 200 HU
)
def test_volume_without_any_mask_or_tissue_is_drawn_in_three_planes_all_the_same(shape, hu, gray):
    empty = np.zeros(shape, np.uint8)
    case = CaseImages(make_volume(np.full(shape, hu, np.int16)), empty, empty)
    figure = figures.case_planes(case, LIVER_AND_TUMOR)
    captions = [f"{plane.name}, slice {n // 2 + 1} of {n}" for plane, n in zip(PLANES, shape, strict=True)]
    assert set(captions) <= set(texts(figure))
    picture = pixels(figure)
    assert len(figure.axes) == 4  # a legend and three planes: no row of agreement
    for axes in figure.axes[1:]:
        left, right, bottom, top = axes.axis()
        x, y = left + 0.3 * (right - left), top + 0.3 * (bottom - top)
        assert picture[place(figure, axes, x, y)] == pytest.approx([gray] * 3, abs=1.5)


def test_every_modality_has_its_panel():
    channels = np.zeros((6, 20, 20, 4), np.float32)
    channels[2:5, 4:16, 4:16] = (1, 5, 100, 3000)
    tumor = np.zeros((6, 20, 20), np.uint8)
    tumor[3, 8:12, 8:12] = 1
    figure = figures.modality_planes(CaseImages(make_volume(channels), tumor), BRAIN)
    assert [text for text in texts(figure) if text in BRAIN.channels] == ["t1", "t1ce", "t2", "flair"]
    picture = pixels(figure, palette=True)
    for panel in np.array_split(picture, 4, axis=1):
        assert panel.max() > 200
        assert has_color(panel, drawing.REFERENCE)


def test_scale_bar_is_the_longest_round_length_in_a_third_of_the_width():
    assert [scale_bar_mm(width) for width in (12, 30, 149, 150, 1000)] == [5, 10, 20, 50, 100]


def test_rays_meet_a_sphere_in_a_disc_that_darkens_toward_its_edge():
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    distance = 12 - np.sqrt(z**2 + y**2 + x**2)
    for backwards in (False, True):
        light, hit = shaded(distance, PLANES[0], backwards)
        assert hit.sum() == pytest.approx(np.pi * 12**2, rel=0.05)
        assert light[20, 20] == pytest.approx(1, abs=0.02)
        cosine = np.sqrt(1 - (9 / 12) ** 2)  # of ray and normal, 9 of 12 from the middle
        assert light[20, 29] == pytest.approx(0.3 + 0.7 * cosine, abs=0.08)


def test_an_inner_structure_shines_through_the_outer_one_in_their_colors():
    structures, spacing_mm = LIVER_AND_TUMOR.structures, (1.0, 1.0, 1.0)
    mask = np.zeros((40, 40, 40), np.uint8)
    assert surface_views({"prediction": mask}, spacing_mm, structures) is None
    mask[2:38, 2:38, 2:38] = 1
    mask[12:28, 12:28, 12:28] = 2  # cubes: their faces look straight at the reader
    figure = surface_views({"prediction": mask}, spacing_mm, structures)
    outer, inner = (np.array(to_rgb(structure.color)) for structure in (LIVER, TUMOR))
    for axes in figure.axes[1:]:
        picture = np.asarray(axes.images[0].get_array())
        rows, columns = picture.shape[:2]
        assert picture[rows // 2, columns // 2] == pytest.approx(0.55 * outer + 0.45 * inner, abs=0.02)
        assert picture[rows // 5, columns // 2] == pytest.approx(0.55 * outer, abs=0.02)
        assert picture[0, 0].max() == 0
    assert {"liver", "tumor", "prediction, from the front", "prediction, from the feet", "1 cm"} <= set(texts(figure))


def test_surfaces_of_a_recipe_that_finds_the_liver_alone_name_no_tumor():
    mask = np.ones((6, 30, 30), np.uint8)
    figure = surface_views({"reference": mask}, (5.0, 1.0, 1.0), display_settings(liver_coarse.get_config()).structures)
    assert "liver" in texts(figure) and "tumor" not in texts(figure)


def test_voxels_that_are_passed_over_when_surfaces_are_coarsened_leave_no_picture():
    mask = np.zeros((2, 2, 700), np.uint8)
    mask[1, 0, 699] = mask[0, 1, 0] = 1  # every other voxel is looked at, from (0, 0, 0) on
    assert surface_views({"prediction": mask}, (1.0, 1.0, 1.0), LIVER_AND_TUMOR.structures) is None


def metric_rows(epochs: int, **changed) -> list[dict]:
    row = {"step": 1, "loss": 0.5, "validation_dice": 0.4, "learning_rate": 1e-3}
    return [row | {"epoch": epoch} | changed for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize("theme", [drawing.LIGHT, drawing.DARK])
def test_training_curves_are_a_column_a_stage_and_a_line_a_fold(theme):
    measured = metric_rows(3, validation_dice=None)
    measured[1]["validation_dice"] = 0.75
    stages = {"coarse": {0: metric_rows(1)}, "voi": {0: measured, 3: metric_rows(2, loss=0.25)}}
    figure = curves.training_curves(stages, theme)
    coarse, voi, coarse_dice, voi_dice = figure.axes
    assert [axes.get_title(loc="left") for axes in (coarse, voi)] == ["coarse", "voi"]
    assert [line.get_label() for line in voi.lines] == ["fold 0", "fold 3"]
    assert [line.get_xydata().tolist() for line in voi.lines] == [
        [[1, 0.5], [2, 0.5], [3, 0.5]],
        [[1, 0.25], [2, 0.25]],
    ]
    assert [line.get_xydata().tolist() for line in voi_dice.lines] == [[[2, 0.75]], [[1, 0.4], [2, 0.4]]]
    assert [line.get_xydata().tolist() for line in coarse_dice.lines] == [[[1, 0.4]]]
    assert [line.get_color() for line in voi.lines] == list(theme.series[:2])


def test_lowered_learning_rate_is_marked_where_it_was_lowered():
    lowered = metric_rows(4)
    lowered[2]["learning_rate"] = lowered[3]["learning_rate"] = 1e-4
    marks = []
    for rows in (metric_rows(4), lowered):
        figure = curves.training_curves({"": {0: rows}})
        dotted = [[line for line in axes.lines if line.get_linestyle() == ":"] for axes in figure.axes]
        marks.append([[line.get_xdata()[0] for line in lines] for lines in dotted])
    assert marks == [[[], []], [[3], [3]]]


def test_histogram_counts_each_structure_without_what_lies_inside_it():
    scan = np.zeros((4, 8, 8), np.int16)
    reference = np.zeros(scan.shape, np.uint8)
    reference[1:3], scan[1:3] = 1, 100  # half of the scan
    reference[1, :4], scan[1, :4] = 2, 40  # a quarter of the liver
    figure = curves.intensity_histogram(CaseImages(make_volume(scan), reference), LIVER_AND_TUMOR)
    raw, windowed = figure.axes
    shares = {}
    for patch in raw.findobj(StepPatch):
        values, edges, _ = patch.get_data()
        shares[patch.get_label()] = {round(edges[i]): round(values[i], 6) for i in np.flatnonzero(values)}
    # 128 bins between 0 and 100 HU, named by their lower edge
    assert shares["whole scan"] == {0: 0.5, 40: 0.125, 99: 0.375}
    assert shares["liver"] == {99: 1} and shares["tumor"] == {40: 1}
    seen = {patch.get_label(): patch.get_data() for patch in windowed.findobj(StepPatch)}
    for name, hu in (("liver", 100), ("tumor", 40)):
        values, edges, _ = seen[name]
        (bin_,) = np.flatnonzero(values)
        assert edges[bin_] <= (hu + 100) / 300 < edges[bin_ + 1]  # of the window from -100 to 200 HU
    assert [text.get_text() for text in raw.get_legend().get_texts()] == ["whole scan", "liver", "tumor"]


def test_histogram_takes_a_scan_without_mask_and_a_constant_one_and_names_what_a_task_seeks():
    scan = make_volume(np.random.default_rng(0).integers(-1000, 400, (4, 8, 8)).astype(np.int16))
    config = custom.get_config()
    config.data.modalities, config.window_hu = ("ct",), (-100.0, 200.0)
    settings = display_settings(config)
    raw, _ = curves.intensity_histogram(CaseImages(scan), settings).axes
    assert [text.get_text() for text in raw.get_legend().get_texts()] == ["whole scan"]
    constant = CaseImages(make_volume(np.zeros((4, 8, 8), np.int16)), np.ones((4, 8, 8), np.uint8))
    raw, _ = curves.intensity_histogram(constant, settings).axes
    assert [text.get_text() for text in raw.get_legend().get_texts()] == ["whole scan", "foreground"]


def test_undefined_scores_are_left_out_of_the_distribution():
    axes = curves.score_distribution({"liver": [0.9, None, 0.8], "tumor": [None]}).axes[0]
    (dots,) = axes.findobj(PathCollection)
    assert dots.get_offsets()[:, 0].tolist() == [0.9, 0.8]
    quartiles, median = axes.lines
    assert quartiles.get_xdata() == pytest.approx([0.825, 0.875]) and median.get_xdata() == pytest.approx([0.85])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["liver", "tumor"]
