"""Why an episode failed: each kind of failure from real episodes of a scripted hand; the tables and the CSV of them."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from vla.evaluation.episode import EpisodeResult, died_episode, run_episode
from vla.evaluation.episodes_csv import write_csv
from vla.evaluation.failures import FAILURE_KINDS, failure_kind, measure_approach
from vla.evaluation.milestones import PHASES
from vla.evaluation.results_json import results_json
from vla.evaluation.statistics import success_interval
from vla.evaluation.tables import failure_table, milestone_table
from vla.experts.controls import control
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Judge
from vla.sim.config import ACTION_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, POSITION_SCALE_M, EnvConfig, Placement
from vla.sim.env import Observation, Simulator
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Actor, Decision

GO = "Pick up the cube"
ABOVE = np.array([0.0, 0.0, 0.1])
CAMERA = np.array([0.5, 0.0, 1.35])
"""robosuite's agentview."""
TO_CAMERA = (CAMERA - [0.0, 0.0, 0.82]) / np.linalg.norm(CAMERA - [0.0, 0.0, 0.82])
"""From the cube, which these tests lay into the table's middle."""
ON = np.zeros(3)


class Hand:
    """A hand that goes to places relative to where the cube lay at the start, and closes and opens at fixed steps.

    It is no expert: it does not look where the cube is, as a policy that believes to know it.
    """

    def __init__(self, way: dict[int, np.ndarray], close: int | None = None, reopen: int | None = None) -> None:
        """Take the place of each leg by its first step, and the steps at which the gripper closes and opens again."""
        self._way, self._close, self._reopen = way, close, reopen

    def reset(self, instruction: str, seed: int) -> None:
        self._step, self._cube = 0, np.full(3, np.nan)

    def select_action(self, obs: Observation) -> Decision:
        if self._step == 0:
            self._cube = obs.evidence.cube_pos.copy()
        target = self._cube + next(place for start, place in reversed(self._way.items()) if start <= self._step)
        closed = self._close is not None and self._step >= self._close
        if self._reopen is not None and self._step >= self._reopen:
            closed = False
        self._step += 1
        action = np.zeros(ACTION_DIM, dtype=np.float32)
        action[:3] = np.clip((target - obs.eef_pos) / POSITION_SCALE_M, -1, 1)
        action[-1] = GRIPPER_CLOSE if closed else GRIPPER_OPEN
        return Decision(action, action)


def pick(offset: np.ndarray, close: int | None = 32, reopen: int | None = None) -> Hand:
    """Go over the place that is `offset` from the cube's, down to it, and raise the hand by 20 cm."""
    return Hand({0: offset + ABOVE, 20: offset, 45: offset + 2 * ABOVE}, close, reopen)


SWEEP = {0: ABOVE + [0.0, 0.1, 0.0], 15: np.array([0.0, 0.1, 0.0]), 30: ON}
STORIES: dict[str, tuple[str | None, Actor, int]] = {
    "a lift": (None, pick(ON), 90),
    "no motion": ("never_reached", control("zero"), 10),
    "a gripper that closes far away": ("never_reached", control("always-close"), 10),
    "uniform noise": ("never_reached", control("random"), 30),
    "no numbers": ("invalid", control("nan"), 10),
    "4 cm before the cube, on the camera's ray": ("missed_in_depth", pick(0.04 * TO_CAMERA), 50),
    "4 cm behind the cube, on the table": ("missed_in_depth", pick(np.array([-0.04, 0.0, 0.0])), 50),
    "4 cm too high": ("missed_in_depth", pick(np.array([0.0, 0.0, 0.04])), 50),
    "4 cm to the left": ("missed_sideways", pick(np.array([0.0, -0.04, 0.0])), 50),
    "4 cm across the ray, behind and above": ("missed_sideways", pick(np.array([-0.03, 0.0, 0.03])), 50),
    "a gripper that never closes": ("never_closed", pick(ON, close=None), 50),
    "a hand that sweeps over the table": (
        "pushed_away",
        Hand(SWEEP),
        45,
    ),
    "a sweep, and a gripper that closes then": (
        "pushed_away",
        Hand(SWEEP, close=45),
        50,
    ),
    "a grip at the edge of the pads": ("gripped_askew", pick(np.array([0.025, 0.0, 0.0])), 80),
    "a grip that stays on the table": ("not_raised", Hand({0: ABOVE, 20: ON}, close=32), 50),
    "a gripper that opens during the lift": ("dropped", pick(ON, reopen=52), 60),
    "an episode that ends during the hold": ("not_held", pick(ON), 60),
}
"""Kind of failure, actor and steps of each episode. The hand goes where the cube lay when the episode began."""
OUTCOMES = (
    "a lift",
    "no motion",
    "no numbers",
    "4 cm before the cube, on the camera's ray",
    "a gripper that opens during the lift",
)
"""Stories for the tables."""


