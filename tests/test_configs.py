"""Recipes: each builds, says only what common.py knows, and a cascade's stages share what is set on the cascade."""

import importlib
import pathlib

import pytest

from configs import common, liver, liver_tumor, liver_voi
from raunet_jax import recipe
from raunet_jax.networks.raunet import make_network

NAMES = sorted(path.stem for path in pathlib.Path(common.__file__).parent.glob("*.py"))
RECIPES = [name for name in NAMES if name not in ("__init__", "common")]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_networks_from_the_fields_that_common_explains(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.name == name
    known = set(common.get_config().to_dict())
    for stage in recipe.stages_of(config).values():
        assert set(stage.to_dict()) == known
        make_network(stage)
        assert all(0 <= step <= size for step, size in zip(stage.window.step, stage.patch_size, strict=True))


def test_unknown_fields_are_refused():
    for config in (liver_voi.get_config(), liver.get_config()):
        with pytest.raises(AttributeError, match="epoch"):
            config.epoch = 3


@pytest.mark.parametrize("size", liver_tumor.PATCH_SIZES)
def test_the_tumor_recipe_takes_the_papers_patch_sizes(size):
    assert liver_tumor.get_config(size).patch_size == tuple(map(int, size.split("x")))


def test_another_patch_size_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="liver_tumor:16x16x16.*128x128x32, 64x64x32, 32x32x32"):
        liver_tumor.get_config("16x16x16")


def test_what_is_set_on_a_cascade_is_read_by_every_stage():
    config = liver.get_config()
    config.data.source, config.data.root, config.seed, config.folds = "phantom", "/disk", 7, (0, 1)
    for name, stage in recipe.stages_of(config).items():
        assert (stage.data.source, stage.data.root, stage.seed) == ("phantom", "/disk", 7)
        assert stage.folds == ((0,) if name == "coarse" else (0, 1))
    assert list(recipe.stages_of(config)) == ["coarse", "voi", "tumor"]


def test_the_papers_numbers():
    stages = recipe.stages_of(liver.get_config())
    assert [stage.patch_size for stage in stages.values()] == [(256, 256, 1), (224, 224, 32), (128, 128, 32)]
    assert [stage.threshold for stage in stages.values()] == [0.5, 0.6, 0.5]
    assert stages["voi"].window.step[2] == 20 and stages["tumor"].window.step == (0, 0, 0)
    for stage in stages.values():
        assert (stage.epochs, stage.learning_rate, stage.plateau_patience) == (50, 1e-3, 20)
        assert (tuple(stage.window_hu), stage.box_margin, stage.network.momentum) == ((-100, 200), 10, 0.99)
