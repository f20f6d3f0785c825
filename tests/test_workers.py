"""Workers that die or cannot start: a task that was running is run again, and one that kills its worker is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mortal import run_and_die
from vla.errors import MachineError, UserError
from vla.evaluation.episode import EvaluatedEpisode
from vla.evaluation.runner import DIED, EpisodeRunner
from vla.evaluation.task import EvalTask
from vla.policies.execution import ControlConfig
from vla.sim import workers
from vla.sim.config import EnvConfig
from vla.sim.engines import MOST_WORKERS, default_workers
from vla.sim.env import Simulator
from vla.sim.workers import SimulatorWorkers


@pytest.mark.slow
def test_a_task_whose_worker_dies_is_run_again_and_given_up_the_second_time(tmp_path: Path) -> None:
    seen: dict[int, str | None] = {}
    names = ["a", "once", "always", "b", "c"]
    with SimulatorWorkers(2, EnvConfig(), render_images=False) as pool:
        found = pool.run(run_and_die, [(name, tmp_path) for name in names], seen.__setitem__)
    assert found == ["a", "once", None, "b", "c"]
    assert seen == dict(enumerate(found))
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (EnvConfig(robot="Nobody"), MachineError, "a simulator cannot start: .*Nobody"),
        (EnvConfig(camera="ceiling"), UserError, "no camera 'ceiling'; it has frontview"),
    ],
)
def test_workers_that_cannot_start_say_why(
    config: EnvConfig, error: type[Exception], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=words), SimulatorWorkers(1, config, render_images=False):
        pass
    assert "Traceback" not in capfd.readouterr().err


class Losing(SimulatorWorkers):
    """Runs the tasks in this process, and gives up the one of seed 2000001 as if its worker had died twice."""

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        done: Callable[[int, Any], None] | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Any]:
        assert done is not None
        results = [None if task.seed == 2_000_001 else function(task) for task in tasks]
        for number, result in enumerate(results):
            done(number, result)
        return results


def test_an_episode_whose_worker_dies_twice_is_invalid_and_nothing_is_made_up(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_simulator", sim)
    tasks = [
        EvalTask("zero", Path(), np.zeros(512, np.float32), seed, "go", 2, ControlConfig(), None)
        for seed in (2_000_000, 2_000_001)
    ]
    kept: dict[int, EvaluatedEpisode] = {}
    runner = EpisodeRunner(Losing(1, EnvConfig()), {}, torch.device("cpu"))
    ran, died = runner.run(tasks, "evaluate", kept.__setitem__)
    assert kept == {0: ran, 1: died}
    assert (ran.result.invalid_reason, ran.result.steps) == (None, 2)
    assert (died.result.success, died.result.invalid_reason, died.result.failed) == (False, DIED, "valid")
    assert (died.result.seed, died.result.steps, died.result.verdict) == (2_000_001, 0, f"INVALID: {DIED}")
    assert (died.result.cube_x_m, died.result.closest_m, died.result.failed_step) == (None, None, None)
    assert died.result.cube_start() == "at an unknown place"
    assert len(died.recording.states) == len(died.recording.actions) == 0


def test_there_is_a_worker_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, expected in ((1, 1), (6, 6), (200, MOST_WORKERS)):
        cores = set(range(usable))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process, cores=cores: cores)
        assert default_workers() == expected
