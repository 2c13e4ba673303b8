"""Files that are not what their names say, and files of other systems: every reader sees in them what predict sees."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from configs import custom
from data_prep import faults
from data_prep.cases import find_cases, read_case
from data_prep.description import read_description
from data_prep.fingerprints import fingerprints
from data_prep.planning import plan
from data_prep.verify import verify
from raunet_jax.commands.inputs import find_inputs
from raunet_jax.errors import UserError
from raunet_jax.files import look_below
from raunet_jax.imaging.nifti_reader import open_header, open_nifti, read_nifti
from raunet_jax.imaging.volume import VolumeError, read_scan
from raunet_jax.names import case_name, is_hidden, stem
from raunet_jax.report.cases import read_case as read_for_page
from raunet_jax.report.display import display_settings
from raunet_jax.scores.folders import score_folders

AFFINE = np.diag([0.8, 0.9, 2.5, 1.0])
SHAPE = (20, 18, 12)  # (x, y, z)
DESCRIPTION = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}


def organ():
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:11, 5:12, 3:9] = 1
    return mask


def hu():
    values = np.random.default_rng(3).integers(-1000, 300, SHAPE).astype(np.int16)
    values[organ() > 0] = np.random.default_rng(4).integers(20, 150, organ().sum())
    return values


def save(path, values, affine=AFFINE, slope=None, kind=nib.Nifti1Image, order="<"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(values, affine, kind.header_class(endianness=order))
    image.header.set_data_dtype(values.dtype)
    if slope:
        image.header.set_slope_inter(slope, 0)
    plain = path.with_name("." + path.name.lower())  # nibabel chooses the format by small letters
    image.to_filename(plain)
    return plain.rename(path)


def ungzip(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


def as_nii(path):
    path.rename(path.with_suffix(""))


def capitals(path):
    path.rename(path.with_name(path.name.removesuffix(".nii.gz") + ".NII.GZ"))


def rewrite(change=lambda values: values, turned=False, **how):
    def write_again(path):
        image = nib.load(path)
        values, affine = np.asarray(image.dataobj), image.affine
        if turned:
            flips = np.diag([-1.0, -1.0, 1.0, 1.0])
            flips[:2, 3] = SHAPE[0] - 1, SHAPE[1] - 1
            values, affine = np.ascontiguousarray(values[::-1, ::-1]), affine @ flips
        save(path, change(values), affine, **how)

    return write_again


ODD = {
    "not gzipped": ungzip,
    "gzipped but called .nii": as_nii,
    "capitals": capitals,
    "four axes": rewrite(lambda values: values[..., None]),
    "five axes": rewrite(lambda values: values[..., None, None]),
    "float64": rewrite(lambda values: values.astype(np.float64)),
    "0.9999 of it": rewrite(lambda values: np.where(values == 1, np.float32(0.9999), values)),
    "a slope": rewrite(lambda values: values * np.int16(2), slope=0.5),
    "big-endian": rewrite(order=">"),
    "NIfTI-2": rewrite(kind=nib.Nifti2Image),
}
TURNED = {"another orientation": rewrite(turned=True)}  # a mask's only, or the scan's grid is another


def task(root, cases=4):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(DESCRIPTION))
    for number in range(cases):
        save(root / "imagesTr" / f"c{number}.nii.gz", hu() + np.int16(number))
        save(root / "labelsTr" / f"c{number}.nii.gz", organ())
    return root


def recipe(root):
    config = custom.get_config()
    config.data.root, config.data.prepared, config.data.workers = str(root), str(root / ".prepared"), 1
    return config


@pytest.mark.parametrize("odd", ODD)
def test_every_reader_of_scans_sees_the_same_volume(tmp_path, odd):
    as_usual, root = task(tmp_path / "usual"), task(tmp_path / "odd")
    for number in range(4):
        ODD[odd](root / "imagesTr" / f"c{number}.nii.gz")
    expected = hu()[..., None].transpose(2, 1, 0, 3)
    config = plan(recipe(root))
    usual = plan(recipe(as_usual))
    assert config.patch_size == usual.patch_size and config.window_hu == usual.window_hu
    cases = find_cases(config)
    assert [case.name for case in cases] == ["c0", "c1", "c2", "c3"]
    volume, mask = read_case(cases[0], config)
    np.testing.assert_array_equal(volume.voxels, expected)
    np.testing.assert_array_equal(mask, organ().transpose(2, 1, 0))
    assert [found.check for found in faults.check_case(cases[0], config.to_dict()) if found.fatal] == []
    ours, theirs = (fingerprints(find_cases(one), one)["c0"].content for one in (config, usual))
    assert ours == theirs
    (scan,) = [one for one in find_inputs([root / "imagesTr"], config)[0] if one.name == "c0"]
    np.testing.assert_array_equal(read_scan(scan.images, "ct").voxels, expected)
    shown = read_for_page({"case": "c0"}, [str(scan.images[0])], str(cases[0].mask), tmp_path, display_settings(config))
    np.testing.assert_array_equal(shown.volume.voxels, expected)
    np.testing.assert_array_equal(shown.reference, organ().transpose(2, 1, 0))


@pytest.mark.parametrize("odd", ODD | TURNED)
def test_every_reader_of_masks_sees_the_same_labels(tmp_path, odd):
    change = (ODD | TURNED)[odd]
    root = task(tmp_path / "odd", cases=1)
    change(root / "labelsTr" / "c0.nii.gz")
    config = recipe(root)
    config.data.modalities = ("ct",)
    (case,) = find_cases(config)
    np.testing.assert_array_equal(read_case(case, config)[1], organ().transpose(2, 1, 0))
    for ours, theirs in (("labelsTr", "usual"), ("usual", "labelsTr")):
        save(root / "usual" / "c0.nii.gz", organ())
        scores, problems = score_folders(root / ours, root / theirs, tmp_path / "scores.json", rule="custom")
        assert problems == [] and [one["case"] for one in scores["cases"]] == ["c0"]
        assert scores["foreground"]["dice"] == 1


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", "<>")
def test_the_header_alone_gives_grid_and_type(tmp_path, kind, name, order):
    affine = np.array([[0, 0, 2.0, 5], [-0.7, 0, 0, 6], [0, 1.1, 0, 7], [0, 0, 0, 1]])
    path = save(tmp_path / name, hu(), affine, kind=kind, order=order)
    header, grid = open_header(path)
    whole = open_nifti(path)[1]
    np.testing.assert_allclose(grid.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(grid.canonical_affine, whole.canonical_affine)
    assert grid.shape_xyz == SHAPE and grid.canonical_shape == (18, 20, 12) == whole.canonical_shape
    assert (header.get_data_dtype().kind, header.get_data_dtype().itemsize) == ("i", 2)


def test_of_a_file_of_which_only_the_header_is_wanted_no_more_is_read(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), np.float64))
    start = gzip.compress(gzip.decompress(path.read_bytes())[:600])
    path.write_bytes(start[:-8])  # neither the voxels nor the checksum are there
    assert open_header(path)[1].shape_xyz == (64, 64, 64)
    with pytest.raises(VolumeError, match="ends early"):
        read_nifti(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "not a NIfTI file"),
        (b"<!DOCTYPE html>" + b" " * 1000, "not a NIfTI file"),
        (b"\x1f\x8b\x08\x00", "ends early"),
        (b"\x1f\x8b" + b"x" * 700, "damaged"),
        (bytes(4) + b"n+2\0\r\n\x1a\n" + bytes(50), "header is damaged|ends early"),
        (bytes(344) + b"n+1\0" + bytes(4), "header is damaged"),
    ],
)
def test_a_header_that_is_none_is_named(tmp_path, content, words):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=words) as caught:
        open_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_dataset_json_is_read_in_the_encodings_that_editors_write(tmp_path, encoding):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(DESCRIPTION | {"author": "Lebér 肝"}, ensure_ascii=False), encoding=encoding)
    assert read_description(path).structures == {0: "background", 1: "organ"}


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b"", b"\x00\xff\x93", b'{"modality": [], "labels": 3}'])
def test_a_dataset_json_that_cannot_be_used_is_named_with_an_example(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match='"labels"') as caught:
        read_description(path)
    assert str(path) in str(caught.value) and "Traceback" not in str(caught.value)


def companions(folder):
    """What other systems leave beside each file of `folder`."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        (path.with_name("._" + path.name)).write_bytes(b"\x00\x05\x16\x07" + bytes(200))
        for name, inside in (("__MACOSX", "._" + path.name), ("@eaDir", path.name), ("__MACOSX", path.name)):
            (path.parent / name).mkdir(exist_ok=True)
            (path.parent / name / inside).write_bytes(b"no scan")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"no scan")


def test_companions_of_other_systems_are_neither_scans_nor_errors(tmp_path):
    root = task(tmp_path / "task")
    before = fingerprints(find_cases(plan(recipe(root))), plan(recipe(root)))
    companions(root)
    config = plan(recipe(root))
    assert [case.name for case in find_cases(config)] == ["c0", "c1", "c2", "c3"]
    assert fingerprints(find_cases(config), config) == before
    assert verify(config).unusable == set() and len(verify(config).cases) == 4
    scores, problems = score_folders(root / "labelsTr", root / "labelsTr", tmp_path / "scores.json", rule="custom")
    assert problems == [] and len(scores["cases"]) == 4
    assert all(not is_hidden(path.name) for path in look_below(root).files)


@pytest.mark.parametrize("name", ["c.nii", "c.nii.gz", "c.NII.GZ", "c.Nii.gz"])
def test_a_name_ends_before_the_format_in_capitals_too(name):
    assert stem(f"/x/{name}") == "c"
    assert case_name(f"Segmentation-{name}") == case_name(f"c_SEG.{name[2:]}") == "c"
