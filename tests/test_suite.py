"""The test suite says what it leaves out, and the suite of attacks can try some of them again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.__main__ import SuiteOptions, main, summarise_some
from tests.attacks.attacks import ATTACKS
from tests.attacks.suite import AttackResult
from tests.conftest import ROOT
from vla.errors import UserError


@pytest.mark.slow
def test_browser_tests_that_were_left_out_are_named_in_the_last_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "BROWSER_REQUIRED"}
    env["PATH"] = str(tmp_path)  # where there is no Chromium
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_browser.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "skipped" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT RUN: the page's browser tests"), done.stdout


def test_attacks_that_are_tried_again_take_the_places_of_the_older_ones(tmp_path: Path) -> None:
    def run(name: str, second: bool) -> AttackResult:
        return AttackResult(name, 0, "", False, second, True, True, (), "FAILURE")

    def counts(runs: int) -> dict[str, int]:
        return {"runs": runs, "accepted": 0}

    episodes = 20 * len(ATTACKS) + 500
    kept = {
        "attacks": {name: counts(20) for name in ATTACKS},
        "honest": {"runs": 500},
        "disagreements": [{"name": "rattling"}, {"name": "spinning"}],
        "episodes": episodes,
    }
    content = summarise_some([run("rattling", False)] * 49 + [run("rattling", True)], kept)
    assert content["attacks"]["rattling"]["runs"] == 50
    assert content["attacks"]["rattling"]["accepted_by_second_judge"] == 1
    assert content["attacks"]["spinning"] == counts(20)
    assert content["episodes"] == episodes + 30
    assert [each["name"] for each in content["disagreements"]] == ["spinning", "rattling"]
    output = tmp_path / "attacks.json"
    with pytest.raises(UserError, match=r"attacks.json, which is not there; run all attacks first"):
        main(SuiteOptions(only=("rattling",), output=output))
    output.write_text("{}")
    with pytest.raises(UserError, match="other versions or thresholds"):
        main(SuiteOptions(only=("rattling",), output=output))
    with pytest.raises(UserError, match="--only sprinting: the attacks are"):
        SuiteOptions(only=("sprinting",))
