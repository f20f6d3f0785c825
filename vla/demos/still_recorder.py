"""Collects stills in a simulator worker: poses of the arm from demonstrations, among cubes that lie elsewhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vla.demos.hdf5_checks import attribute_text
from vla.demos.schema import NO_TARGET, checked_demos, demo_array, demo_names, open_demos
from vla.demos.stills import Stills, write_stills
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.sim.config import ACTION_DIM, CUBES, TRAIN_SEEDS
from vla.sim.env import Observation, Simulator
from vla.sim.table import APART_M, HALF_AREA_M, TableLayout, table_layout
from vla.sim.table_setup import pose_addresses
from vla.sim.workers import simulator

HELD_SHARE = 0.15
"""Share of the stills in which the hand holds a cube, as in the demonstration from which its pose comes."""
NEAR_SHARE = 0.6
"""Share of the others in which a cube lies about where the demonstration's target lay, so that they show every distance
between hand and cube that the expert passes through."""
NEAR_STD_M = 0.01
"""Standard deviation of such a cube's place, along x and along y."""
JOINT_STD_RAD = 0.01
"""Standard deviation of the arm's joints about the demonstration's: about a centimetre at the hand."""
_STREAM = 5
"""Tells this module's random numbers from the others that a seed decides."""


@dataclass(frozen=True)
class StillTask:
    """A part of the collection of stills."""

    part: Path
    """File to write."""
    demos: Path
    """File of demonstrations whose poses of the arm are used, those for training alone."""
    seed: int
    number: int
    """Number of this part, from 0. With `seed`, it decides everything random."""
    count: int
    """Stills in this part."""


class Pose(NamedTuple):
    """The moment of a demonstration from which a still takes its arm."""

    robot_qpos: np.ndarray
    """(9,) positions of the joints of arm and fingers."""
    target_pose: np.ndarray
    """(7,) position and orientation (w x y z) of the demonstration's target."""
    closing_commanded: bool
    action: np.ndarray
    """(7,) the expert's action for that target."""
    holds: bool
    """Whether the hand holds the target."""


class Poses:
    """All moments of the demonstrations for training that lift something."""

    def __init__(self, sim: Simulator, path: Path) -> None:
        """Read those of the file at `path`."""
        self._held: list[Pose] = []
        self._free: list[Pose] = []
        robot = _robot(sim)
        with open_demos(path) as file:
            for _, demo in checked_demos(file, demo_names(file, "train")):
                if demo.attrs["target"] == NO_TARGET:
                    continue
                cubes = TableLayout.from_json(attribute_text(demo.attrs["layout"])).cubes
                target = pose_addresses(sim.model, cubes[demo.attrs["target"]].body)
                qpos, actions = demo_array(demo, "states")[:, 1 : 1 + sim.model.nq], demo_array(demo, "actions")
                # The command is of after the step.
                closing = np.concatenate([[False], demo_array(demo, "evidence/closing_commanded")[:-1]])
                for row, phase in enumerate(demo_array(demo, "phases")):
                    holds = phase in (b"lift", b"hold")
                    pose = Pose(qpos[row, robot], qpos[row, target], bool(closing[row]), actions[row], bool(holds))
                    (self._held if holds else self._free).append(pose)

    def draw(self, rng: np.random.Generator) -> Pose:
        """Draw a moment."""
        pool = self._held if rng.random() < HELD_SHARE else self._free
        return pool[rng.integers(len(pool))]


_cache: dict[Path, Poses] = {}
"""The poses of each file, which a worker reads once."""


def record_stills_in_worker(task: StillTask) -> int:
    """Collect a part with this worker's simulator; returns the number of its stills."""
    return record_stills(simulator(), task)


def record_stills(sim: Simulator, task: StillTask) -> int:
    """Collect a part in `sim`; returns the number of its stills."""
    if task.demos not in _cache:
        _cache[task.demos] = Poses(sim, task.demos)
    rng = np.random.default_rng([task.seed, _STREAM, task.number])
    moments: list[_Moment] = []
    while len(moments) < task.count:
        moment = _moment(sim, _cache[task.demos].draw(rng), rng)
        if moment is not None:
            moments.append(moment)
    write_stills(task.part, _joined(moments), {"settings": "{}", "env_args": sim.config.to_env_args()})
    return len(moments)


