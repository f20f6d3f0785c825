"""Imports of the numbered scripts that others may use.

A name that starts with a digit cannot stand in an `import` statement. Imported by name, rather than
loaded by file location, a module pickles to spawned workers.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def dataset_loader() -> ModuleType:
    """`2_dataset_loader.py`."""
    return importlib.import_module("2_dataset_loader")


def model_architecture() -> ModuleType:
    """`3_model_architecture.py`."""
    return importlib.import_module("3_model_architecture")
