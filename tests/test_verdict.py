"""The verdict, on states of the real simulator: what it must accept, and what it must reject."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.judging.evidence import MEASURED, Evidence
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import CONDITIONS, Judge, check
from vla.sim.env import Simulator
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Decision, Step, rollout

Row = dict[str, Any]
"""Changes of fields of `Evidence`, by name."""

OPEN, CLOSE = -1.0, 1.0


def _watch(
    sim: Simulator, steps: int, gripper: float, before_step: Callable[[], None] = lambda: None
) -> tuple[Judge, list[float]]:
    """Judge `steps` control steps of an arm that only moves its fingers; also returns the cube's height after each."""
    judge = Judge()
    heights: list[float] = []
    judge.start(sim.evidence())
    action = np.array([0, 0, 0, 0, 0, 0, gripper], dtype=np.float32)
    for _ in range(steps):
        before_step()
        observation, _ = sim.step(action)
        judge.update(observation.evidence)
        heights.append(observation.evidence.height_m)
    return judge, heights


def _judge_rows(held: Evidence, rows: Sequence[Row], **limits: float) -> Judge:
    """Judge an episode that starts at rest and then has a state for each row: `held` with the row's changes, every 50
    ms. `limits` change the thresholds; the rows stand where they start, so that none of them is raised."""
    judge = Judge(dataclasses.replace(Thresholds(), **{"min_rise_m": 0.0, **limits}))  # type: ignore[arg-type]
    judge.start(dataclasses.replace(held, **{**ON_TABLE, "time_s": 0.0}))
    for step, row in enumerate(rows, start=1):
        judge.update(dataclasses.replace(held, **{"time_s": 0.05 * step, **row}))
    return judge


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
    judge, heights = _watch(sim, 30, OPEN)
    assert abs(heights[-1]) < 0.002
    assert not judge.success
    assert judge.reported_success  # the report's 100%: a height of 0.82 m in the world is above 0.08 m from the start
    assert "8 cm above the table" in judge.explain()


def test_an_episode_that_begins_unsettled_is_invalid(sim: Simulator) -> None:
    sim.reset(0)
    position, _ = _cube_joint(sim)
    sim.data.qpos[position][2] += 0.01
    sim.declare("qpos")
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
    sim.declare("qvel")
    judge, heights = _watch(sim, 40, CLOSE)
    assert sum(height > 0.08 for height in heights) >= 6
    assert not judge.success


def test_teleported_cube_is_rejected(sim: Simulator) -> None:
    sim.reset(0)
    position, velocity = _cube_joint(sim)

    def hold_up() -> None:
        sim.data.qpos[position] = [0.1, 0.15, 1.0, 1, 0, 0, 0]
        sim.data.qvel[velocity] = 0
        sim.declare("qpos", "qvel")

    judge, heights = _watch(sim, 40, CLOSE, hold_up)
    assert min(heights) > 0.1
    assert not judge.success
    assert judge.invalid_reason is None  # the conditions alone reject it


def test_cube_pushed_up_by_an_outside_force_is_rejected(sim: Simulator) -> None:
    sim.reset(0)
    cube = sim.model.body("cube_main").id
    mass = float(sim.model.body_mass[cube])
    position, velocity = _cube_joint(sim)

    def push() -> None:
        lift = 40 * (1.0 - sim.data.qpos[position][2]) - 8 * sim.data.qvel[velocity][2]
        sim.data.xfrc_applied[cube, 2] = mass * (9.81 + lift)
        sim.declare("xfrc_applied")

    judge, heights = _watch(sim, 80, CLOSE, push)
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
    judge, _ = _watch(sim, 40, CLOSE)
    assert judge.ever["squeezed"]
    assert judge.ever["fitting"]
    assert not judge.success


def test_hold_must_be_unbroken(expert_episode: tuple[list[Step], Judge]) -> None:
    held = expert_episode[0][-1].outcome.evidence
    rows: list[Row] = [{"left_squeeze_n": 0.0} if index % 15 == 14 else {} for index in range(100)]
    judge = _judge_rows(held, rows)
    assert not judge.success
    verdict = judge.verdict()
    assert (verdict.failed, verdict.step) == ("squeezed", 90)
    assert "held for 13 of 20 steps at most; at step 90" in verdict.words
    assert _judge_rows(held, rows + HOLD).success


def test_a_hold_is_a_second_from_its_first_state_to_its_last(expert_episode: tuple[list[Step], Judge]) -> None:
    held = expert_episode[0][-1].outcome.evidence
    almost = _judge_rows(held, HOLD[:-1])
    assert not almost.success
    assert "ended after 19 of 20 steps" in almost.explain()
    assert _judge_rows(held, HOLD).success


