"""A drawn glioma patient in the four MR modalities of BraTS, skull stripped, with BraTS's labels.

Shapes are level sets in millimeters from the middle of the brain: x toward the right, y to the front, z upward.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_prep import drawing
from raunet_jax.imaging.volume import Grid, Volume

MODALITIES = ("t1", "t1ce", "t2", "flair")
FIELD_MM = (240.0, 240.0, 155.0)  # BraTS's grid: 240 x 240 x 155 voxels of 1 mm
BRAIN_RADII_MM = (68.0, 86.0, 64.0)
LOW_GRADE_SHARE = 75 / 285  # as in BraTS 2018
NECROSIS, EDEMA, ENHANCING = 1, 2, 4

WHITE, GRAY, FLUID, SWOLLEN, DEAD, ACTIVE, SOLID = range(7)
CONTRAST = np.array(  # rows as the line above; columns t1, t1ce, t2, flair
    [
        [0.78, 0.80, 0.42, 0.46],  # white matter
        [0.58, 0.61, 0.56, 0.58],  # gray matter
        [0.22, 0.23, 1.00, 0.16],  # cerebrospinal fluid
        [0.53, 0.54, 0.84, 0.96],  # edema
        [0.34, 0.36, 0.90, 0.55],  # necrosis
        [0.58, 1.18, 0.72, 0.80],  # enhancing rim
        [0.42, 0.44, 0.88, 0.86],  # solid core of a low-grade glioma, not enhancing
    ],
    np.float32,
)
SCALE = (250, 1400)  # MR intensities have no unit: every modality of every case gets its own
NOISE_SHARE = 0.03
BIAS_SHARE = 0.06


def draw_head(rng: np.random.Generator, size_xyz: Sequence[int]) -> tuple[Volume, np.ndarray]:
    """A head of `size_xyz` voxels and its labels.

    Returns:
        Volume, voxels float32 (z, y, x, 4): T1, T1 with contrast, T2, FLAIR, whole numbers, zero outside the brain.
        labels, uint8 (z, y, x): 1 necrosis or solid core, 2 edema, 4 enhancing rim (high grade only).
    """
    width, height, slices = size_xyz
    shape = (slices, height, width)
    spacing_xyz = np.array(FIELD_MM) / size_xyz
    z, y, x = _millimeters(rng, shape, spacing_xyz[::-1])
    tissue, brain = _draw_brain(rng, x, y, z)
    labels = _draw_tumor(rng, tissue, brain, spacing_xyz[::-1])

    voxels = np.empty((*shape, len(MODALITIES)), np.float32)
    for channel in range(len(MODALITIES)):
        image = ndimage.gaussian_filter(CONTRAST[:, channel][tissue], 0.45)
        image *= 1 + np.float32(BIAS_SHARE) * drawing.smooth_field(rng, shape, (2, 2, 2))
        image += np.float32(NOISE_SHARE) * rng.standard_normal(shape, dtype=np.float32)
        image = np.maximum(np.rint(image * np.float32(rng.uniform(*SCALE))), 1)
        voxels[..., channel] = np.where(brain, image, 0)

    affine = np.diag([*spacing_xyz, 1.0])
    affine[:3, 3] = -spacing_xyz * np.array(size_xyz) / 2
    grid = Grid(shape_xyz=(width, height, slices), affine=affine, header=None)
    return Volume(voxels=voxels, affine=affine, grid=grid, name="drawn head"), labels


def _millimeters(rng: np.random.Generator, shape: Sequence[int], spacing_zyx: Sequence[float]) -> list[np.ndarray]:
    """Coordinates (z, y, x) of every voxel, gently bent so that no two brains are alike."""
    size = rng.uniform(0.92, 1.03)
    coordinates = []
    for index, length, spacing in zip(np.ogrid[tuple(map(slice, shape))], shape, spacing_zyx, strict=True):
        straight = ((index - (length - 1) / 2) * spacing / size).astype(np.float32)
        coordinates.append(straight + 2.0 * drawing.smooth_field(rng, shape, (3, 4, 4)))
    return coordinates


def _draw_brain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tissue number of every voxel (intp) and the brain's mask (bool)."""
    shape = x.shape

    def ellipsoid(center_xyz, radii_xyz):
        return drawing.radius((x, y, z), center_xyz, radii_xyz)

    cerebrum = ellipsoid((0, 0, 4), BRAIN_RADII_MM)
    flat = 1 + 0.12 * np.clip(-z / 40, 0, 1)  # the base is flatter than the crown
    cerebrum = cerebrum * np.where(np.abs(y) < 60, flat, 1)
    cerebellum = np.minimum(ellipsoid((24, -48, -42), (30, 33, 24)), ellipsoid((-24, -48, -42), (30, 33, 24)))
    stem = ellipsoid((0, -18, -48), (14, 14, 34))
    folds = np.abs(drawing.smooth_field(rng, shape, (13, 19, 19)))
    rough = drawing.smooth_field(rng, shape, (8, 10, 10))
    brain = (np.minimum(cerebrum, np.minimum(cerebellum, stem)) < 1) & (z > -72)

    tissue = np.full(shape, WHITE, np.intp)
    sulcus = (folds < 0.13) & (cerebrum > 0.74 + 0.05 * rough)
    cortex = (cerebrum > 0.87 + 0.03 * rough) | ((folds < 0.5) & (cerebrum > 0.7 + 0.04 * rough))
    fissure = (np.abs(x) < 1.6) & (z > -5) & ((np.abs(y) > 38) | (z > 26))
    beside_fissure = (np.abs(x) < 5.5) & (z > -5) & ((np.abs(y) > 36) | (z > 23))
    drawing.paint(tissue, cortex | beside_fissure, GRAY)
    for side in (-1, 1):
        drawing.paint(tissue, ellipsoid((16 * side, -10, 4), (10, 15, 10)) < 1, GRAY)  # thalamus
        drawing.paint(tissue, ellipsoid((24 * side, 10, 3), (6, 15, 10)) < 1, GRAY)  # putamen
        sylvian = np.abs(z + 4 + 0.25 * (y - 10)) + 0.25 * np.abs(np.abs(x) - 50)
        drawing.paint(tissue, (sylvian < 7) & (side * x > 38) & (np.abs(y - 8) < 24), GRAY)
        drawing.paint(tissue, (sylvian < 2.6) & (side * x > 41) & (np.abs(y - 8) < 21), FLUID)
    drawing.paint(tissue, sulcus | fissure | (cerebrum > 0.985), FLUID)

    wide = rng.uniform(0.8, 1.25)
    for side in (-1, 1):
        bent = x - side * (9 + 0.006 * (y - 2) ** 2)  # the horns diverge to the front and to the back
        horn = drawing.radius((bent, y, z), (0, -4, 14), (5.5 * wide, 36, 9 * wide))
        drawing.paint(tissue, (horn < 1) & (side * x > 1), FLUID)
    drawing.paint(tissue, ellipsoid((0, -4, 0), (2.2 * wide, 13, 9)) < 1, FLUID)  # third ventricle
    below = (np.minimum(cerebellum, stem) < 1) & (cerebrum > 0.97)
    leaves = np.abs(np.mod(z / 5 + 0.02 * y, 1) - 0.5) < 0.22
    drawing.paint(tissue, below, WHITE)
    drawing.paint(tissue, below & (cerebellum > 0.55) & (stem > 1), GRAY)
    drawing.paint(tissue, below & (cerebellum > 0.75) & leaves & (stem > 1), WHITE)
    drawing.paint(tissue, ellipsoid((0, -38, -40), (5, 6, 7)) < 1, FLUID)  # fourth ventricle
    return tissue, brain


