"""What is said of an error, whose it is, and what the program's exit status then is."""

import errno
import logging
import os
import pathlib
import subprocess
import sys

import pytest

import run
from raunet_jax import commands, disk, failures, files, signals
from raunet_jax.errors import FileError, UserError

ROOT = pathlib.Path(__file__).parents[1]


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "/out/a.nii.gz: the disk is full (No space left on device); free some space"),
        (errno.EROFS, "/out/a.nii.gz: it lies on a disk that is read-only (Read-only file system); name another"),
        (errno.EDQUOT, "/out/a.nii.gz: your quota of this disk is used up (Disk quota exceeded); delete"),
        (errno.EMFILE, "/out/a.nii.gz: too many files are open in this program (Too many open files); raise the limit"),
    ],
)
def test_an_error_of_the_system_names_the_file_what_it_means_and_the_remedy(code, words):
    error = OSError(code, os.strerror(code), "/out/a.nii.gz")
    assert failures.explain(error).startswith(words) and "Errno" not in failures.explain(error)
    assert failures.is_users(error) and failures.exit_status(error) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError(
            'RESOURCE_EXHAUSTED: Error writing "params.a/0" in OCDBT database at local file "/r/checkpoints/5/": '
            "Failed to write 27 bytes to file 11: No space left on device [os_error_code='28']"
        ),
        RuntimeError("write() failed: No space left on device; writing /r/checkpoints/5/; at byte 1048576"),
    ],
)
def test_a_full_disk_is_known_in_the_words_of_orbax_and_arrayrecord(error):
    assert failures.explain(error).startswith("/r/checkpoints/5/: the disk is full (No space left on device); free")
    assert failures.exit_status(error) == 1


def test_the_devices_memory_is_the_users_and_another_error_of_jax_is_ours():
    from jax.errors import JaxRuntimeError

    full = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
    assert failures.explain(full).startswith("the device's memory is used up (RESOURCE_EXHAUSTED: Out of memory all")
    assert "config.batch_size" in failures.explain(full) and failures.exit_status(full) == 1
    assert failures.exit_status(JaxRuntimeError("INVALID_ARGUMENT: shapes differ")) == 70


def test_what_a_user_can_put_right_is_said_as_it_is():
    assert (
        failures.explain(FileError("/a.nii", "it is empty", "export it again"))
        == "/a.nii: it is empty; export it again."
    )
    assert failures.explain(MemoryError()).startswith("the memory is used up; ")
    assert failures.is_users(UserError("x")) and not failures.is_users(ValueError("x"))


def test_a_mistake_of_ours_names_the_innermost_line_of_ours():
    """`files.write_json` raises where json does; the line is that of its call of json."""
    with pytest.raises(ValueError) as info:
        files.write_json("/nowhere/x.json", float("nan"))
    (line,) = [
        number
        for number, text in enumerate((ROOT / "raunet_jax" / "files.py").read_text().splitlines(), start=1)
        if "allow_nan=False" in text
    ]
    said = failures.explain(info.value)
    assert said.startswith("a mistake of raunet_jax: ValueError: Out of range float values are not JSON compliant")
    assert f"(raunet_jax/files.py:{line}); please report this line" in said and "\n" not in said


def ended(monkeypatch, capsys, work):
    """Exit status and standard error of run.py where the mode's function is `work`."""
    monkeypatch.setattr(commands, "load", lambda mode, listing: work)
    monkeypatch.setenv("RAUNET_JAX_DEBUG", "")
    run.flags.FLAGS(["run.py"])
    status = run.main(["run.py"])
    return status, capsys.readouterr().err


def raising(error):
    def work(request):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("config.epochs is 0"), 1, "error: config.epochs is 0\n"),
        (OSError(errno.EROFS, "Read-only file system", "/r"), 1, "error: /r: it lies on a disk that is read-only"),
        (MemoryError(), 1, "error: the memory is used up"),
        (KeyError("depth"), 70, "error: a mistake of raunet_jax: KeyError: 'depth' (run.py:"),
        (ValueError("no"), 70, "error: a mistake of raunet_jax: ValueError: no (run.py:"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from what is finished\n"),
    ],
)
def test_how_the_program_ends(monkeypatch, capsys, error, status, said):
    ended_with, err = ended(monkeypatch, capsys, raising(error))
    assert ended_with == status and err.startswith(said) and "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr(commands, "load", lambda mode, listing: raising(KeyError("depth")))
    monkeypatch.setenv("RAUNET_JAX_DEBUG", "")
    run.flags.FLAGS(["run.py", "--debug"])
    try:
        assert run.main(["run.py"]) == 70
    finally:
        run.flags.FLAGS(["run.py", "--nodebug"])
        logging.getLogger("raunet_jax").setLevel(logging.INFO)
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and "error: a mistake of raunet_jax: KeyError" in err


def test_sigterm_ends_every_mode_with_143_and_leaves_no_temporary_file(monkeypatch, capsys, tmp_path):
    def work(request):
        with files.replacing(tmp_path / "summary.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signals.signal.SIGTERM)
            for _ in range(1000):
                pass

    status, err = ended(monkeypatch, capsys, work)
    assert status == 143 and err == "stopped by SIGTERM; the same command goes on from what is finished\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("signal", "status", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "interrupted")]
)
def test_a_signal_during_the_imports_ends_without_a_traceback(signal, status, said):
    code = (
        "import importlib.abc, os, runpy, signal, sys\n"
        "class Hook(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'absl': os.kill(os.getpid(), signal.{signal})\n"
        "sys.meta_path.insert(0, Hook())\n"
        f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')\n"
    )
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as after the restart
    environment = os.environ | tunables | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == status and done.stderr == "interrupted\n"


def test_a_temporary_file_of_a_dead_process_goes_with_the_next_file_and_a_living_ones_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = disk.temporary(tmp_path / "a.json").name
    number, machine = mine.split(".")[1].split("-")
    assert number == str(os.getpid())
    left = tmp_path / f".{dead.pid}-{machine}.a_seg.nii.gz"
    living, elsewhere = tmp_path / f".{os.getppid()}-{machine}.b.json", tmp_path / f".{dead.pid}-000000.c.json"
    ours, old = tmp_path / ".lock", tmp_path / ".1-000000.d.json"
    for path in (left, living, elsewhere, ours, old):
        path.write_text("half")
    os.utime(old, (0, 0))
    files.write_text(tmp_path / "e.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {living.name, elsewhere.name, ".lock", "e.txt"}


def test_an_error_in_writing_a_file_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(OSError) as info, files.replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failures.explain(info.value).startswith(f"{tmp_path}/a.json: the disk is full")


def test_a_place_that_cannot_be_written_is_said_before_anything_is_made(tmp_path, monkeypatch):
    disk.check_writable(tmp_path / "not" / "yet", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"{tmp_path}/file: it is a file, and --output needs a folder"):
        disk.check_writable(tmp_path / "file" / "masks", "--output")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"--output cannot be written in: {tmp_path}/masks: the disk is full"):
        disk.check_writable(tmp_path / "masks", "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
