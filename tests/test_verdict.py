"""The verdict on states of the real simulator: what must pass, and what must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vla.env import Simulator
from vla.rollout import Decision, Step, rollout
from vla.verdict import CONDITIONS, Judge, Thresholds, check

OPEN, CLOSE = -1.0, 1.0


def _watch(sim: Simulator, steps: int, gripper: float, before_step: Callable[[], None] = lambda: None) -> Judge:
    """Judge `steps` control steps of an arm that only moves its fingers."""
    judge = Judge()
    judge.start(sim.evidence())
    action = np.array([0, 0, 0, 0, 0, 0, gripper], dtype=np.float32)
    for _ in range(steps):
        before_step()
        observation, _ = sim.step(action)
        judge.update(observation.evidence)
        heights.append(observation.evidence.height_m)
    return judge


heights: list[float] = []


@pytest.fixture(autouse=True)
def _forget_heights() -> None:
    heights.clear()


def _cube_joint(sim: Simulator) -> tuple[slice, slice]:
    joint = sim.model.joint("cube_joint0")
    position, velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
    return slice(position, position + 7), slice(velocity, velocity + 6)


def test_honest_lift_is_accepted(expert_episode: tuple[list[Step], Judge]) -> None:
    steps, judge = expert_episode
    assert judge.success
    assert judge.explain().startswith("SUCCESS")
    assert judge.held_steps == judge.limits.hold_steps
    final = steps[-1].outcome.evidence
    assert final.height_m > 0.08
    assert min(final.left_squeeze_n, final.right_squeeze_n) > 5
    assert final.slip_speed_mps < 0.01


def test_cube_at_rest_fails_and_passes_the_reports_rule(sim: Simulator) -> None:
    sim.reset(0)
    judge = _watch(sim, 30, OPEN)
    assert abs(heights[-1]) < 0.002
    assert not judge.success
    assert judge.reported_success  # the report's 100%: world height 0.82 m > 0.08 m, from the first step
    assert "8 cm above the table" in judge.explain()


def test_an_episode_that_begins_unsettled_is_invalid(sim: Simulator) -> None:
    sim.reset(0)
    position, _ = _cube_joint(sim)
    sim.data.qpos[position][2] += 0.01
    judge = Judge()
    judge.start(sim.changed_by_hand().evidence)
    verdict = judge.verdict()
    assert not verdict.success
    assert verdict.failed == "settled"
    assert "10.0 mm" in verdict.words


def test_flung_cube_is_rejected(sim: Simulator) -> None:
    sim.reset(0)
    _, velocity = _cube_joint(sim)
    sim.data.qvel[velocity][2] = 2.2
    judge = _watch(sim, 40, CLOSE)
    assert sum(height > 0.08 for height in heights) >= 6
    assert not judge.success


def test_teleported_cube_is_rejected(sim: Simulator) -> None:
    sim.reset(0)
    position, velocity = _cube_joint(sim)

    def hold_up() -> None:
        sim.data.qpos[position] = [0.1, 0.15, 1.0, 1, 0, 0, 0]
        sim.data.qvel[velocity] = 0

    judge = _watch(sim, 40, CLOSE, hold_up)
    assert min(heights) > 0.1
    assert not judge.success


def test_cube_pushed_up_by_an_outside_force_is_rejected(sim: Simulator) -> None:
    sim.reset(0)
    cube = sim.model.body("cube_main").id
    mass = float(sim.model.body_mass[cube])
    position, velocity = _cube_joint(sim)

    def push() -> None:
        lift = 40 * (1.0 - sim.data.qpos[position][2]) - 8 * sim.data.qvel[velocity][2]
        sim.data.xfrc_applied[cube, 2] = mass * (9.81 + lift)

    judge = _watch(sim, 80, CLOSE, push)
    sim.data.xfrc_applied[:] = 0
    assert sum(height > 0.08 for height in heights) >= judge.limits.hold_steps
    assert not judge.success
    assert not judge.ever["squeezed"]


def test_grasp_without_lift_is_rejected(sim: Simulator, expert_episode: tuple[list[Step], Judge]) -> None:
    steps, _ = expert_episode
    sim.reset(3)
    for step in steps:
        if step.decision.phase == "lift":
            break
        sim.step(step.decision.action)
    judge = _watch(sim, 40, CLOSE)
    assert judge.ever["squeezed"]
    assert judge.ever["fitting"]
    assert not judge.success


def test_hold_must_be_unbroken(expert_episode: tuple[list[Step], Judge]) -> None:
    steps, _ = expert_episode
    held = steps[-1].outcome.evidence
    dropped = dataclasses.replace(held, left_squeeze_n=0.0)
    judge = Judge()
    judge.update(dataclasses.replace(held, height_m=0.0))  # on the table
    for index in range(100):
        judge.update(dropped if index % 15 == 14 else held)
    assert not judge.success
    verdict = judge.verdict()
    assert (verdict.failed, verdict.step) == ("squeezed", 91)
    assert "held for 14 of 20 steps at most; at step 91" in verdict.words
    for _ in range(judge.limits.hold_steps):
        judge.update(held)
    assert judge.success


@pytest.mark.parametrize(
    ("condition", "change"),
    [
        ("lifted", {"height_m": 0.079}),
        ("closing", {"closing_commanded": False}),
        ("fitting", {"opening_m": 0.070}),
        ("fitting", {"opening_m": 0.002}),
        ("squeezed", {"left_squeeze_n": 1.0}),
        ("squeezed", {"right_squeeze_n": -5.0}),
        ("opposed", {"right_angle_deg": 60.0}),
        ("between", {"between_pads": False}),
        ("moving_together", {"slip_speed_mps": 0.05}),
        ("not_spinning", {"slip_spin_radps": 1.0}),
        ("free", {"other_contact": True}),
    ],
)
def test_each_condition_alone_rejects(
    expert_episode: tuple[list[Step], Judge], condition: str, change: dict[str, Any]
) -> None:
    held = expert_episode[0][-1].outcome.evidence
    assert all(check(held, Thresholds()).values())
    spoiled = check(dataclasses.replace(held, **change), Thresholds())
    assert [name for name in CONDITIONS if not spoiled[name]] == [condition]


def test_slow_slip_over_the_hold_rejects(expert_episode: tuple[list[Step], Judge]) -> None:
    held = expert_episode[0][-1].outcome.evidence
    judge = Judge()
    judge.update(dataclasses.replace(held, height_m=0.0))  # on the table
    for index in range(60):
        moved = held.cube_in_gripper + np.array([0, 0, 0.0005 * index])  # 10 mm/s: below the velocity limit
        judge.update(dataclasses.replace(held, cube_in_gripper=moved))
    assert judge.verdict().failed == "not_slipping"


def test_diverged_episode_is_invalid_and_a_failure(sim: Simulator) -> None:
    class Nan:
        def reset(self, instruction: str, seed: int) -> None:
            """Nothing to prepare."""

        def act(self, observation: object) -> Decision:
            action = np.full(7, np.nan, dtype=np.float32)
            return Decision(action, action)

    judge = Judge()
    assert list(rollout(sim, Nan(), "Pick up the cube", 0, 20, judge)) == []
    assert not judge.success
    assert judge.explain().startswith("INVALID")


def test_measuring_does_not_disturb_the_episode(sim: Simulator) -> None:
    action = np.array([0.3, 0, -0.4, 0, 0, 0, 1], dtype=np.float32)
    states = []
    for measured in (False, True):
        sim.reset(0)
        for _ in range(5):
            if measured:
                sim._evidence = None  # forget what was measured, so that it is measured again
                sim.evidence()
            sim.step(action)
        states.append(sim.state())
    np.testing.assert_array_equal(states[0], states[1])