@pytest.fixture(scope="module")
def blind_sim() -> Iterator[Simulator]:
    simulator = Simulator(render_images=False)
    simulator.placement = Placement(0.0, 0.0)
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def told(blind_sim: Simulator) -> Callable[[str], EpisodeResult]:
    """Runs a story of STORIES, once, and returns its result."""

    @functools.cache
    def tell(story: str) -> EpisodeResult:
        _, actor, steps = STORIES[story]
        return run_episode(blind_sim, actor, GO, 2_000_000, steps).result

    return tell


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_each_failure_has_the_kind_of_its_story(told: Callable[[str], EpisodeResult], story: str) -> None:
    result = told(story)
    assert result.failure_kind == STORIES[story][0]
    assert result.success == (result.failure_kind is None)


def test_the_stories_show_every_kind_of_failure() -> None:
    elsewhere = {"wrong_object", "not_still"}  # tests/test_cubes.py
    assert {kind for kind, _, _ in STORIES.values()} | elsewhere == {None, *FAILURE_KINDS}


def test_a_miss_is_measured_along_and_across_the_line_of_sight(told: Callable[[str], EpisodeResult]) -> None:
    before = told("4 cm before the cube, on the camera's ray")
    assert before.miss_depth_m == pytest.approx(-0.04, abs=0.003)
    assert before.miss_sideways_m == pytest.approx(0, abs=0.005)
    behind = told("4 cm behind the cube, on the table")
    assert behind.miss_depth_m == pytest.approx(0.04 * TO_CAMERA[0], abs=0.004)
    assert behind.miss_sideways_m == pytest.approx(0.04 * TO_CAMERA[2], abs=0.004)
    across = told("4 cm across the ray, behind and above")
    assert across.miss_depth_m == pytest.approx(0, abs=0.004)


def test_only_the_fingers_push_a_cube_away(blind_sim: Simulator, told: Callable[[str], EpisodeResult]) -> None:
    swept = told("a hand that sweeps over the table")
    assert swept.pushed_m is not None
    assert swept.pushed_m > 0.05
    blind_sim.perturbation = Perturbation("cube-push", 3)
    try:
        pushed = run_episode(blind_sim, control("zero"), GO, 2_000_000, 20)
    finally:
        blind_sim.perturbation = None
    cube = 1 + blind_sim.cube_addresses()[:2]  # the time comes first in a state
    assert np.linalg.norm(pushed.recording.states[-1, cube] - pushed.recording.states[0, cube]) > 0.02
    assert (pushed.result.failure_kind, pushed.result.pushed_m) == ("never_reached", 0.0)


