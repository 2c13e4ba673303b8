import gzip
import itertools
import pathlib
import pickle

import nibabel as nib
import numpy as np
import pytest

from raunet_jax.imaging.volume import (
    Repair,
    VolumeError,
    load_mask,
    load_scan,
    read_mask,
    read_modalities,
    read_nifti,
    read_scan,
    write_map,
    write_mask,
    write_nifti,
)

ORIENTATIONS = ["RAS", "LPS", "LAS", "SPL", "ARI", "IRP"]
SHAPE_XYZ = (4, 5, 6)
CT = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "ct"


def oblique(orientation="RAS", shape=SHAPE_XYZ, angle=0.2) -> np.ndarray:
    """(4, 4) of a file whose axes grow toward about `orientation`, spaced .7, .8 and 2.5 mm, turned by `angle`."""
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(orientation):
        world = next(index for index, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[world, axis] = (0.7, 0.8, 2.5)[world] * (1 if letter in "RAS" else -1)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:, 3] = 11.5, -20.25, 300.0, 1
    return affine


def save(path, values, affine, codes=(1, 1), change=None) -> pathlib.Path:
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    if change:
        change(image.header)
    nib.save(image, path)
    return path


def numbered(shape=SHAPE_XYZ, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_voxel_keeps_its_place_in_space(tmp_path, orientation, suffix):
    stored, affine = numbered(), oblique(orientation)
    volume = read_nifti(save(tmp_path / f"scan{suffix}", stored, affine))
    assert volume.name == "scan" and volume.voxels.dtype == np.int16
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    for index in itertools.product(*map(range, SHAPE_XYZ)):
        x, y, z = np.rint(np.linalg.solve(volume.affine, affine @ (*index, 1)))[:3].astype(int)
        assert volume.voxels[z, y, x, 0] == stored[index]
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.8, 0.7), rtol=1e-5)
    assert volume.shape == volume.voxels.shape[:3]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (2, 0), (1, 4), (0, 0)])
def test_a_mask_comes_back_on_the_files_own_grid_at_the_right_voxels(tmp_path, orientation, codes):
    stored = numbered()
    scan = save(tmp_path / "scan.nii.gz", stored, oblique(orientation), codes)
    volume = read_nifti(scan)
    write_mask(tmp_path / "mask.nii.gz", (volume.voxels[..., 0] % 3).astype(np.uint8), volume)

    before, after = nib.load(scan), nib.load(tmp_path / "mask.nii.gz")
    assert after.shape == before.shape and after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(after.dataobj), stored % 3)
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    np.testing.assert_array_equal(after.header["pixdim"][:4], before.header["pixdim"][:4])
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), volume.voxels[..., 0] % 3)


def test_a_map_comes_back_on_the_files_own_grid_as_float32(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), oblique("SPL")))
    write_map(tmp_path / "map.nii.gz", volume.voxels[..., 0] / 7, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(written.dataobj), (numbered() / 7).astype(np.float32))
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "scan.nii").affine)


def test_nothing_but_geometry_is_taken_over_from_the_input(tmp_path):
    def name_the_patient(header):
        header["descrip"] = b"DOE^JANE"
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))

    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), oblique(), change=name_the_patient))
    write_mask(tmp_path / "mask.nii", np.zeros(volume.shape, np.uint8), volume)
    assert b"DOE^JANE" in (tmp_path / "scan.nii").read_bytes()
    assert b"DOE^JANE" not in (tmp_path / "mask.nii").read_bytes()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_plain_writer_stores_any_orientation_of_the_same_scan(tmp_path, orientation):
    voxels, affine = numbered((6, 5, 4)), oblique()
    write_nifti(tmp_path / "a.nii.gz", voxels, affine, orientation)
    assert "".join(nib.aff2axcodes(nib.load(tmp_path / "a.nii.gz").affine)) == orientation
    volume = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.voxels[..., 0], voxels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)


def test_a_nifti2_file_is_answered_with_nifti2(tmp_path):
    nib.save(nib.Nifti2Image(numbered(), oblique("LPS")), tmp_path / "scan.nii")
    volume = read_nifti(tmp_path / "scan.nii")
    write_mask(tmp_path / "mask.nii", (volume.voxels[..., 0] > 50).astype(np.uint8), volume)
    assert isinstance(nib.load(tmp_path / "mask.nii"), nib.Nifti2Image)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii").dataobj), numbered() > 50)


