"""Where a recipe is looked for, and what is said of one that is not there or does not work."""

import pathlib

import pytest

import run
from raunet_jax.commands import recipe_file
from raunet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_shipped_recipe_is_found_from_any_folder_and_ones_own_comes_first(tmp_path):
    found = recipe_file.settled(["run.py", "--mode=train", "--config=configs/liver_voi.py:strong", "--config.epochs=3"])
    assert found == ["run.py", "--mode=train", f"--config={ROOT}/configs/liver_voi.py:strong", "--config.epochs=3"]
    assert recipe_file.settled(["run.py", "--config", "configs/demo.py"])[2] == f"{ROOT}/configs/demo.py"
    own = tmp_path / "configs" / "liver_voi.py"
    own.parent.mkdir()
    own.write_text((ROOT / "configs" / "liver_voi.py").read_text())
    assert recipe_file.find("configs/liver_voi.py") == pathlib.Path("configs/liver_voi.py")


@pytest.mark.parametrize("path", ["configs/livr.py", "livr.py", "/nowhere/livr.py", "configs/liver"])
def test_a_mistyped_name_is_answered_with_those_near_it_and_where_recipes_lie(path):
    with pytest.raises(UserError) as info:
        recipe_file.settled(["run.py", f"--config={path}"])
    said = str(info.value)
    assert said.startswith(f"--config={path}: there is no such file; did you mean configs/liver.py")
    assert f"Recipes lie in {ROOT}/configs: brats.py, custom.py, demo.py, liver.py" in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", r"mine\.py, line 1: invalid syntax; correct the recipe"),
        ("x = 1\n", r"mine\.py is no recipe: it has no function get_config; see configs/demo\.py"),
        ("def get_config():\n    return None\n", r"mine\.py: get_config returns NoneType, not a recipe"),
        (
            "from configs import common\ndef get_config():\n    config = common.get_config()\n    config.epoch = 3\n",
            r"mine\.py, line 4: AttributeError: .*epoch.*; correct the recipe \(configs/common\.py lists all fields\)",
        ),
        (
            "from configs import common\ndef get_config():\n    config = common.get_config()\n    config.seed = 'a'\n",
            r"mine\.py, line 4: TypeError: .*; correct the recipe",
        ),
        ("import nowhere\n", r"mine\.py, line 1: ModuleNotFoundError: No module named 'nowhere'; correct the recipe"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_with_its_line(tmp_path, text, said):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=said) as info:
        recipe_file.settled(["run.py", "--config=mine.py"])
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/liver.py:xyz"], "this recipe has no variant :xyz; choose :strong"),
        (["--config=configs/demo.py:xyz"], "demo:xyz is not a recipe; choose demo, or demo:folds"),
        (["--config"], "--config names no recipe; write --config=configs/demo.py"),
        (["--config="], "--config=: no file is named; Recipes lie in"),
        (
            ["--config.epochs=3", "--config=configs/demo.py"],
            "--config.epochs sets a field of a recipe: name the recipe",
        ),
    ],
)
def test_a_command_line_that_names_no_recipe_is_refused_in_a_sentence(arguments, said):
    with pytest.raises(UserError) as info:
        recipe_file.settled(["run.py", *arguments])
    assert str(info.value).startswith(said)


def test_debug_shows_where_in_a_recipe_an_error_came_from(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def get_config():\n    return undefined_name\n")
    for flags, shown in ([], 0), (["--debug"], 1):
        with pytest.raises(SystemExit, match="^error: mine.py, line 2: NameError"):
            run.parse(["run.py", "--config=mine.py", *flags])
        assert capsys.readouterr().err.count("return undefined_name\n") == shown
