"""Ray's engine: a killed process and a dead node lose no episode, and the episodes are those of one machine.

Ray is not in requirements.txt: these tests run where requirements-ray.txt is installed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vla.sim.workers
from tests.mortal import run_and_die
from vla.errors import MachineError, UserError
from vla.evaluation.asked_episodes import lift_episodes
from vla.evaluation.plan import EvaluationPlan, control_subject
from vla.evaluation.task import EvalTask
from vla.evaluation.worker import evaluate_in_worker
from vla.policies.execution import ControlConfig
from vla.sim.config import TEST_SEEDS, EnvConfig
from vla.sim.engines import simulator_workers
from vla.sim.env import Simulator

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
EPISODES = 8


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes, both on this machine, with one CPU each."""
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def _tasks() -> list[EvalTask]:
    episodes = lift_episodes(("Pick up the cube",), EPISODES, TEST_SEEDS.start)
    plan = EvaluationPlan(episodes, "test", 60, ControlConfig(), False, False, False, 1, "workers", {})
    return plan.tasks(control_subject("expert", plan.instructions), None)


@pytest.mark.slow
def test_a_killed_process_and_a_dead_node_lose_no_episode(
    cluster: Any, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vla.sim.workers, "_simulator", sim)
    kept: dict[int, Any] = {}

    def disturb(number: int, result: Any) -> None:
        kept[number] = result
        if len(kept) == 2:
            os.kill(_a_worker(), signal.SIGKILL)
        if len(kept) == 4:
            cluster.remove_node(cluster.second, allow_graceful=False)

    with simulator_workers("ray", 1, EnvConfig()) as workers:
        found = workers.run(evaluate_in_worker, _tasks(), disturb)
    assert sorted(kept) == list(range(EPISODES))
    for ours, theirs in zip(found, map(evaluate_in_worker, _tasks()), strict=True):
        assert ours is not None
        assert ours.recording.states.tobytes() == theirs.recording.states.tobytes()
        assert (ours.result.verdict, ours.result.steps) == (theirs.result.verdict, theirs.result.steps)


def _a_worker() -> int:
    """PID of a process that runs a task."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_bytes().startswith(b"ray::_run_at"):
                return int(path.parent.name)
    raise AssertionError("no process runs a task")


@pytest.mark.slow
def test_a_task_whose_process_always_dies_has_no_result_and_a_mistake_is_told(cluster: Any, tmp_path: Path) -> None:
    names = ["a", "once", "always", "b"]
    with simulator_workers("ray", 1, EnvConfig(), render_images=False) as workers:
        found = workers.run(run_and_die, [(name, tmp_path) for name in names])
        assert found == ["a", "once", None, "b"]
    wrong = EnvConfig(robot="Nobody")
    with (
        pytest.raises(MachineError, match=r"a simulator cannot start: .*Nobody"),
        simulator_workers("ray", 1, wrong, render_images=False) as workers,
    ):
        workers.run(run_and_die, [("a", tmp_path)])


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(UserError, match=r"no Ray cluster answers .*ray start --head"),
        simulator_workers("ray", 1, EnvConfig()),
    ):
        pass
