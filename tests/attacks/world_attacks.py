"""Attacks by the world's laws: forces, contacts, motors, the clock and the state change after an honest grasp.

None of these changes is declared. All but a few look like a lift to every condition: only the watch over the world
rejects them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.attacks.attack import UP, Attack
from tests.attacks.director import Director
from vla.sim.config import GRIPPER_CLOSE
from vla.sim.model_edits import FRICTION_FIELDS, scale_friction, scale_mass

SHARE = 0.45
"""Part of the cube's weight that something else carries: less than half, which the fingers have to carry."""
HAND = "gripper0_right_right_gripper"


def _secret(what: str, run: Callable[[Director], None]) -> Attack:
    """Make an attack that only the watch over the world rejects."""
    return Attack(what, run, only="unchanged", declared=False)


def _after_grasp(change: Callable[[Director], None]) -> Callable[[Director], None]:
    """Make an attack that grasps honestly, changes the world once, and lifts."""

    def run(d: Director) -> None:
        d.grasp()
        change(d)
        d.carry()

    return run


def _help(d: Director) -> np.ndarray:
    """Force that carries its share of the cube, (3,) newtons."""
    return SHARE * d.cube_weight_n() * UP


# Forces


def _half_gravity(d: Director) -> None:
    d.sim.model.opt.gravity[2] = -5.0


def _no_gravity(d: Director) -> None:
    d.sim.model.opt.disableflags |= int(d.sim._mujoco.mjtDisableBit.mjDSBL_GRAVITY)


def _helping_force(d: Director) -> None:
    d.push_cube(_help(d))


def _helping_coordinates(d: Director) -> None:
    d.sim.data.qfrc_applied[d.cube_qvel][:3] = _help(d)


def _adhesion(d: Director) -> None:
    d.push_cube(_help(d))
    d.sim.data.xfrc_applied[d.sim.model.body(HAND).id, :3] = -_help(d)


def _pushed_hand(d: Director) -> None:
    d.sim.data.xfrc_applied[d.sim.model.body(HAND).id, 2] = 20.0


def _wind(d: Director) -> None:
    d.sim.model.opt.wind[2] = 3.0


def _hidden_force(d: Director) -> None:
    d.grasp()
    target = d.evidence.gripper_pos + 0.1 * UP
    while len(d.actions) < 75 and not d.fooled:
        d.push_cube(2 * _help(d))
        d.go(target, GRIPPER_CLOSE, 1, tamper=lambda: d.push_cube(0 * UP))


def _callback(d: Director) -> None:
    help_n, row = _help(d)[2], d.cube_qvel.start + 2

    def carry_a_part(_: Any, data: Any) -> None:
        data.qfrc_passive[row] += help_n

    d.grasp()
    d.sim._mujoco.set_mjcb_passive(carry_a_part)
    try:
        d.carry()
    finally:
        d.sim._mujoco.set_mjcb_passive(None)


# Contacts, masses, joints and motors


def _sticky_pads(d: Director) -> None:
    scale_friction(d.sim.model, "cube", 50.0)


def _sticky_world(d: Director) -> None:
    d.sim.model.opt.enableflags |= int(d.sim._mujoco.mjtEnableBit.mjENBL_OVERRIDE)
    d.sim.model.opt.o_friction[:] = 50.0


def _no_creep(d: Director) -> None:
    d.sim.model.opt.impratio = 200.0


def _hard_pads(d: Director) -> None:
    d.sim.model.geom_solref[list(d.pads())] = [0.004, 1.0]
    d.sim.model.geom_solimp[list(d.pads()), :2] = 0.99


def _reaching_pads(d: Director) -> None:
    d.sim.model.geom_margin[list(d.pads())] = 0.001


def _light_cube(d: Director) -> None:
    scale_mass(d.sim.model, "cube", 0.3)


def _syrup(d: Director) -> None:
    d.sim.model.dof_damping[d.cube_qvel] = 2.0


def _rust(d: Director) -> None:
    d.sim.model.dof_frictionloss[d.cube_qvel][:3] = np.linalg.norm(_help(d))


def _strong_motors(d: Director) -> None:
    for array in ("actuator_forcerange", "actuator_gainprm", "actuator_biasprm"):
        getattr(d.sim.model, array)[-2:] *= 4.0


# The clock and the state


def _fine_steps(d: Director) -> None:
    d.grasp()
    env = d.sim._env
    before = env.model_timestep
    d.sim.model.opt.timestep = env.model_timestep = before / 2
    try:
        d.carry()
    finally:
        env.model_timestep = before