@pytest.mark.parametrize("unit,factor", [("mm", 1), ("unknown", 1), ("micron", 1e-3), ("meter", 1e3)])
def test_spacing_is_in_mm_whatever_unit_the_file_uses(tmp_path, unit, factor):
    affine = np.diag([2, 3, 4, 1])
    path = save(tmp_path / "a.nii", numbered(), affine, change=lambda header: header.set_xyzt_units(unit))
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.spacing_mm, np.array([4, 3, 2]) * factor)
    write_mask(tmp_path / "mask.nii", np.ones(volume.shape, np.uint8), volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii").affine, affine)
    assert read_mask(tmp_path / "mask.nii", volume).all()


def test_an_unknown_unit_means_mm(tmp_path):
    path = save(tmp_path / "a.nii", numbered(), oblique())
    content = bytearray(path.read_bytes())
    content[123] = 7  # xyzt_units
    path.write_bytes(content)
    assert read_nifti(path).spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_rescaled_values_are_rounded_to_whole_hounsfield_units(tmp_path):
    image = nib.Nifti1Image(np.array([0, 1, 2, 1000], np.int16).reshape(4, 1, 1), np.eye(4))
    image.header.set_slope_inter(0.75, -1024)
    nib.save(image, tmp_path / "a.nii")
    # nibabel divides by the slope it is given, so the stored numbers are read back to know what was rescaled
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled()).ravel()
    seen = read_nifti(tmp_path / "a.nii").voxels.ravel()
    np.testing.assert_array_equal(seen, np.rint(stored * 0.75 - 1024))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
def test_any_stored_type_and_byte_order_reads_the_same(tmp_path, dtype):
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image((numbered() % 100).astype(dtype), np.eye(4), header), tmp_path / "a.nii")
    for kind, expected in (("ct", np.int16), ("mr", np.float32)):
        volume = read_nifti(tmp_path / "a.nii", kind)
        assert volume.voxels.dtype == expected and volume.voxels.dtype.isnative
        np.testing.assert_array_equal(volume.voxels[..., 0].T, numbered() % 100)


def test_ct_beyond_int16_is_clipped_and_mr_keeps_its_fractions(tmp_path):
    path = save(tmp_path / "a.nii", np.array([-1e6, -0.6, 0.4, 1e6], np.float32).reshape(4, 1, 1), np.eye(4))
    assert read_nifti(path).voxels.ravel().tolist() == [-32768, -1, 0, 32767]
    np.testing.assert_array_equal(read_nifti(path, "mr").voxels.ravel(), np.float32([-1e6, -0.6, 0.4, 1e6]))


def test_a_scan_of_more_slices_than_are_converted_at_once(tmp_path):
    stored = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 37)).astype(np.float32)
    np.testing.assert_array_equal(read_nifti(save(tmp_path / "a.nii", stored, np.eye(4))).voxels[..., 0].T, stored)


def test_a_single_volume_stored_as_4d_is_read_and_answered_in_3d(tmp_path):
    volume = read_nifti(save(tmp_path / "a.nii", numbered((4, 5, 6, 1)), np.eye(4)))
    write_mask(tmp_path / "mask.nii", np.ones(volume.shape, np.uint8), volume)
    assert nib.load(tmp_path / "mask.nii").shape == (4, 5, 6)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum, so that all voxels decompress but are not what was written
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name,damage,words",
    [
        ("a.nii.gz", shortened, "the gzip ends early"),
        ("a.nii.gz", flipped, "the gzip is damaged"),
        ("a.nii", shortened, r"ends early: 552 of the 592 bytes of a \(4, 5, 6\) image"),
        ("a.nii", lambda path: path.write_bytes(b""), "not a NIfTI file"),
        ("a.nii", lambda path: path.write_text("<html>404</html>"), "not a NIfTI file .*<html>40"),
        ("a.nii", lambda path: path.unlink(), "cannot be read .No such file"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, name, damage, words):
    path = save(tmp_path / name, numbered() % 250, np.eye(4), change=lambda header: header.set_data_dtype(np.int16))
    damage(path)
    with pytest.raises(VolumeError, match=f"{name}: {words}"):
        read_nifti(path)


@pytest.mark.parametrize(
    "values,affine,words",
    [
        (np.zeros((3, 3, 3, 2), np.int16), np.eye(4), r"several volumes \(shape \(3, 3, 3, 2\)\)"),
        (np.zeros((3, 3), np.int16), np.eye(4), r"its shape is \(3, 3\), so it holds no 3D scan"),
        (np.full((2, 2, 2), np.nan, np.float32), np.eye(4), r"NaN or infinite \(8 in slices 0-1\)"),
        (np.full((2, 2, 2), np.inf, np.float32), np.eye(4), "NaN or infinite"),
        (np.zeros((2, 2, 2), np.complex64), np.eye(4), "of type complex64"),
        (np.zeros((2, 2, 2), np.int16), np.diag([1, 1, 0, 1]), "its affine is singular"),
    ],
)
def test_an_unusable_image_is_named_with_its_fault(tmp_path, values, affine, words):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(values, None)
    image.header.set_sform(affine, 1)
    nib.save(nib.Nifti1Image(values, None, image.header), path)
    with pytest.raises(VolumeError, match=f"a.nii: .*{words}"):
        read_nifti(path)


def test_a_header_of_no_voxels_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", numbered(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[44:46] = (0).to_bytes(2, "little")  # dim[2]
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"its shape is \(4, 0, 6\)"):
        read_nifti(path)


