"""5_evaluate.py as a command: one network for all workers, two policies compared, blindness, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT, assert_user_error, run_script
from vla.files import sha256
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig

SHIPPED = ROOT / "checkpoints/lift.pth"
QUICK = (ROOT / "5_evaluate.py", "--max-steps", "6", "--no-videos")


def _results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert set(content.pop("timing")) == {"inference_ms_median", "inference_ms_all_median_p95"}
    return content


def test_one_network_for_all_workers_gives_the_same_results_for_any_number(tmp_path: Path) -> None:
    """The same JSON too, but for timing and what was asked: so it would be for the same command twice."""
    command = (*QUICK, "--checkpoint", SHIPPED, "--num-episodes", "2", "--inference", "shared")
    found = []
    for workers in ("1", "2"):
        done = run_script(*command, "--workers", workers, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(_results(tmp_path / "videos"))
        assert found[-1]["options"].pop("workers") == int(workers)
    alone, two = found
    assert alone == two
    assert two["inference"].startswith("shared")
    assert [episode["steps"] for episode in two["episodes"]] == [6, 6]
    assert len({episode["path_m"] for episode in two["episodes"]}) == 2


def test_two_policies_are_compared_and_a_blind_one_acts_differently(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    content = load_checkpoint(SHIPPED)
    # Another policy of the same scene: one whose eyes are closed by its weights.
    content["model"] = {name: 0 * w if name.startswith("vision.") else w for name, w in content["model"].items()}
    torch.save(content, other)
    arguments = ("--num-episodes", "1", "--workers", "1", "--output-dir")
    done = run_script(*QUICK, "--compare", SHIPPED, other, *arguments, "both", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "both/compare.json").read_text())
    assert both["compare_version"] == 1
    assert [subject["checkpoint_sha256"] for subject in both["subjects"]] == [sha256(SHIPPED), sha256(other)]
    assert (both["split"], both["seeds"]) == ("test", [2_000_000, 2_000_000])
    assert (both["lifted_by_neither"], both["mcnemar_exact_p"]) == (1, 1.0)
    assert both["lifted_interval_95"][0][0] == 0
    assert {"torch", "mujoco"} <= set(both["versions"])
    assert "no difference" in (tmp_path / "both/compare.md").read_text()

    done = run_script(*QUICK, "--checkpoint", SHIPPED, "--blind", *arguments, "blind", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sides = [_results(tmp_path / name)["episodes"][0] for name in ("both/a", "both/b", "blind")]
    assert len({side["path_m"] for side in sides}) == 3
    assert {side["seed"] for side in sides} == {2_000_000}

    content["env_args"] = EnvConfig(camera="frontview").to_env_args()
    torch.save(content, other)
    refused = run_script(*QUICK, "--compare", SHIPPED, other, *arguments, "again", cwd=tmp_path)
    assert_user_error(refused, "camera agentview, frontview", "--checkpoint")
    assert not (tmp_path / "again").exists()


def test_interrupted_perturbations_say_that_they_continue(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "5_evaluate.py"), "--policy", "expert", "--num-episodes", "1"]
    command += ["--perturb", "all", "--max-steps", "2", "--workers", "1", "--split", "validation"]
    victim = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    path = tmp_path / "videos/perturb.json"
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGINT)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == 130
    assert errors.strip().splitlines()[-1] == (
        "interrupted: run the same command again; it continues with the missing cells"
    )
    assert "Traceback" not in errors
    stored = json.loads(path.read_text())
    assert (stored["split"], stored["seeds"]) == ("validation", [1_000_000, 1_000_000])
    assert 1 <= len(stored["cells"]) < 64
