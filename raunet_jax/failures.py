"""What is said of an error: a sentence where a user can put it right, and where in our code where it is our mistake."""

import errno
import logging
import os
import pathlib
import re
import sys
import traceback

from raunet_jax.errors import UserError

log = logging.getLogger("raunet_jax")

MISTAKE_STATUS = 70  # exit status of a mistake of ours: EX_SOFTWARE of sysexits.h
OURS = ("raunet_jax", "data_prep", "configs", "run.py")
ROOT = pathlib.Path(__file__).resolve().parents[1]
FRAME = re.compile(r'File "([^"]+)", line (\d+)')
LONGEST = 300  # characters of an unexpected error's own words: a library's may be a page

ANOTHER_FOLDER = "name another folder (--output, --workdir, --config.data.prepared)"
MEANINGS = {  # error number -> what it means, and what to do
    errno.ENOSPC: ("the disk is full", f"free some space, or {ANOTHER_FOLDER}; what is finished is kept"),
    errno.EDQUOT: ("your quota of this disk is used up", f"delete something, or {ANOTHER_FOLDER}"),
    errno.EROFS: ("it lies on a disk that is read-only", ANOTHER_FOLDER),
    errno.EACCES: ("permission is denied", "have it granted, or name another place"),
    errno.EPERM: ("permission is denied", "have it granted, or name another place"),
    errno.EFBIG: (
        "the file is larger than this disk, or a limit of the shell, allows",
        f"raise the limit (ulimit -f), or {ANOTHER_FOLDER}",
    ),
    errno.EMFILE: ("too many files are open in this program", "raise the limit, such as by ulimit -n 4096"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs, and run the command again"),
    errno.ENOENT: ("there is no such file or folder", "see to it that it is there"),
    errno.EEXIST: ("a file or folder of this name is there already", "move it away, or name another place"),
    errno.ENOTDIR: ("a part of this path is a file where a folder is needed", "name another place"),
    errno.EISDIR: ("it is a folder where a file is needed", "move it away, or name another place"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "give the scan, or the folder, a shorter name"),
    errno.EIO: ("the disk reports an error", "look at the disk and at the system's log, and copy the data elsewhere"),
    errno.ESTALE: ("the network drive has lost it", "mount the drive again, and run the command again"),
    errno.EPIPE: ("whoever was to read it has ended", "run the command again without that program"),
    errno.ENOMEM: ("the memory is used up", "end other programs, or work on fewer scans at a time"),
}
TOLD_BY_LIBRARIES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG),
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE),
)
PATH = re.compile(r'"(/[^"]+)"|writing (/[^;]+)')  # as such a library's words hold it


class Mistake(Exception):
    """An unexpected error during the work on one case, in the words of `explain`."""


def is_users(error: BaseException) -> bool:
    """Whether an error is of a kind that a user's files, command line or machine can cause."""
    users = isinstance(error, (UserError, OSError, MemoryError))
    return users or _device_problem(error) is not None or _told_by_a_library(error) is not None


def exit_status(error: BaseException) -> int:
    """1 for what a user can put right, MISTAKE_STATUS for a mistake of ours."""
    return 1 if is_users(error) else MISTAKE_STATUS


def explain(error: BaseException) -> str:
    """What to tell of `error`, on one line unless it has several itself; its traceback is logged for debugging."""
    if error.__traceback__ is not None and not isinstance(error, Mistake):
        log.debug(f"{type(error).__name__}:", exc_info=error)
    if isinstance(error, (UserError, Mistake)):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError):
        return f"the memory is used up{f' ({error})' if str(error) else ''}; end other programs, or crop the scan"
    told = _told_by_a_library(error)
    return _of_system(told) if told else _device_problem(error) or _mistake(error)


def bare(error: Exception) -> Exception:
    """`error` without the frames that it came through, which hold a volume and its maps; a Mistake for one of ours.

    What is lost by it is logged for debugging.
    """
    said = explain(error)
    if not isinstance(error, Mistake) and not is_users(error):
        return Mistake(said)
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _of_system(error: OSError) -> str:
    if error.errno not in MEANINGS:
        return str(error) or type(error).__name__
    meaning, remedy = MEANINGS[error.errno]
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' and '.join(files)}: " if files else ""
    return f"{where}{meaning} ({error.strerror}); {remedy}"


def _told_by_a_library(error: BaseException) -> OSError | None:
    """The error of the system that a library raised as one of its own: Orbax, TensorStore and ArrayRecord do."""
    if not isinstance(error, (ValueError, RuntimeError)) or isinstance(error, UserError):
        return None
    said = str(error)
    for code in TOLD_BY_LIBRARIES:
        if os.strerror(code) in said:
            path = PATH.search(said)
            return OSError(code, os.strerror(code), path[1] or path[2] if path else None)
    return None


def _device_problem(error: BaseException) -> str | None:
    """What is said of an error of JAX that its device, not our program, is the cause of; else None."""
    if "jax" not in sys.modules or not isinstance(error, RuntimeError):  # the hall imports no JAX
        return None
    said = next(iter(str(error).splitlines()), "")
    if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and (
        "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower()
    ):
        return (
            f"the device's memory is used up ({said[:LONGEST]}); end other programs on it, or lower config.batch_size "
            "or set config.window.batch_size=1"
        )
    if "Unable to initialize backend" in said:
        return f"{said[:LONGEST]}; set JAX_PLATFORMS to a device that this machine has, such as cpu"
    return None


def _mistake(error: BaseException) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:LONGEST]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    place = _place(error)
    where = f" ({place})" if place else ""
    return f"a mistake of raunet_jax: {what}{where}; please report this line, and what --debug shows beside it"


def _place(error: BaseException) -> str:
    """file:line of the innermost frame of ours, or "" where there is none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    # an error that comes from another process brings that one's frames as text
    frames += [(file, int(line)) for file, line in FRAME.findall(str(error.__cause__ or ""))]
    for file, line in reversed(frames):
        path = pathlib.Path(file)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS:
            return f"{path.relative_to(ROOT).as_posix()}:{line}"
    return ""
