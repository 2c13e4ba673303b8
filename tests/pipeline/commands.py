"""run.py as a user starts it: a process of its own, in a folder of the user's."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"  # real scans, no part of the repository


def command(arguments):
    return [sys.executable, str(REPOSITORY / "run.py"), *map(str, arguments)]


def run(place, *arguments):
    return subprocess.run(command(arguments), cwd=place, env=os.environ, capture_output=True, text=True, timeout=900)


def start(place, *arguments):
    """The process, whose standard error is a pipe."""
    return subprocess.Popen(
        command(arguments), cwd=place, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def succeed(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def read_json(path):
    return strict_json(path.read_text())


def checksums(place, workdir):
    return strict_json(succeed(place, "--mode=inspect", f"--workdir={workdir}", "--json").stdout)["parameters_sha256"]
