"""Measures the evidence that the verdict is judged from, in one state of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vla.judging.bystanders import CubeStates
from vla.judging.evidence import Evidence

STANDARD_GRAVITY = 9.81
"""m/s^2. A constant, so that a cube does not become lighter to the verdict when the simulator's gravity is off."""

_GRIPPER = "gripper0_right_"
_FINGERS = {
    "left": (f"{_GRIPPER}finger1_collision", f"{_GRIPPER}finger1_pad_collision"),
    "right": (f"{_GRIPPER}finger2_collision", f"{_GRIPPER}finger2_pad_collision"),
}
"""Names of the collision geoms of each finger, the pad last."""


def measure(
    model: Any, data: Any, scratch: Any, target: str, closing_commanded: bool, world_change: str = ""
) -> Evidence:
    """Measure the present state.

    The measurement uses a copy of the state after a forward pass, for two reasons: after a step, the positions of
    bodies in `data` lag its joints by a substep, and measuring must not change the episode.

    Args:
        model: the `mujoco.MjModel`.
        data: the live `mujoco.MjData`, which is only read.
        scratch: a second `mujoco.MjData` of the same model, which is overwritten.
        target: robosuite's name of the cube.
        closing_commanded: whether the gripper is commanded to close.
        world_change: what the watch over the world has found (`vla.judging.world.WorldWatch.check`).
    """
    import mujoco  # not with the module: mujoco reads MUJOCO_GL when it is first imported

    mujoco.mj_copyData(scratch, model, data)
    mujoco.mj_forward(model, scratch)
    cube_body = model.body(f"{target}_main").id
    cube_geom = model.geom(f"{target}_g0").id
    hand_body = model.body(f"{_GRIPPER}right_gripper").id
    left_pad, right_pad = (scratch.geom_xpos[model.geom(names[1]).id] for names in _FINGERS.values())
    axis = (right_pad - left_pad) / max(float(np.linalg.norm(right_pad - left_pad)), 1e-9)
    contacts = _cube_contacts(model, scratch, cube_body)
    left_normal, right_normal = (contacts.normal.get(side, np.zeros(3)) for side in _FINGERS)
    weight_n = STANDARD_GRAVITY * float(model.body_mass[cube_body])

    cube_pos = scratch.xpos[cube_body].copy()
    grip = scratch.site(f"{_GRIPPER}grip_site")
    half_size = model.geom_size[cube_geom]
    rotation = scratch.geom_xmat[cube_geom].reshape(3, 3)
    offset = cube_pos - (left_pad + right_pad) / 2
    along = float(offset @ axis)
    opening = float(
        scratch.joint(f"{_GRIPPER}finger_joint1").qpos[0] - scratch.joint(f"{_GRIPPER}finger_joint2").qpos[0]
    )
    cube_velocity, cube_spin = _velocity_at(model, scratch, cube_pos, cube_body)
    hand_velocity, hand_spin = _velocity_at(model, scratch, cube_pos, hand_body)
    return Evidence(
        time_s=float(scratch.time),
        cube_pos=cube_pos,
        gripper_pos=grip.xpos.copy(),
        cube_in_gripper=grip.xmat.reshape(3, 3).T @ (cube_pos - grip.xpos),
        cube_speed_mps=float(np.linalg.norm(cube_velocity)),
        height_m=float(
            scratch.geom_xpos[cube_geom][2] - np.abs(rotation[2]) @ half_size - _table_height(model, scratch)
        ),
        opening_m=opening,
        cube_width_m=float(2 * half_size.min()),
        cube_extent_m=float(2 * np.abs(axis @ rotation) @ half_size),
        closing_commanded=closing_commanded,
        left_touch="left" in contacts.normal,
        right_touch="right" in contacts.normal,
        left_squeeze_n=float(left_normal @ axis),
        right_squeeze_n=float(-right_normal @ axis),
        left_angle_deg=_angle_deg(left_normal, axis),
        right_angle_deg=_angle_deg(right_normal, -axis),
        borne_weights=float(contacts.total[2] / weight_n),
        between_pads=bool(abs(along) < opening / 2 and np.linalg.norm(offset - along * axis) <= float(half_size.min())),
        slip_speed_mps=float(np.linalg.norm(cube_velocity - hand_velocity)),
        slip_spin_radps=float(np.linalg.norm(cube_spin - hand_spin)),
        other_contact=contacts.other,
        world_change=world_change,
    )


