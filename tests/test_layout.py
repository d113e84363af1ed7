"""The layout: which package may import which, and how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("densenet_jax", "experiments", "launch")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

# What each package of the project, or module beside the packages, may import besides itself.
ALLOWED = {
    "densenet_jax": {
        "densenet_jax.errors",
        "densenet_jax.models",
        "densenet_jax.predict",
        "densenet_jax.pretrained",
        "densenet_jax.weights",
    },
    "densenet_jax.errors": set(),
    "densenet_jax.jax_private": set(),
    "densenet_jax.files": {"densenet_jax.errors"},
    "densenet_jax.pickles": {"densenet_jax.errors"},
    "densenet_jax.models": {"densenet_jax.errors"},
    "densenet_jax.data": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.pickles",
    },
    "densenet_jax.train": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.jax_private",
        "densenet_jax.models",
        "densenet_jax.data",
        "densenet_jax.weights",
    },
    "densenet_jax.analysis": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.models",
        "densenet_jax.data",
        "densenet_jax.train",
        "densenet_jax.predict",
    },
    "densenet_jax.torch_files": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.pickles",
        "densenet_jax.torch_modules",
    },
    "densenet_jax.safetensors_files": {"densenet_jax.errors", "densenet_jax.files"},
    "densenet_jax.torch_modules": {"densenet_jax.errors"},
    "densenet_jax.hub": {"densenet_jax.errors"},
    "densenet_jax.weight_files": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.hub",
        "densenet_jax.safetensors_files",
        "densenet_jax.torch_files",
    },
    "densenet_jax.torch_names": {"densenet_jax.errors", "densenet_jax.models"},
    "densenet_jax.weight_fitting": {"densenet_jax.errors", "densenet_jax.torch_names"},
    "densenet_jax.weights": {
        "densenet_jax.errors",
        "densenet_jax.models",
        "densenet_jax.torch_names",
        "densenet_jax.weight_files",
        "densenet_jax.weight_fitting",
    },
    "densenet_jax.predict": {
        "densenet_jax.errors",
        "densenet_jax.models",
        "densenet_jax.data",
        "densenet_jax.pretrained",
    },
    "densenet_jax.timm_config": {
        "densenet_jax.errors",
        "densenet_jax.files",
        "densenet_jax.data",
    },
    "densenet_jax.pretrained": {
        "densenet_jax.errors",
        "densenet_jax.hub",
        "densenet_jax.timm_config",
        "densenet_jax.weight_files",
        "densenet_jax.weights",
        "densenet_jax.models",
        "densenet_jax.data",
        "densenet_jax.train",
    },
    "experiments": {"densenet_jax.errors", "densenet_jax.models", "densenet_jax.train"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def package_of(module: str) -> str:
    """Returns `densenet_jax.train` for `densenet_jax.train.fit`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "densenet_jax" else parts[0]


def imported_modules(source: str, package: str) -> set[str]:
    """Returns the modules of the project that `source`, a module of `package`, imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            inner = {f"{base}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES) or {base}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def test_imports_are_found_however_they_are_written():
    source = """
import numpy, densenet_jax.train.fit
from densenet_jax import weights
from densenet_jax.data import batches as data
from . import layers
from .. import errors
from ..analysis.curves import plot_learning_curve
def late():
    from launch import command
"""
    assert imported_modules(source, "densenet_jax.models") == {
        "densenet_jax.train.fit",
        "densenet_jax.weights",
        "densenet_jax.data.batches",
        "densenet_jax.models.layers",
        "densenet_jax.errors",
        "densenet_jax.analysis.curves",
        "launch.command",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    module = module_name(path)
    top = package_of(module)
    if top == "launch":
        return
    assert top in ALLOWED, "a new package: add to ALLOWED what it may import"
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = {package_of(name) for name in imported_modules(path.read_text(), package)}
    assert imported <= ALLOWED[top] | {top}


def test_no_file_is_long():
    files = [*FILES, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
