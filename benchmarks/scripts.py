"""Runs the project's scripts for the benchmarks that stand beside this file, as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # importing this module first lets a benchmark import the package

from vla.errors import UserError  # noqa: E402


def run_stage(*arguments: object) -> None:
    """Run a script with arguments from the project's folder.

    Raises:
        UserError: it failed.
    """
    command = [sys.executable, *(str(argument) for argument in arguments)]
    print(f"$ {' '.join(command[1:])}", flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f"{command[1]} ended with {done.returncode}; mend what it says, and run this again")