@pytest.mark.parametrize(
    ("condition", "change"),
    [
        ("lifted", {"height_m": 0.079}),
        ("closing", {"closing_commanded": False}),
        ("fitting", {"opening_m": 0.070}),
        ("fitting", {"opening_m": 0.002}),
        ("fitting", {"cube_width_m": 0.07, "cube_extent_m": 0.07}),
        ("squeezed", {"left_squeeze_n": 1.0}),
        ("squeezed", {"right_squeeze_n": -5.0}),
        ("opposed", {"right_angle_deg": 60.0}),
        ("between", {"between_pads": False}),
        ("borne", {"borne_weights": 0.4}),
        ("borne", {"borne_weights": -3.0}),
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
    # 10 mm/s, which is below the velocity limit
    rows = [{"cube_in_gripper": held.cube_in_gripper + np.array([0, 0, 0.0005 * index])} for index in range(60)]
    assert _judge_rows(held, rows).verdict().failed == "not_slipping"


AWAY = np.array([0.06, 0.0, 0.0])
ON_TABLE: Row = {"height_m": 0.0, "cube_speed_mps": 0.0, "left_touch": False, "right_touch": False}
IN_THE_AIR: Row = {"height_m": 0.05, "left_touch": False, "right_touch": False}
ON_THE_FLOOR: Row = {**ON_TABLE, "height_m": -0.8}
HOLD: list[Row] = [{}] * 21
"""States of a second."""
WIDE = {"max_jump_m": 1.0}


@pytest.mark.parametrize(
    ("rows", "success"),
    [
        (HOLD, True),
        ([ON_TABLE] * 3 + HOLD, True),
        ([IN_THE_AIR] + HOLD, False),  # thrown up and caught
        ([IN_THE_AIR | {"left_touch": True}] + HOLD, True),  # raised by one finger first
        ([IN_THE_AIR, ON_TABLE] + HOLD, True),  # dropped and lifted again
        ([IN_THE_AIR] + [ON_THE_FLOOR] * 12 + HOLD, False),
    ],
)
def test_the_cube_is_carried_from_the_table(
    expert_episode: tuple[list[Step], Judge], rows: list[Row], success: bool
) -> None:
    judge = _judge_rows(expert_episode[0][-1].outcome.evidence, rows)
    assert judge.success == success
    assert success or judge.verdict().failed == "carried"


@pytest.mark.parametrize(
    ("after_the_jump", "limits", "success"),
    [
        ([], {}, False),
        ([], WIDE, True),
        ([ON_TABLE] * 10, {}, False),  # the first of the ten is the jump itself
        ([ON_TABLE] * 11, {}, True),
        ([ON_TABLE | {"left_touch": True}] * 30, {}, False),  # into the waiting gripper
        ([ON_TABLE | {"cube_speed_mps": 0.1}] * 30, {}, False),
        ([ON_THE_FLOOR] * 30, {}, False),
        ([ON_TABLE] * 6 + [IN_THE_AIR] + [ON_TABLE] * 6, {}, False),
    ],
)
def test_after_a_jump_the_cube_must_rest_on_the_table(
    expert_episode: tuple[list[Step], Judge], after_the_jump: list[Row], limits: Row, success: bool
) -> None:
    held = expert_episode[0][-1].outcome.evidence
    rows: list[Row] = [row | {"cube_pos": held.cube_pos + AWAY} for row in after_the_jump + HOLD]
    judge = _judge_rows(held, rows, **limits)
    assert judge.success == success
    assert success or judge.verdict().failed == "carried"


def test_a_fall_is_no_jump(expert_episode: tuple[list[Step], Judge]) -> None:
    """A cube that fell at 1.4 m/s moves by 7 cm in a step; it may be grasped again at once."""
    held = expert_episode[0][-1].outcome.evidence
    fallen = {"cube_pos": held.cube_pos - [0.0, 0.0, 0.07]}
    falling: Row = {**IN_THE_AIR, "cube_speed_mps": 1.4}
    landed: list[Row] = [{**ON_TABLE, **fallen}, *({**row, **fallen} for row in HOLD)]
    assert _judge_rows(held, [falling, *landed]).success
    assert _judge_rows(held, [IN_THE_AIR, *landed]).verdict().failed == "carried"


@pytest.mark.parametrize("which", ["cube_pos", "gripper_pos"])
def test_cube_and_gripper_must_both_have_risen(expert_episode: tuple[list[Step], Judge], which: str) -> None:
    held = expert_episode[0][-1].outcome.evidence
    low = {name: getattr(held, name) - [0.0, 0.0, 0.1] for name in ("cube_pos", "gripper_pos")}
    fast = {"max_jump_m": 1.0, "min_rise_m": Thresholds().min_rise_m}
    assert _judge_rows(held, [{**ON_TABLE, **low}, *HOLD], **fast).success
    stayed = {**low, which: getattr(held, which)}  # the table went down instead
    verdict = _judge_rows(held, [{**ON_TABLE, **stayed}, *HOLD], **fast).verdict()
    assert verdict.failed == "raised"


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ({}, None),
        ({"height_m": 0.003}, "settled"),
        ({"height_m": -0.003}, "settled"),
        ({"cube_speed_mps": 0.05}, "settled"),
        ({"cube_speed_mps": np.nan}, "valid"),
    ],
)
def test_the_start_is_judged(expert_episode: tuple[list[Step], Judge], start: Row, reason: str | None) -> None:
    judge = Judge()
    judge.start(dataclasses.replace(expert_episode[0][-1].outcome.evidence, **{**ON_TABLE, **start}))
    assert (judge.invalid_reason is None) == (reason is None)
    assert reason is None or judge.verdict().failed == reason


