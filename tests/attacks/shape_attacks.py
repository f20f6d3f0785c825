"""Attacks by bodies and shapes: the table, the robot or something else moves, or a shape changes after the start.

Where such a change is not declared, the watch over the world has to find it; the others are left to the conditions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from tests.attacks.attack import UP, Attack
from tests.attacks.director import Director
from vla.sim.config import GRIPPER_OPEN
from vla.sim.model_edits import SIZE_FIELDS, resize_box, resize_cube

FAR_AWAY = np.array([0.0, 0.0, -3.0])


def _moved(positions: np.ndarray, row: int, metres: float, step_m: float = 0.004) -> Callable[[], None]:
    """Returns a function that moves a row of `positions`, (n, 3), upwards by a step, until it has moved by `metres`."""
    goal = positions[row, 2] + metres

    def move() -> None:
        positions[row, 2] += np.clip(goal - positions[row, 2], -step_m, step_m)

    return move


def _moved_table(d: Director, metres: float) -> Callable[[], None]:
    return _moved(d.sim.model.body_pos, d.sim.model.body("table").id, metres)


def _sinking_table(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.015, steps=8)  # nothing but the fingers touches the cube any longer
    d.carry(0.0, tamper=_moved_table(d, -0.12))


def _sinking_a_little(d: Director) -> None:
    d.grasp()
    d.carry(0.077, tamper=_moved_table(d, -0.03))


def _rising_table(d: Director) -> None:
    d.go(d.evidence.cube_pos + 0.1 * UP, GRIPPER_OPEN, 30)
    d.stay(25, GRIPPER_OPEN, tamper=_moved_table(d, 0.1))
    d.stay(10)
    d.carry(0.0, tamper=_moved_table(d, -0.1))


def _raised_base(d: Director) -> None:
    d.grasp()
    d.carry(0.1, tamper=_moved(d.sim.model.body_pos, d.sim.model.body("robot0_base").id, 0.1, step_m=0.001), steps=50)


def _collide_always(d: Director) -> None:
    """Test every pair of shapes: MuJoCo's quick search knows only those that collided when the model was made."""
    d.sim.model.opt.disableflags |= int(d.sim._mujoco.mjtDisableBit.mjDSBL_MIDPHASE)


def _solid(d: Director, geom: int, half_size_m: np.ndarray) -> None:
    """Make a geom that is only drawn a box that collides."""
    model = d.sim.model
    model.geom_type[geom] = d.sim._mujoco.mjtGeom.mjGEOM_BOX
    model.geom_contype[geom] = model.geom_conaffinity[geom] = 1
    body = model.geom_bodyid[geom]
    model.body_contype[body] = model.body_conaffinity[body] = 1
    model.geom_sameframe[geom] = 0  # otherwise MuJoCo ignores the geom's own place
    model.geom_aabb[geom, :3] = 0.0
    resize_box(model, model.geom(geom).name, half_size_m)
    _collide_always(d)


def _elevator(d: Director) -> None:
    d.approach()
    model, body = d.sim.model, d.sim.model.body("left_eef_target")
    geom = int(model.body_geomadr[body.id])
    _solid(d, geom, np.full(3, 0.012))
    model.geom_pos[geom] = 0.0
    box = d.sim.data.mocap_pos[int(model.body_mocapid[body.id])]
    box[:] = d.evidence.cube_pos - 0.0325 * UP

    def rise() -> None:
        box[2] += 0.003

    for _ in range(36):
        d.go(d.evidence.cube_pos + 0.012 * UP, GRIPPER_OPEN, 1, tamper=rise)
    d.stay(8)
    box[:] = FAR_AWAY
    d.stay(25)


def _shrinking_cube(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.0785, steps=16)

    def shrink() -> None:
        if d.evidence.height_m < 0.085:
            resize_cube(d.sim.model, "cube", np.array([1.0, 1.0, 0.92]))

    d.carry(0.0, tamper=shrink)


def _second_shape(d: Director) -> None:
    d.grasp()
    geom = d.sim.model.geom("cube_g0_vis").id
    d.sim.model.geom_friction[geom, 0] = 50.0
    _solid(d, geom, d.sim.model.geom_size[geom] + 0.001)
    d.carry()


def _hook(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.05, steps=12)
    geom = d.sim.model.geom("cube_g0_vis").id
    _solid(d, geom, np.array([0.004, 0.004, 0.02]))
    d.sim.model.geom_pos[geom] = 0.02 * UP

    def reach_up() -> None:
        if not d.evidence.other_contact:
            d.sim.model.geom_pos[geom] += 0.002 * UP

    d.lift(steps=40, tamper=reach_up)


