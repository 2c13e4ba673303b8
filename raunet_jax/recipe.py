"""A recipe as saved in run folders and checkpoints, and the stages of a cascade."""

import json
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from configs import common
from configs.liver import OF_A_STAGE
from raunet_jax.errors import NotFound
from raunet_jax.tasks import stage_names, stage_of

# Fields, or groups of them, with another value of which a run may go on: its name, how long and how fast it is trained,
# which folds, what is made of the network's answers, where things lie, how many processes work, and how it is computed.
# Every other field, a new one too, says what a trained network and its patches are made of.
CHANGEABLE_FIELDS = (
    "name epochs learning_rate plateau_patience loss_per_sample folds folds_at_once checkpoint_minutes "
    "window threshold vote data.root data.prepared data.workers data.on_leak network.lowering network.remat"
).split()
RENAMED_FIELDS = {"voi": "liver_source", "data.tumor_share": "data.foreground_fraction"}
RENAMED_REWRITES = {
    "turn": "matmul_transpose",
    "pack": "pack_width",
    "taps": "shift_and_matmul",
    "neighbours": "im2col_kernel_grad",
    "pairs": "pairwise_max_pool",
    "tree": "tree_sum",
}


def to_json(config: ConfigDict) -> str:
    return config.to_json(indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """A recipe saved by `to_json`, by this version or an earlier one.

    Fields that there were none of then have the value that changes nothing; those of another name then have today's.
    """
    saved = json.loads(text)
    if "stages" not in saved:
        return _complete(saved)
    config = ConfigDict(_tuples(_renamed(saved)))
    for name, stage in saved["stages"].items():
        config.stages[name] = _complete(stage)
    return config


def _complete(saved: dict) -> ConfigDict:
    """The recipe of one stage: what was saved, over the defaults of the fields that were not."""
    config = common.get_config().unlock()
    with config.ignore_type():
        config.update(_tuples(_renamed(saved)))
    return config


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value


def _renamed(saved: dict) -> dict:
    """With today's names in place of an earlier version's."""
    saved = {name: dict(value) if isinstance(value, dict) else value for name, value in saved.items()}
    for old, new in RENAMED_FIELDS.items():
        *groups, leaf = old.split(".")
        values = saved.get(groups[0], {}) if groups else saved
        if leaf in values:
            values[new.split(".")[-1]] = values.pop(leaf)
    if "network" in saved and "lowering" in saved["network"]:
        names = saved["network"]["lowering"].split(",")
        saved["network"]["lowering"] = ",".join(RENAMED_REWRITES.get(name, name) for name in names)
    return saved


def load(path: pathlib.Path) -> ConfigDict:
    """The recipe saved as `path`, a run folder's config.json; FileNotFoundError says what to do when there is none."""
    if not path.is_file():
        raise NotFound(f"{path} is missing: this is not a run folder. Train one first, or name another --workdir")
    return from_json(path.read_text(encoding="utf-8"))


def linked(config: ConfigDict) -> ConfigDict:
    """The recipe, saved once, where what is set on a cascade is read by every stage again, as in `configs/liver.py`."""
    if not is_cascade(config):
        return config
    config = config.copy_and_resolve_references().unlock()
    for field, value in common.get_config().data.items():
        if field not in config.data and field not in OF_A_STAGE:  # there was no such field then
            config.data[field] = value
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
