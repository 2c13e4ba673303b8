import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from data_prep import drawing, phantom
from raunet_jax.imaging.volume import read_mask, read_nifti

SIZE = (64, 64, 20)


@pytest.fixture(scope="module")
def abdomens():
    return [phantom.draw_abdomen(np.random.default_rng((0, number)), SIZE) for number in range(16)]


@pytest.fixture(scope="module")
def heads():
    return [phantom.draw_head(np.random.default_rng((0, number)), SIZE) for number in range(10)]


def test_abdomens_have_ct_voxels_and_labels_of_one_shape(abdomens):
    for volume, labels in abdomens:
        assert volume.voxels.dtype == np.int16 and labels.dtype == np.uint8
        assert volume.voxels.shape == (*labels.shape, 1) and labels.shape[1:] == SIZE[1::-1]
        assert 0.75 * SIZE[2] <= labels.shape[0] <= 1.25 * SIZE[2]
        assert set(np.unique(labels)) <= {0, 1, 2}
        assert volume.voxels.min() < -950 and volume.voxels.max() > 300
    assert len({labels.shape[0] for _, labels in abdomens}) > 3


def test_liver_is_one_piece_on_the_patients_right_of_a_plausible_size(abdomens):
    for volume, labels in abdomens:
        liver = labels > 0
        assert ndimage.label(liver, np.ones((3, 3, 3)))[1] == 1
        slices = liver.any(axis=(1, 2))
        share = liver[slices].sum() / (volume.voxels[slices] > -300).sum()
        assert 0.08 < share < 0.2
        assert np.argwhere(liver)[:, 2].mean() > SIZE[0] / 2  # canonical x grows toward the right


def test_lesions_lie_in_the_liver_and_are_darker_than_it_by_more_than_the_noise(abdomens):
    for volume, labels in abdomens:
        hu = volume.voxels[..., 0]
        assert 85 < np.median(hu[labels == 1]) < 125
        if (labels == 2).any():
            assert np.median(hu[labels == 1]) - np.median(hu[labels == 2]) > 20
            assert ndimage.binary_dilation(labels == 1, iterations=4)[labels == 2].mean() > 0.5


def test_about_one_abdomen_in_eight_has_no_lesion(abdomens):
    assert 0 <= sum(not (labels == 2).any() for _, labels in abdomens) <= 6
    assert sum((labels == 2).any() for _, labels in abdomens) >= 10


def test_noise_in_homogeneous_tissue_is_that_of_a_portal_venous_scan(abdomens):
    volume, labels = abdomens[0]
    liver = ndimage.binary_erosion(labels == 1, iterations=3)
    assert 7 < volume.voxels[..., 0][liver].std() < 35  # texture and vessels add to it


def test_spacing_varies_and_shrinks_with_the_grid():
    fine, _ = phantom.draw_abdomen(np.random.default_rng(3), (128, 128, 16))
    coarse, _ = phantom.draw_abdomen(np.random.default_rng(3), (64, 64, 16))
    assert coarse.affine[0, 0] == pytest.approx(2 * fine.affine[0, 0])
    assert 0.6 < fine.affine[0, 0] * 128 / 512 < 0.95  # mm a voxel had the grid the 512 columns of a scanner
    assert 1 <= fine.affine[2, 2] <= 5


def test_head_is_zero_outside_the_brain_in_all_modalities_alike(heads):
    for volume, labels in heads:
        brain = volume.voxels > 0
        assert volume.voxels.shape == (SIZE[2], SIZE[1], SIZE[0], 4) and volume.voxels.dtype == np.float32
        assert (brain == brain[..., :1]).all() and 0.1 < brain.mean() < 0.6
        assert brain[..., 0][labels > 0].all()
        np.testing.assert_array_equal(volume.voxels, np.rint(volume.voxels))


def test_each_modality_shows_what_it_shows_in_a_patient(heads):
    for volume, labels in heads:
        t1, t1ce, _, flair = np.moveaxis(volume.voxels, -1, 0)
        brain = t1 > 0
        assert set(np.unique(labels)) <= {0, 1, 2, 4} and (labels == 2).any()
        assert np.median(flair[labels == 2]) > 1.3 * np.median(flair[brain & (labels == 0)])
        assert np.median(t1[labels == 2]) < np.median(t1[brain & (labels == 0)])
        if (labels == 4).sum() > 20:
            assert np.median(t1ce[labels == 4]) > 1.1 * np.median(t1ce[brain & (labels == 0)])


def test_both_grades_are_drawn(heads):
    enhancing = [(labels == 4).any() for _, labels in heads]
    assert any(enhancing) and not all(enhancing)


