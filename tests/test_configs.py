"""Recipes: each builds, says only what common.py knows, and a cascade's stages share what is set on the cascade."""

import importlib
import pathlib

import pytest

from configs import brats, common, liver, liver_coarse, liver_tumor, liver_voi
from raunet_jax import recipe
from raunet_jax.inference.windows import check_window
from raunet_jax.networks.raunet import make_network
from raunet_jax.training.augmentation import OFF, from_recipe

NAMES = sorted(path.stem for path in pathlib.Path(common.__file__).parent.glob("*.py"))
RECIPES = [name for name in NAMES if name not in ("__init__", "common")]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_networks_from_the_fields_that_common_explains(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.name == name
    known = set(common.get_config().to_dict())
    for stage in recipe.stages_of(config).values():
        assert set(stage.to_dict()) == known
        if any(stage.patch_size):  # stage custom works its patch out from the scans
            make_network(stage)
        assert all(0 <= step <= size for step, size in zip(stage.window.step, stage.patch_size, strict=True))


def test_unknown_fields_are_refused():
    for config in (liver_voi.get_config(), liver.get_config()):
        with pytest.raises(AttributeError, match="epoch"):
            config.epoch = 3


@pytest.mark.parametrize("size", liver_tumor.PATCH_SIZES)
def test_the_tumor_recipe_takes_the_papers_patch_sizes(size):
    assert liver_tumor.get_config(size).patch_size == tuple(map(int, size.split("x")))


def test_strong_turns_on_augmentation_and_better_merging_and_changes_nothing_else_but_the_name():
    pairs = [(module.get_config(), module.get_config("strong")) for module in (brats, liver_coarse, liver_voi)]
    for size in liver_tumor.PATCH_SIZES:
        for argument in (f"{size},strong", f"strong,{size}"):
            pairs.append((liver_tumor.get_config(size), liver_tumor.get_config(argument)))
    pairs.append((liver_tumor.get_config(), liver_tumor.get_config("strong")))
    for paper, strong in pairs:
        assert strong.name == f"{paper.name}_strong"
        augment = strong.augment.to_dict()
        axes = ("x", "y") if paper.stage == "coarse" else ("x", "y", "z")
        assert augment.pop("flip") == axes
        assert augment == {
            "quarter_turns": paper.stage in ("tumor", "brain"),
            "rotation": 15.0,
            "scale": 0.15,
            "intensity": 0.1,
        }
        from_recipe(strong)  # raises where a value does not fit the patch
        assert from_recipe(paper) == OFF
        assert (strong.window.weights, strong.window.mirror) == ("gaussian", axes)
        assert (paper.window.weights, paper.window.mirror, paper.window.skip_empty) == ("uniform", (), True)
        check_window(strong.window, tuple(reversed(strong.patch_size)))
        strong.augment, strong.name = paper.augment, paper.name
        strong.window.weights, strong.window.mirror = paper.window.weights, paper.window.mirror
        assert strong.to_dict() == paper.to_dict()


def test_a_strong_cascade_is_strong_in_every_stage():
    config = liver.get_config("strong")
    assert config.name == "liver_strong"
    names = [stage.name for stage in recipe.stages_of(config).values()]
    assert names == ["liver_coarse_strong", "liver_voi_strong", "liver_tumor_strong"]


@pytest.mark.parametrize("module", [brats, liver, liver_coarse, liver_voi])
def test_another_variant_is_refused_with_the_one_there_is(module):
    with pytest.raises(ValueError, match="no variant :weak; choose :strong"):
        module.get_config("weak")


@pytest.mark.parametrize("argument", ["16x16x16", "64x64x32,32x32x32", "strong,weak"])
def test_another_patch_size_is_refused_with_those_there_are(argument):
    with pytest.raises(ValueError, match=f"liver_tumor:{argument} .*128x128x32, 64x64x32, 32x32x32, or strong"):
        liver_tumor.get_config(argument)


def test_what_is_set_on_a_cascade_is_read_by_every_stage():
    config = liver.get_config()
    config.data.source, config.data.root, config.seed, config.folds = "phantom", "/disk", 7, (0, 1)
    for name, stage in recipe.stages_of(config).items():
        assert (stage.data.source, stage.data.root, stage.seed) == ("phantom", "/disk", 7)
        assert stage.folds == ((0,) if name == "coarse" else (0, 1))
    assert list(recipe.stages_of(config)) == ["coarse", "voi", "tumor"]


def test_a_data_field_that_is_new_is_shared_by_the_stages_of_a_cascade(monkeypatch):
    plain = common.get_config

    def with_a_new_field():
        config = plain()
        with config.data.unlocked():
            config.data.added = 1
        return config

    monkeypatch.setattr(common, "get_config", with_a_new_field)
    config = liver.get_config()
    config.data.added = 7
    assert [stage.data.added for stage in recipe.stages_of(config).values()] == [7, 7, 7]


def test_the_papers_numbers():
    stages = recipe.stages_of(liver.get_config())
    assert [stage.patch_size for stage in stages.values()] == [(256, 256, 1), (224, 224, 32), (128, 128, 32)]
    assert [stage.threshold for stage in stages.values()] == [0.5, 0.6, 0.5]
    assert stages["voi"].window.step[2] == 20 and stages["tumor"].window.step == (0, 0, 0)
    for stage in stages.values():
        assert (stage.epochs, stage.learning_rate, stage.plateau_patience) == (50, 1e-3, 20)
        assert (tuple(stage.window_hu), stage.box_margin, stage.network.momentum) == ((-100, 200), 10, 0.99)
