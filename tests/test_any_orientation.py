"""However a scan lies in space: each voxel keeps its place, and what is found goes back to the file's own grid."""

import hypothesis
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies
from scipy import spatial

from raunet_jax.imaging.volume import read_nifti, write_mask

PLACES = 1e-3  # mm: what float32, in which headers store an affine, leaves of a place


@strategies.composite
def affines(draw):
    """Of voxels 0.3 to 9 mm long, at any angle, mirrored or not, anywhere within 2 m."""
    sizes = draw(strategies.tuples(*[strategies.floats(0.3, 9)] * 3))
    angles = draw(strategies.tuples(*[strategies.floats(-180, 180)] * 3))
    mirrored = draw(strategies.tuples(*[strategies.sampled_from((-1, 1))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = spatial.transform.Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(
        np.multiply(sizes, mirrored)
    )
    affine[:3, 3] = draw(strategies.tuples(*[strategies.floats(-2000, 2000)] * 3))
    return affine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scans")


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(affines(), strategies.tuples(*[strategies.integers(2, 6)] * 3))
@hypothesis.example(
    np.diag([1.0, 1.0, 1.0, 1.0])
    @ nib.affines.from_matvec(spatial.transform.Rotation.from_euler("z", 45, degrees=True).as_matrix(), [0, 0, 0]),
    (3, 4, 5),
)
def test_voxels_keep_their_places_and_masks_come_back(folder, affine, shape):
    stored = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 40
    nib.save(nib.Nifti1Image(stored, affine), folder / "scan.nii")
    volume = read_nifti(folder / "scan.nii")
    assert sorted(volume.shape) == sorted(shape)
    # each value stands where the file's own affine puts it
    values = volume.voxels[..., 0]
    z, y, x = np.indices(values.shape)
    here = nib.affines.apply_affine(volume.affine, np.stack([x, y, z], axis=-1)).reshape(-1, 3)
    there = nib.affines.apply_affine(affine, np.argwhere(np.ones(shape)))[values.ravel().astype(int) + 40]
    np.testing.assert_allclose(here, there, atol=PLACES)
    # x grows to the right, y to the front, z to the head, or across
    assert (np.diag(volume.affine)[:3] >= -PLACES).all()
    mask = (values % 3).astype(np.uint8)
    write_mask(folder / "scan_seg.nii", mask, volume)
    back = nib.load(folder / "scan_seg.nii")
    np.testing.assert_array_equal(np.asarray(back.dataobj), (stored % 3))
    np.testing.assert_allclose(back.affine, affine, atol=PLACES)
