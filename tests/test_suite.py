"""The test suite says what it leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_browser_tests_that_were_left_out_are_named_in_the_last_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "BROWSER_REQUIRED"}
    env["PATH"] = str(tmp_path)  # where there is no Chromium
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_browser.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "skipped" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT RUN: the page's browser tests"), done.stdout
