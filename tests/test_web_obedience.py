"""The page's verdict among several cubes: about what the latest instruction asks for, in the simulator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.language_policy import ENV, SEED
from vla.evaluation.task import EvalTask
from vla.judging.bystanders import WRONG_OBJECT, CubeStates
from vla.judging.verdict import Judge
from vla.policies.execution import ControlConfig
from vla.sim.env import Simulator
from vla.sim.table import table_layout
from vla.web.goals import Said, goal_of
from vla.web.live_episode import LiveEpisode
from vla.web.messages import EpisodeRequest, Intervention, Retarget, StepRequest
from vla.web.obedience import Obedience
from vla.web.simulator_server import SimulatorServer


def _step(before: list[float], after: list[float]) -> Any:
    """A step that begins and ends with the cubes at these heights."""

    def cubes(heights: list[float]) -> CubeStates:
        pos = np.array([[0.0, 0.0, height] for height in heights])
        return CubeStates(pos, np.array(heights), np.zeros(len(heights), dtype=bool))

    return SimpleNamespace(
        observation=SimpleNamespace(cubes=cubes(before)), outcome=SimpleNamespace(cubes=cubes(after))
    )


def test_a_cube_in_the_air_when_another_is_named_is_no_wrong_object_until_it_is_lifted_again() -> None:
    layout = table_layout(ENV.scene, SEED)
    obedience = Obedience(begin=50)
    obedience.add(_step([0.1, 0.0], [0.09, 0.0]))
    obedience.add(_step([0.09, 0.0], [0.0, 0.0]))
    assert obedience.verdict(Judge(), 1, layout).failed == "lifted"  # never lifted, and nothing worse
    obedience.add(_step([0.0, 0.0], [0.1, 0.0]))
    verdict = obedience.verdict(Judge(), 1, layout)
    assert verdict.failed == WRONG_OBJECT
    assert verdict.words == "FAILURE: wrong object: the red cube was lifted at step 53 instead of the green cube"


class _Run(NamedTuple):
    """Runs episodes of the expert in a simulator of two cubes, as the page does."""

    server: SimulatorServer

    def __call__(
        self, instruction: str, steps: int = 200, told: dict[int, str] | None = None, target: int | None = -1
    ) -> LiveEpisode:
        """`told` has other instructions by step; `target` leads the expert to another cube than the named one."""
        layout = table_layout(ENV.scene, SEED)
        goal = goal_of(instruction, layout, follows=False)
        led = goal.target if target == -1 else target
        task = EvalTask("expert", Path(), np.zeros(0), SEED, instruction, steps, ControlConfig(), None, target=led)
        episode = LiveEpisode(Said(instruction, goal), "cubes:expert", ENV, task, None, layout=layout)
        self.server.answer(EpisodeRequest(task))
        while True:
            intervention = Intervention()
            if told and len(episode.steps) in told:
                text = told.pop(len(episode.steps))
                episode.tell(Said(text, goal_of(text, layout, follows=False)))
                intervention = Intervention(retarget=Retarget(episode.said.goal.target))
            answer: Any = self.server.answer(StepRequest(intervention))
            if isinstance(answer, Judge):
                episode.judge = answer
                return episode
            episode.add(answer)


@pytest.fixture(scope="module")
def run() -> _Run:
    return _Run(SimulatorServer(Simulator(ENV, render_images=False)))


def test_the_verdict_names_the_cube_that_was_asked_for(run: _Run) -> None:
    episode = run("Lift the green cube")
    assert "target: <b>the green cube</b>" in episode.html()
    assert "<h3>Truly lifted</h3>" in episode.verdict_html()
    assert "Asked for: <b>the green cube</b>" in episode.verdict_html()
    facts = episode.summary()
    assert (facts["success"], facts["asks_for"], facts["target"]) == (True, "the green cube", 1)


def test_lifting_another_cube_is_a_wrong_object(run: _Run) -> None:
    episode = run("Lift the green cube", target=0)
    words = "wrong object: the red cube was lifted at step"
    assert words in episode.html()
    assert "<h3>Wrong object <small>failed: wrong object</small></h3>" in episode.verdict_html()
    facts = episode.summary()
    assert (facts["success"], facts["failed"], facts["failure_kind"]) == (False, "wrong_object", "wrong_object")


def test_no_verdict_is_invented_for_an_instruction_that_nobody_understands(run: _Run) -> None:
    episode = run("Make the table tidy", steps=5)
    assert "No verdict: " in episode.html()
    assert "<h3>No verdict</h3>" in episode.verdict_html()
    facts = episode.summary()
    assert facts["success"] is None
    assert facts["verdict"].startswith("NO VERDICT: ")
    assert episode.curves() is None


def test_an_instruction_to_do_nothing_is_obeyed_by_doing_nothing(run: _Run) -> None:
    still = run("Do nothing", steps=10)
    assert "<h3>Rightly left alone</h3>" in still.verdict_html()
    assert 'class="conditions"' not in still.html()
    moved = run("Lift the purple cube", steps=60, target=0)
    assert "<h3>Not left alone <small>failed: not still</small></h3>" in moved.verdict_html()
    assert "nothing was to be moved, but the red cube moved by" in moved.html()


def test_told_another_cube_on_the_way_the_verdict_is_about_that_one(run: _Run) -> None:
    episode = run("Lift the green cube", told={8: "Lift the red cube"})
    assert episode.summary()["success"], episode.summary()["verdict"]
    assert episode.summary()["target"] == 0
    assert episode.instruction_changes == [(8, "Lift the red cube")]
    assert episode.obedience.words(0, episode.layout).endswith("lifted: the red cube")
    assert [view.judge.steps for view in episode.steps] == list(range(1, len(episode.steps) + 1))


@pytest.mark.slow
def test_a_cube_that_was_lifted_before_another_was_named_does_not_spoil_the_verdict(run: _Run) -> None:
    heights_m = [view.step.outcome.cubes.height_m[1] for view in run("Lift the green cube").steps]
    up = next(index for index, height_m in enumerate(heights_m) if height_m > 0.09)
    episode = run("Lift the green cube", steps=300, told={up + 1: "Lift the red cube"})
    verdict = episode.verdict()
    assert verdict is not None
    assert verdict.success, verdict.words


def test_a_cube_that_is_named_in_the_air_must_first_lie_on_the_table(run: _Run) -> None:
    """Held up by the gripper when it is named, it is held for a second, and that is no lift."""
    held = [view for view in run("Lift the green cube").steps if all(view.judge.now.values())]
    judge = Judge()
    judge.start(held[0].step.outcome.evidence, on_the_way=True)
    for view in held[1:]:
        judge.update(view.step.outcome.evidence)
    assert len(held) > judge.limits.hold_steps
    assert judge.invalid_reason is None
    assert not judge.success
    assert not judge.ever["carried"]
