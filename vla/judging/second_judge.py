"""A second judge: applies the rules of the verdict to recorded states alone, with measurements of its own.

It measures nothing as the verdict does. Forces are the constraint forces mapped into the cube's coordinates, checked by
the balance of its momentum; the table's height is where a ray meets it below the cube when the episode begins; the
opening is the distance between the fingers' bodies; velocities come from Jacobians and from the differences of
successive states. docs/verdict.md lists what the judges still share: the thresholds, the model with the names of its
parts, and MuJoCo's forward pass (kinematics, collision detection, constraint solver). Where the two judges disagree,
one of them is wrong, and a person should look at the episode.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from vla.judging.thresholds import Thresholds

CONTROL_PERIOD_S = 0.05
GRAVITY = np.array([0.0, 0.0, -9.81])
"""m/s^2, world frame."""
MAX_OUTSIDE_WEIGHTS = 0.05
"""Part of the cube's momentum balance that contacts do not explain, in its weights. Without an outside force it is a
rounding error."""


@dataclass(frozen=True)
class SecondOpinion:
    """The second judge's result of an episode."""

    success: bool
    held_steps: int
    """Longest unbroken hold, in control steps from its first state to its last."""
    broken_rule: str | None
    """Why the whole episode does not count (its start, its physics); None for a valid one."""


@dataclass(frozen=True)
class _View:
    """One state, as this judge measures it."""

    time_s: float
    cube: np.ndarray
    """(3,) centre of the cube, world frame, metres."""
    bottom_m: float
    """Height of the cube's lowest corner above the table top."""
    speed_mps: float
    """Speed of the cube's centre."""
    finger_gap_m: float
    """Distance between the fingers."""
    narrowest_m: float
    """Shortest edge of the cube."""
    reach_m: float
    """Extent of the cube along the closing axis."""
    push: tuple[np.ndarray, np.ndarray]
    """(3,) newtons each, normal forces of the left and the right finger on the cube."""
    lift_n: float
    """Upward force of both fingers on the cube, friction included."""
    outside_n: float
    """Force on the cube that its momentum shows and its contacts do not explain."""
    weight_n: float
    """Weight of the cube."""
    axis: np.ndarray
    """(3,) closing axis: unit vector from the left finger to the right one."""
    touching: frozenset[str]
    """What the cube touches: "left", "right", "else"."""
    off_centre_m: tuple[float, float]
    """Distance of the cube from the middle between the fingers: along the closing axis, and across it."""
    hand_m: float
    """Height of the hand in the world frame."""
    in_hand: np.ndarray
    """(3,) centre of the cube in the hand's frame, metres."""
    turn_in_hand: Rotation
    """Orientation of the cube in the hand's frame."""
    slip_mps: float
    """Speed of the cube's centre relative to the point of the hand that coincides with it."""
    spin_radps: float
    """Angular speed of the cube relative to the hand."""


def rejudge(
    model: Any, target: str, states: Iterable[np.ndarray], actions: np.ndarray, limits: Thresholds | None = None
) -> SecondOpinion:
    """Judge an episode from its recording.

    Args:
        model: the `mujoco.MjModel` that the states belong to.
        target: robosuite's name of the cube.
        states: T + 1 full states (`Simulator.full_state`): at the start, and after each of T control steps.
        actions: (T, 7) as executed. One more, after which no state was recorded, makes the episode not count.
        limits: the thresholds; None for the verdict's own.
    """
    import mujoco

    rules = limits or Thresholds()
    data = mujoco.MjData(model)
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    views: list[_View] = []
    table_m: float | None = None
    for state in states:
        if not np.isfinite(state).all():
            return SecondOpinion(False, 0, "a state is not finite")
        mujoco.mj_setState(model, data, state, kind)
        mujoco.mj_forward(model, data)
        if table_m is None:
            table_m = _surface_below(model, data, target)
        views.append(_look(model, data, target, table_m))
    if not np.isfinite(actions).all():
        return SecondOpinion(False, 0, "an action is not finite")
    if len(actions) != len(views) - 1:
        return SecondOpinion(False, 0, f"{len(actions)} actions led to {len(views) - 1} states")
    broken = _broken_rule(views, rules)
    held = _longest_hold(views, _closing(actions), rules)
    return SecondOpinion(broken is None and held >= rules.hold_steps, held, broken)


def _broken_rule(views: Sequence[_View], rules: Thresholds) -> str | None:
    """Why the whole episode does not count, or None."""
    if abs(views[0].bottom_m) > rules.max_start_height_m:
        return "the cube did not begin on the table"
    if views[0].speed_mps > rules.max_start_speed_mps:
        return "the cube moved when the episode began"
    for before, after in itertools.pairwise(views):
        if not np.isclose(after.time_s - before.time_s, CONTROL_PERIOD_S, atol=1e-3):
            return f"time went from {before.time_s:.3f} s to {after.time_s:.3f} s within a control step"
    return None