def test_written_abdomens_come_back_as_drawn(tmp_path):
    phantom.write_phantoms(tmp_path, "abdomen", 3, seed=5, size_xyz=(32, 32, 8))
    for number in range(3):
        drawn, labels = phantom.draw_abdomen(np.random.default_rng((5, number)), (32, 32, 8))
        volume = read_nifti(tmp_path / f"volume-{number}.nii.gz", kind="ct")
        np.testing.assert_array_equal(volume.voxels, drawn.voxels)
        np.testing.assert_allclose(volume.affine, drawn.affine, atol=1e-4)
        np.testing.assert_array_equal(read_mask(tmp_path / f"segmentation-{number}.nii.gz", volume), labels)
    assert nib.load(tmp_path / "volume-0.nii.gz").get_data_dtype() == np.int16
    assert nib.load(tmp_path / "segmentation-0.nii.gz").get_data_dtype() == np.uint8


def test_written_scans_lie_in_several_orientations(tmp_path):
    phantom.write_phantoms(tmp_path, "abdomen", 6, size_xyz=(32, 32, 8))
    codes = {"".join(nib.aff2axcodes(nib.load(path).affine)) for path in tmp_path.glob("volume-*")}
    assert len(codes) > 1


def test_a_case_depends_on_its_number_and_the_seed_alone(tmp_path):
    phantom.write_phantoms(tmp_path / "two", "abdomen", 2, seed=1, size_xyz=(32, 32, 8))
    phantom.write_phantoms(tmp_path / "three", "abdomen", 3, seed=1, size_xyz=(32, 32, 8))
    phantom.write_phantoms(tmp_path / "other", "abdomen", 1, seed=2, size_xyz=(32, 32, 8))
    first, same, other = (
        nib.load(tmp_path / folder / "volume-0.nii.gz").get_fdata() for folder in ("two", "three", "other")
    )
    np.testing.assert_array_equal(first, same)
    assert first.shape != other.shape or (first != other).any()


def test_whole_cases_are_kept_and_broken_ones_drawn_again(tmp_path):
    phantom.write_phantoms(tmp_path, "abdomen", 2, size_xyz=(32, 32, 8))
    kept, broken = tmp_path / "volume-0.nii.gz", tmp_path / "volume-1.nii.gz"
    kept_at, content = kept.stat().st_mtime_ns, broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    phantom.write_phantoms(tmp_path, "abdomen", 2, size_xyz=(32, 32, 8))
    assert kept.stat().st_mtime_ns == kept_at
    assert broken.read_bytes() == content


def test_heads_lie_as_brats_2018_does(tmp_path):
    phantom.write_phantoms(tmp_path, "head", 2, size_xyz=(48, 48, 16))
    masks = sorted(tmp_path.glob("*GG/Brats18_DRAWN_*_1/Brats18_DRAWN_*_1_seg.nii.gz"))
    assert len(masks) == 2
    for path in masks:
        labels = nib.load(path).get_fdata()
        assert ((labels == 4).any()) == (path.parts[-3] == "HGG")
        for modality in phantom.MODALITIES:
            assert path.with_name(path.name.replace("_seg", f"_{modality}")).is_file()
    assert "".join(nib.aff2axcodes(nib.load(masks[0]).affine)) == "LPS"


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind 'knee' cannot be drawn; choose abdomen or head"):
        phantom.write_phantoms(tmp_path, "knee", 1)


@pytest.mark.parametrize("size", [(16, 64, 16), (64, 64)])
def test_a_size_that_cannot_hold_a_body_is_named(tmp_path, size):
    with pytest.raises(ValueError, match=r"config\.data\.phantom_size takes \(x, y, z\) of at least \(32, 32, 8\)"):
        phantom.write_phantoms(tmp_path, "abdomen", 1, size_xyz=size)


def test_smooth_field_is_standardized_and_smooth():
    field = drawing.smooth_field(np.random.default_rng(0), (20, 40, 30), (2, 4, 3))
    assert field.shape == (20, 40, 30)
    assert abs(field.mean()) < 1e-4 and field.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(field, axis=1)).max() < 0.6


def test_radius_is_one_on_the_surface_and_zero_in_the_middle():
    z, y, x = np.ogrid[:9, :9, :9]
    level = drawing.radius((z, y, x), (4, 4, 4), (1, 2, 4))
    assert level[4, 4, 4] == 0 and level[5, 4, 4] == level[4, 2, 4] == level[4, 4, 8] == 1


def test_smoother_union_is_the_smaller_level_where_they_are_far_apart():
    near, far = np.float32(0.2), np.float32(9.0)
    assert drawing.smoother_union(near, far, softness=0.05) == pytest.approx(0.2)
    assert drawing.smoother_union(near, near, softness=0.05) == pytest.approx(0.2 - 0.05 * np.log(2))


def test_largest_piece_drops_the_crumbs():
    mask = np.array([[[1, 0, 1, 1, 0, 1]]], bool)
    np.testing.assert_array_equal(drawing.largest_piece(mask), [[[0, 0, 1, 1, 0, 0]]])
