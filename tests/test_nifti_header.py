"""Headers that do not hold what a scan's size, place and sides are read from: refused or said, whatever is damaged."""

import re
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from raunet_jax.imaging.volume import VolumeError, read_modalities, read_nifti, write_mask

SHAPE = (6, 7, 9)
AFFINE = np.array([[0.8, 0.05, 0, -30], [-0.05, 0.8, 0, 20], [0, 0, 2.5, 100], [0, 0, 0, 1.0]])
VALUES = np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(np.int16)
SIZES = [1, *np.linalg.norm(AFFINE[:3, :3], axis=0)]


def stored(kind=nib.Nifti1Image, dtype=np.int16, codes=(1, 1), affine=AFFINE, shape=SHAPE) -> bytes:
    image = kind(VALUES.reshape(shape).astype(dtype), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def write(path, content: bytes, **fields):
    """A file of these bytes, header fields changed as they are given, nothing mended."""
    content = bytearray(content)
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_byte_of_the_header_changed_is_harmless_or_said_or_refused(tmp_path, kind):
    content, path = stored(kind), tmp_path / "scan.nii"
    path.write_bytes(content)
    good = read_nifti(path)
    assert good.warnings == ()
    header = kind.header_class.template_dtype
    rescale = [place for name in ("scl_slope", "scl_inter") for place in _bytes_of(header, name)]
    rng, refused, said = np.random.default_rng(1), 0, 0
    for place in range(0, header.itemsize + 4, 1 if kind is nib.Nifti1Image else 2):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            volume = read_nifti(path)
        except VolumeError as error:
            assert "scan.nii: " in str(error)
            refused += 1
            continue
        said += bool(volume.warnings)
        if volume.warnings or place in rescale:  # intensities are another check's
            continue
        np.testing.assert_array_equal(volume.voxels, good.voxels)
        np.testing.assert_allclose(volume.affine, good.affine, atol=0.5)
    assert refused > 20 and said > 5


def _bytes_of(header: np.dtype, name: str) -> range:
    dtype, offset = header.fields[name][:2]
    return range(offset, offset + dtype.itemsize)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"pixdim": [1] + [0] * 7, "qform_code": 0, "sform_code": 0}, "holds no voxel sizes .* mL are not known"),
        ({"pixdim": [*SIZES[:3], 0, 1, 1, 1, 1], "sform_code": 0}, "holds no voxel sizes"),
        ({"pixdim": [*SIZES[:3], np.nan, 1, 1, 1, 1], "sform_code": 0}, "affine is singular"),
        ({"vox_offset": 0}, r"vox_offset is 0; the voxels begin at byte 352"),
        ({"vox_offset": np.inf}, "vox_offset is inf"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
        ({"vox_offset": -352}, "vox_offset is -352"),
        ({"vox_offset": 1e30}, "ends early"),
        ({"dim": [3, 6, 7, 5, 1, 1, 1, 1]}, r"more than its header tells of: .* bytes, 4 slices, follow"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "ends early"),
        ({"dim": [0, *SHAPE, 1, 1, 1, 1]}, r"dim\[0\] is 0"),
        ({"dim": [2, *SHAPE, 1, 1, 1, 1]}, r"its shape is \(6, 7\)"),
        ({"sizeof_hdr": 349}, "sizeof_hdr is 349"),
        ({"srow_x": [1e30, 0, 0, 0]}, "affine is singular"),
    ],
)
def test_what_no_scan_can_be_read_by_is_refused(tmp_path, fields, words):
    content = stored()
    path = write(tmp_path / "scan.nii", content, **fields)
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match=words):
            read_nifti(path)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"qform_code": 0, "sform_code": 0}, "neither its qform nor its sform is set, so which side is left"),
        ({"pixdim": [1] * 8, "qform_code": 0}, r"contradicts itself: .* by the sform, .* 1 x 1 x 1 mm by pixdim"),
        ({"pixdim": [*SIZES[:3], 0, 1, 1, 1, 1]}, "contradicts itself"),
        ({"pixdim": [*SIZES[:3], np.nan, 1, 1, 1, 1]}, "contradicts itself"),
        ({"pixdim": [1, -SIZES[1], *SIZES[2:], 1, 1, 1, 1], "sform_code": 0}, "pixdim is negative"),
        (
            {"quatern_b": 0.5},
            r"its sform \(code 1\), which is taken, and its qform \(code 1\) contradict each other, by",
        ),
        ({"quatern_b": np.nan}, "contradict each other"),
        ({"quatern_b": 5}, "the qform holds no rotation"),
        ({"sform_code": 77}, "sform_code is 77, which is none of 0 to 5"),
        ({"xyzt_units": 3}, r"voxels of 0.0008016 x .* mm, which no scanner measures"),
        ({"xyzt_units": 1}, r"voxels of 801.6 x .* mm, which no scanner measures"),
        ({"xyzt_units": 7}, "names no unit of length, mm are assumed"),
        ({"scl_slope": 0, "scl_inter": -1024}, "scl_inter=-1024 is not applied"),
        ({"bitpix": 8}, "bitpix is 8 for voxels of 16 bits"),
    ],
)
def test_what_is_doubtful_is_said(tmp_path, fields, words):
    (warning,) = read_nifti(write(tmp_path / "scan.nii", stored(), **fields)).warnings
    assert re.search(words, warning), warning
    assert "; " in warning  # what, and what to do