def _closing(actions: np.ndarray) -> list[bool]:
    """Whether the gripper is told to close, after each action: a command of exactly 0 changes nothing."""
    closing = [False]
    for command in actions[:, -1]:
        closing.append(closing[-1] if command == 0 else bool(command > 0))
    return closing[1:]


def _longest_hold(views: Sequence[_View], closing: Sequence[bool], rules: Thresholds) -> int:
    """Length of the longest unbroken hold, control steps; `closing` says for each step what the gripper is told."""
    longest = held = 0
    carried, rested = True, rules.rest_steps  # `_broken_rule` judges the start
    lain = views[0]
    origin: np.ndarray | None = None
    for (before, now), told_to_close in zip(itertools.pairwise(views), closing, strict=True):
        reach_m = max(before.speed_mps, now.speed_mps) * CONTROL_PERIOD_S + rules.max_jump_m
        jumped = np.linalg.norm(now.cube - before.cube) > reach_m
        in_touch = bool(now.touching & {"left", "right"})
        lies = abs(now.bottom_m) <= rules.on_table_m
        if jumped or rested < rules.rest_steps:
            quiet = lies and not jumped and not in_touch and now.speed_mps <= rules.max_start_speed_mps
            rested = rested + 1 if quiet else 0
        carried = not jumped and ((lies and rested >= rules.rest_steps) or (carried and in_touch))
        lain = now if lies else lain
        place = now.in_hand if origin is None else origin
        good = (
            carried
            and told_to_close
            and now.bottom_m > rules.min_height_m
            and min(now.cube[2] - lain.cube[2], now.hand_m - lain.hand_m) >= rules.min_rise_m
            and now.touching == {"left", "right"}
            and _is_squeezed(now, rules)
            and now.lift_n >= rules.min_borne_weights * now.weight_n
            and now.outside_n <= MAX_OUTSIDE_WEIGHTS * now.weight_n
            and _keeps_still(before, now, rules)
            and np.linalg.norm(now.in_hand - place) <= rules.max_drift_m
        )
        held = held + 1 if good and origin is not None else 0
        origin = place if good else None
        longest = max(longest, held)
    return longest


def _is_squeezed(view: _View, rules: Thresholds) -> bool:
    """Whether the cube is between the fingers, at their opening, and both press it towards each other."""
    slack = rules.fit_margin_m
    along, across = view.off_centre_m
    if not view.narrowest_m - slack <= view.finger_gap_m <= view.reach_m + slack:
        return False
    if along >= view.finger_gap_m / 2 or across > view.narrowest_m / 2:
        return False
    for force, inward in zip(view.push, (view.axis, -view.axis), strict=True):
        squeeze = float(force @ inward)
        if squeeze < rules.min_squeeze_n:
            return False
        if np.degrees(np.arctan2(np.linalg.norm(np.cross(force, inward)), squeeze)) > rules.max_squeeze_angle_deg:
            return False
    return True


def _keeps_still(before: _View, now: _View, rules: Thresholds) -> bool:
    """Whether the cube moves with the hand, by the velocities and by the difference of two states."""
    speed = max(now.slip_mps, float(np.linalg.norm(now.in_hand - before.in_hand)) / CONTROL_PERIOD_S)
    turned = float((now.turn_in_hand * before.turn_in_hand.inv()).magnitude())
    spin = max(now.spin_radps, turned / CONTROL_PERIOD_S)
    return speed <= rules.max_slip_speed_mps and spin <= rules.max_slip_spin_radps


