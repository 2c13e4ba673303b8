"""Who may import whom (the table in CONTRIBUTING.md), who speaks, and what importing the package costs."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HALL = "tasks run_folder names signals recipe files progress startup read_ahead checkpoints".split()
MAY_IMPORT = {  # room -> the rooms below it; every room may import itself
    "configs": "",
    "hall": "configs",
    "imaging": "hall",
    "networks": "",
    "scores": "hall imaging",
    "data_prep": "hall imaging",
    "report": "hall imaging scores",
    "training": "hall imaging networks scores",
    "inference": "hall imaging networks scores",
    "api": "hall imaging networks scores inference",
    "commands": "hall imaging networks scores data_prep report training inference api",
    "run": "hall commands",
}
SPEAK = ("commands", "run")  # standard output is theirs
WITHOUT_JAX = ("imaging", "scores", "report")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    module_name(path): ast.parse(path.read_text())
    for path in [
        ROOT / "run.py",
        *(path for folder in ("configs", "data_prep", "raunet_jax") for path in (ROOT / folder).rglob("*.py")),
    ]
}


def room(module):
    """The room of one of our modules: its folder, "hall" for the modules beside the folders, "api" for the package."""
    parts = module.split(".")
    if parts[0] != "raunet_jax":
        return parts[0]
    if len(parts) == 1:
        return "api"
    return "hall" if parts[1] in HALL else parts[1]


def imports_of(module):
    """(line, module of ours) of each import, wherever in the file it stands."""
    for node in ast.walk(TREES[module]):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in TREES else node.module for name in inner]
        yield from ((node.lineno, name) for name in names if name in TREES)


def test_every_room_is_in_the_table():
    assert {room(module) for module in TREES} - {"api"} == set(MAY_IMPORT) - {"api"}


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_those_below_it(name):
    allowed = {name, *MAY_IMPORT[name].split()}
    broken = [
        f"{module}:{line} imports {imported}"
        for module in TREES
        if room(module) == name
        for line, imported in imports_of(module)
        if room(imported) not in allowed
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for _, name in imports_of(module)} - {module} for module in TREES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_only_commands_write_to_standard_output():
    """Everybody else logs: `logging.getLogger("raunet_jax")`."""
    speaking = [
        f"{module}:{node.lineno} {node.func.id}(…)"
        for module, tree in TREES.items()
        if room(module) not in SPEAK
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console")
        if not {keyword.arg for keyword in node.keywords} & {"file", "stderr"}
    ]
    assert not speaking, "\n" + "\n".join(speaking)


def newly_loaded(modules):
    """Top names of the packages outside the standard library that a fresh interpreter loads for `modules`."""
    code = f"import sys; before = set(sys.modules); import {', '.join(modules)}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names


def test_importing_the_package_imports_nothing_else():
    """run.py and every process that cuts patches import it, and run.py before the environment of JAX is set."""
    assert newly_loaded(["raunet_jax"]) == {"raunet_jax"}


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_a_room_that_computes_on_the_host_needs_no_jax(name):
    loaded = newly_loaded([module for module in TREES if room(module) == name])
    assert not loaded & {"jax", "flax", "optax", "orbax", "tensorflow_datasets"}