def test_the_order_of_the_kinds_is_their_precedence(blind_sim: Simulator) -> None:
    """Where everything went wrong, the first kind counts; without its cause, a later one does."""
    blind_sim.reset(2_000_000)
    limits, first, camera = Thresholds(), blind_sim.evidence(), blind_sim.camera_matrix()
    low = dataclasses.replace(first, gripper_pos=first.cube_pos + [0.0, 0.03, 0.0], left_touch=True)
    moved = dataclasses.replace(low, cube_pos=first.cube_pos + [0.0, 0.03, 0.0], closing_commanded=True)
    judge = Judge()
    judge.start(first)
    judge.update(dataclasses.replace(moved, time_s=first.time_s + limits.control_period_s))
    verdict, approach = judge.verdict(), measure_approach(first, [low, moved], camera)

    def kind(valid: bool, phases: set[str], drops: int) -> str | None:
        return failure_kind(verdict, valid, phases, drops, [low, moved], approach, limits)

    assert kind(False, {"grasped", "lifted"}, 1) == "invalid"
    assert kind(True, {"grasped", "lifted"}, 1) == "dropped"
    assert kind(True, {"grasped", "lifted"}, 0) == "not_held"
    assert kind(True, {"grasped"}, 0) == "not_raised"
    assert kind(True, set(), 0) == "pushed_away"
    assert approach.pushed_m == pytest.approx(0.03)


def test_milestones_and_failures_are_counted_with_exact_intervals(told: Callable[[str], EpisodeResult]) -> None:
    results = [told(story) for story in OUTCOMES]
    content = results_json({}, {}, EnvConfig(), results, [None] * len(results))
    reached = {phase: content["milestones"][phase]["count"] for phase in PHASES}
    assert list(reached.values()) == [3, 3, 2, 2, 1]
    touched = content["milestones"]["touched"]
    assert touched["interval_95"] == success_interval(touched["count"], len(results))
    kinds = content["failure_kinds"]
    assert list(kinds) == list(FAILURE_KINDS)
    assert sum(kind["count"] for kind in kinds.values()) == len(results) - 1
    assert kinds["dropped"]["failed"] == {"closing": 1}
    assert kinds["never_reached"]["count"] == sum(kinds["never_reached"]["failed"].values()) == 1
    assert kinds["gripped_askew"] == {
        "count": 0,
        "rate": 0,
        "interval_95": success_interval(0, len(results)),
        "failed": {},
    }
    assert "| held       | 1/5 = 20% [0.5%, 71.7%]" in milestone_table(results)
    assert "| missed in depth | 1/5 = 20% [0.5%, 71.7%] | lifted 1 " in failure_table(results)


def test_the_csv_has_a_row_per_episode_and_the_names_of_the_json(
    told: Callable[[str], EpisodeResult], tmp_path: Path
) -> None:
    results = [*(told(story) for story in OUTCOMES), died_episode(2_000_001, GO, 'it died, "twice"').result]
    path = tmp_path / "episodes.csv"
    write_csv(path, results)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results)
    stored = json.loads(json.dumps([dataclasses.asdict(result) for result in results]))
    for row, episode in zip(rows, stored, strict=True):
        plain = {name: value for name, value in episode.items() if not isinstance(value, dict | list)}
        assert plain.keys() <= row.keys()
        for name, value in plain.items():
            expected = json.dumps(value) if isinstance(value, bool) else str(value)
            assert row[name] == ("" if value is None else expected), name
        for phase in PHASES:
            assert row[f"phase_times_s.{phase}"] == str(episode["phase_times_s"].get(phase, ""))
    lift, died = rows[0], rows[-1]
    assert float(lift["inference_ms_median"]) == np.median(results[0].inference_ms)
    assert (died["inference_ms_median"], died["failure_kind"]) == ("", "invalid")
    assert died["invalid_reason"] == 'it died, "twice"'


def test_the_document_explains_every_milestone_and_failure() -> None:
    document = " ".join((ROOT / "docs/pipeline.md").read_text(encoding="utf-8").split())
    for name, meaning in {**PHASES, **FAILURE_KINDS}.items():
        assert f"| {name.replace('_', ' ')} | {meaning} |" in document
