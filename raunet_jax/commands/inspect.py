"""What a recipe's networks are made of, what a run has learned so far, how two runs differ; no accelerator needed."""

import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend import core
from ml_collections import ConfigDict

from data_prep.planning import plan
from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.commands import inspection_tables
from raunet_jax.commands.request import Request
from raunet_jax.networks.raunet import image_shape, make_network
from raunet_jax.training.losses import dice_loss

FLOAT_BYTES = 4  # parameters, Adam's moments and batch statistics are float32 whatever the activations are


def inspect_recipe(config: ConfigDict) -> dict:
    """What the networks of a recipe are made of and cost, by tracing alone: nothing is compiled or computed.

    Returns, for a stage's recipe:
        `parameters`: a dict an array: `name` (module/.../array), `shape`, `dtype`, `count`; `total_parameters` and
        `batch_statistics`, their numbers; `forward_gflop`, of the convolutions and matrix products of one patch, a
        multiplication and an addition counted as two, in the form this platform runs; `activation_megabytes`, what
        one patch of training keeps for the backward pass, before XLA fuses any of it; `state_megabytes`, of
        parameters, their gradients, Adam's two moments and the batch statistics; and `name`, `stage`, `patch_size`
        (x, y, z), `batch_size` from the recipe.
    For a cascade: `name`, `total_parameters` of all its networks, and these by stage under `stages`.

    Raises:
        ValueError: no network can have the recipe's patch size, width or precision.
    """
    stages = {stage: _inspect_network(part) for stage, part in recipe.stages_of(config).items()}
    if "stages" not in config:
        return stages[config.stage]
    total = sum(part["total_parameters"] for part in stages.values())
    return {"name": config.name, "total_parameters": total, "stages": stages}


def _inspect_network(config: ConfigDict) -> dict:
    network, shape = make_network(config), image_shape(config)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    # Flax's init runs the network forward, and what it draws the parameters with takes no convolution or product.
    forward, variables = jax.make_jaxpr(network.init, return_shape=True)(jax.random.key(0), image)
    arrays = sorted(flatten_dict(variables["params"], sep="/").items())
    parameters = [
        {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "count": leaf.size} for name, leaf in arrays
    ]
    total = sum(row["count"] for row in parameters)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))

    def saved_for_backward(params, batch_stats, image, mask):
        def loss(params):
            inputs = {"params": params, "batch_stats": batch_stats}
            logits, _ = network.apply(inputs, image, train=True, mutable=["batch_stats"])
            return dice_loss(jax.nn.sigmoid(logits), mask, config.loss_per_sample)

        return jax.vjp(loss, params)[1]  # a pytree that holds what the backward pass will read

    mask = jax.ShapeDtypeStruct((1, *shape[:-1], 1), jnp.float32)
    saved = jax.eval_shape(saved_for_backward, variables["params"], variables["batch_stats"], image, mask)
    saved_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved)) - FLOAT_BYTES * total
    return {
        "name": config.name,
        "stage": config.stage,
        "patch_size": list(config.patch_size),
        "batch_size": config.batch_size,
        "parameters": parameters,
        "total_parameters": total,
        "batch_statistics": statistics,
        "forward_gflop": count_flop(forward.jaxpr) / 1e9,
        "activation_megabytes": saved_bytes / 1e6,
        "state_megabytes": FLOAT_BYTES * (4 * total + statistics) / 1e6,
    }


