"""Attacks on the verdict: episodes that look like a lift and are not one.

Each runs in the real simulator; where the physics does not allow an attack, it sets the state directly.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from tests.attacks.attack import LEVEL, STILL, UP, Attack
from tests.attacks.director import Director
from tests.attacks.loose_attacks import LOOSE_ATTACKS
from tests.attacks.shape_attacks import SHAPE_ATTACKS
from tests.attacks.world_attacks import WORLD_ATTACKS
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN
from vla.sim.model_edits import resize_box, resize_cube, scale_friction


def _do_nothing(d: Director) -> None:
    for _ in range(40):
        d.act(STILL)


def _closed_on_nothing(d: Director) -> None:
    d.go(d.evidence.cube_pos + [0.0, 0.08, 0.05], GRIPPER_CLOSE, 30)
    d.lift()
    d.stay(30)


def _low_lift(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.075)
    d.stay()


def _jammed_open(d: Director) -> None:
    d.grasp()
    # The fingers press, whatever the command.
    d.sim.model.actuator_forcerange[-2:] = [[-20.0, -19.9], [19.9, 20.0]]
    d.lift(GRIPPER_OPEN)
    d.stay(gripper=GRIPPER_OPEN)


def _spacers(d: Director) -> None:
    for geom in d.pads():
        thick = d.sim.model.geom_size[geom] + [0.0, 0.012, 0.0]
        resize_box(d.sim.model, d.sim.model.geom(geom).name, thick)
    d.expert(lambda: d.evidence.closing_commanded)
    d.stay(15)
    d.lift(steps=40)
    d.stay()


def _weak_grip(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.002, steps=1)
    d.sim.model.actuator_forcerange[-2:] = [-1.5, 1.5]
    d.lift(steps=60)
    d.stay()


def _skewed_jaws(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.05, steps=10)
    # Turn both fingers and the cube in the same sense: the faces that they press on slant by 43 degrees.
    model, skew = d.sim.model, Rotation.from_rotvec([np.radians(43), 0, 0])
    hand = Rotation.from_matrix(d.sim.data.site("gripper0_right_grip_site").xmat.reshape(3, 3))
    for geom in d.pads():
        body = Rotation.from_matrix(d.sim.data.xmat[model.geom_bodyid[geom]].reshape(3, 3))
        turn = body.inv() * skew * body
        model.geom_sameframe[geom] = 0  # otherwise MuJoCo ignores the geom's own rotation
        model.geom_quat[geom] = (turn * _rotation(model.geom_quat[geom])).as_quat(scalar_first=True)
    scale_friction(model, "cube", 3.0)
    width = 2 * model.geom_size[model.geom("cube_g0").id][1]
    opening = (width + 0.008) / np.cos(np.radians(43)) - 0.007
    d.sim.data.qpos[d.finger_qpos()] = [opening / 2, -opening / 2]
    d.place_cube(d.evidence.gripper_pos, (skew * hand).as_quat(scalar_first=True))
    d.observe()
    d.lift(steps=25)
    d.stay(10)  # not longer: the cube creeps back between the jaws, and the grasp would become honest


def _rotation(quat: np.ndarray) -> Rotation:
    return Rotation.from_quat(quat, scalar_first=True)


def _held_by_its_edge(d: Director) -> None:
    d.place_cube(d.evidence.cube_pos, LEVEL)
    d.begin()
    beside = d.evidence.cube_pos + [0.024, 0.0, 0.0]
    d.go(beside + 0.06 * UP, GRIPPER_OPEN, 40, keep=False)
    d.go(beside, GRIPPER_OPEN, 25)
    d.stay(10)
    d.lift(steps=40)
    d.stay()


def _rattling(d: Director) -> None:
    def shake() -> None:
        d.sim.data.qvel[d.cube_qvel][0] += 0.035

    d.grasp()
    d.lift(tamper=shake)
    d.stay(tamper=shake)


def _spinning(d: Director) -> None:
    def spin() -> None:
        d.sim.data.qvel[d.cube_qvel][4] += 1.5

    d.grasp()
    d.lift(tamper=spin)
    d.stay(tamper=spin)


def _creeping(d: Director) -> None:
    def creep() -> None:
        d.sim.data.qpos[d.cube_qpos][2] -= 0.0004

    d.grasp()
    d.place_cube(d.evidence.cube_pos)
    d.go(d.evidence.gripper_pos + 0.2 * UP, GRIPPER_CLOSE, 45, tamper=creep)


def _against_the_palm(d: Director) -> None:
    resize_cube(d.sim.model, "cube", np.array([1.0, 1.0, 1.75]))
    d.observe()
    d.place_cube(d.evidence.cube_pos - d.evidence.height_m * UP)
    d.begin()
    d.go(d.evidence.cube_pos + 0.12 * UP, GRIPPER_OPEN, 40, keep=False)
    d.go(d.evidence.cube_pos - 0.03 * UP, GRIPPER_OPEN, 25)
    d.stay(10)
    d.lift(steps=40)
    d.stay()


def _put_between_the_fingers(d: Director) -> None:
    d.go(d.evidence.cube_pos + [0.0, 0.1, 0.0], GRIPPER_OPEN, 40)
    place = np.array([*d.evidence.gripper_pos[:2], d.evidence.cube_pos[2]])
    d.act(STILL, tamper=lambda: d.place_cube(place, LEVEL))
    d.stay(12)
    d.lift()
    d.stay()


def _string(d: Director) -> None:
    d.grasp()
    d.push_cube(d.cube_weight_n() * UP)
    d.lift()
    d.stay()


def _no_gravity(d: Director) -> None:
    d.grasp()
    d.sim.model.opt.gravity[:] = 0.0
    d.lift()
    d.stay()


def _wedged_open(d: Director) -> None:
    d.go(d.evidence.cube_pos + 0.06 * UP, GRIPPER_OPEN, 40, keep=False)
    d.go(d.evidence.cube_pos, GRIPPER_OPEN, 25)
    # The cube, a little wider than the open gripper, is put squarely between its fingers.
    d.place_cube(np.array([d.evidence.cube_pos[0], d.evidence.gripper_pos[1], d.evidence.cube_pos[2]]), LEVEL)
    half = d.sim.model.geom_size[d.sim.model.geom("cube_g0").id]
    resize_cube(d.sim.model, "cube", np.array([1.0, (d.evidence.opening_m / 2 + 0.001) / half[1], 1.0]))
    d.observe()
    d.stay(10, GRIPPER_OPEN)
    d.lift(GRIPPER_OPEN, steps=40)
    d.stay(gripper=GRIPPER_OPEN)


def _fast_clock(d: Director) -> None:
    env = d.sim._env
    env.initialize_time(2 * d.sim.config.control_freq_hz)
    try:
        d.expert(steps=160)
    finally:
        env.initialize_time(d.sim.config.control_freq_hz)


def _brief_hold(d: Director) -> None:
    for _ in range(2):
        d.grasp()
        d.lift(steps=60) if d.judge.held_steps else d.expert(lambda: d.judge.held_steps >= 15, 60)
        d.stay(15, GRIPPER_OPEN)


def _flicker(d: Director) -> None:
    d.grasp()
    target = d.evidence.gripper_pos + 0.15 * UP
    for index in range(90):
        d.go(target, GRIPPER_OPEN if index % 12 == 11 else GRIPPER_CLOSE, 1)


def _last_step(d: Director) -> None:
    d.grasp()
    d.expert(lambda: d.judge.held_steps == 1)


def _almost_a_second(d: Director) -> None:
    d.grasp()
    d.expert(lambda: d.judge.held_steps == d.judge.limits.hold_steps - 1)
    d.stay(5, GRIPPER_OPEN)


def _own_accord(d: Director) -> None:
    d.approach()
    d.sim._env.robots[0].gripper["right"].current_action = np.array([-1.0, 1.0])
    d.stay(8, gripper=0.0)
    d.lift(gripper=0.0, to_m=0.1, steps=20)
    d.stay(20, gripper=0.0)


def _dropped_in(d: Director) -> None:
    d.place_cube(d.evidence.cube_pos + 0.05 * UP)
    d.begin()
    d.expert()


def _already_held(d: Director) -> None:
    rehearsal = Director(d.sim, d.seed)
    rehearsal.expert()
    d.observation = rehearsal.observation
    d.begin()
    d.stay(40)


def _diverged(d: Director) -> None:
    d.begin()
    d.sim.data.qvel[:] = 1e15
    d.act(STILL)
    d.observation = d.sim.reset(d.seed)
    d.expert()


def _not_a_number(d: Director) -> None:
    d.act(np.full(7, np.nan))
    d.expert()


GRIP_ATTACKS = {
    "nothing": Attack("the arm does nothing", _do_nothing),
    "closed-on-nothing": Attack("the gripper closes beside the cube and rises", _closed_on_nothing),
    "low-lift": Attack("an honest grasp, held 7.5 cm above the table", _low_lift, only="lifted"),
    "jammed-open": Attack("jammed fingers that are told to open", _jammed_open, only="closing"),
    "own-accord": Attack("fingers close that are never told to", _own_accord, only="closing"),
    "wedged-open": Attack("a wide cube wedged between open fingers", _wedged_open, only="closing"),
    "spacers": Attack("spacers between fingers and cube", _spacers, only="fitting"),
    "weak-grip": Attack("a grip of less than 2 N", _weak_grip, only="squeezed"),
    "skewed-jaws": Attack("bent fingers carry the cube between slanted faces", _skewed_jaws, only="opposed"),
    "edge": Attack("the cube held by its outermost edge", _held_by_its_edge, only="between"),
    "palm": Attack("a tall cube wedged against the palm", _against_the_palm, only="free"),
    "rattling": Attack("the cube rattles in the grip", _rattling, only="moving_together"),
    "spinning": Attack("the cube turns in the grip", _spinning, only="not_spinning"),
    "creeping": Attack("the cube creeps through the fingers", _creeping, only="not_slipping"),
    "put-between-the-fingers": Attack(
        "the cube is put into the waiting gripper on the table", _put_between_the_fingers, only="carried"
    ),
    "string": Attack("a hidden string carries the cube in closed fingers", _string, only="borne"),
    "no-gravity": Attack("gravity is switched off once the cube is grasped", _no_gravity, only="borne"),
    "brief-hold": Attack("an honest lift, held for 15 steps and dropped, twice", _brief_hold, only="hold"),
    "almost-a-second": Attack("an honest lift, held for 0.95 s and dropped", _almost_a_second, only="hold"),
    "flicker": Attack("an honest lift whose gripper opens for an instant every 12 steps", _flicker),
    "last-step": Attack("an honest lift that is one on the last step only", _last_step, only="hold"),
    "dropped-in": Attack("the cube falls from 5 cm as the episode begins", _dropped_in, only="settled"),
    "already-held": Attack("the episode begins with the cube held up", _already_held),
    "fast-clock": Attack("an honest lift in a simulator with control steps of 24 ms", _fast_clock, only="valid"),
    "diverged": Attack("the physics diverges once; then an honest lift", _diverged, only="valid"),
    "not-a-number": Attack("one action is not a number; then an honest lift", _not_a_number, only="valid"),
}
"""Attacks with a grasp that is not honest, or not for long enough, and attacks on the course of an episode."""

ATTACKS = {**GRIP_ATTACKS, **LOOSE_ATTACKS, **SHAPE_ATTACKS, **WORLD_ATTACKS}
"""All attacks, by name."""
