"""One process at a time in a folder: who holds it is said, and a kill gives it back."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from raunet_jax import locks

HOLD = "import pathlib, sys, time\nfrom raunet_jax import locks\nwith locks.alone(pathlib.Path(sys.argv[1]), print):\n"


class Taken(Exception):
    pass


def refuse(holder):
    raise Taken(holder)


def held_by_another(folder):
    code = f"{HOLD}    print('held', flush=True)\n    time.sleep(600)\n"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_has_the_folder_until_that_one_is_killed(tmp_path):
    with held_by_another(tmp_path / "run") as process:
        try:
            with pytest.raises(Taken) as taken, locks.alone(tmp_path / "run", refuse):
                pass
            assert str(taken.value) == f"process {process.pid} on {socket.gethostname()}"
        finally:
            process.send_signal(signal.SIGKILL)
    with locks.alone(tmp_path / "run", refuse):
        assert (tmp_path / "run" / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_processes_that_the_holder_starts_do_not_keep_the_folder(tmp_path):
    with locks.alone(tmp_path, refuse):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child, locks.alone(tmp_path, refuse):
        child.stdin.close()


def test_a_process_that_is_to_hold_it_too_does_so_until_its_own_end(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with locks.alone(tmp_path, refuse) as lock:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock])
    with child:
        with pytest.raises(Taken), locks.alone(tmp_path, refuse):
            pass
        child.stdin.close()
    with locks.alone(tmp_path, refuse):
        pass


def test_a_disk_without_locks_is_used_all_the_same_and_it_is_said(tmp_path, monkeypatch, capsys):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with locks.alone(tmp_path, refuse):
        pass
    assert f"{tmp_path}: this disk has no locks (No locks available); see to it" in capsys.readouterr().err
