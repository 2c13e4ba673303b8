"""The recipe that `--config` names: where it lies, and what is wrong with it, in a sentence."""

import difflib
import importlib.util
import inspect
import os
import pathlib
import traceback
from collections.abc import Sequence

from ml_collections import ConfigDict

from raunet_jax.errors import UserError
from raunet_jax.failures import explain

FLAG = "config"
PROGRAM = pathlib.Path(__file__).resolve().parents[2]  # the folder of run.py, in which the shipped recipes lie
NEAR = 0.5  # how alike names are that are offered in place of a mistyped one, 0 to 1


def settled(arguments: Sequence[str]) -> list[str]:
    """The command line, with the file of `--config` where it was found; that one is loaded and works.

    A path is looked for from here, and then from the program's own folder.

    Raises:
        UserError: no such file, or one that is no recipe.
    """
    arguments = list(arguments)
    _check_order(arguments)
    for index, argument in enumerate(arguments):
        name, given, value = argument.lstrip("-").partition("=")
        if argument == "--":
            break
        if not argument.startswith("-") or name != FLAG:
            continue
        if not given and index + 1 == len(arguments):
            raise UserError("--config names no recipe; write --config=configs/demo.py, or another of configs/")
        path, colon, variant = (value if given else arguments[index + 1]).partition(":")
        file = find(path)
        load(file, variant if colon else None)
        if given:
            arguments[index] = f"--{FLAG}={file}{colon}{variant}"
        else:
            arguments[index + 1] = f"{file}{colon}{variant}"
    return arguments


def _check_order(arguments: Sequence[str]) -> None:
    """Raise UserError for a field that is set where no recipe stands before it."""
    for argument in arguments[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if name == FLAG or argument == "--":
            return
        if argument.startswith("-") and name.startswith(f"{FLAG}."):
            raise UserError(
                f"--{name} sets a field of a recipe: name the recipe before it, such as --config=configs/demo.py"
            )


def find(path: str) -> pathlib.Path:
    """The recipe's file. Raises UserError with the names that are near to a mistyped one."""
    given = pathlib.Path(path).expanduser()
    places = [given, PROGRAM / given]
    for place in places:
        if place.is_file():
            return place
    there = sorted(_recipes(PROGRAM / "configs") | _recipes(given.parent if path else PROGRAM))
    near = difflib.get_close_matches(given.stem, [file.stem for file in there], cutoff=NEAR)
    offered = [_shown(file) for name in near for file in there if file.stem == name]
    if not path:
        what = "no file is named"
    else:
        what = "it is a folder" if given.is_dir() else "there is no such file"
    hint = f"did you mean {' or '.join(offered)}? " if offered else ""
    shipped = ", ".join(sorted(file.name for file in _recipes(PROGRAM / "configs")))
    raise UserError(f"--config={path}: {what}; {hint}Recipes lie in {PROGRAM / 'configs'}: {shipped}")


def load(file: pathlib.Path, variant: str | None = None) -> ConfigDict:
    """The recipe in `file`. Raises UserError with what is wrong, and in which line."""
    spec = importlib.util.spec_from_loader("recipe", loader=None)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    try:
        exec(compile(file.read_bytes(), file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102, a recipe is a program
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{file} is no recipe: it has no function get_config; see configs/demo.py for one")
        if variant is not None and not inspect.signature(module.get_config).parameters:
            raise UserError(f"{file} has no variants, and :{variant} was asked for; leave it out")
        config = module.get_config(*([] if variant is None else [variant]))
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}; correct the recipe") from error
    except OSError as error:
        raise UserError(explain(error)) from error
    except Exception as error:  # a recipe is a program of the user's own
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        said = " ".join(str(error).split())
        raise UserError(
            f"{file}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {said}; correct the recipe "
            "(configs/common.py lists all fields)"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returns {type(config).__name__}, not a recipe; see configs/demo.py")
    return config


def _recipes(folder: pathlib.Path) -> set[pathlib.Path]:
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return set()
    shipped = folder.resolve() == PROGRAM / "configs"
    return {
        file.absolute()
        for file in folder.glob("*.py")
        if not (shipped and file.stem in ("__init__", "common")) and "def get_config" in _text(file)
    }


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _shown(file: pathlib.Path) -> str:
    """As it may be written: from the program's folder, from here, or in full."""
    for folder in (PROGRAM, pathlib.Path.cwd()):
        if file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)