def _look(model: Any, data: Any, target: str, table_m: float) -> _View:
    """Measure the present state; the table's top is at the height `table_m`."""
    import mujoco

    geom = data.geom(f"{target}_g0")
    half = model.geom(f"{target}_g0").size
    turn = geom.xmat.reshape(3, 3)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    corners = geom.xpos + (signs * half) @ turn.T  # (8, 3)

    # The fingers slide along the axes of their joints, which point from the right finger to the left one.
    slide = data.joint("gripper0_right_finger_joint1").xaxis
    axis = -slide / np.linalg.norm(slide)
    pads = [data.geom(f"gripper0_right_finger{i}_pad_collision").xpos for i in (1, 2)]
    if (pads[1] - pads[0]) @ axis < 0:
        axis = -axis
    middle = (pads[0] + pads[1]) / 2
    offset = geom.xpos - middle
    along = float(offset @ axis)

    touch = _touch(model, data, target)
    hand = data.body("gripper0_right_right_gripper")
    motion = [
        np.zeros((2, 3, model.nv)) for _ in range(2)
    ]  # of the cube's centre, as a point of the cube and of the hand
    for jacobian, body in zip(motion, (model.body(f"{target}_main").id, hand.id), strict=True):
        mujoco.mj_jac(model, data, jacobian[0], jacobian[1], geom.xpos, body)
    slip, spin = (motion[0] - motion[1]) @ data.qvel
    mass, first = float(model.body(f"{target}_main").mass[0]), int(model.joint(f"{target}_joint0").dofadr[0])
    hand_turn = Rotation.from_matrix(hand.xmat.reshape(3, 3))
    fingers = [data.body(f"gripper0_right_{side}finger").xpos for side in ("left", "right")]
    return _View(
        time_s=float(data.time),
        cube=geom.xpos.copy(),
        bottom_m=float(corners[:, 2].min() - table_m),
        speed_mps=float(np.linalg.norm(motion[0][0] @ data.qvel)),
        finger_gap_m=float(abs((fingers[0] - fingers[1]) @ axis)),
        narrowest_m=float(2 * half.min()),
        reach_m=float(np.ptp(corners @ axis)),
        push=(touch.push["left"], touch.push["right"]),
        lift_n=float(touch.fingers[2]),
        outside_n=float(np.linalg.norm(mass * (data.qacc[first : first + 3] - GRAVITY) - touch.total)),
        weight_n=float(mass * np.linalg.norm(GRAVITY)),
        axis=axis,
        touching=frozenset(touch.sides),
        off_centre_m=(abs(along), float(np.linalg.norm(offset - along * axis))),
        hand_m=float(hand.xpos[2]),
        in_hand=hand_turn.inv().apply(geom.xpos - hand.xpos),
        turn_in_hand=hand_turn.inv() * Rotation.from_matrix(turn),
        slip_mps=float(np.linalg.norm(slip)),
        spin_radps=float(np.linalg.norm(spin)),
    )


class _Touch(NamedTuple):
    """The forces on the cube, (3,) newtons each, world frame, and what touches it."""

    push: dict[str, np.ndarray]
    """Normal forces of the left and the right finger."""
    fingers: np.ndarray
    """Force of both fingers, friction included."""
    total: np.ndarray
    """Force of all contacts and other constraints."""
    sides: set[str]
    """"left", "right", "else"."""


def _touch(model: Any, data: Any, target: str) -> _Touch:
    """Map the solver's constraint forces into the cube's coordinates, the first three of which are its position."""
    cube = model.body(f"{target}_main").id
    names = {}
    for side, link, tip in (("left", "leftfinger", 1), ("right", "rightfinger", 2)):
        names[model.body(f"gripper0_right_{link}").id] = side
        names[model.body(f"gripper0_right_finger_joint{tip}_tip").id] = side
    push = {"left": np.zeros(3), "right": np.zeros(3)}
    fingers, sides = np.zeros(3), set()
    for index in range(data.ncon):
        contact = data.contact[index]
        bodies = [int(model.geom_bodyid[geom]) for geom in (contact.geom1, contact.geom2)]
        if cube not in bodies:
            continue
        side = names.get(bodies[0] if bodies[1] == cube else bodies[1], "else")
        sides.add(side)
        row = contact.efc_address
        if side != "else" and row >= 0:
            # An elliptic cone, robosuite's: the first row of a contact is its normal, the others are friction.
            push[side] = push[side] + _force_on(model, data, target, slice(row, row + 1))
            fingers += _force_on(model, data, target, slice(row, row + contact.dim))
    return _Touch(push, fingers, _force_on(model, data, target, slice(0, data.nefc)), sides)


def _force_on(model: Any, data: Any, target: str, rows: slice) -> np.ndarray:
    """Force on the cube's centre of these rows of the constraints, (3,) newtons, world frame."""
    import mujoco

    chosen, on_coordinates = np.zeros(data.nefc), np.zeros(model.nv)
    chosen[rows] = data.efc_force[rows]
    mujoco.mj_mulJacTVec(model, data, on_coordinates, chosen)
    first = int(model.joint(f"{target}_joint0").dofadr[0])
    return on_coordinates[first : first + 3]


def _surface_below(model: Any, data: Any, target: str) -> float:
    """Height at which a ray from the cube's centre straight down meets something; minus infinity where it does not."""
    import mujoco

    start, down = data.geom(f"{target}_g0").xpos, np.array([0.0, 0.0, -1.0])
    met = np.zeros(1, dtype=np.int32)
    distance = mujoco.mj_ray(model, data, start, down, None, True, model.body(f"{target}_main").id, met)
    return float(start[2] - distance) if distance >= 0 else -np.inf