@pytest.mark.parametrize("period_s", [0.0, -0.05, 0.024, 0.048, 0.052, np.nan])
def test_another_control_period_is_invalid(expert_episode: tuple[list[Step], Judge], period_s: float) -> None:
    held = expert_episode[0][-1].outcome.evidence
    late: list[Row] = [{"time_s": 0.25 + period_s}] + [{"time_s": 0.25 + period_s + 0.05 * i} for i in range(1, 20)]
    judge = _judge_rows(held, HOLD[:5] + late)
    assert not judge.success
    assert judge.verdict().failed == "valid"
    assert judge.verdict().step == 6
    first = _judge_rows(held, [{"time_s": period_s}])
    assert first.invalid_reason is not None  # the first period counts as well


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evidence_that_is_not_finite_is_invalid(
    expert_episode: tuple[list[Step], Judge], name: str, bad: float
) -> None:
    held = expert_episode[0][-1].outcome.evidence
    judge = _judge_rows(held, [{}] * 3 + [{name: np.full_like(getattr(held, name), bad, dtype=float)}] + HOLD)
    assert not judge.success
    assert judge.verdict().step == 4
    assert name in judge.explain()


def test_a_judge_that_was_not_started_refuses(expert_episode: tuple[list[Step], Judge]) -> None:
    with pytest.raises(AssertionError, match="begins in"):
        Judge().update(expert_episode[0][-1].outcome.evidence)


def test_an_actor_cannot_change_what_the_judge_remembers(expert_episode: tuple[list[Step], Judge]) -> None:
    held = expert_episode[0][-1].outcome.evidence
    judge = Judge()
    judge.start(dataclasses.replace(held, **{**ON_TABLE, "time_s": 0.0}))
    for step in range(1, 40):
        drift, way = np.array([0, 0, 0.0005 * step]), np.array([0.06 * step, 0, 0])
        shown = dataclasses.replace(
            held, time_s=0.05 * step, cube_in_gripper=held.cube_in_gripper + drift, cube_pos=held.cube_pos + way
        )
        judge.update(shown)
        shown.cube_in_gripper[:] += [0, 0, 0.0005]  # its next value, so that nothing would seem to move
        shown.cube_pos[:] += [0.06, 0, 0]
    assert not judge.ever["carried"]
    assert not judge.success


def test_diverged_episode_is_invalid_and_a_failure(sim: Simulator) -> None:
    class Nan:
        def reset(self, instruction: str, seed: int) -> None:
            """Do nothing."""

        def select_action(self, obs: object) -> Decision:
            action = np.full(7, np.nan, dtype=np.float32)
            return Decision(action, action)

    judge = Judge()
    assert list(rollout(sim, Nan(), "Pick up the cube", 0, 20, judge)) == []
    assert not judge.success
    assert judge.explain().startswith("INVALID")


def test_a_gripper_command_of_zero_changes_nothing(sim: Simulator) -> None:
    sim.reset(0)
    still = np.zeros(7, dtype=np.float32)
    told = []
    for command in (0.0, 1.0, 0.0, 0.0, -1.0, 0.0):
        still[6] = command
        told.append(sim.step(still)[0].evidence.closing_commanded)
    assert told == [False, True, True, True, False, False]


def test_a_shaken_arm_that_holds_firmly_is_accepted(sim: Simulator) -> None:
    """The hand turns and moves by white noise of 0.1 at every step; the cube stays in its place in the grip."""
    sim.perturbation = Perturbation("action-noise", 1)
    judge = Judge()
    expert = ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
    try:
        steps = list(rollout(sim, expert, "Pick up the cube", 2_000_000, 120, judge))
    finally:
        sim.perturbation = None
        sim.reset(0)
    assert judge.success, judge.explain()
    assert max(step.outcome.evidence.slip_speed_mps for step in steps[-20:]) < 0.01


def test_measuring_does_not_disturb_the_episode(sim: Simulator) -> None:
    action = np.array([0.3, 0, -0.4, 0, 0, 0, 1], dtype=np.float32)
    states = []
    for measured in (False, True):
        sim.reset(0)
        for _ in range(5):
            if measured:
                sim._evidence = None  # discard the measurement, so that the state is measured again
                sim.evidence()
            sim.step(action)
        states.append(sim.state())
    np.testing.assert_array_equal(states[0], states[1])
