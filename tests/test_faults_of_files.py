"""Damage, absence and disagreement of files: one fault a test, planted in a good case of every layout."""

import gzip
import re

import numpy as np
import pytest

import ircadb_writer
import small_layouts
from data_prep import faults
from small_layouts import AFFINE, LAYOUTS, SHAPE, Folder, labels, path, scan


@pytest.fixture(params=LAYOUTS)
def data(request, tmp_path):
    return Folder(request.param, tmp_path)


def test_a_gzip_that_ends_early(data):
    case = data.write()
    broken = case.images[-1]
    broken.write_bytes(broken.read_bytes()[:-200])
    data.write(1)
    data.only(case.name, "image", "unusable", path(broken) + "the gzip ends early$", "^copy or download the file again")


def test_a_gzip_with_a_byte_changed(data):
    case = data.write()
    content = bytearray(case.mask.read_bytes())
    content[-6] ^= 0xFF  # of the checksum
    case.mask.write_bytes(content)
    data.only(case.name, "mask", "unusable", path(case.mask) + r"the gzip is damaged \(CRC", "^copy or download")


def test_what_is_not_nifti(data):
    case = data.write()
    case.images[0].write_text("<html>please log in</html>")
    data.write(1)
    data.only(
        case.name, "image", "unusable", path(case.images[0]) + r"not a NIfTI file .*<html>pl.* 26 bytes\)$", "^convert"
    )


@pytest.mark.parametrize(
    "place, content, words",
    [
        (70, b"\x63\x00", "the NIfTI header is damaged"),  # datatype
        (42, b"\x00\x00", r"its shape is \("),  # dim[1]
        (44, b"\x00\x40", "ends early: .* bytes of"),  # dim[2]
    ],
)
def test_a_damaged_header(data, place, content, words):
    case = data.write()
    stored = bytearray(gzip.decompress(case.images[0].read_bytes()))
    stored[place : place + 2] = content
    case.images[0].write_bytes(gzip.compress(stored))
    data.write(1)
    data.only(case.name, "image", "unusable", path(case.images[0]) + words, "again")


def test_an_affine_that_puts_voxels_nowhere(data):
    case = data.write()
    stored = bytearray(gzip.decompress(case.images[0].read_bytes()))
    stored[252:256], stored[280:296] = b"\0\0\1\0", bytes(16)  # qform_code, sform_code; srow_x
    case.images[0].write_bytes(gzip.compress(stored))
    data.write(1)
    data.only(case.name, "image", "unusable", path(case.images[0]) + "its affine is singular", "^repair the header's")


def test_a_mask_of_another_shape(data):
    case = data.write(mask=labels()[:, :-1])
    shapes = r"its shape \(10, 11, 34\) does not match the shape \(10, 12, 34\) of"
    data.only(case.name, "mask", "unusable", path(case.mask) + shapes, "^pair or resample them again")


def moved(millimeters):
    affine = AFFINE.copy()
    affine[0, 3] += millimeters
    return affine


def test_a_mask_elsewhere_is_measured_and_may_be_repaired(data):
    case = data.write(mask_affine=moved(7.25))
    value = path(case.mask) + r".*up to 7\.2 mm away .*\(tolerance 0\.5 mm\): only the origins differ"
    data.only(
        case.name, "mask", "unusable", value, r"--config\.data\.repair=True.* The repair: its affine is not that of"
    )
    data.config.data.repair = True
    data.only(case.name, "mask", "repaired", value, r"^nothing: its affine is not that of .* taken instead")


def test_a_mask_within_the_tolerance_is_fine(data):
    data.write(mask_affine=moved(0.4))
    assert data.findings() == ()


def test_a_mask_whose_header_is_flipped(data):
    case = data.write(mask_affine=AFFINE @ np.diag([1, 1, -1, 1]))
    far = f"{33 * 2.5} mm away"  # the scan grows upwards from the origin, the mask ends there
    value = path(case.mask) + f".*{far}.*only in the sign of axis k .an orientation mix-up"
    data.only(case.name, "mask", "unusable", value, "find out which header is wrong")


def test_modalities_that_lie_apart(tmp_path):
    data = Folder("brats", tmp_path)
    case = data.write()
    small_layouts.save(case.images[2], scan("brats")[..., 2], moved(3))
    data.only(
        case.name, "image", "unusable", path(case.images[2]) + ".*3.0 mm away .*tolerance", "The repair: its affine"
    )


def test_nan_is_counted_and_may_be_repaired(data):
    image = scan(data.layout).astype(np.float32)
    image[3, 4, 5:25] = np.nan
    image[1, 1, 30] = np.inf
    case = data.write(image=image)
    channels = image.shape[3] if image.ndim == 4 else 1
    lowest = f"{np.nanmin(image if channels == 1 else image[..., 0]):g}"
    value = path(case.images[0]) + r"voxel values are NaN or infinite \(21 in slices 5-30\)"
    remedy = (
        rf"--config\.data\.repair=True.* The repair: 21 NaN or infinite voxels in slices 5-30 are taken as {lowest}"
    )
    data.only(case.name, "image", "unusable", value, remedy)
    data.config.data.repair = True
    data.only(case.name, "image", "repaired", value, f"^nothing: 21 NaN .* taken as {lowest}")


