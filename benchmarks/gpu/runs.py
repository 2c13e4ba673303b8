"""Jobs of a campaign that train through run.py, on drawn scans: how fast, and whether a killed run goes on exactly."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks.gpu.process import REHEARSAL_FLAGS, missing_for_run, say, wait_for_go

ROOT = pathlib.Path(__file__).resolve().parents[2]
EPOCH_KEYS = ("epoch", "loss", "validation_dice", "patches_per_second", "seconds")


def _environment(rehearse: bool, folder: pathlib.Path) -> dict:
    """A cache of compiled programs that the runs of a campaign share, as the runs of a user do."""
    ours = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    return os.environ | ours | ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": REHEARSAL_FLAGS} if rehearse else {})


def _command(rehearse: bool, prepared: pathlib.Path, epochs: int) -> list[str]:
    if rehearse:  # 2D compiles sooner
        recipe = ["configs/liver_coarse.py", "patch_size=(32,32,1)", "data.phantom_size=(64,64,24)"]
        recipe += ["network.width=4", "precision=float32", "data.patches_per_case=4.0", "data.cases=3"]
    else:
        recipe = ["configs/liver_voi.py", "patch_size=(64,64,32)", "data.phantom_size=(128,128,48)"]
        recipe += ["network.width=32", "precision=bfloat16", "data.patches_per_case=8.0", "data.cases=6"]
    recipe += ["data.source=phantom", "data.folds=3", "folds=(0,)", "batch_size=4", "network.momentum=0.8"]
    recipe += [f"data.prepared={prepared}", f"epochs={epochs}"]
    return [sys.executable, str(ROOT / "run.py"), f"--config={recipe[0]}", *(f"--config.{one}" for one in recipe[1:])]


def train(job, rehearse, folder):
    """A short training through run.py, if its packages are there: its epochs and patches/s."""
    missing = missing_for_run()
    if missing:
        say(skipped=f"missing: {', '.join(missing)}")
        return
    place = pathlib.Path(tempfile.mkdtemp(dir=folder))
    wait_for_go()
    begin = time.perf_counter()
    done = subprocess.run(
        [*_command(rehearse, folder / "prepared", 2 if rehearse else 6), f"--workdir={place}/run"],
        env=_environment(rehearse, folder),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    answer = {"seconds": time.perf_counter() - begin, "status": done.returncode}
    answer["said"] = [line for line in done.stderr.splitlines() if "first step" in line or "error" in line][-4:]
    answer["epochs"] = _epochs(place / "run")
    if done.returncode:
        answer["error"] = f"run.py ended with status {done.returncode}: {done.stderr[-300:]}"
    say(**answer)
    shutil.rmtree(place, ignore_errors=True)


def resume(job, rehearse, folder):
    """A run killed by SIGKILL after its first checkpoint and gone on with, beside one that nothing disturbed.

    Says whether metrics and final training states are the same bit for bit, and else how far apart they are.
    """
    missing = missing_for_run()
    if missing:
        say(skipped=f"missing: {', '.join(missing)}")
        return
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which only reads checkpoints
    command = _command(rehearse, folder / "prepared", 3 if rehearse else 4)
    if job["deterministic"]:
        command.append("--config.deterministic=True")
    place = pathlib.Path(tempfile.mkdtemp(dir=folder))
    environment = _environment(rehearse, folder)
    whole, killed = place / "whole", place / "killed"
    _finish(command, whole, environment)
    at_step = _kill_after_a_checkpoint(command, killed, environment)
    _finish(command, killed, environment)
    say(killed_after_step=at_step, **compared(whole, killed))
    shutil.rmtree(place, ignore_errors=True)


def _finish(command: list[str], workdir: pathlib.Path, environment: dict) -> None:
    done = subprocess.run([*command, f"--workdir={workdir}"], env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"run.py ended with status {done.returncode}: {done.stderr[-300:]}")


def _kill_after_a_checkpoint(command: list[str], workdir: pathlib.Path, environment: dict) -> int:
    """The step of the newest checkpoint when run.py was killed. Raises RuntimeError if it had ended by then."""
    log = workdir.with_suffix(".log")
    checkpoints = workdir / "fold_0" / "checkpoints"
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}"], env=environment, stdout=said, stderr=said, cwd=ROOT
        )
    while process.poll() is None:
        steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
        if steps:
            process.kill()
            process.wait()
            return max(steps)
        time.sleep(0.02)
    raise RuntimeError(f"run.py ended with status {process.returncode} before it was killed: {log.read_text()[-300:]}")


def compared(whole: pathlib.Path, killed: pathlib.Path) -> dict:
    """What differs between two runs of one recipe: their epochs' losses and Dice, and their last training states.

    `same_epochs` and `same_bits` of these; `largest_loss_difference` over the epochs, None where they have not as many;
    `largest_weight_difference`: of a module's parameters, the norm of the difference over the norm.
    """
    from raunet_jax.commands.run_facts import compare

    ours, theirs = ([[row["loss"], row["validation_dice"]] for row in _epochs(workdir)] for workdir in (whole, killed))
    apart = None
    if ours and len(ours) == len(theirs):
        apart = max(abs(one[0] - other[0]) for one, other in zip(ours, theirs, strict=True))
    fold = compare(whole, killed)["folds"]["fold_0"]
    modules = [value for value in fold["modules"].values() if value is not None]
    return {
        "epochs": len(ours),
        "same_epochs": ours == theirs,
        "same_bits": fold["identical"],
        "largest_loss_difference": apart,
        "largest_weight_difference": max(modules, default=None),
        "losses": [ours, theirs],
    }


def _epochs(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "fold_0" / "metrics.jsonl"
    if not path.is_file():
        return []
    return [{key: row[key] for key in EPOCH_KEYS} for row in map(json.loads, path.read_text().splitlines())]
