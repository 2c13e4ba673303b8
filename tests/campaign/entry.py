"""What a child process of a campaign does: run.py's own `main`, with its output in a file, and what is put on it."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from unittest import mock

from absl import app
from absl.testing import flagsaver

LIVER_HU, TUMOR_HU = (85, 165), (140, 165)  # what the rules find
PR_SET_PDEATHSIG = 1
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def start(
    arguments: Sequence[str],
    place: str,
    log: str,
    stand_in: str = "",
    limits: Mapping[int, int] | None = None,
    locked: bool = False,
) -> None:
    """In a child: run.py with `arguments` in the folder `place`; leaves by SystemExit with its exit status.

    Args:
        log: file that takes both standard outputs.
        stand_in: see `stand_ins`.
        limits: soft limits by RLIMIT constant.
        locked: whether permissions of files count although the user is root.
    """
    import run

    os.setsid()  # a group of its own, so that it can be told whether any process of it is left
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # with the campaign
    os.chdir(place)
    _write_into(log, apart=bool(limits))
    for kind, value in (limits or {}).items():
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    if locked:
        _obey_permissions()
    for patch in stand_ins(stand_in):
        patch.start()
    sys.argv = ["run.py", *arguments]  # where the fields of a recipe are looked for
    app.run(run.main, flags_parser=run.parse)


def answer(connection) -> None:
    """In a child that stays: run.py for each (arguments, place, log, stand_in) that comes; sends the exit statuses."""
    import run

    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        arguments, place, log, stand_in = connection.recv()
        os.chdir(place)
        _write_into(log)
        patches = stand_ins(stand_in)
        for patch in patches:
            patch.start()
        sys.argv = ["run.py", *arguments]
        try:
            with flagsaver.flagsaver():
                status = run.main(run.parse(sys.argv))
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
            print(left.code, file=sys.stderr)
        except Exception:
            traceback.print_exc()
            status = 1
        for patch in patches:
            patch.stop()
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(int(status or 0))


def stand_ins(what: str) -> list:
    """What stands in for trained networks: patches, to be started and stopped.

    "liver": predict's cascade follows rules of HU (`tests.exact_models`), and makes no pages; "organ", "brain": a
    network that sees the whole volume does. "small": train trains two layers. "": nothing.
    """
    from raunet_jax.commands import predict
    from raunet_jax.inference import cascade
    from raunet_jax.report import prediction_page
    from raunet_jax.training import fold_run
    from tests import exact_models, small_network

    if what in ("", "small"):
        make = fold_run.make_network if not what else small_network.make_small_network
        return [mock.patch.object(fold_run, "make_network", make)]
    liver, tumor = exact_models.rule(LIVER_HU), exact_models.rule(TUMOR_HU)
    models = {name: exact_models.model(name, liver) for name in ("coarse", "voi")}
    models["tumor"] = exact_models.model("tumor", tumor)
    if what == "organ":
        models = {"custom": exact_models.model("voi", liver)}
        models["custom"].config.stage = "custom"
    if what == "brain":
        models = {"brain": exact_models.model("brain")}
    return [
        mock.patch.object(cascade, "make_forward", exact_models.rule_forward),
        mock.patch.object(predict, "load_cascade", lambda *_, **__: models),
        mock.patch.object(prediction_page, "write_prediction_page", lambda *_, **__: None),
    ]


def _write_into(log: str, apart: bool = False) -> None:
    """Let both standard outputs go into a file; `apart`: by another process, whose file no limit of this one cuts."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if apart:
        writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file, start_new_session=True)
        os.close(file)
        file = os.dup(writer.stdin.fileno())
        writer.stdin.close()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    # Python's own remember whether what they wrote to when the process began could be positioned.
    sys.stdout, sys.stderr = (
        open(number, "w", buffering=1, closefd=False, errors=errors)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )


def _obey_permissions() -> None:
    """Give up what lets root read everything."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits
    if libc.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")