def measure_cubes(model: Any, data: Any, names: Sequence[str]) -> CubeStates:
    """Measure where cubes are, and which of them a finger touches.

    Args:
        model: the `mujoco.MjModel`.
        data: a `mujoco.MjData` after a forward pass, such as the scratch one after `measure`; it is only read.
        names: robosuite's names of the cubes.
    """
    cubes = [model.geom(f"{name}_g0").id for name in names]
    fingers = [model.geom(name).id for pair in _FINGERS.values() for name in pair]
    pairs = data.contact.geom  # (contacts, 2)
    touching = np.concatenate([pairs[np.isin(pairs[:, 1 - side], fingers), side] for side in (0, 1)])
    down = np.abs(data.geom_xmat[cubes].reshape(-1, 3, 3)[:, 2])
    lowest = data.geom_xpos[cubes, 2] - (down * model.geom_size[cubes]).sum(axis=1)
    return CubeStates(
        pos=data.geom_xpos[cubes].copy(),
        height_m=lowest - _table_height(model, data),
        touched=np.isin(cubes, touching),
    )


def _velocity_at(model: Any, data: Any, point: np.ndarray, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear velocity of the point of a body that is at `point` now, and the body's angular velocity; (3,) each, world
    frame.

    MuJoCo's own velocity of a body is that of its centre of mass, 17 cm from the origin of the hand's frame.
    """
    import mujoco

    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
    return velocity[3:] + np.cross(velocity[:3], point - data.xipos[body]), velocity[:3]


class _CubeContacts(NamedTuple):
    """What touches the cube, and the forces of the fingers on it, newtons, world frame."""

    normal: dict[str, np.ndarray]
    """(3,) normal force of each finger that touches the cube, by its side."""
    total: np.ndarray
    """(3,) force of both fingers, friction included."""
    other: bool
    """Something other than a finger touches the cube."""


def _cube_contacts(model: Any, data: Any, cube_body: int) -> _CubeContacts:
    import mujoco

    sides = {model.geom(name).id: side for side, names in _FINGERS.items() for name in names}
    normal: dict[str, np.ndarray] = {}
    total, wrench, other_contact = np.zeros(3), np.zeros(6), False
    for index in range(data.ncon):
        contact = data.contact[index]
        bodies = model.geom_bodyid[contact.geom1], model.geom_bodyid[contact.geom2]
        if cube_body not in bodies:
            continue
        side = sides.get(contact.geom2 if bodies[0] == cube_body else contact.geom1)
        if side is None:
            other_contact = True
            continue
        mujoco.mj_contactForce(model, data, index, wrench)
        on_cube = 1.0 if bodies[1] == cube_body else -1.0  # the frame's first row points from geom1 to geom2
        frame = on_cube * contact.frame.reshape(3, 3)
        normal[side] = normal.get(side, np.zeros(3)) + wrench[0] * frame[0]
        total += wrench[:3] @ frame
    return _CubeContacts(normal, total, other_contact)


def _table_height(model: Any, data: Any) -> float:
    """Height of the table top in the world frame, metres, read from the table's collision box."""
    table = model.geom("table_collision").id
    return float(data.geom_xpos[table][2] + model.geom_size[table][2])


def _angle_deg(force: np.ndarray, axis: np.ndarray) -> float:
    """Angle between a force and the axis along which it should push, degrees; 180 where there is no force."""
    size = float(np.linalg.norm(force))
    if size < 1e-9:
        return 180.0
    return float(np.degrees(np.arccos(np.clip(force @ axis / size, -1.0, 1.0))))
