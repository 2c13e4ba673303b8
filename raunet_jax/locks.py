"""A folder that one process at a time may write in."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

log = logging.getLogger("raunet_jax")

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def alone(folder: pathlib.Path, taken: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock of `folder`, which is made; the system drops the lock when its holder dies.

    Yields the open file: a process that is started with it (`pass_fds`) holds the lock too, until it ends.

    Args:
        taken: called with "process 17 on HOST", the holder, where another process has the lock: it raises, or returns
            for this process to wait.

    A file system that has no locks is used without, and this is said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8", errors="replace") as file:
        try:
            _take(file, taken)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            log.warning(
                f"{folder}: this disk has no locks ({error.strerror}); see to it that no other process writes there"
            )
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its holder's name
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield file.fileno()


def _take(file, taken: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        taken(_holder(file))
        fcntl.flock(file, fcntl.LOCK_EX)


def _holder(file) -> str:
    with contextlib.suppress(OSError):  # on a disk of Windows a locked file cannot be read
        file.seek(0)
        return file.readline().strip() or "another process"
    return "another process"
