"""Fields set on the command line without --config: they are of the recipe that the run folder holds."""

import json
import os

import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import config_flags

import run as program
from configs import demo, liver_voi
from raunet_jax import commands, recipe
from raunet_jax.commands import saved_recipe


@pytest.fixture
def run(tmp_path):
    config = demo.get_config()
    config.data.root = "/disk"
    (tmp_path / "config.json").write_text(recipe.to_json(config))
    return tmp_path


def parse(*arguments):
    """The recipe by these arguments; None where there is none."""
    values, line = flags.FlagValues(), ["run.py", *arguments]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=line)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_bool("json", False, "", flag_values=values)
    taken = saved_recipe.take(line, values)
    values(line)
    return taken, values["config"].value


@pytest.mark.parametrize("workdir", ["--workdir={}", "-workdir={}", "--workdir {}"])
@pytest.mark.parametrize("last", [True, False])
def test_a_field_is_set_in_every_stage_of_the_runs_own_recipe(run, workdir, last):
    fields, folder = ["--config.data.repair=True", "--config.data.check=warn"], workdir.format(run).split()
    taken, config = parse(*([*folder, *fields] if last else [*fields, *folder]))
    assert taken
    for stage in recipe.stages_of(config).values():
        assert (stage.data.repair, stage.data.check, stage.data.root) == (True, "warn", "/disk")
    wanted = demo.get_config()
    wanted.data.update({"root": "/disk", "repair": True, "check": "warn"})
    assert recipe.to_json(config) == recipe.to_json(wanted)


def test_a_field_that_the_saved_recipe_had_not_can_be_set(run):
    saved = json.loads((run / "config.json").read_text())
    for part in (saved, *saved["stages"].values()):
        del part["data"]["check"]
    (run / "config.json").write_text(json.dumps(saved))
    _, config = parse(f"--workdir={run}", "--config.data.check=warn")
    assert [stage.data.check for stage in recipe.stages_of(config).values()] == ["warn"] * 3


def test_determinism_asked_of_a_run_of_an_earlier_version_is_asked_of_every_stage(run):
    saved = json.loads((run / "config.json").read_text())
    for part in (saved, *saved["stages"].values()):
        del part["deterministic"]
    (run / "config.json").write_text(json.dumps(saved))
    _, config = parse(f"--workdir={run}", "--config.deterministic=True")
    assert [stage.deterministic for stage in recipe.stages_of(config).values()] == [True] * 3


@pytest.mark.parametrize("saved", [True, False])
def test_the_runs_own_determinism_is_asked_of_xla_before_a_mode_imports_jax(run, monkeypatch, capsys, saved):
    config = demo.get_config()
    config.deterministic = saved
    (run / "config.json").write_text(recipe.to_json(config))
    monkeypatch.setenv("XLA_FLAGS", "")
    asked = []

    def load(mode, listing):
        asked.append("--xla_gpu_deterministic_ops=true" in os.environ["XLA_FLAGS"])
        return lambda request: 0

    monkeypatch.setattr(commands, "load", load)
    with flagsaver.flagsaver():
        program.flags.FLAGS(["run.py", f"--workdir={run}"])
        assert program.main(["run.py"]) == 0
    assert asked == [saved]


def test_a_stage_alone_is_set_too(tmp_path):
    (tmp_path / "config.json").write_text(recipe.to_json(liver_voi.get_config()))
    _, config = parse(f"--workdir={tmp_path}", "--config.threshold=0.25", "--noconfig.window.skip_empty")
    assert (config.threshold, config.window.skip_empty) == (0.25, False)


def test_a_field_of_one_stage_is_its_alone(run):
    _, config = parse(f"--workdir={run}", "--config.stages.voi.threshold=0.25")
    assert (
        config.stages.voi.threshold == 0.25
        and config.stages.tumor.threshold == demo.get_config().stages.tumor.threshold
    )


@pytest.mark.parametrize("named", [["--config=configs/demo.py"], ["--config", "configs/demo.py"]])
def test_the_recipe_that_is_named_is_the_one(run, named):
    line = ["run.py", *named, f"--workdir={run}", "--config.data.repair=True"]
    assert not saved_recipe.take(line, flags.FlagValues())


def test_without_a_field_nothing_is_read(tmp_path):
    assert parse(f"--workdir={tmp_path / 'nowhere'}", "--json") == (False, None)


def test_a_folder_without_a_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing: this is not a run folder"):
        parse(f"--workdir={tmp_path}", "--config.data.repair=True")
