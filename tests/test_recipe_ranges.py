"""Values that no field of a recipe can have are said, by its name, before anything is done."""

import re

import pytest

from configs import brats, custom, demo, liver, liver_coarse, liver_tumor, liver_voi
from raunet_jax import recipe_ranges
from raunet_jax.errors import UserError


@pytest.mark.parametrize("recipe", [brats, custom, demo, liver, liver_coarse, liver_tumor, liver_voi])
def test_every_shipped_recipe_is_in_range(recipe):
    recipe_ranges.check(recipe.get_config())
    recipe_ranges.check_folds(recipe.get_config())


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "a number of at least 1"),
        ("epochs", -3, "a number of at least 1"),
        ("batch_size", 0, "a number of at least 1"),
        ("learning_rate", 0.0, "a number of more than 0"),
        ("learning_rate", float("nan"), "a number of more than 0"),
        ("learning_rate", float("inf"), "a number of more than 0"),
        ("checkpoint_minutes", -1.0, "a number of at least 0"),
        ("seed", 2**32, "a number of at least 0 and less than 4,294,967,296"),
        ("threshold", 0.0, "a number of more than 0 and at most 1"),
        ("threshold", 1.5, "a number of more than 0 and at most 1"),
        ("data.folds", 1, "a number of at least 2, as a model is trained on all folds but one"),
        ("data.foreground_fraction", 1.1, "a number of at least 0 and at most 1"),
        ("data.validation_share", 1.0, "a number of at least 0 and less than 1"),
        ("data.modalities", (), "one or more names, each once, such as ('ct',)"),
        ("data.foreground", (0,), "label values above 0, such as (2,), or () for all"),
        ("data.on_leak", "perhaps", "exclude or warn"),
        ("data.phantom_size", (64, 0, 64), "three whole numbers (x, y, z), each a number of at least 1"),
        ("folds", (), "numbers of folds, each once, such as (0,)"),
        ("folds", (1, 1), "numbers of folds, each once, such as (0,)"),
        ("folds", (-1,), "numbers of folds, each once, such as (0,)"),
        ("folds_at_once", 0, "a number of at least 1"),
        ("patch_size", (32, 32), "three whole numbers (x, y, z), each a number of at least 1"),
        ("patch_size", (0, 0, 0), "three whole numbers (x, y, z), each a number of at least 1"),
        ("window_hu", (200.0, -100.0), "two numbers of HU, the smaller one first"),
        ("window.step", (-1, 0, 0), "three whole numbers (x, y, z), each a number of at least 0"),
        ("window.batch_size", -1, "a number of at least 0"),
        ("network.width", 6, "a multiple of 4"),
        ("network.momentum", 1.0, "a number of at least 0 and less than 1"),
        ("precision", "int8", "float32 or highest or bfloat16"),
    ],
)
def test_nonsense_is_said_with_what_the_field_may_be(field, value, allowed):
    config = liver_voi.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=re.escape(f"config.{field} is {value!r}; it must be {allowed}") + "$"):
        recipe_ranges.check(config)


def test_a_field_of_a_cascades_stage_is_named_in_full():
    config = liver.get_config()
    config.stages.voi.epochs = 0
    with pytest.raises(UserError, match=r"^config\.stages\.voi\.epochs is 0; it must be"):
        recipe_ranges.check(config)


def test_stage_1_is_shown_single_slices():
    config = liver_coarse.get_config()
    config.patch_size = (64, 64, 32)
    with pytest.raises(UserError, match=r"config.patch_size is \(64, 64, 32\); it must be \(x, y, 1\)"):
        recipe_ranges.check(config)


def test_a_fold_that_there_is_none_of_is_refused():
    config = liver.get_config()
    config.folds = (0, 7)
    with pytest.raises(UserError, match=r"config.stages.voi.folds is \(0, 7\), and stage voi has 5 folds, 0 to 4"):
        recipe_ranges.check_folds(config)
    coarse = liver_coarse.get_config()
    coarse.folds = (1,)
    with pytest.raises(UserError, match=r"config.folds is \(1,\), and stage coarse has a single model, fold 0"):
        recipe_ranges.check_folds(coarse)
