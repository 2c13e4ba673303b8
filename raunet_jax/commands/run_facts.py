"""What a run has learned so far, and how two runs differ; no accelerator is needed, and nothing is written."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.errors import FileError
from raunet_jax.files import read_json
from raunet_jax.run_folder import FoldFolder, RunFolder
from raunet_jax.saved_checkpoint import WEIGHTS, leaves_by_path, not_finite


def parameters_sha256(params: Mapping) -> str:
    """SHA-256 over each array's path, dtype, shape and bytes (little-endian, last axis fastest), sorted by path."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(params, sep="/").items()):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def inspect_run(workdir: pathlib.Path) -> dict:
    """What a run folder holds, of a stage or of a cascade; nothing is written, so that a run may still be going on.

    Returns:
        `workdir`, `name` and `recipe`; `total_parameters` of its networks; `scores`, those of scores.json but for the
        cases, or None; `parameters_sha256` of each fold's newest checkpoint; and `folds`. Both of these go by the
        fold's path in the run, `fold_0` or `coarse/fold_0`. A fold has its `metrics` (the lines of metrics.jsonl) and,
        or else None, of its newest checkpoint: `step`, `best_step`, `recipe_differences` from the run's recipe,
        `total_parameters`, `parameters_sha256`, `parameter_norm`, `module_norms` (Euclidean; None where not finite),
        `non_finite` (array of the state: how many of its values are not finite). `error` says why a checkpoint cannot
        be read, or why the newest was passed over for the one before.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: a line of a metrics.jsonl, or scores.json, is not JSON.
    """
    return _inspect_run(pathlib.Path(workdir))[0]


def _inspect_run(workdir: pathlib.Path) -> tuple[dict, dict[str, dict]]:
    """The facts about a run, and by fold the arrays of its newest checkpoint."""
    run = RunFolder(workdir)
    config = run.load_recipe()
    records, states, totals = {}, {}, {}
    for stage, folder in run.stages(config).items():
        for fold in folder.folds():
            name = fold.path.relative_to(workdir).as_posix()
            records[name], states[name] = _inspect_fold(fold, recipe.stages_of(config)[stage])
            totals[stage] = records[name]["total_parameters"] or totals.get(stage, 0)
    path = run.scores
    scores = read_json(path, "make it again with --mode=evaluate") if path.exists() else None
    facts = {
        "workdir": str(workdir),
        "name": config.name,
        "recipe": json.loads(recipe.to_json(config)),
        "total_parameters": sum(totals.values()),
        "scores": None if scores is None else {name: value for name, value in scores.items() if name != "cases"},
        "parameters_sha256": {name: record["parameters_sha256"] for name, record in records.items()},
        "folds": records,
    }
    return facts, states


def _inspect_fold(fold: FoldFolder, config: ConfigDict) -> tuple[dict, dict]:
    rows, wrong = fold.read_metrics()
    if wrong:
        raise next(iter(wrong.values()))
    record = {"metrics": rows}
    record |= dict.fromkeys(("step", "best_step", "recipe_differences", "total_parameters", "parameters_sha256"))
    record |= dict.fromkeys(("parameter_norm", "module_norms", "non_finite", "error"))
    with Checkpoints(fold.checkpoints) as checkpoints:

        def read(step: int) -> tuple[dict, ConfigDict]:
            state = checkpoints.restore_tree(step)
            if not state.keys() >= set(WEIGHTS):
                raise checkpoints.damaged(step, f"holds {', '.join(sorted(state))} and no {' or '.join(WEIGHTS)}")
            return state, checkpoints.recipe(step)

        try:
            found = checkpoints.read_newest(read)
        except FileError as error:
            return record | {"error": str(error)}, {}
        if found is None:
            return record, {}
        best, passed_over = checkpoints.best_step(), checkpoints.passed_over()
    step, (state, saved) = found
    if passed_over:
        record["error"] = f"damaged, and passed over for step {step}: {'; '.join(map(str, passed_over))}"
    modules = {name: _norm(module) for name, module in sorted(state["params"].items())}
    record |= {
        "step": step,
        "best_step": best,
        "recipe_differences": recipe.differences(config, saved),
        "total_parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "parameters_sha256": parameters_sha256(state["params"]),
        "parameter_norm": _finite(_norm(state["params"])),
        "module_norms": {name: _finite(norm) for name, norm in modules.items()},
        "non_finite": not_finite(state),
    }
    return record, state


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in leaves_by_path(tree).items()}


