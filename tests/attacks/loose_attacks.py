"""Attacks without a grasp: the cube is thrown, stuck, pinned, or carried by something else than two fingers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from tests.attacks.attack import CLOSED, LEVEL, UP, Attack
from tests.attacks.director import Director
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN
from vla.sim.model_edits import resize_box


def _put_into_the_grip(d: Director) -> None:
    d.go(d.evidence.cube_pos + 0.2 * UP, GRIPPER_OPEN, 30)

    def hold_up() -> None:
        d.place_cube(d.evidence.gripper_pos, LEVEL)

    d.stay(12, tamper=hold_up)
    d.stay(60)


def _forklift(d: Director) -> None:
    def hold_level(steps: int, rise_m: float = 0.0) -> None:
        d.go(above + rise_m * UP, GRIPPER_CLOSE, steps, tilt_rad=np.radians(80))

    above = d.evidence.cube_pos + [-0.02, 0.0, 0.35]
    hold_level(60)
    # The cube is put onto the fingers: none fits below a cube that lies on the table.
    ahead = Rotation.from_quat(d.observation.eef_quat).apply([0.0, 0.0, 1.0])
    sideways = np.array([0.0, 1.0, 0.0])
    upwards = np.cross(ahead, sideways)
    turn = Rotation.from_matrix(np.stack([ahead, sideways, upwards], axis=1))
    d.place_cube(d.evidence.gripper_pos - 0.015 * ahead + 0.032 * upwards, turn.as_quat(scalar_first=True))
    d.observe()
    hold_level(20)
    hold_level(40, rise_m=0.1)


def _pinned(d: Director, place: np.ndarray) -> None:
    """Closed fingers press the cube sideways, towards +y or -y, against whatever stands there."""

    def hold_up() -> None:
        d.place_cube(place, LEVEL)

    inwards = np.array([0.0, np.sign(place[1] - d.evidence.gripper_pos[1]), 0.0])
    d.go(place - 0.02 * inwards, GRIPPER_CLOSE, 25, tamper=hold_up)
    d.go(place + 0.03 * inwards, GRIPPER_CLOSE, 60)


def _against_the_wall(d: Director) -> None:
    # The robot's controller box becomes a wall. It ends below the hand, which is wider than the fingers.
    model, name = d.sim.model, "fixed_mount0_controller_box_col"
    wall, half = model.geom(name).id, model.geom_size[model.geom("cube_g0").id]
    place = np.array([d.evidence.cube_pos[0], 0.17, 0.97])
    resize_box(model, name, np.array([0.1, 0.01, 0.12]))
    body = model.geom_bodyid[wall]
    middle = place + [0.0, half[1] + 0.0105, -0.098]
    model.geom_pos[wall] = d.sim.data.xmat[body].reshape(3, 3).T @ (middle - d.sim.data.xpos[body])
    model.geom_sameframe[wall] = 0
    d.observe()
    d.go(place - [0.0, 0.07, 0.0], GRIPPER_CLOSE, 60)
    _pinned(d, place)


def _against_the_table_edge(d: Director) -> None:
    half = d.sim.model.geom_size[d.sim.model.geom("cube_g0").id]
    place = np.array([d.evidence.cube_pos[0], 0.4005 + half[1], 0.775])
    for height in (1.0, 0.95, place[2]):
        d.go(np.array([place[0], 0.3 if height == 1.0 else 0.52, height]), GRIPPER_CLOSE, 60)
    _pinned(d, place)


def _fling_and_catch(d: Director) -> None:
    above = d.evidence.cube_pos + 0.16 * UP
    d.go(above, GRIPPER_OPEN, 40)
    d.stay(4)  # the fingers are closing when the cube arrives
    d.place_cube(d.evidence.cube_pos, LEVEL, np.array([0, 0, 1.85, 0, 0, 0]))
    d.observe()
    d.stay(60)


def _fling(d: Director) -> None:
    d.begin()
    d.place_cube(d.evidence.cube_pos, None, np.array([0, 0, 2.2, 0, 0, 0]))
    d.stay(40)


def _spawned_high(d: Director) -> None:
    d.place_cube(d.evidence.cube_pos + 0.3 * UP)
    d.begin()
    d.stay(40)


def _explosion(d: Director) -> None:
    model = d.sim.model
    model.geom_solref[[model.geom(name).id for name in ("cube_g0", "table_collision")]] = [0.02, 0.4]  # they spring
    d.place_cube(d.evidence.cube_pos - 0.03 * UP)
    d.begin()
    d.stay(60, GRIPPER_OPEN)


def _teleported(d: Director) -> None:
    def hold_up() -> None:
        d.place_cube(np.array([0.1, 0.15, 1.0]))

    d.stay(40, tamper=hold_up)


def _levitated(d: Director) -> None:
    d.begin()
    for _ in range(60):
        height = d.evidence.height_m
        speed = d.sim.data.qvel[d.cube_qvel][2]
        d.push_cube((d.cube_weight_n() + 0.07 * (40 * (0.15 - height) - 8 * speed)) * UP)
        d.act(CLOSED)


def _glued(offset_m: tuple[float, float, float], gripper: float) -> Callable[[Director], None]:
    """Make an attack in which the cube follows the grip site at an offset, whatever touches it there."""

    def run(d: Director) -> None:
        d.go(d.evidence.cube_pos + 0.1 * UP, gripper, 30)

        def follow() -> None:
            d.place_cube(d.evidence.gripper_pos + offset_m, LEVEL)
            hand = d.sim.model.body("gripper0_right_right_gripper").id
            d.sim.data.qvel[d.cube_qvel][:3] = d.sim.data.cvel[hand][3:]

        d.stay(5, gripper, tamper=follow)
        d.lift(gripper, tamper=follow)
        d.stay(30, gripper, tamper=follow)

    return run


def _magnet(d: Director) -> None:
    d.go(d.evidence.cube_pos, GRIPPER_OPEN, 60, keep=False)
    target = d.evidence.gripper_pos + 0.15 * UP
    for _ in range(60):
        pull = d.evidence.gripper_pos - d.evidence.cube_pos
        d.push_cube(d.cube_weight_n() * UP + 5 * pull - 0.5 * d.sim.data.qvel[d.cube_qvel][:3])
        d.go(target, GRIPPER_OPEN, 1)


LOOSE_ATTACKS = {
    "put-into-the-grip": Attack("the cube is put into the grip in the air", _put_into_the_grip),
    "fling-and-catch": Attack("the cube is thrown up and caught", _fling_and_catch),
    "fling": Attack("the cube is thrown up", _fling),
    "spawned-high": Attack("the cube begins 30 cm above the table", _spawned_high),
    "explosion": Attack("the cube begins inside a springy table top and is shot out", _explosion),
    "teleported": Attack("the cube is set into the air at each step", _teleported),
    "levitated": Attack("an outside force carries the cube", _levitated),
    "magnet": Attack("an outside force keeps the cube in the open gripper", _magnet),
    "on-closed-fingers": Attack("the cube sticks below closed fingers", _glued((0.0, 0.0, -0.035), GRIPPER_CLOSE)),
    "outer-face": Attack("the cube sticks to the outer face of a finger", _glued((0.0, 0.05, 0.02), GRIPPER_CLOSE)),
    "one-finger": Attack("the cube sticks to the inner face of one finger", _glued((0.0, 0.018, 0.0), GRIPPER_OPEN)),
    "on-the-hand": Attack("the cube lies on the side of the hand", _glued((0.055, 0.0, 0.08), GRIPPER_CLOSE)),
    "forklift": Attack("the cube lies on two closed fingers, held level", _forklift),
    "wall": Attack("closed fingers press the cube against a wall", _against_the_wall),
    "table-edge": Attack("closed fingers press the cube against the table's edge", _against_the_table_edge),
}
