"""Imports of the numbered scripts that others may use.

A name that starts with a digit cannot stand in an `import` statement. Imported by name, rather than
loaded by file location, a module pickles to spawned workers.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from vla.errors import UserError


def dataset_loader() -> ModuleType:
    """`2_dataset_loader.py`."""
    return _import_script("2_dataset_loader")


def model_architecture() -> ModuleType:
    """`3_model_architecture.py`."""
    return _import_script("3_model_architecture")


def _import_script(name: str) -> ModuleType:
    """Import a numbered script, which stands beside this package in the repository.

    After `pip install -e .`, a program elsewhere finds the package but not the scripts: their folder is added to the
    path.
    """
    folder = Path(__file__).resolve().parent.parent
    script = folder / f"{name}.py"
    if not script.is_file():
        raise UserError(f"{script} is missing: vla was installed without its scripts; in a clone: pip install -e .")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(name)
