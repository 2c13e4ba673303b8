"""Who may import whom (the table in CONTRIBUTING.md), who speaks, and what importing the package costs."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HALL = "tasks run_folder names signals recipe files shapes digests progress startup read_ahead checkpoints".split()
HALL += "saved_checkpoint failures locks disk recipe_ranges".split()
MAY_IMPORT = {  # room -> the rooms below it; every room may import itself, and `errors`
    "errors": "",
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
WITHOUT_JAX = ("imaging", "scores", "data_prep", "report")
RUN_NO_NETWORK = "request score verify prepare report inputs studies series_table".split()  # of commands/
NAMED_TUPLES = ("_asdict", "_fields", "_make", "_replace")  # public, for all their underscores


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    module_name(path): ast.parse(path.read_text())
    for path in [
        ROOT / "run.py",
        *(path for folder in ("configs", "data_prep", "raunet_jax") for path in (ROOT / folder).rglob("*.py")),
    ]
}

# What imports the product, and is never imported by it: a test's folder is on sys.path while it runs.
OUTSIDE = {"benchmarks", "tests", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}


def room(module):
    """The room of one of our modules: its folder, "hall" for the modules beside the folders, "api" for the package."""
    parts = module.split(".")
    if parts[0] != "raunet_jax":
        return parts[0]
    if len(parts) == 1:
        return "api"
    return "hall" if parts[1] in HALL else parts[1]


def all_imports_of(module):
    """(line, dotted name) of each import, wherever in the file it stands; of an import by text, that text or None."""
    for node in ast.walk(TREES[module]):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in TREES else node.module for name in inner]
        if isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            text = ast.unparse(node.args[0])
            if text.startswith(("f'{__name__}.", 'f"{__name__}.')):
                continue  # of its own room
            names = [node.args[0].value if isinstance(node.args[0], ast.Constant) else None]
        yield from ((node.lineno, name) for name in names)


def imports_of(module):
    """(line, module of ours) of each import."""
    return ((line, name) for line, name in all_imports_of(module) if name in TREES)


def called(call):
    """The last name of what is called: "f" of `f()` and of `a.b.f()`."""
    return ast.unparse(call.func).rpartition(".")[2]


def given(call):
    """Keyword arguments of a call, as they are written."""
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def names_imported_from_us(module):
    """The names, dotted ones too, by which a module knows our modules and what they hold."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.asname or alias.name for alias in node.names if alias.name in TREES)
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            yield from (alias.asname or alias.name for alias in node.names)


def test_every_room_is_in_the_table():
    assert {room(module) for module in TREES} - {"api"} == set(MAY_IMPORT) - {"api"}


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_those_below_it(name):
    allowed = {name, "errors", *MAY_IMPORT[name].split()}
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


def test_the_product_imports_neither_benchmarks_nor_tests():
    broken = [
        f"{module}:{line} imports {name}"
        for module in TREES
        for line, name in all_imports_of(module)
        if name and name.partition(".")[0] in OUTSIDE
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_a_module_that_is_imported_by_its_name_is_named_in_plain_sight():
    """Or nobody knows who imports whom."""
    hidden = [f"{module}:{line}" for module in TREES for line, name in all_imports_of(module) if name is None]
    assert not hidden, "\n" + "\n".join(hidden)


def test_what_a_module_keeps_private_is_used_by_no_other():
    broken = []
    for module, tree in TREES.items():
        ours = set(names_imported_from_us(module))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module in TREES:
                names = [alias.name for alias in node.names]
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ours:
                names = [node.attr]
            private = [name for name in names if name.startswith("_") and not name.endswith("__")]
            broken += [f"{module}:{node.lineno} {name}" for name in private if name not in NAMED_TUPLES]
    assert not broken, "\n" + "\n".join(broken)


def writes_to_standard_output(node):
    """Whether `node` prints, or takes hold of sys.stdout for more than to flush it."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "sys" and any("stdout" in alias.name for alias in node.names)
    if isinstance(node, ast.Attribute):
        whole = ast.unparse(node)
        return whole in ("sys.stdout", "sys.__stdout__")
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "rich.print"):
        return given(node).get("file") != "sys.stderr"
    if isinstance(node, ast.Call) and called(node) == "Console":
        return given(node).get("stderr") != "True" and given(node).get("file") != "sys.stderr"
    return False


def test_only_commands_write_to_standard_output():
    """Everybody else logs: `logging.getLogger("raunet_jax")`."""
    speaking = []
    for module, tree in TREES.items():
        if room(module) in SPEAK:
            continue
        flushed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "flush"}
        speaking += [
            f"{module}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(tree)
            if node not in flushed and writes_to_standard_output(node)
        ]
    assert not speaking, "\n" + "\n".join(speaking)


def test_there_is_one_log():
    """Which progress.log_to_stderr shows: what goes to any other is shown to nobody."""
    others = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) == "getLogger"
        if [ast.unparse(argument) for argument in node.args] != ["'raunet_jax'"]
    ]
    assert not others, "\n" + "\n".join(others)


def newly_loaded(modules):
    """Top names of the packages outside the standard library that a fresh interpreter loads for `modules`."""
    code = f"import sys; before = set(sys.modules); import {', '.join(modules)}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names


def test_importing_the_package_imports_nothing_else():
    """run.py and every process that cuts patches import it, and run.py before the environment of JAX is set."""
    assert newly_loaded(["raunet_jax"]) == {"raunet_jax"}


JAX = {"jax", "flax", "optax", "orbax"}


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_a_room_that_computes_on_the_host_needs_no_jax(name):
    loaded = newly_loaded([module for module in TREES if room(module) == name])
    # data_prep writes TFDS data sets
    assert not loaded & (JAX | ({"tensorflow_datasets"} if name != "data_prep" else set()))


def test_run_py_and_the_commands_that_run_no_network_need_no_jax():
    """Which is slow to import, and reads its environment then: run.py has yet to set it."""
    assert not newly_loaded(["run", *(f"raunet_jax.commands.{name}" for name in RUN_NO_NETWORK)]) & JAX