def test_a_header_that_promises_more_than_memory_is_refused_before_allocating(tmp_path):
    path = save(tmp_path / "a.nii", numbered(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[42:48] = (32767).to_bytes(2, "little") * 3
    path.write_bytes(gzip.compress(content))
    with pytest.raises(VolumeError, match="ends early: 592 of the"):
        read_nifti(path)


def test_modalities_become_channels_in_the_order_given(tmp_path):
    affine = oblique("LPS")
    names = ["t1", "t1ce", "t2", "flair"]
    paths = [save(tmp_path / f"Brats18_A_1_{name}.nii.gz", numbered() + k, affine) for k, name in enumerate(names)]
    volume = read_modalities(paths)
    assert volume.name == "Brats18_A_1" and volume.voxels.dtype == np.float32
    for channel in range(4):
        np.testing.assert_array_equal(volume.voxels[..., channel], volume.voxels[..., 0] + channel)
    assert read_modalities(paths[:2]).name == "Brats18_A_1"
    assert read_modalities(paths[:1]).name == "Brats18_A_1_t1"


def test_modalities_on_different_grids_are_refused_by_name(tmp_path):
    shapes = {"c_t1.nii": (4, 5, 6), "c_t2.nii": (4, 5, 7)}
    paths = [save(tmp_path / name, numbered(shape), np.eye(4)) for name, shape in shapes.items()]
    with pytest.raises(VolumeError, match=r"c_t2.nii: its shape \(4, 5, 7\) .*\(4, 5, 6\) of .*c_t1.nii"):
        read_modalities(paths)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL"])
def test_a_mask_in_another_orientation_or_type_lands_on_the_scans_grid(tmp_path, dtype, orientation):
    voxels = np.random.default_rng(0).integers(0, 3, (6, 5, 4))
    write_nifti(tmp_path / "scan.nii", voxels.astype(np.int16), oblique(), "LAS")
    write_nifti(tmp_path / "mask.nii", voxels.astype(dtype), oblique(), orientation)
    mask = read_mask(tmp_path / "mask.nii", read_nifti(tmp_path / "scan.nii"))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, voxels)


def test_a_mask_stored_as_scaled_integers_is_read(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, SHAPE_XYZ).astype(np.float32)
    save(tmp_path / "mask.nii", labels, np.eye(4), change=lambda header: header.set_data_dtype(np.uint8))
    assert nib.load(tmp_path / "mask.nii").dataobj.slope != 1
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), np.eye(4)))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii", volume).T, labels)


@pytest.mark.parametrize("value,shown", [(3, "3"), (0.5, "0.5"), (255, "255"), (-1, "-1")])
def test_a_mask_with_other_values_is_refused_with_them(tmp_path, value, shown):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), np.eye(4)))
    labels = np.zeros(SHAPE_XYZ, np.float32)
    labels[1, 2, 3] = value
    with pytest.raises(VolumeError, match=rf"mask.nii: holds the values {shown} where .* labels \(0, 1, 2\)"):
        read_mask(save(tmp_path / "mask.nii", labels, np.eye(4)), volume)


def test_the_labels_that_are_allowed_are_the_callers(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), np.eye(4)))
    path = save(tmp_path / "mask.nii", np.full(SHAPE_XYZ, 4, np.uint8), np.eye(4))
    assert (read_mask(path, volume, labels=(0, 1, 2, 4)) == 4).all()