def _draw_tumor(
    rng: np.random.Generator, tissue: np.ndarray, brain: np.ndarray, spacing_zyx: Sequence[float]
) -> np.ndarray:
    """Paint one glioma into `tissue` and return its labels: edema that spares fluid, a core, its rim."""
    low_grade = rng.random() < LOW_GRADE_SHARE
    radius_mm = rng.uniform(20, 36)
    depth_mm = ndimage.distance_transform_edt(brain, sampling=spacing_zyx)
    seats = np.argwhere((tissue == WHITE) & (depth_mm > 0.5 * radius_mm))
    if not len(seats):
        seats = np.argwhere(depth_mm >= 0.9 * depth_mm.max())
    center = seats[rng.integers(len(seats))]
    radii = radius_mm * rng.uniform(0.8, 1.2, 3) / np.asarray(spacing_zyx)
    box, level = drawing.blob(rng, tissue.shape, center, radii, roughness=0.2)
    tissue_there, labels = tissue[box], np.zeros(tissue.shape, np.uint8)
    inside = drawing.largest_piece(brain[box] & (level < 1))
    # edema follows the white matter: it stops at fluid and enters gray matter only close to the core
    edema = inside & (tissue_there != FLUID) & ((tissue_there == WHITE) | (level < 0.85))
    edema = drawing.largest_piece(edema)
    core_level = level * (1 + 0.1 * drawing.smooth_field(rng, level.shape, (4, 4, 4)))
    core = inside & (core_level < rng.uniform(0.55, 0.75))
    drawing.paint(tissue_there, edema, SWOLLEN)
    drawing.paint(labels[box], edema, EDEMA)
    drawing.paint(tissue_there, core, SOLID if low_grade else ACTIVE)
    drawing.paint(labels[box], core, NECROSIS if low_grade else ENHANCING)
    if not low_grade:
        necrosis = inside & (core_level < rng.uniform(0.3, 0.45))
        drawing.paint(tissue_there, necrosis, DEAD)
        drawing.paint(labels[box], necrosis, NECROSIS)
    return labels
