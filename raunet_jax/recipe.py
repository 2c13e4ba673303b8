"""A recipe as saved in run folders and checkpoints, and the stages of a cascade."""

import json
import pathlib

from ml_collections import ConfigDict

from configs import common

# What a trained network and its patches are made of: a run cannot go on with another value.
FIXED_FIELDS = "stage seed data window_hu patch_size box_margin voi network augment batch_size precision".split()
# Of these, what may differ: where things lie, how many processes prepare them, what is scored, and how it is computed.
MOVABLE_FIELDS = "data.root data.prepared data.workers data.on_leak network.lowering network.remat".split()


def to_json(config: ConfigDict) -> str:
    return config.to_json(indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """A recipe saved by `to_json`. Fields that there were none of then have the value that changes nothing."""

    def tuples(value):
        if isinstance(value, list):
            return tuple(tuples(part) for part in value)
        return {key: tuples(part) for key, part in value.items()} if isinstance(value, dict) else value

    saved, defaults = tuples(json.loads(text)), common.get_config().to_dict()
    if "stages" in saved:
        saved["stages"] = {name: _filled(stage, defaults) for name, stage in saved["stages"].items()}
        return ConfigDict(saved)
    return ConfigDict(_filled(saved, defaults))


def _filled(saved: dict, defaults: dict) -> dict:
    """`saved`, and those of `defaults` that it lacks, at any depth."""
    both = {
        name: _filled(saved[name], default) if isinstance(default, dict) and name in saved else saved.get(name, default)
        for name, default in defaults.items()
    }
    return saved | both


def load(path: pathlib.Path) -> ConfigDict:
    """The recipe saved as `path`, a run folder's config.json; FileNotFoundError says what to do when there is none."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: this is not a run folder. Train one first, or name another --workdir"
        )
    return from_json(path.read_text())


def stages_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """A cascade's recipes by stage, in the order they run; a single recipe is a cascade of one."""
    if "stages" not in config:
        return {config.stage: config}
    return {name: config.stages[name] for name in ("coarse", "voi", "tumor") if name in config.stages}


def differences(one: ConfigDict, other: ConfigDict) -> list[str]:
    """`field: value in one, value in other` for each fixed field in which two stage recipes differ."""

    def flat(value, prefix):
        if isinstance(value, (dict, ConfigDict)):
            return {name: leaf for key in value.keys() for name, leaf in flat(value[key], f"{prefix}.{key}").items()}
        return {prefix: value}

    lines = []
    for field in FIXED_FIELDS:
        ours, theirs = flat(one[field], field), flat(other[field], field)
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in MOVABLE_FIELDS and ours.get(name) != theirs.get(name):
                lines.append(f"{name}: {ours.get(name)!r}, {theirs.get(name)!r}")
    return lines