@pytest.mark.parametrize(
    "change,words",
    [
        (np.diag([-1, -1, 1, 1]), "differ only in the sign of axis i, j .an orientation mix-up"),
        (np.diag([-1, -1, 1, 1])[[1, 0, 2, 3]], "differ only in the order and sign of the axes"),
        (nib.affines.from_matvec(np.eye(3), [0, 0, 7]), r"7.0 mm away .*only the origins differ, by \[0. 0. 7.\]"),
        (np.diag([1, 1, 2, 1]), "up to 5.0 mm away"),
    ],
)
def test_a_mask_elsewhere_in_space_is_refused_with_both_affines(tmp_path, change, words):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered((5, 5, 6)), np.eye(4)))
    path = save(tmp_path / "mask.nii", np.zeros((5, 5, 6), np.uint8), np.eye(4) @ change)
    with pytest.raises(VolumeError, match=words) as caught:
        read_mask(path, volume)
    assert "affine of scan" in str(caught.value) and "affine of " + str(path) in str(caught.value)


def test_a_mask_off_by_rounding_is_accepted_and_one_of_another_shape_is_not(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), oblique()))
    nudged = oblique()
    nudged[:3, 3] += 0.2
    assert not read_mask(save(tmp_path / "near.nii", np.zeros(SHAPE_XYZ, np.uint8), nudged), volume).any()
    with pytest.raises(VolumeError, match=r"its shape \(4, 5, 5\) does not match the shape \(4, 5, 6\) of scan"):
        read_mask(save(tmp_path / "other.nii", np.zeros((4, 5, 5), np.uint8), oblique()), volume)


def test_repair_reads_what_is_no_number_as_the_lowest_value_and_tells(tmp_path, capsys):
    values = np.random.default_rng(0).normal(100, 20, SHAPE_XYZ).astype(np.float32)
    holes = values.copy()
    holes[1, 2, 3], holes[0, 0, 0], holes[3, 4, 5] = np.nan, np.inf, -np.inf
    path = save(tmp_path / "a.nii", holes, np.eye(4))
    with pytest.raises(VolumeError, match=r"NaN or infinite \(3 in slices 0-5\).*config.data.repair=True") as caught:
        read_nifti(path, "mr")
    lowest = values[1, 2, 3] = values[0, 0, 0] = values[3, 4, 5] = holes[np.isfinite(holes)].min()
    volume = read_nifti(path, "mr", repair=True)
    np.testing.assert_allclose(volume.voxels[..., 0], values.transpose(2, 1, 0))
    done = f"3 NaN or infinite voxels in slices 0-5 are taken as {lowest:g}"
    assert volume.repairs == (Repair(path, caught.value.problem, caught.value.remedy, done),)
    assert capsys.readouterr().err == ""


def test_a_good_scan_has_no_repairs(tmp_path):
    path = save(tmp_path / "a.nii", numbered().astype(np.float32), np.eye(4))
    for scan in ([path], [path, path]):
        assert load_scan(scan, "mr", repair=True).repairs == ()


def test_every_channel_of_a_file_has_a_repair_of_its_own(tmp_path):
    values = np.ones((*SHAPE_XYZ, 3), np.float32)
    values[0, 0, 2, 0] = values[0, 0, 4, 2] = np.nan
    path = save(tmp_path / "a.nii", values, np.eye(4))
    done = [f"1 NaN or infinite voxels in slices {z}-{z} are taken as 1" for z in (2, 4)]
    repairs = read_nifti(path, "mr", channels=(0, 1, 2), repair=True).repairs
    assert [(repair.path, repair.done) for repair in repairs] == [(path, one) for one in done]


def test_reading_a_scan_for_use_says_each_repair_once(tmp_path, capsys):
    holes = np.ones(SHAPE_XYZ, np.float32)
    holes[0, 0, 0] = np.nan
    first = save(tmp_path / "A_t1.nii", holes, np.eye(4))
    second = save(tmp_path / "A_t2.nii", holes, np.diag([1, 1, 3, 1]))
    done = "1 NaN or infinite voxels in slices 0-0 are taken as 1"
    moved = f"its affine is not that of {first}, whose affine is taken instead"
    volume = read_scan([first, second], "mr", repair=True)
    assert [(repair.path, repair.done) for repair in volume.repairs] == [(first, done), (second, done), (second, moved)]
    assert capsys.readouterr().err.splitlines() == [
        f"{first}: repaired on reading: {done}",
        f"{second}: repaired on reading: {done}",
        f"{second}: repaired on reading: {moved}",
    ]
    load_scan([first, second], "mr", repair=True)
    assert capsys.readouterr().err == ""