def _stolen_time(d: Director) -> None:
    def run_on() -> None:
        now = d.sim.data.time
        d.sim._mujoco.mj_step(d.sim.model, d.sim.data, nstep=12)
        d.sim.data.time = now

    d.grasp()
    d.carry(tamper=run_on)


def _half_seconds(d: Director) -> None:
    def skip() -> None:
        d.sim.data.time += 0.026

    d.grasp()
    env = d.sim._env
    env.initialize_time(2 * d.sim.config.control_freq_hz)
    try:
        d.carry(tamper=skip, steps=120)
    finally:
        env.initialize_time(d.sim.config.control_freq_hz)


def _stopped_clock(d: Director) -> None:
    def turn_back() -> None:
        d.sim.data.time -= d.judge.limits.control_period_s

    d.grasp()
    d.carry(tamper=turn_back)


def _put_back(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.01, steps=4)
    scale_friction(d.sim.model, "cube", 0.02)  # the cube creeps down
    d.sim.declare(*FRICTION_FIELDS)
    offset = d.evidence.cube_pos[2] - d.evidence.gripper_pos[2]

    def push_up() -> None:
        d.sim.data.qpos[d.cube_qpos][2] += offset - (d.evidence.cube_pos[2] - d.evidence.gripper_pos[2])

    d.carry(tamper=push_up)


def _braked(d: Director) -> None:
    def brake() -> None:
        d.sim.data.qvel[d.cube_qvel] *= 0.5

    d.grasp()
    d.carry(tamper=brake)


def _replaced_model(d: Director) -> None:
    d.grasp()
    owner = d.sim._env.sim.model
    before = owner._model
    owner._model = copy.copy(before)
    owner._model.opt.gravity[2] = -5.0
    try:
        d.carry()
    finally:
        owner._model = before


WORLD_ATTACKS = {
    "half-gravity": _secret("gravity is halved once the cube is grasped", _after_grasp(_half_gravity)),
    # The fingers carry nothing, either.
    "gravity-flag": Attack("gravity is disabled by a flag", _after_grasp(_no_gravity), declared=False),
    "helping-force": _secret("an outside force carries 45% of the cube", _after_grasp(_helping_force)),
    "helping-coordinates": _secret("the same in the cube's coordinates", _after_grasp(_helping_coordinates)),
    "hidden-force": _secret("a force that is gone whenever the judge looks", _hidden_force),
    "adhesion": _secret("the hand attracts the cube with 45% of its weight", _after_grasp(_adhesion)),
    "callback": _secret("a callback of MuJoCo carries 45% of the cube", _callback),
    "pushed-hand": _secret("an outside force helps the hand", _after_grasp(_pushed_hand)),
    "wind": _secret("wind blows upwards", _after_grasp(_wind)),
    "sticky-pads": _secret("friction is 50 times as large", _after_grasp(_sticky_pads)),
    "sticky-world": _secret("all contacts get another friction, by a flag", _after_grasp(_sticky_world)),
    "no-creep": _secret("friction becomes stiff, by a solver option", _after_grasp(_no_creep)),
    "hard-pads": _secret("the contacts of the pads become hard", _after_grasp(_hard_pads)),
    "reaching-pads": _secret("the pads press before they touch", _after_grasp(_reaching_pads)),
    "light-cube": _secret("the cube loses 70% of its mass", _after_grasp(_light_cube)),
    "syrup": _secret("the cube's motion is damped", _after_grasp(_syrup)),
    "rust": _secret("dry friction against the world holds the cube", _after_grasp(_rust)),
    "strong-motors": _secret("the gripper's motors become four times as strong", _after_grasp(_strong_motors)),
    "fine-steps": _secret("the physics gets another time step", _fine_steps),
    "stolen-time": _secret("the physics runs on while the clock stands still", _stolen_time),
    "half-seconds": _secret("the clock runs twice as fast as the physics", _half_seconds),
    # A control step of 0 s is INVALID in any case.
    "stopped-clock": Attack("the clock is turned back after each step", _stopped_clock, declared=False),
    "put-back": _secret("a cube that creeps through the fingers is put back at each step", _put_back),
    "braked": _secret("the cube is slowed down between steps", _braked),
    "replaced-model": _secret("the model is replaced by one with less gravity", _replaced_model),
}
"""Attacks by the world's laws."""
