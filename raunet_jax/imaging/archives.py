"""Archives of scans, zip and tar, unpacked into a temporary folder; nothing that they say of themselves is trusted."""

import errno
import lzma
import os
import pathlib
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from raunet_jax.errors import FileError
from raunet_jax.names import is_hidden

ARCHIVE = re.compile(r"(.+?)\.(zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz))", re.IGNORECASE | re.DOTALL)
UNREAD = re.compile(r".+\.(7z|rar|zst|tzst|lzh|iso|dmg|zipx?|z\d\d)", re.IGNORECASE)  # archives that are not unpacked
MEMBERS = 200_000  # at most: a CT of 1000 slices in each of 200 series
RATIO = 100  # bytes out for a byte in, at most, once GENEROUS bytes are out: scans are packed to a half or a third
GENEROUS = 1 << 30
RESERVE = 1 << 28  # bytes that are left free on the disk
INSIDE = "!"  # between an archive and the file in it: scans.zip!P1/ct.nii.gz
_BLOCK = 1 << 20
UNPACK = "unpack it, and give the folder"
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, IndexError, KeyError),
)


class _Member(NamedTuple):
    name: str
    problem: str  # why it is not unpacked, or ""
    open: Callable[[], BinaryIO] | None


def is_archive(path: pathlib.Path) -> bool:
    return bool(ARCHIVE.fullmatch(path.name))


class Unpacked:
    """Archives unpacked while the `with` lasts, each once.

    Files have two names: where they lie for the time being, and ARCHIVE!MEMBER, by which they can be found again.
    """

    def __init__(self) -> None:
        self._root: pathlib.Path | None = None
        self._folders: dict[pathlib.Path, pathlib.Path] = {}

    def __enter__(self) -> "Unpacked":
        return self

    def __exit__(self, *_) -> None:
        if self._root:
            shutil.rmtree(self._root, ignore_errors=True)

    def unpack(self, archive: pathlib.Path) -> tuple[pathlib.Path, list[tuple[str, str]]]:
        """The folder of what is in `archive`, called as the archive is, and (member, why) of what was left out.

        Left out are members whose names lead out of the archive, links, devices and second files of one name; hidden
        files go unsaid.

        Raises:
            FileError: the archive is damaged or locked, or holds more than the disk does or any scan would; nothing is
                left of it.
        """
        archive = archive.absolute()
        if self._root is None:
            self._root = pathlib.Path(tempfile.mkdtemp(prefix="raunet_jax_"))
        place = self._root / str(len(self._folders))
        folder = place / archive.parent.name / _folder_name(archive)  # a scan may be called after either
        folder.mkdir(parents=True)
        try:
            left_out = _unpack(archive, folder)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        self._folders[archive] = folder
        return folder, left_out

    def holds(self, path: pathlib.Path) -> bool:
        """Whether the file or folder came out of an archive."""
        return self._root is not None and path.is_relative_to(self._root)

    def shown(self, text: str) -> str:
        """`text` with each place in the temporary folder named by its archive."""
        for archive, folder in self._folders.items():
            text = text.replace(f"{folder}{os.sep}", f"{archive}{INSIDE}").replace(str(folder), str(archive))
        return text

    def real(self, name: str) -> str:
        """Where the file lies that `shown` named, its archive unpacked if it is not; any other name as it is."""
        for match in re.finditer(re.escape(INSIDE), name):
            archive = pathlib.Path(name[: match.start()])
            if is_archive(archive) and archive.is_file():
                return str(self._folder(archive) / name[match.end() :])
        archive = pathlib.Path(name)
        return str(self._folder(archive)) if is_archive(archive) and archive.is_file() else name

    def _folder(self, archive: pathlib.Path) -> pathlib.Path:
        return self._folders.get(archive.absolute()) or self.unpack(archive)[0]


def _folder_name(archive: pathlib.Path) -> str:
    match = ARCHIVE.fullmatch(archive.name)
    return match[1] if match else archive.name


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> list[tuple[str, str]]:
    room = shutil.disk_usage(folder).free - RESERVE
    written, left_out = 0, []
    try:
        archive.open("rb").close()
    except OSError as error:
        raise FileError(archive, f"cannot be read ({error.strerror})", "see that you may read it") from error
    try:
        most = max(GENEROUS, RATIO * archive.stat().st_size)
        for count, member in enumerate(_members(archive)):
            if count >= MEMBERS:
                raise FileError(archive, f"holds more than {MEMBERS:,} files", UNPACK)
            target = _inside(folder, member.name)
            problem = member.problem or ("" if target else "its name leads out of the archive")
            if target and any(map(is_hidden, target.relative_to(folder).parts)):
                continue
            if not problem:
                problem, written = _write(member, target, archive, written, most, room)
            if problem:
                left_out.append((member.name, f"{problem}; {UNPACK}"))
    except FileError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(archive, folder, room) from error
        said = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            archive, f"the archive is damaged ({said})", f"copy or download it again, or {UNPACK}"
        ) from error
    return left_out


def _write(
    member: _Member, target: pathlib.Path, archive: pathlib.Path, written: int, most: int, room: int
) -> tuple[str, int]:
    """(why `member` could not be written or "", how many bytes the archive has given so far)."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")  # never over another, never through a link
    except FileExistsError:
        return "another file of the archive has this name", written
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ):
            raise
        return f"its name cannot be that of a file ({error.strerror})", written
    with file, member.open() as source:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > most:
                problem = (
                    f"holds more than {written / 1e9:.1f} GB, over {RATIO} times its size, as no archive of scans does"
                )
                raise FileError(archive, problem, f"if you trust it, {UNPACK}")
            if written > room:
                raise _no_room(archive, target, room)
            file.write(block)
    return "", written


def _no_room(archive: pathlib.Path, place: pathlib.Path, room: int) -> FileError:
    problem = f"holds more than the {max(room, 0) / 1e9:.1f} GB that are free below {tempfile.gettempdir()}"
    return FileError(archive, problem, "free some, name a larger disk by the environment variable TMPDIR, or unpack it")


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Where a member belongs below `folder`; None if its name is absolute or leads upward."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name) or ".." in parts or "\0" in name or not parts:
        return None
    return folder.joinpath(*parts)


def _members(archive: pathlib.Path) -> Iterator[_Member]:
    return _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive)


def _zip_members(archive: pathlib.Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as content:
        members = [member for member in content.infolist() if not member.is_dir()]
        if any(member.flag_bits & 1 for member in members):
            raise FileError(archive, "is locked with a password", UNPACK)
        for member in members:
            kind = member.external_attr >> 28  # the file's type in Unix's mode; 0: of another system
            problem = "" if kind in (0, 8) else "it is a link or a device"
            yield _Member(member.filename, problem, lambda member=member: content.open(member))


def _tar_members(archive: pathlib.Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*") as content:
        for member in content:
            if not member.isdir():
                problem = "" if member.isreg() else "it is a link or a device"
                yield _Member(member.name, problem, lambda member=member: content.extractfile(member))
        # an archive that ends between two members is read without an error: it ends where blocks of zeros do not begin
        content.fileobj.seek(content.offset)
        if content.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise FileError(archive, "the archive ends early", "copy or download it again")