def _norm(tree: Any) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in _arrays(tree).values()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare(workdir: pathlib.Path, other: pathlib.Path) -> dict:
    """What differs between two runs, by their recipes, scores and newest checkpoints.

    Returns:
        `recipe`: field -> its [value here, value there], None where one has no such field; `scores`: the same for
        the values of scores.json; `only_here`, `only_there`: folds that the other has not; `folds`: for each fold of
        both, the pairs `step`, `loss`, `validation_dice` (of the last line of metrics.jsonl) and `parameters_sha256`,
        then `error` as above, `identical` (the whole training state, bit for bit; None where either has no checkpoint
        that can be read), `modules` and `batch_statistics`: module -> ||here - there|| / max(||here||, ||there||),
        None for one that the other lacks, or has in other shapes, or whose values are not finite.

    Raises as `inspect_run` does.
    """
    (here, states), (there, other_states) = (_inspect_run(pathlib.Path(path)) for path in (workdir, other))
    ours, theirs = here["folds"], there["folds"]
    return {
        "here": here["workdir"],
        "there": there["workdir"],
        "recipe": _different(here["recipe"], there["recipe"]),
        "scores": _different(here["scores"] or {}, there["scores"] or {}),
        "only_here": [name for name in ours if name not in theirs],
        "only_there": [name for name in theirs if name not in ours],
        "folds": {
            name: _compare_folds(ours[name], theirs[name], states[name], other_states[name])
            for name in ours
            if name in theirs
        },
    }


def _different(here: Mapping, there: Mapping) -> dict[str, list]:
    ours, theirs = flatten_dict(here, sep="."), flatten_dict(there, sep=".")
    names = sorted(ours.keys() | theirs.keys())
    return {name: [ours.get(name), theirs.get(name)] for name in names if ours.get(name) != theirs.get(name)}


def _compare_folds(here: dict, there: dict, state: dict, other_state: dict) -> dict:
    last = [record["metrics"][-1] if record["metrics"] else {} for record in (here, there)]
    facts = {name: [here[name], there[name]] for name in ("step", "parameters_sha256")}
    facts["error"] = "; ".join(record["error"] for record in (here, there) if record["error"]) or None
    facts |= {name: [row.get(name) for row in last] for name in ("loss", "validation_dice")}
    if not state or not other_state:
        return facts | {"identical": None, "modules": {}, "batch_statistics": {}}
    ours, theirs = _arrays(state), _arrays(other_state)
    return facts | {
        "identical": ours.keys() == theirs.keys() and all(_same_bits(ours[name], theirs[name]) for name in ours),
        "modules": _module_differences(state["params"], other_state["params"]),
        "batch_statistics": _module_differences(state["batch_stats"], other_state["batch_stats"]),
    }


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _module_differences(here: Mapping, there: Mapping) -> dict[str, float | None]:
    return {name: _relative_difference(here.get(name), there.get(name)) for name in sorted(here.keys() | there.keys())}


def _relative_difference(here: Any, there: Any) -> float | None:
    ours, theirs = _arrays(here), _arrays(there)
    if {name: array.shape for name, array in ours.items()} != {name: array.shape for name, array in theirs.items()}:
        return None
    apart = _norm({name: ours[name].astype(np.float64) - theirs[name] for name in ours})
    scale = max(_norm(ours), _norm(theirs))
    return _finite(apart / scale) if apart else 0.0