def test_nan_in_a_mask_has_no_repair(data):
    mask = labels().astype(np.float32)
    mask[0, 0, 0] = np.nan
    case = data.write(mask=mask)
    for data.config.data.repair in (False, True):
        value = path(case.mask) + r"voxel values are NaN or infinite \(1 in slices 0-0\)$"
        data.only(case.name, "mask", "unusable", value, r"^replace them or convert the scan again$")


def test_a_missing_mask(data):
    case = data.write()
    case.mask.unlink()
    data.write(1)
    wanted = case.mask.name.removesuffix(".nii.gz")
    (found,) = data.findings()
    assert (found.case, found.level) == (case.name, "unusable")
    assert str(case.images[0]) in found.value and wanted in found.value and "copy that file" in found.remedy


@pytest.mark.parametrize("layout", ["lits", "task03", "custom"])
def test_a_missing_image(tmp_path, layout):
    data = Folder(layout, tmp_path)
    case = data.write()
    case.images[0].unlink()
    data.write(1)
    (found,) = data.findings()
    assert found.level == "unusable" and str(case.mask) in found.value and "copy that file" in found.remedy


def test_a_missing_modality(tmp_path):
    data = Folder("brats", tmp_path)
    case = data.write()
    case.images[3].unlink()
    folder = re.escape(str(case.images[3].parent))
    data.only(
        case.name, "files", "unusable", rf"^{folder} lacks {case.name}_flair\.nii", "copy that again, or leave it out"
    )


def test_a_link_to_nowhere(data):
    case = data.write()
    case.mask.unlink()
    case.mask.symlink_to("gone")
    data.only(
        case.name, "mask", "unusable", path(case.mask) + r"cannot be read \(No such file", "see that you may read it"
    )


@pytest.mark.parametrize("repair, level", [(True, "repaired"), (False, "unusable")])
def test_a_fault_with_a_repair_does_not_end_the_search_for_others(tmp_path, repair, level):
    data = Folder("lits", tmp_path)
    data.config.data.repair = repair
    data.write(mask=np.zeros(SHAPE, np.float32), mask_affine=moved(5))
    found = [(one.check, one.level) for one in data.findings()]
    assert found == [("mask", level), ("mask type", "warning"), ("mask", "unusable")]


@pytest.mark.parametrize(
    "error, value, remedy",
    [
        (MemoryError(), "too large for the memory", "--config.data.workers=1"),
        (OSError(5, "Input/output error"), r"cannot be read \(.*Input/output error\)", "copy it again"),
        (
            KeyError("pixels"),
            r"a mistake of raunet_jax: KeyError: 'pixels' \(data_prep/faults.py:",
            "leave the case out",
        ),
    ],
)
def test_whatever_a_reader_raises_is_a_finding(data, monkeypatch, error, value, remedy):
    bad, _ = data.write(), data.write(1)
    read = faults.load_image

    def stumble(case, config, repair):
        if case.name == bad.name:
            raise error
        return read(case, config, repair)

    monkeypatch.setattr(faults, "load_image", stumble)
    data.only(bad.name, "image", "unusable", path(bad.images[0]) + value, remedy)


def ircadb(tmp_path, hu):
    drawn, liver, tumors = ircadb_writer.draw()
    hu = drawn if hu is None else hu
    folder = ircadb_writer.write_patient(tmp_path / "data/3Dircadb1.4", hu, {"liver": liver, "livertumor01": tumors[0]})
    data = Folder("lits", tmp_path)
    data.config.data.source = "ircadb"
    return data, folder


def test_a_slice_of_3dircadb_cut_short(tmp_path):
    data, folder = ircadb(tmp_path, None)
    assert data.findings() == ()
    cut = folder / "MASKS_DICOM/liver/image_5"
    cut.write_bytes(cut.read_bytes()[:-100])
    data.only("3Dircadb1.4", "mask", "unusable", path(cut) + "its pixels cannot be decoded", "copy the file again")


def test_3dircadb_without_its_masks(tmp_path):
    data, folder = ircadb(tmp_path, None)
    (folder / "MASKS_DICOM").rename(tmp_path / "elsewhere")
    data.only(
        "3Dircadb1.4",
        "mask",
        "unusable",
        f"^{re.escape(str(folder))} has no MASKS_DICOM",
        "extract its MASKS_DICOM.zip",
    )


def test_3dircadb_that_is_not_in_hu(tmp_path):
    hu = ircadb_writer.draw()[0] + np.int16(1000)
    data, folder = ircadb(tmp_path, hu)
    value = path(folder / "PATIENT_DICOM") + f"values from {hu.min()} to {hu.max()} are not HU"
    data.only("3Dircadb1.4", "intensity", "unusable", value, "rescale slope")
