"""Pictures of cases: how they are turned, scaled and colored."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import ndimage

from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.volume import Grid, Volume
from raunet_jax.report import curves, drawing, figures
from raunet_jax.report.planes import PLANES, scale_bar_mm
from raunet_jax.report.surface import shaded, surface_views


def make_volume(voxels_zyx, spacing_mm=(1.0, 1.0, 1.0)) -> Volume:
    voxels = np.asarray(voxels_zyx)
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    affine = np.diag([*spacing_mm[::-1], 1.0])
    return Volume(voxels, affine, Grid(voxels.shape[2::-1], affine, None), "drawn")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


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
    picture = pixels(figures.case_planes(make_volume(voxels, spacing_mm), None, None))
    pieces, _ = ndimage.label(picture.min(axis=-1) > 128)
    sizes = [tuple(s.stop - s.start for s in piece) for piece in ndimage.find_objects(pieces)]
    squares = sorted(sizes, key=lambda size: -size[0] * size[1])[:3]
    for height, width in squares:
        assert height == pytest.approx(squares[0][0], abs=3)
        assert width == pytest.approx(squares[0][0], abs=3)


def test_bright_organ_on_the_patients_right_is_on_the_left_of_the_axial_picture():
    voxels = np.full((8, 40, 40), 0, np.int16)
    voxels[:, 5:12, 25:32] = 1000  # right and back
    picture = pixels(figures.case_planes(make_volume(voxels), None, None))
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
    picture = pixels(figures.case_planes(make_volume(noise), reference, prediction, box, maps))
    for color in (drawing.REFERENCE, drawing.PREDICTION, drawing.FALSE_NEGATIVE, drawing.FALSE_POSITIVE):
        assert has_color(picture, color)


def test_volume_without_any_mask_or_tissue_is_still_drawn():
    for voxels in (np.full((2, 5, 5), -1000, np.int16), np.full((1, 1, 1), 50, np.int16)):
        empty = np.zeros(voxels.shape, np.uint8)
        assert figures.case_planes(make_volume(voxels), empty, empty).startswith(b"\x89PNG")


def test_every_modality_has_its_panel():
    channels = np.zeros((6, 20, 20, 4), np.float32)
    channels[2:5, 4:16, 4:16] = (1, 5, 100, 3000)
    tumor = np.zeros((6, 20, 20), np.uint8)
    tumor[3, 8:12, 8:12] = 1
    picture = pixels(figures.modality_planes(make_volume(channels), ("t1", "t1ce", "t2", "flair"), tumor, None))
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


def test_surfaces_are_drawn_with_and_without_tumors_and_not_at_all_without_liver():
    mask = np.zeros((6, 30, 30), np.uint8)
    assert surface_views({"prediction": mask}, (5, 1, 1)) is None
    mask[1:5, 5:25, 5:25] = 1
    plain = pixels(surface_views({"prediction": mask}, (5.0, 1.0, 1.0)))
    mask[2:4, 10:18, 10:18] = 2
    with_tumor = pixels(surface_views({"prediction": mask}, (5.0, 1.0, 1.0)))
    assert plain.shape == with_tumor.shape
    assert np.abs(plain - with_tumor).max() > 50


def metric_rows(epochs: int, **changed) -> list[dict]:
    row = {"step": 1, "loss": 0.5, "validation_dice": 0.4, "learning_rate": 1e-3}
    return [row | {"epoch": epoch} | changed for epoch in range(1, epochs + 1)]


def test_training_curves_take_missing_validation_and_a_single_epoch():
    runs = {
        "coarse fold 0": metric_rows(1),
        "voi fold 0": metric_rows(3, validation_dice=None),
        "fold 1": metric_rows(2),
    }
    light, dark = (curves.training_curves(runs, theme) for theme in (drawing.LIGHT, drawing.DARK))
    assert light.startswith(b"\x89PNG")
    assert light != dark


def test_lowered_learning_rate_is_marked():
    steady, lowered = metric_rows(4), metric_rows(4)
    lowered[2]["learning_rate"] = lowered[3]["learning_rate"] = 1e-4
    assert curves.training_curves({"fold 0": steady}) != curves.training_curves({"fold 0": lowered})


def test_histogram_takes_a_scan_without_mask_and_a_constant_one():
    scan = np.random.default_rng(0).integers(-1000, 400, (4, 8, 8)).astype(np.int16)
    assert curves.intensity_histogram(make_volume(scan), None, (-100, 200)).startswith(b"\x89PNG")
    constant = np.zeros((4, 8, 8), np.int16)
    assert curves.intensity_histogram(make_volume(constant), np.ones_like(constant), (-100, 200)).startswith(b"\x89PNG")


def test_undefined_scores_are_left_out_of_the_distribution():
    with_none = curves.score_distribution({"liver": [0.9, None, 0.8], "tumor": [None]})
    assert with_none == curves.score_distribution({"liver": [0.9, 0.8], "tumor": []})