def test_repair_does_not_make_up_a_scan_of_nothing(tmp_path):
    path = save(tmp_path / "a.nii", np.full(SHAPE_XYZ, np.nan, np.float32), np.eye(4))
    with pytest.raises(VolumeError, match="NaN or infinite"):
        read_nifti(path, "mr", repair=True)


@pytest.mark.parametrize(
    "change", [np.diag([-1, -1, 1, 1]), np.diag([1, 1, 3, 1]), nib.affines.from_matvec(np.eye(3), [9, 0, 7])]
)
def test_repair_trusts_the_order_of_a_masks_voxels_over_its_affine_and_tells(tmp_path, capsys, change):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), oblique("LPS")))
    labels = np.random.default_rng(1).integers(0, 3, SHAPE_XYZ).astype(np.uint8)
    right = read_mask(save(tmp_path / "right.nii", labels, oblique("LPS")), volume)
    wrong = save(tmp_path / "wrong.nii", labels, oblique("LPS") @ change)
    with pytest.raises(VolumeError, match="config.data.repair=True") as caught:
        read_mask(wrong, volume)
    mask, repairs = load_mask(wrong, volume, repair=True)
    np.testing.assert_array_equal(mask, right)
    done = "its affine is not that of scan, whose affine is taken instead"
    assert repairs == (Repair(wrong, caught.value.problem, caught.value.remedy, done),)
    assert str(repairs[0]) == f"{wrong}: repaired on reading: {done}"
    assert capsys.readouterr().err == ""


def test_repair_does_not_bend_another_shape(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), np.eye(4)))
    path = save(tmp_path / "mask.nii", np.zeros((4, 5, 5), np.uint8), np.eye(4))
    with pytest.raises(VolumeError, match="does not match the shape"):
        load_mask(path, volume, repair=True)


def test_a_modality_whose_affine_is_repaired_lies_like_the_first(tmp_path):
    """Also where the wrong affine would turn it another way round."""
    voxels = numbered()
    first = save(tmp_path / "A_t1.nii", voxels, oblique("LPS"))
    second = save(tmp_path / "A_t2.nii", voxels + 1, oblique("RAS"))
    volume = read_modalities([first, second], repair=True)
    np.testing.assert_array_equal(volume.voxels[..., 1], volume.voxels[..., 0] + 1)


def test_an_error_tells_file_fault_and_remedy_apart_also_when_it_comes_from_another_process(tmp_path):
    path = tmp_path / "a; b. C.nii"
    path.write_text("<html>")
    with pytest.raises(VolumeError) as caught:
        read_nifti(path)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert type(error) is VolumeError and error.path == path
        assert error.problem == "not a NIfTI file (it begins with b'<html>', 6 bytes)"
        assert error.remedy == "convert the scan to .nii or .nii.gz, or give the folder of its DICOM series"
        assert str(error) == f"{path}: {error.problem}; {error.remedy}."


def test_what_cannot_be_a_mask_of_the_volume_is_not_written(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(), np.eye(4)))
    with pytest.raises(VolumeError, match=r"shape \(4, 5, 6\) \(z, y, x\) is not of a scan of shape \(6, 5, 4\)"):
        write_mask(tmp_path / "mask.nii", np.zeros(SHAPE_XYZ, np.uint8), volume)
    with pytest.raises(VolumeError, match="dtype float64"):
        write_mask(tmp_path / "mask.nii", np.zeros(volume.shape), volume)
    with pytest.raises(VolumeError, match="must end in .nii or .nii.gz"):
        write_mask(tmp_path / "mask.mha", np.zeros(volume.shape, np.uint8), volume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii"]


@pytest.mark.skipif(not CT.is_dir(), reason="the shared CT is not here")
def test_a_real_ct_and_its_liver(tmp_path):
    volume = read_nifti(CT / "abdomen_ct.nii.gz")
    liver = read_mask(CT / "abdomen_liver.nii.gz", volume)
    inside = volume.voxels[liver == 1]
    assert volume.spacing_mm == (3, 3, 3) and 0 < np.median(inside) < 200, "liver tissue, so the two are aligned"
    write_mask(tmp_path / "liver.nii.gz", liver, volume)
    before, after = nib.load(CT / "abdomen_liver.nii.gz"), nib.load(tmp_path / "liver.nii.gz")
    np.testing.assert_array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
    np.testing.assert_array_equal(before.affine, after.affine)
