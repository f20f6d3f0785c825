"""The page's start: it is shown before torch is loaded, and then an episode is rehearsed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import torch

from tests.conftest import ROOT
from vla.evaluation.task import EvalTask
from vla.files import SHIPPED, SHIPPED_LANGUAGE
from vla.judging.verdict import Judge
from vla.sim.config import EnvConfig
from vla.sim.table import TableLayout
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.episode_runner import EpisodeRunner
from vla.web.mailbox import Mailbox
from vla.web.messages import CameraView, EpisodeStart, Intervention
from vla.web.second_simulator import SecondSimulator
from vla.web.simulator_process import SimulatorProcess

INSTRUCTION = "Pick up the cube"


def test_the_simulator_starts_before_torch_and_gradio_are_loaded() -> None:
    code = "import sys, web_interface; print({'torch', 'gradio', 'robosuite'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


BUILD_THE_PAGE = """
import sys
from pathlib import Path

from vla.policies import hub
from vla.web import body_limit
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.handlers import Handlers
from vla.web.page import empty_page, fill_page
from vla.web.waiting_lines import WaitingLines


class Simulator:
    def configure(self, config):
        pass


page = empty_page()
choices = CheckpointChoices(Path("checkpoints/lift.pth"), "none")
handlers = Handlers(choices, Simulator(), Path("x.hdf5"), Path("x"), WaitingLines(page))
fill_page(page, handlers, 2_000_000)
print(handlers.choices.first_driver(), {"torch", "mujoco"} & set(sys.modules))
"""


def test_the_page_is_built_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BUILD_THE_PAGE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "lift.pth set()\n"


def _with_broken_weights(source: Path, path: Path) -> None:
    """Copy a checkpoint that says what it is, and cannot be loaded."""
    stored = torch.load(source, weights_only=True)
    next(iter(stored["model"].values())).fill_(torch.nan)
    torch.save(stored, path)


def test_a_checkpoint_whose_weights_are_broken_is_offered_first_until_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth"
    _with_broken_weights(SHIPPED, path)
    choices = CheckpointChoices(path, "none")
    assert (choices.first_driver(), choices.broken()) == ("best_model.pth", {})
    first = choices.first()
    assert first is not None
    assert first.path == SHIPPED
    assert choices.first_driver() == "lift.pth"
    assert "not finite" in choices.broken()["best_model.pth"]
    shutil.copy(SHIPPED, path)
    assert (choices.first_driver(), choices.broken()) == ("best_model.pth", {})


class _Simulator:
    """Stands for the page's simulator, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def configure(self, config: EnvConfig) -> None:
        self.asked.append(config.scene.kind)

    def start_view(self, seed: int) -> None:
        self.asked.append("view")

    def start_episode(self, task: EvalTask, placement: object) -> EpisodeStart:
        self.asked.append(task.checkpoint.name)
        return EpisodeStart(1, TableLayout(()))

    def step(self, number: int, intervention: Intervention) -> Judge:
        return Judge()


def _runner(checkpoint: Path, simulator: _Simulator) -> EpisodeRunner:
    return EpisodeRunner(CheckpointChoices(checkpoint, "none"), cast(SimulatorProcess, simulator))


def test_the_rehearsal_interrupts_no_visitor() -> None:
    simulator = _Simulator()
    runner = _runner(SHIPPED, simulator)
    episode = runner.prepare(INSTRUCTION, "expert", seed=1, max_steps=5)
    with runner._turn:  # as while an episode runs
        runner.rehearse(seed=1)
    assert "view" not in simulator.asked
    for times in (1, 2):  # each leaves the turn to the next one
        runner.rehearse(seed=1)
        assert simulator.asked.count("view") == times
        assert list(runner.run(episode, Mailbox("expert"))) == []


def test_the_rehearsal_runs_in_the_simulator_of_the_policy_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth"
    _with_broken_weights(SHIPPED_LANGUAGE, path)
    simulator = _Simulator()
    _runner(path, simulator).rehearse(seed=1)
    assert simulator.asked == ["cubes", "lift", "view", "lift.pth"]


def test_first_images_wait_for_the_rehearsal_which_keeps_one() -> None:
    second, env, kept = SecondSimulator(EnvConfig()), EnvConfig(), cast(CameraView, "the first image")
    second.hold_back()
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(second.start_view, env, 1)
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.2)
        second.keep(env, 1, kept)
        second.let_go()
        assert asked.result(timeout=5) is kept
