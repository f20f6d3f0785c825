"""What the benchmark of starts measures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.mark.parametrize("taken_mb", [0, 200])
def test_the_memory_of_a_command_is_its_own(taken_mb: int, benchmarks: Any) -> None:
    """And not that of whoever starts it: this process has torch loaded."""
    command = [sys.executable, "-S", "-c", f"taken = b'x' * {taken_mb * 10**6}"]
    launched = [sys.executable, "-S", "-c", benchmarks("bench").LAUNCHER, *command]
    done = subprocess.run(launched, capture_output=True, text=True, check=True)
    assert taken_mb < int(done.stdout) / 1000 < taken_mb + 60


def test_a_command_that_fails_is_not_measured(benchmarks: Any) -> None:
    command = [sys.executable, "-S", "-c", benchmarks("bench").LAUNCHER, sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
