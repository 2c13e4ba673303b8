"""Archives unpacked: what is in them comes out whole, and nothing in them reaches beyond their folder."""

import gzip
import io
import os
import pathlib
import stat
import struct
import tarfile
import zipfile

import pytest

import ircadb_writer
from exact_models import model
from raunet_jax.commands.inputs import find_inputs
from raunet_jax.errors import FileError
from raunet_jax.imaging import archives
from raunet_jax.imaging.archives import Unpacked, is_archive

CT = model("coarse").config
FILES = {"P1/ct.nii.gz": b"one", "P2/ct.nii.gz": b"two" * 100_000}


def pack(path, files=FILES):
    """An archive of `files`, {name: bytes}, by Python's own writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    kind = path.suffix[1:]
    with tarfile.open(path, "w:" + {"tgz": "gz", "tar": ""}.get(kind, kind)) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_what_is_packed_comes_out_and_goes_when_the_work_is_done(tmp_path, name):
    archive = pack(tmp_path / name)
    with Unpacked() as unpacked:
        folder, left_out = unpacked.unpack(archive)
        assert folder.name == "a" and below(folder) == FILES and left_out == []
        assert stat.S_IMODE(folder.parents[2].stat().st_mode) == 0o700  # scans are of patients
        inside = f"{archive}!P1/ct.nii.gz"
        assert unpacked.shown(f"{folder}/P1/ct.nii.gz: damaged") == f"{inside}: damaged"
        assert unpacked.real(inside) == f"{folder}/P1/ct.nii.gz" and unpacked.real("/b.nii") == "/b.nii"
        assert unpacked.shown(str(folder)) == str(archive)
    assert not folder.parents[2].exists()
    with pytest.raises(KeyboardInterrupt), Unpacked() as unpacked:
        folder, _ = unpacked.unpack(archive)
        raise KeyboardInterrupt
    assert not folder.parents[2].exists()


def test_a_name_of_an_earlier_day_is_found_again(tmp_path):
    archive = pack(tmp_path / "odd!name.zip")
    with Unpacked() as unpacked:
        assert pathlib.Path(unpacked.real(f"{archive}!P1/ct.nii.gz")).read_bytes() == b"one"


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "C:\\evil", "..\\evil", "\\\\host\\evil"])
def test_no_name_leads_out_of_the_folder(tmp_path, ending, name):
    archive = pack(tmp_path / f"a{ending}", {"good.nii": b"good", name: b"evil"})
    before = {path for path in tmp_path.rglob("*")}
    with Unpacked() as unpacked:
        folder, ((member, why),) = unpacked.unpack(archive)
        assert below(folder) == {"good.nii": b"good"} and "leads out of the archive" in why
        assert below(folder.parents[2]) == {f"0/{tmp_path.name}/a/good.nii": b"good"}
    assert {path for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out_and_not_followed(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, str(secret)
        tar.addfile(member)
        through = tarfile.TarInfo("link/new.nii")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    with Unpacked() as unpacked:
        folder, left_out = unpacked.unpack(tmp_path / "a.tar")
        assert [name for name, why in left_out if "a link or a device" in why] == ["link"]
        assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert list(secret.iterdir()) == []


def test_a_link_in_a_zip_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.nii")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with Unpacked() as unpacked:
        folder, ((name, why),) = unpacked.unpack(tmp_path / "a.zip")
        assert name == "link.nii" and "a link" in why and below(folder) == {}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_of_two_files_of_one_name_the_second_is_left_out(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ct.nii", b"first")
            archive.writestr("ct.nii", b"second")
    else:
        with tarfile.open(path, "w") as tar:
            for content in (b"first", b"second"):
                member = tarfile.TarInfo("./ct.nii")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with Unpacked() as unpacked:
        folder, ((_, why),) = unpacked.unpack(path)
        assert below(folder) == {"ct.nii": b"first"} and "another file of the archive has this name" in why


def test_hidden_companions_go_unsaid_and_impossible_names_are_said(tmp_path):
    files = {"__MACOSX/._ct.nii": b"x", ".DS_Store": b"x", "n" * 300: b"x", "ct.nii": b"good"}
    with Unpacked() as unpacked:
        folder, ((name, why),) = unpacked.unpack(pack(tmp_path / "a.zip", files))
        assert below(folder) == {"ct.nii": b"good"} and name == "n" * 300 and "cannot be that of a file" in why


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_more_than_an_archive_of_scans_holds_is_refused_and_nothing_is_left(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "GENEROUS", 1 << 20)
    archive = pack(tmp_path / name, {"good.nii": b"good", "bomb.nii": bytes(1 << 23)})
    with Unpacked() as unpacked:
        with pytest.raises(FileError, match=r"holds more than 0\.0 GB, over 100 times its size"):
            unpacked.unpack(archive)
        assert not any(path.is_file() for path in unpacked._root.rglob("*"))


def test_more_than_the_disk_holds_is_refused_with_the_way_to_another_disk(tmp_path, monkeypatch):
    free = archives.shutil.disk_usage(tmp_path)._replace(free=archives.RESERVE + 1000)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: free)
    with Unpacked() as unpacked, pytest.raises(FileError, match="that are free below .*TMPDIR"):
        unpacked.unpack(pack(tmp_path / "a.zip"))


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 3)
    with Unpacked() as unpacked, pytest.raises(FileError, match="more than 3 files"):
        unpacked.unpack(pack(tmp_path / "a.tar", {str(number): b"" for number in range(5)}))


def test_a_zip_with_a_password_says_so(tmp_path):
    archive = pack(tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        content[at + flags] |= 1
    archive.write_bytes(content)
    with Unpacked() as unpacked, pytest.raises(FileError, match="is locked with a password; unpack it"):
        unpacked.unpack(archive)


def test_a_zip_of_a_method_that_python_cannot_read_says_so(tmp_path):
    archive = pack(tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", content, content.find(signature) + method, 9)  # Deflate64, of Windows
    archive.write_bytes(content)
    with Unpacked() as unpacked, pytest.raises(FileError, match="compression method is not supported"):
        unpacked.unpack(archive)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.98])
def test_of_an_archive_cut_short_nothing_is_used(tmp_path, name, kept):
    files = {f"IM{number}": os.urandom(2000) for number in range(8)}
    archive = pack(tmp_path / name, files)
    whole = archive.read_bytes()
    end = len(whole) if name != "a.tar" else 8 * 2560  # its end is zeros
    archive.write_bytes(whole[: int(kept * end)])
    with Unpacked() as unpacked, pytest.raises(FileError, match="damaged|ends early"):
        unpacked.unpack(archive)


@pytest.mark.parametrize("members", range(1, 8))
def test_a_tar_cut_between_two_files_ends_early(tmp_path, members):
    archive = pack(tmp_path / "a.tar", {f"IM{number}": os.urandom(1024) for number in range(8)})
    cut = archive.read_bytes()[: members * 1536]
    archive.write_bytes(cut)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(cut))
    for path in (archive, tmp_path / "b.tar.gz"):
        with Unpacked() as unpacked, pytest.raises(FileError, match="the archive ends early"):
            unpacked.unpack(path)


def test_a_flipped_bit_is_seen(tmp_path):
    archive = pack(tmp_path / "a.zip", {"ct.nii": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[2000] ^= 1
    archive.write_bytes(content)
    with Unpacked() as unpacked, pytest.raises(FileError, match="damaged"):
        unpacked.unpack(archive)


@pytest.mark.parametrize(
    "name, expected",
    [("a.zip", True), ("A.TAR.GZ", True), ("a.tgz", True), ("ct.nii.gz", False), ("zip", False), ("a.gz", False)],
)
def test_archives_are_known_by_their_endings(tmp_path, name, expected):
    assert is_archive(tmp_path / name) == expected


def found(path):
    with Unpacked() as unpacked:
        scans, failed = find_inputs([path], CT, unpacked)
        return {scan.name: unpacked.shown(str(scan.images[0])) for scan in scans}, failed


def test_scans_in_an_archive_are_called_after_it_and_told_apart(tmp_path):
    one = pack(tmp_path / "export" / "anna.zip", {"images/ct.nii.gz": b"x"})
    two = pack(tmp_path / "export" / "bert.tar.gz", {"a/ct.nii": b"x", "b/ct.nii": b"x", "b/notes.txt": b"x"})
    scans, failed = found(tmp_path / "export")
    assert failed == []
    assert scans == {"anna": f"{one}!images/ct.nii.gz", "a": f"{two}!a/ct.nii", "b": f"{two}!b/ct.nii"}
    assert found(one) == ({"anna": f"{one}!images/ct.nii.gz"}, [])


def test_a_dicom_series_in_an_archive_is_one_scan(tmp_path):
    patient = ircadb_writer.write_patient(tmp_path / "P", ircadb_writer.draw()[0], {})
    archive = pack(tmp_path / "3Dircadb1.17.zip", below(patient))
    assert found(archive) == ({"3Dircadb1.17": f"{archive}!PATIENT_DICOM"}, [])


def test_archives_that_are_unpacked_already_or_inside_another_are_passed_over_by_name(tmp_path, capsys):
    pack(tmp_path / "P1.zip", {"ct.nii": b"x"})
    (tmp_path / "P1").mkdir()
    (tmp_path / "P1" / "ct.nii").write_bytes(b"x")
    inner = pack(tmp_path / "inner.zip", {"ct.nii": b"x"})
    pack(tmp_path / "P2.zip", {"ct.nii": b"x", "more.zip": inner.read_bytes()})
    inner.unlink()
    scans, failed = found(tmp_path)
    assert scans == {"P1": f"{tmp_path}/P1/ct.nii", "P2": f"{tmp_path}/P2.zip!ct.nii"} and failed == []
    said = capsys.readouterr().err
    assert "archives unpacked already: 1 (P1.zip)" in said and "archives inside an archive: 1 (P2.zip!more.zip)" in said


def test_a_bad_archive_among_good_ones_is_named_and_the_others_are_used(tmp_path, capsys):
    pack(tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    pack(tmp_path / "empty.tar", {})
    pack(tmp_path / "evil.tar", {"../evil.nii": b"x", "ct.nii": b"x"})
    pack(tmp_path / "good.tar", {"ct.nii": b"x"})
    scans, failed = found(tmp_path)
    assert list(scans) == ["evil", "good"]
    reasons = {failure["input"]: failure["reason"] for failure in failed}
    assert reasons.keys() == {f"{tmp_path}/bad.zip", f"{tmp_path}/evil.tar!../evil.nii"}
    assert "damaged" in reasons[f"{tmp_path}/bad.zip"]
    assert "archives without a scan: 1 (empty.tar)" in capsys.readouterr().err
    assert "holds no scan" in found(tmp_path / "empty.tar")[1][0]["reason"]


def test_of_many_links_in_an_archive_the_first_are_named(tmp_path):
    pack(tmp_path / "a.tar", {"ct.nii": b"x"} | {f"../evil{number}": b"x" for number in range(100)})
    _, failed = found(tmp_path / "a.tar")
    assert len(failed) == 6 and failed[-1]["reason"].startswith(f"{tmp_path}/a.tar: 95 more are left out; unpack it")


def test_archives_of_masks_and_meshes_beside_a_patients_are_no_failures(tmp_path, capsys):
    """As 3DIRCADb is downloaded."""
    patient = ircadb_writer.write_patient(
        tmp_path / "made", *ircadb_writer.draw()[:1], {"liver": ircadb_writer.draw()[1]}
    )
    pack(tmp_path / "3Dircadb1.17" / "PATIENT_DICOM.zip", below(patient / "PATIENT_DICOM"))
    pack(tmp_path / "3Dircadb1.17" / "MASKS_DICOM.zip", below(patient / "MASKS_DICOM"))
    pack(tmp_path / "3Dircadb1.17" / "MESHES_VTK.zip", {"liver.vtk": b"x"})
    scans, failed = found(tmp_path / "3Dircadb1.17")
    assert failed == [] and list(scans) == ["3Dircadb1.17"]
    said = capsys.readouterr().err
    assert "archives without a scan: 2 (MASKS_DICOM.zip, MESHES_VTK.zip)" in said
