"""A recipe as saved in run folders and checkpoints, and the stages of a cascade."""

import json
import math
import os
import pathlib
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from configs import common
from configs.liver import OF_A_STAGE
from raunet_jax.errors import FileError, NotFound
from raunet_jax.tasks import stage_names, stage_of

# Fields, or groups of them, with another value of which a run may go on: its name, how long and how fast it is trained,
# which folds, what is made of the network's answers, where things lie, how many processes work, and how it is computed.
# Every other field, a new one too, says what a trained network and its patches are made of.
CHANGEABLE_FIELDS = (
    "name epochs learning_rate plateau_patience loss_per_sample folds folds_at_once checkpoint_minutes "
    "window threshold vote data.root data.prepared data.workers data.on_leak network.lowering network.remat "
    "deterministic"
).split()
RENAMED_FIELDS = {"voi": "liver_source", "data.tumor_share": "data.foreground_fraction"}
# What every version has saved of a stage; other fields joined later, and a recipe without them has their defaults.
ALWAYS_SAVED = (
    "name stage seed patch_size window_hu box_margin batch_size epochs folds threshold vote data.source "
    "data.modalities data.folds network.width network.momentum window.step"
).split()
SIDES = ("patch_size", "step", "phantom_size", "window_hu")  # as many values as by default
RENAMED_REWRITES = {
    "turn": "matmul_transpose",
    "pack": "pack_width",
    "taps": "shift_and_matmul",
    "neighbours": "im2col_kernel_grad",
    "pairs": "pairwise_max_pool",
    "tree": "tree_sum",
}

_REMEDY = "put back the file as it was, from a copy of the run or of its fold_K/config.json"
_NEWER = "use the version of this program that wrote it"


def to_json(config: ConfigDict) -> str:
    return config.to_json(indent=2, sort_keys=True)


def from_json(text: str, where: str | os.PathLike = "the saved recipe") -> ConfigDict:
    """A recipe saved by `to_json`, by this version or an earlier one.

    Fields that there were none of then have the value that changes nothing; those of another name then have today's.

    Raises:
        FileError: `where`, the file it stands in, holds none, or has a field that this version does not know.
    """
    try:
        saved = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(where, f"holds no recipe ({error})", _REMEDY) from None
    if not isinstance(saved, dict):
        raise FileError(where, f"holds {type(saved).__name__} in place of a recipe", _REMEDY)
    if "stages" not in saved:
        return _stage_recipe(saved, where)
    stages = saved["stages"]
    if not isinstance(stages, dict) or not stages or not all(isinstance(stage, dict) for stage in stages.values()):
        raise FileError(where, "stages does not hold a recipe a stage", _REMEDY)
    shared = _renamed({name: value for name, value in saved.items() if name != "stages"}, where)
    _check_fields(shared, common.get_config().to_dict(), where)
    _check_there(shared, ("name", "seed", "data", "folds"), where)
    config = ConfigDict(_tuples(shared) | {"stages": {}})
    for name, stage in stages.items():
        if name not in stage_names():
            raise FileError(where, f"stages.{name} is no stage of this version ({', '.join(stage_names())})", _NEWER)
        config.stages[name] = _stage_recipe(stage, where, f"stages.{name}.")
    return config


def _stage_recipe(saved: dict, where: str | os.PathLike, prefix: str = "") -> ConfigDict:
    """The recipe of one stage: what was saved, over the defaults of the fields that were not."""
    config = common.get_config().unlock()
    saved = _renamed(saved, where)
    _check_fields(saved, config.to_dict(), where, prefix)
    _check_there(saved, ALWAYS_SAVED, where, prefix)
    if saved["stage"] and saved["stage"] not in stage_names():
        names = ", ".join(stage_names())
        raise FileError(where, f"{prefix}stage is {saved['stage']!r}, none of this version's ({names})", _NEWER)
    with config.ignore_type():
        config.update(_tuples(saved))
    return config


def _check_fields(saved: Mapping, defaults: Mapping, where: str | os.PathLike, prefix: str = "") -> None:
    """Raise FileError for a field that there is none of among `defaults`, or a value of another kind than is there."""
    for name, value in saved.items():
        field = prefix + name
        if name not in defaults:
            raise FileError(where, f"has the field {field}, which this version does not know", _NEWER)
        if isinstance(defaults[name], dict) and isinstance(value, dict):
            _check_fields(value, defaults[name], where, f"{field}.")
        elif not _like(value, defaults[name]) or (name in SIDES and len(value) != len(defaults[name])):
            raise FileError(where, f"{field} is {value!r}, where {defaults[name]!r} is a value it can have", _REMEDY)


