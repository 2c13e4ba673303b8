"""requirements.txt names what the software imports, and all that it names is to be had on every Python."""

import ast
import importlib.metadata
import pathlib
import re
import sys

import pytest

from data_prep import patch_dataset

ROOT = pathlib.Path(__file__).parents[1]
OURS = {"configs", "data_prep", "raunet_jax"}


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


REQUIRED = {
    normalized(match[0]): line.partition("#")[0].strip()
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))
}


def imported_packages():
    """Third-party packages that the software imports, wherever in a file: {name: a file that does}."""
    found = {}
    for path in [ROOT / "run.py", *(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: path.name for name in names}
    return {name: path for name, path in found.items() if name not in OURS | sys.stdlib_module_names}


def test_every_package_that_is_imported_is_required():
    owners = importlib.metadata.packages_distributions()
    missing = {
        f"{path} imports {name}"
        for name, path in imported_packages().items()
        if not any(normalized(owner) in REQUIRED for owner in owners.get(name, ()))
    }
    assert not missing


def test_what_tfds_imports_when_a_patch_set_is_written_is_installed():
    """It imports this on first use, and asks for it on Python 3.8 alone; other packages happen to bring it at times."""
    assert patch_dataset.tfds.core.dataset_builder.importlib_resources.abc.Traversable
    assert "importlib-resources" in REQUIRED


@pytest.mark.parametrize("package", ["tensorflow", "torch"])
def test_no_second_framework_is_installed_with_it(package):
    assert package not in REQUIRED
    for name in REQUIRED:
        asked = importlib.metadata.requires(name) or []
        assert not [line for line in asked if re.match(rf"{package}(?![\w-])", line) and "extra ==" not in line], name
