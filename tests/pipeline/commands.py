"""run.py as a user starts it: a process of its own, in a folder of the user's."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"  # real scans, no part of the repository


def run(place, *arguments):
    command = [sys.executable, str(REPOSITORY / "run.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=place, env=os.environ, capture_output=True, text=True, timeout=900)


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