def _check_there(saved: Mapping, fields: tuple[str, ...] | list[str], where, prefix: str = "") -> None:
    for field in fields:
        value = saved
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            raise FileError(where, f"lacks the field {prefix}{field}", _REMEDY)


def _like(value, default) -> bool:
    """Whether a value from JSON is of the same kind as a field's default; one number is as good as another."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    if isinstance(default, tuple):
        kinds = default or ("", 0)
        return isinstance(value, list) and all(any(_like(part, kind) for kind in kinds) for part in value)
    return isinstance(value, type(default))


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value


def _renamed(saved: dict, where: str | os.PathLike) -> dict:
    """With today's names in place of an earlier version's."""
    for group in ("data", "network"):
        if not isinstance(saved.get(group, {}), dict):
            raise FileError(where, f"{group} is {saved[group]!r}, where a group of fields is expected", _REMEDY)
    saved = {name: dict(value) if isinstance(value, dict) else value for name, value in saved.items()}
    for old, new in RENAMED_FIELDS.items():
        *groups, leaf = old.split(".")
        values = saved.get(groups[0], {}) if groups else saved
        if leaf in values:
            values[new.split(".")[-1]] = values.pop(leaf)
    if "network" in saved and "lowering" in saved["network"]:
        names = str(saved["network"]["lowering"]).split(",")
        saved["network"]["lowering"] = ",".join(RENAMED_REWRITES.get(name, name) for name in names)
    return saved


def load(path: pathlib.Path) -> ConfigDict:
    """The recipe saved as `path`, a run folder's config.json; FileNotFoundError says what to do when there is none."""
    if not path.is_file():
        raise NotFound(f"{path} is missing: this is not a run folder. Train one first, or name another --workdir")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(path, f"cannot be read ({error})", _REMEDY) from error
    return from_json(text, path)


def linked(config: ConfigDict) -> ConfigDict:
    """The recipe, saved once, where what is set on a cascade is read by every stage again, as in `configs/liver.py`."""
    if not is_cascade(config):
        return config
    config = config.copy_and_resolve_references().unlock()
    for field, value in common.get_config().data.items():
        if field not in config.data and field not in OF_A_STAGE:  # there was no such field then
            config.data[field] = value
    if "deterministic" not in config:  # likewise
        config.deterministic = common.get_config().deterministic
    for stage in config.stages.values():
        for field in config.data:
            stage.data[field] = config.data.get_ref(field)
        for field in config:
            if field not in ("data", "stages", "name") and stage.get(field) == config[field]:
                stage[field] = config.get_ref(field)
    return config.lock()


def crops_around_predicted_liver(stage: ConfigDict) -> bool:
    """Whether a stage's patches are cropped around the livers that the stages before find in cases they never saw.

    That is what `liver_source` asks for; without all folds it cannot be done.
    """
    return wants_predicted_liver(stage) and set(stage.folds) >= set(range(stage.data.folds))


def wants_predicted_liver(stage: ConfigDict) -> bool:
    """Whether `liver_source`, which a stage reads that crops patches around liver, is anything but the reference."""
    row = stage_of(stage.stage)
    return row.region == "liver box" and row.sampler == "centered" and stage.liver_source != "reference"


def is_cascade(config: ConfigDict) -> bool:
    """Whether the recipe is of several stages, each with a recipe of its own in `config.stages`."""
    return "stages" in config


def stages_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """A cascade's recipes by stage, in the order they run; a single recipe is a cascade of one."""
    if not is_cascade(config):
        return {config.stage: config}
    return {name: config.stages[name] for name in stage_names() if name in config.stages}


def with_stages(config: ConfigDict, names: Collection[str]) -> ConfigDict:
    """A copy of a cascade's recipe that has only the stages `names`."""
    config = config.copy_and_resolve_references()
    with config.stages.unlocked():
        for name in set(config.stages) - set(names):
            del config.stages[name]
    return config


def last_stage(config: ConfigDict) -> ConfigDict:
    """The recipe of the stage that runs last, whose labels are a cascade's answer."""
    return list(stages_of(config).values())[-1]


def differences(one: ConfigDict, other: ConfigDict) -> list[str]:
    """`field: value in one, value in other` for each field in which two stage recipes differ and may not."""
    ours, theirs = (_fixed(config) for config in (one, other))
    return [
        f"{name}: {ours.get(name)!r}, {theirs.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _fixed(config: ConfigDict) -> Mapping:
    """The values of the fields that may not change, by their dotted names."""
    from flax.traverse_util import flatten_dict  # Flax imports JAX, which takes a second

    changeable = tuple(f"{field}." for field in CHANGEABLE_FIELDS)
    values = flatten_dict(config.to_dict(), sep=".")
    return {name: value for name, value in values.items() if not f"{name}.".startswith(changeable)}