def _hanging_shape(d: Director) -> None:
    # The shape that collides is sunk into the table, which pushes the cube's body up, within what counts as lying.
    geom = d.sim.model.geom("cube_g0").id
    d.sim.model.geom_sameframe[geom] = 0
    d.stay(12, GRIPPER_OPEN, tamper=_moved(d.sim.model.geom_pos, geom, -0.0045, step_m=0.0005))
    d.grasp()
    d.lift(to_m=0.0825, steps=20)
    d.carry(0.0)


def _hollow_hand(d: Director) -> None:
    hand = d.sim.model.geom("gripper0_right_hand_collision").id
    d.sim.model.geom_contype[hand] = d.sim.model.geom_conaffinity[hand] = 0
    resize_cube(d.sim.model, "cube", np.array([1.0, 1.0, 1.75]))
    d.sim.declare(*SIZE_FIELDS)
    d.observe()
    d.place_cube(d.evidence.cube_pos - d.evidence.height_m * UP)
    d.begin()
    d.go(d.evidence.cube_pos + 0.12 * UP, GRIPPER_OPEN, 40, keep=False)
    d.go(d.evidence.cube_pos - 0.014 * UP, GRIPPER_OPEN, 25)
    d.stay(10)
    d.carry()


def _shelf(d: Director) -> None:
    d.grasp()
    d.lift(to_m=0.02, steps=8)
    # Each pad slides below the cube and slants, so that the cube's lower edge rests on it. The fingers press as before.
    model, data, pads = d.sim.model, d.sim.data, list(d.pads())
    places = data.geom_xpos[pads]
    half_m = model.geom_size[model.geom("cube_g0").id, 2]
    closing = (places[1] - places[0]) / np.linalg.norm(places[1] - places[0])
    for pad, inwards in zip(pads, (closing, -closing), strict=True):
        edge = d.evidence.cube_pos - d.evidence.cube_extent_m / 2 * inwards - half_m * UP
        normal, along = (inwards + UP) / np.sqrt(2), (UP - inwards) / np.sqrt(2)
        axes = np.stack([np.cross(normal, along), normal, along], axis=1)
        body = model.geom_bodyid[pad]
        finger = Rotation.from_matrix(data.xmat[body].reshape(3, 3)).inv()
        place = edge - model.geom_size[pad, 1] * normal + 0.006 * along
        model.geom_sameframe[pad] = 0  # otherwise MuJoCo ignores the geom's own place
        model.geom_pos[pad] = finger.apply(place - data.xpos[body])
        model.geom_quat[pad] = (finger * Rotation.from_matrix(axes)).as_quat(scalar_first=True)
    d.carry()


def _thick_finger(d: Director) -> None:
    model = d.sim.model
    mesh = model.geom_dataid[model.geom("gripper0_right_finger1_collision").id]
    first = model.mesh_vertadr[mesh]
    vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
    before = vertices.copy()
    try:
        vertices *= [1.3, 1.0, 1.0]
        d.grasp()
        d.carry()
    finally:
        vertices[:] = before


SHAPE_ATTACKS = {
    # The height above the table and the rise in the world both need the hand to rise.
    "sinking-table": Attack("the table sinks by 12 cm under a cube in the grip", _sinking_table, declared=False),
    "sinking-table-declared": Attack("the same, declared", _sinking_table, only="raised"),
    "sinking-a-little": Attack(
        *("a lift of 7.7 cm, while the table sinks by 3 cm", _sinking_a_little), only="unchanged", declared=False
    ),
    "rising-table": Attack("the table lifts the cube into the grip and sinks", _rising_table, only="raised"),
    "raised-base": Attack("the robot's base is raised by 10 cm", _raised_base, declared=False),
    "elevator": Attack("a box lifts the cube between the fingers and vanishes", _elevator, only="carried"),
    "shrinking-cube": Attack(
        "the cube shrinks in the grip, 7.9 cm above the table", _shrinking_cube, "unchanged", False
    ),
    "second-shape": Attack(
        *("the cube gets a second, sticky collision shape in the grip", _second_shape), only="unchanged", declared=False
    ),
    "hook": Attack("a rod grows out of the cube, up to the palm", _hook, only="free"),
    "hanging-shape": Attack(
        *("the cube's collision shape hangs 4.5 mm below the cube", _hanging_shape), only="unchanged", declared=False
    ),
    "hollow-hand": Attack(
        "a tall cube reaches into a hand without substance", _hollow_hand, only="unchanged", declared=False
    ),
    "shelf": Attack("the pads become a shelf below the cube", _shelf, only="unchanged", declared=False),
    "thick-finger": Attack("the mesh of a finger is widened", _thick_finger, only="unchanged", declared=False),
}
"""Attacks by bodies and shapes."""
