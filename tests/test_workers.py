"""Workers that die: what they were working on is run again, and what kills them twice is told apart from the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mortal import run_and_die
from vla.evaluation.episode import EvalTask
from vla.evaluation.runner import DIED, Evaluator
from vla.policies.actor import ControlConfig
from vla.sim import workers
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.sim.workers import SimulatorWorkers


def test_who_dies_once_is_run_again_and_who_dies_twice_is_given_up(tmp_path: Path) -> None:
    seen: list[str] = []
    names = ["a", "once", "always", "b", "c"]
    with SimulatorWorkers(2, EnvConfig(), draws=False) as pool:
        found = pool.run(run_and_die, [(name, tmp_path) for name in names], seen.append)
    assert found == ["a", "once", None, "b", "c"]
    assert sorted(seen) == ["a", "b", "c", "once"]
    assert (tmp_path / "b").exists()


def test_workers_that_cannot_begin_are_told() -> None:
    with pytest.raises(BrokenProcessPool), SimulatorWorkers(1, EnvConfig(robot="Nobody"), draws=False):
        pass


class Losing(SimulatorWorkers):
    """Runs tasks in this process, and gives up those of one seed, unless it is only asked how they begin."""

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], done: Callable[[Any], None] | None = None
    ) -> list[Any]:
        return [None if task.seed == 2_000_001 and task.max_steps else function(task) for task in tasks]


def test_an_episode_whose_worker_dies_twice_counts_as_invalid(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_simulator", sim)
    tasks = [
        EvalTask("zero", Path(), np.zeros(512, np.float32), seed, "go", 2, ControlConfig(), None)
        for seed in (2_000_000, 2_000_001)
    ]
    runner = Evaluator(Losing(1, EnvConfig()), None, torch.device("cpu"))
    (first, _), (second, recording) = runner.run(tasks, "evaluate")
    assert (first.invalid_reason, first.steps) == (None, 2)
    assert (second.success, second.invalid_reason, second.failed, second.steps) == (False, DIED, "valid", 0)
    assert (second.seed, second.verdict) == (2_000_001, f"INVALID: {DIED}")
    sim.reset(2_000_001)
    np.testing.assert_array_equal(recording.states, [sim.full_state()])
