"""Who may import whom: packages import downwards only, no two modules import each other, scripts are only run."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS = (
    ("errors",),
    ("shards",),
    ("files",),
    ("markdown",),
    ("stages",),
    ("judging",),
    ("sim",),
    ("policies",),
    ("experts",),
    ("demos",),
    ("evaluation",),
    ("training", "web"),
)
"""Modules and packages of vla/, lowest first. Each imports only itself and those in the lines above it."""
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
FRONT_DOOR = "vla"
"""vla/__init__.py, the public API: it may import anything, and nothing in vla/ imports from it."""
NOUNS = {"2_dataset_loader": "demos", "3_model_architecture": "policies"}
"""Scripts that `vla.stages` imports for others, and the package in whose layer each stands."""
VERBS = ("1_collect_demos", "4_train", "5_evaluate", "web_interface")
"""Scripts that are run and never imported."""


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted((ROOT / "vla").rglob("*.py"))}


def _imports(path: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, also within functions and for annotations only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports name the whole module"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}.intersection(MODULES)
            found.update(submodules or {node.module})
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):  # importlib.import_module("4_train")
            found.update(str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))
    return found


def _vla_imports(path: Path) -> set[str]:
    return _imports(path).intersection(MODULES)


def _package(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", [name for names in LAYERS for name in names])
def test_a_package_imports_only_those_below_it(package: str) -> None:
    upwards = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module != FRONT_DOOR and _package(module) == package
        for imported in sorted(_vla_imports(path))
        if imported == FRONT_DOOR or (_package(imported) != package and LEVELS[_package(imported)] >= LEVELS[package])
    ]
    assert not upwards, "; ".join(upwards)


def test_every_module_has_its_layer() -> None:
    homeless = [module for module in MODULES if module != FRONT_DOOR and _package(module) not in LEVELS]
    assert not homeless, f"no line of LAYERS names {', '.join(homeless)}"


def test_no_two_modules_import_each_other() -> None:
    graph = {module: _vla_imports(path) for module, path in MODULES.items() if module != FRONT_DOOR}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("script", NOUNS)
def test_an_imported_script_stands_in_its_packages_layer(script: str) -> None:
    above = [
        imported
        for imported in sorted(_vla_imports(ROOT / f"{script}.py"))
        if LEVELS[_package(imported)] > LEVELS[NOUNS[script]]
    ]
    assert not above, f"{script} imports {', '.join(above)}"


def test_scripts_that_are_run_are_imported_by_nobody() -> None:
    files = [*ROOT.glob("*.py"), *(ROOT / "vla").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    imported = [
        f"{path.relative_to(ROOT)} imports {script}"
        for path in files
        for script in sorted(_imports(path).intersection(VERBS))
    ]
    assert not imported, "; ".join(imported)