class _Moment(NamedTuple):
    """One still; the fields are those of `Stills`."""

    observation: Observation
    layout: TableLayout
    expert_actions: np.ndarray


def _moment(sim: Simulator, pose: Pose, rng: np.random.Generator) -> _Moment | None:
    """Lay cubes around the arm of a pose; None where the arm would touch one, or the cubes would lie too close."""
    layout = table_layout(sim.config.scene, int(rng.integers(TRAIN_SEEDS.stop)))
    robot_qpos, chosen = pose.robot_qpos.copy(), int(rng.integers(len(layout.cubes)))
    held: int | None = None
    if pose.holds:
        layout, held = _with_cube(layout, chosen, pose.target_pose[:2]), chosen
    else:
        robot_qpos[: len(sim.arm_addresses())] += rng.normal(0, JOINT_STD_RAD, len(sim.arm_addresses()))
        if rng.random() < NEAR_SHARE:
            layout = _with_cube(layout, chosen, pose.target_pose[:2] + rng.normal(0, NEAR_STD_M, 2))
            if (np.abs([layout.cubes[chosen].x_m, layout.cubes[chosen].y_m]) > HALF_AREA_M).any():
                return None
    if not _is_apart(layout):
        return None
    poses = {} if held is None else {held: pose.target_pose}
    sim.show(layout, robot_qpos, pose.closing_commanded, poses)
    if _is_touched(sim, held):
        return None
    observation = sim.observe()
    actions = np.zeros((len(CUBES), ACTION_DIM), dtype=np.float32)
    for number in range(len(layout.cubes)):
        # Whether a cube is held depends on forces, which a moment at rest lacks; the demonstration knew it.
        actions[number] = pose.action if number == held else _expert_action(sim, observation, number)
    sim.target = 0
    return _Moment(observation, layout, actions)


def _with_cube(layout: TableLayout, number: int, place_m: np.ndarray) -> TableLayout:
    """The layout with one cube at another place, (2,) metres."""
    cubes = list(layout.cubes)
    cubes[number] = dataclasses.replace(cubes[number], x_m=float(place_m[0]), y_m=float(place_m[1]))
    return TableLayout(tuple(cubes))


def _is_apart(layout: TableLayout) -> bool:
    places = np.array([[cube.x_m, cube.y_m] for cube in layout.cubes])
    one, other = np.triu_indices(len(places), 1)
    return bool((np.linalg.norm(places[one] - places[other], axis=1) >= APART_M).all())


def _is_touched(sim: Simulator, held: int | None) -> bool:
    """Whether the robot touches anything but the cube that it holds."""
    allowed = None if held is None else sim.layout.cubes[held].body
    for contact in sim.data.contact:
        names = [sim.model.body(sim.model.geom_bodyid[geom]).name for geom in contact.geom]
        robots = [name.startswith(("robot0_", "gripper0_")) for name in names]
        if any(robots) and not all(robots) and not (allowed and f"{allowed}_main" in names):
            return True
    return False


def _expert_action(sim: Simulator, observation: Observation, number: int) -> np.ndarray:
    """The expert's action if cube `number` is the target, (7,)."""
    sim.target = number
    expert = ExpertActor(ExpertConfig(noise_std=0.0))
    return expert.select_action(dataclasses.replace(observation, evidence=sim.evidence())).label


def _robot(sim: Simulator) -> slice:
    """Where the joints of arm and fingers are in `qpos`: before the cubes'."""
    return slice(0, int(pose_addresses(sim.model, CUBES[0])[0]))


def _joined(moments: list[_Moment]) -> Stills:
    cubes_pos = np.zeros((len(moments), len(CUBES), 3))
    for row, moment in enumerate(moments):
        cubes_pos[row, : len(moment.layout.cubes)] = moment.observation.cubes.pos
    observations = [moment.observation for moment in moments]
    return Stills(
        images=np.stack([observation.image for observation in observations]),
        layouts=[moment.layout for moment in moments],
        cubes_pos=cubes_pos,
        eef_pos=np.stack([observation.eef_pos for observation in observations]),
        gripper_qpos=np.stack([observation.gripper_qpos for observation in observations]),
        expert_actions=np.stack([moment.expert_actions for moment in moments]),
    )