@pytest.mark.parametrize("fields", [{"xyzt_units": 0}, {"xyzt_units": 18}, {"qform_code": 0}, {"sform_code": 0}])
@pytest.mark.parametrize("slope", [0, np.nan, 1])
def test_what_good_files_have_is_no_doubt(tmp_path, fields, slope):
    path = write(tmp_path / "scan.nii", stored(), scl_slope=slope, scl_inter=0, **fields)
    volume = read_nifti(path)
    assert volume.warnings == () and sorted(volume.voxels.ravel()) == sorted(VALUES.ravel())


def test_bytes_behind_the_last_voxel_are_said_and_a_slice_of_them_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(stored() + bytes(83))
    (warning,) = read_nifti(tmp_path / "a.nii").warnings
    assert warning.startswith("83 bytes follow the last voxel")
    (tmp_path / "a.nii").write_bytes(stored() + bytes(84))
    with pytest.raises(VolumeError, match="84 bytes, 1 slices, follow"):
        read_nifti(tmp_path / "a.nii")


def test_an_error_of_the_library_is_one_of_the_file(tmp_path, monkeypatch):
    def stumble(*_):
        raise KeyError("esize")

    monkeypatch.setattr(nib.Nifti1Image, "from_stream", stumble)
    (tmp_path / "scan.nii").write_bytes(stored())
    with pytest.raises(VolumeError, match=r"scan.nii: the NIfTI header is damaged \('esize'\)"):
        read_nifti(tmp_path / "scan.nii")


def turned(axis: int, degrees: float) -> np.ndarray:
    one, other = [number for number in range(3) if number != axis]
    affine, angle = np.eye(4), np.deg2rad(degrees)
    affine[[one, one, other, other], [one, other, one, other]] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    affine[:3, 3] = -20, 15, 40
    return affine


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [45, -45, 135, 44.9999999, 45.0000001])
def test_halfway_between_two_axes_is_said_and_goes_back_exactly(tmp_path, axis, degrees):
    path = tmp_path / "scan.nii"
    path.write_bytes(stored(affine=turned(axis, degrees)))
    volume = read_nifti(path)
    (warning,) = volume.warnings
    assert "halfway between two of the body's" in warning
    write_mask(tmp_path / "mask.nii", (volume.voxels[..., 0] % 5).astype(np.uint8), volume)
    after = nib.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(after.dataobj), VALUES % 5)
    np.testing.assert_array_equal(after.affine, nib.load(path).affine)


@pytest.mark.parametrize("degrees, doubted", [(0.2, False), (1.0, True), (10.0, True)])
def test_axes_off_right_angles_are_said(tmp_path, degrees, doubted):
    sheared = np.diag([0.8, 0.8, 0.8, 1.0])
    sheared[1, 2] = 0.8 * np.tan(np.deg2rad(degrees))
    image = nib.Nifti1Image(VALUES, sheared)
    image.to_filename(tmp_path / "scan.nii")
    warnings = read_nifti(tmp_path / "scan.nii").warnings
    assert [f"{degrees:.1f} degrees off right angles" in warning for warning in warnings] == [True] * doubted


def test_of_several_files_the_doubted_one_is_named(tmp_path):
    good, bad = tmp_path / "t1.nii", tmp_path / "t2.nii"
    good.write_bytes(stored())
    write(bad, stored(), pixdim=[1] * 8, qform_code=0)
    (warning,) = read_modalities([good, bad]).warnings
    assert warning.startswith("t2.nii: its header contradicts itself")