def count_flop(jaxpr: core.Jaxpr) -> int:
    """Operations of the convolutions and matrix products of a traced function, products and sums counted apart.

    A loop's body counts once, however often it runs; the networks have no loop. XLA's own count would need a backend
    that offers one before it compiles, and CUDA's does not.
    """
    total = sum(count_flop(inner) for inner in core.subjaxprs(jaxpr))
    for equation in jaxpr.eqns:
        outputs = math.prod(equation.outvars[0].aval.shape)
        left, right = (invar.aval.shape for invar in equation.invars[:2]) if len(equation.invars) > 1 else ((), ())
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            # Of a kernel's axes all but the one of output channels are summed over.
            features = right[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * outputs * math.prod(right) // features
    return total


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
        be read.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: a line of a metrics.jsonl, or scores.json, is not JSON.
    """
    return _inspect_run(pathlib.Path(workdir))[0]


def _inspect_run(workdir: pathlib.Path) -> tuple[dict, dict[str, dict]]:
    """The facts about a run, and by fold the arrays of its newest checkpoint."""
    config = recipe.load(workdir / "config.json")
    records, states, totals = {}, {}, {}
    for stage, part in recipe.stages_of(config).items():
        prefix = f"{stage}/" if "stages" in config else ""
        folders = (path for path in (workdir / prefix).glob("fold_*") if re.fullmatch(r"fold_\d+", path.name))
        for folder in sorted(folders, key=lambda path: int(path.name.removeprefix("fold_"))):
            name = prefix + folder.name
            records[name], states[name] = _inspect_fold(folder, part)
            totals[stage] = records[name]["total_parameters"] or totals.get(stage, 0)
    path = workdir / "scores.json"
    scores = _read_json(path, path.read_text(encoding="utf-8")) if path.is_file() else None
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


def _inspect_fold(folder: pathlib.Path, config: ConfigDict) -> tuple[dict, dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    record = {"metrics": [_read_json(f"{path}: line {number}", line) for number, line in enumerate(lines, start=1)]}
    record |= dict.fromkeys(("step", "best_step", "recipe_differences", "total_parameters", "parameters_sha256"))
    record |= dict.fromkeys(("parameter_norm", "module_norms", "non_finite", "error"))
    if not (folder / "checkpoints").is_dir():  # Orbax's manager would make the folder
        return record, {}
    try:
        with Checkpoints(folder / "checkpoints") as checkpoints:
            step, best = checkpoints.newest_step(), checkpoints.best_step()
            if step is None:
                return record, {}
            state = checkpoints.restore_tree(step)
            saved = checkpoints.recipe(step)
    except Exception as error:  # what a damaged file makes Orbax and TensorStore raise is no fixed set
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no reason given')}"
        record["error"] = (
            f"{folder / 'checkpoints'}: the newest checkpoint cannot be read ({reason}); delete its folder "
            f"to go on from an older one"
        )
        return record, {}
    modules = {name: _norm(module) for name, module in sorted(state["params"].items())}
    record |= {
        "step": step,
        "best_step": best,
        "recipe_differences": recipe.differences(config, saved),
        "total_parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "parameters_sha256": parameters_sha256(state["params"]),
        "parameter_norm": _finite(_norm(state["params"])),
        "module_norms": {name: _finite(norm) for name, norm in modules.items()},
        "non_finite": dict(_non_finite(state)),
    }
    return record, state


def _read_json(where: str | pathlib.Path, text: str) -> Any:
    """Parsed JSON; NaN and infinity, which strict JSON has not, become None."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}); delete it, then inspect again") from None


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _norm(tree: Any) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in _arrays(tree).values()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _non_finite(state: Mapping) -> Iterator[tuple[str, int]]:
    for name, array in _arrays(state).items():
        # The plateau's best loss is infinite, by rights, until the first epoch's end.
        bad = np.isnan(array) if name.endswith("/best_value") else ~np.isfinite(array)
        if count := int(np.count_nonzero(bad)):
            yield name, count


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


def run(request: Request) -> int:
    config = request.config and plan(request.config)
    return main(config, request.workdir, request.compare or None, request.json)


def main(
    config: ConfigDict | None,
    workdir: pathlib.Path | None = None,
    other: pathlib.Path | None = None,
    as_json: bool = False,
) -> int:
    """Print, as tables or as JSON, what a run holds, or what differs from `other`, or without a run, the recipe.

    Returns the exit status: 1 where a checkpoint cannot be read or holds a value that is not finite, otherwise 0.
    """
    if workdir is None and other is not None:
        raise ValueError("--compare is given but no run to compare with it; name one with --workdir")
    if workdir is None and config is None:
        raise ValueError(
            "nothing to inspect; name a recipe, such as --config=configs/liver.py, or a run with --workdir"
        )
    if workdir is None:
        facts, show = inspect_recipe(config), inspection_tables.show_recipe
    elif other is None:
        facts, show = inspect_run(workdir), inspection_tables.show_run
    else:
        facts, show = compare(workdir, other), inspection_tables.show_comparison
    if as_json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        show(facts)
    return 1 if any(fold["error"] or fold.get("non_finite") for fold in facts.get("folds", {}).values()) else 0
