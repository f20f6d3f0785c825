"""5_evaluate.py as a command: one network for all workers, two policies compared, blindness, and stopped runs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.conftest import ROOT, assert_user_error, run_script, wait_for
from vla.errors import EXIT_MACHINE_FAULT
from vla.evaluation.machine import machine_facts
from vla.files import run_lock, sha256
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig

SHIPPED = ROOT / "checkpoints/lift.pth"
SCRIPT = str(ROOT / "5_evaluate.py")
QUICK = (ROOT / "5_evaluate.py", "--max-steps", "6", "--no-videos")


def _results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert set(content.pop("timing")) == {"inference_ms_median", "inference_ms_all_median_p95"}
    return content


def _states(folder: Path) -> list[np.ndarray]:
    with h5py.File(folder / "episodes.hdf5") as file:
        return [file[f"episode_{number}/states"][:] for number in range(1, len(file) + 1)]


def _contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, without the lock that a killed run leaves behind."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def _stop(cwd: Path, arguments: tuple[str, ...], signal_number: int, pattern: str, count: int = 1) -> str:
    """Run the script until `count` files match `pattern`, send it the signal, and return its stderr."""
    command = [sys.executable, SCRIPT, *arguments]
    victim = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(cwd.glob(pattern))) >= count)
    os.killpg(victim.pid, signal_number)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == (130 if signal_number == signal.SIGINT else -signal_number)
    return errors


@pytest.mark.slow
def test_one_network_for_all_workers_gives_the_same_results_for_any_number(tmp_path: Path) -> None:
    """The same JSON, too, but for timing and options: so it would be for the same command twice."""
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
    assert two["machine"] == machine_facts()
    assert [episode["steps"] for episode in two["episodes"]] == [6, 6]
    assert len({episode["path_m"] for episode in two["episodes"]}) == 2


@pytest.mark.slow
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
    assert both["compare_version"] == 2
    assert [subject["checkpoint_sha256"] for subject in both["subjects"]] == [sha256(SHIPPED), sha256(other)]
    assert (both["split"], both["seeds"]) == ("test", [2_000_000, 2_000_000])
    assert (both["lifted_by_neither"], both["mcnemar_exact_p"]) == (1, 1.0)
    assert both["lifted_interval_95"][0][0] == 0
    assert {"torch", "mujoco"} <= set(both["versions"])
    assert both["machine"] == machine_facts()
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


@pytest.mark.slow
def test_a_killed_evaluation_keeps_the_old_results_and_continues_to_the_same_new_ones(tmp_path: Path) -> None:
    arguments = ("--policy", "random", "--num-episodes", "5", "--max-steps", "40", "--workers", "1")
    whole = run_script(SCRIPT, *arguments, "--output-dir", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr

    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    old = tmp_path / "out/eval_trial_6.mp4"
    (tmp_path / "out/eval_trial_1.mp4").rename(old)
    before = _contents(tmp_path / "out")
    stopped = (*arguments, "--push-test", "--output-dir", "out")
    _stop(tmp_path, stopped, signal.SIGKILL, "out/partial-*/episode_*.npz", 2)
    assert _contents(tmp_path / "out") == before

    other = run_script(SCRIPT, *arguments, "--num-episodes", "1", "--output-dir", "out", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert "is kept: " in other.stdout
    assert "seeds is [2000000, 2000004] there, [2000000, 2000000] here" in other.stdout
    assert len(_results(tmp_path / "out")["episodes"]) == 1

    continued = run_script(SCRIPT, *stopped, cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert "continuing: " in continued.stdout
    expected, found = _results(tmp_path / "whole"), _results(tmp_path / "out")
    for content, folder in ((expected, "whole"), (found, "out")):
        for number, episode in enumerate(content["episodes"], start=1):
            assert episode.pop("video") == f"{folder}/eval_trial_{number}.mp4"
            assert (tmp_path / folder / f"eval_trial_{number}.mp4").stat().st_size > 1000
        content["options"].pop("output_dir")
        content["options"].pop("push_test")
    assert found == expected
    for states, again in zip(_states(tmp_path / "whole"), _states(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(states, again)
    assert not old.exists()
    assert not list((tmp_path / "out").glob("partial-*"))


@pytest.mark.slow
def test_a_killed_comparison_continues_with_the_second_policy(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    content = load_checkpoint(SHIPPED)
    content["model"] = {name: 0 * w if name.startswith("vision.") else w for name, w in content["model"].items()}
    torch.save(content, other)
    compare = ("--compare", str(SHIPPED), str(other), "--num-episodes", "2", "--max-steps", "60", "--no-videos")
    arguments = (*compare, "--workers", "1", "--output-dir", "both")
    _stop(tmp_path, arguments, signal.SIGKILL, "both/b/partial-*/episode_*.npz")
    assert not (tmp_path / "both/a/results.json").exists()
    continued = run_script(SCRIPT, *arguments, cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert "continuing: 2 of 2 episodes are finished (both/a/partial-" in continued.stdout
    assert json.loads((tmp_path / "both/compare.json").read_text())["episodes"] == 2
    assert [len(_results(tmp_path / "both" / side)["episodes"]) for side in "ab"] == [2, 2]
    assert not list((tmp_path / "both").glob("*/partial-*"))


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path / "out"):
        second = run_script(*QUICK, "--policy", "zero", "--num-episodes", "1", "--output-dir", "out", cwd=tmp_path)
    assert_user_error(second, "another run is writing to out", "name another output")


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_an_exit_code_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, *map(str, QUICK), "--policy", "zero", "--num-episodes", "2", "--output-dir", "out"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY)),
    )
    assert done.returncode == EXIT_MACHINE_FAULT, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "File too large" in last
    assert last.endswith("what has finished is kept: run the same command again to continue")
    assert not (tmp_path / "out/results.json").exists()


@pytest.mark.slow
def test_interrupted_perturbations_say_that_they_continue(tmp_path: Path) -> None:
    policy = ("--policy", "expert", "--num-episodes", "1", "--max-steps", "2", "--workers", "1")
    arguments = (*policy, "--perturb", "all", "--split", "validation")
    errors = _stop(tmp_path, arguments, signal.SIGINT, "videos/perturb.json")
    assert errors.strip().splitlines()[-1] == ("interrupted: run the same command again; it continues where it stopped")
    assert "Traceback" not in errors
    stored = json.loads((tmp_path / "videos/perturb.json").read_text())
    assert (stored["split"], stored["seeds"]) == ("validation", [1_000_000, 1_000_000])
    assert stored["machine"] == machine_facts()
    assert 1 <= len(stored["cells"]) < 64
