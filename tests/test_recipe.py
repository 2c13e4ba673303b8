"""Recipes as saved: back from JSON as they were, compared field by field."""

import json

import pytest

from configs import demo, liver_voi
from raunet_jax import recipe


def test_a_recipe_comes_back_from_json_as_it_was():
    config = demo.get_config()
    back = recipe.from_json(recipe.to_json(config))
    assert back.to_dict() == config.copy_and_resolve_references().to_dict()
    assert back.stages.voi.patch_size == (64, 64, 32)


def test_fields_that_a_saved_recipe_lacks_have_the_value_that_changes_nothing():
    config = demo.get_config().copy_and_resolve_references()
    saved = json.loads(recipe.to_json(config))
    for stage in saved["stages"].values():
        for field in ("weights", "mirror", "skip_empty"):
            del stage["window"][field]
        del stage["augment"], stage["loss_per_sample"], stage["network"]["lowering"], stage["network"]["remat"]
    assert recipe.from_json(json.dumps(saved)).to_dict() == config.to_dict()
    alone = recipe.from_json(json.dumps(saved["stages"]["voi"]))
    assert alone.window.step == (64, 64, 20) and recipe.differences(alone, config.stages.voi) == []


def test_differences_name_the_fixed_fields_and_leave_out_what_may_change():
    one, other = liver_voi.get_config(), liver_voi.get_config()
    other.epochs, other.data.root, other.learning_rate = 99, "/elsewhere", 0.1
    other.network.lowering, other.network.remat = "plain", "blocks"
    assert recipe.differences(one, other) == []
    other.network.width, other.data.folds = 16, 3
    assert recipe.differences(one, other) == ["data.folds: 5, 3", "network.width: 32, 16"]


def test_a_field_may_not_change_unless_it_is_listed():
    one, other = liver_voi.get_config(), liver_voi.get_config()
    for config, value in ((one, 1), (other, 2)):
        with config.unlocked(), config.data.unlocked(), config.window.unlocked():
            config.added = config.data.added = config.window.added = value
    assert recipe.differences(one, other) == ["added: 1, 2", "data.added: 1, 2"]  # every field of window may change


def test_every_field_that_may_change_is_one_that_recipes_have():
    for field in recipe.CHANGEABLE_FIELDS:
        _value(liver_voi.get_config(), field)  # raises KeyError


# By hand from the list of fixed fields that went before the list of those that may change.
FIXED = """stage seed window_hu patch_size box_margin liver_source batch_size precision
    data.source data.modalities data.foreground data.repair data.check data.cases data.test_cases data.folds
    data.validation_share data.patches_per_case data.foreground_fraction data.phantom_size
    network.width network.stem_width network.bottom_width network.momentum
    augment.flip augment.quarter_turns augment.rotation augment.scale augment.intensity""".split()


def test_what_makes_the_patches_and_the_network_is_fixed():
    config = liver_voi.get_config()
    for name in FIXED:
        other = liver_voi.get_config()
        with other.ignore_type():
            other.update_from_flattened_dict({name: "another"})
        assert recipe.differences(config, other) == [f"{name}: {_value(config, name)!r}, 'another'"]


def _value(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def test_a_folder_without_a_recipe_is_no_run_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing: this is not a run folder"):
        recipe.load(tmp_path / "config.json")
