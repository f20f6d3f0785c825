"""Runs one attack in the real simulator, and asks everybody who judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla.evaluation.video import Caption, annotate
from vla.experts.scripted import ExpertActor, ExpertConfig, upright_turn
from vla.judging.verdict import CONDITIONS, Evidence, Judge
from vla.sim.config import GRIPPER_CLOSE, POSITION_SCALE_M, ROTATION_SCALE_RAD
from vla.sim.env import Observation, SimulationDivergedError, Simulator

ALL_CONDITIONS = (*CONDITIONS, "hold", "settled", "valid")
"""Everything that a success needs: the conditions, for long enough, from a settled start, in valid physics."""


@dataclass
class Without(Judge):
    """The judge without one of ALL_CONDITIONS: whatever it accepts and the whole judge does not, that one rejects."""

    missing: str = ""

    def __post_init__(self) -> None:
        if self.missing == "hold":
            self.limits = replace(self.limits, hold_steps=1)

    def conditions(self, evidence: Evidence) -> dict[str, bool]:
        """As if the missing condition were always met."""
        met = super().conditions(evidence)
        return {name: met[name] or name == self.missing for name in met}

    def invalidate(self, reason: str, failed: str = "valid") -> None:
        """As if the missing check did not exist."""
        if failed != self.missing:
            super().invalidate(reason, failed)


@dataclass
class Director:
    """An episode whose simulator may be interfered with; every state is judged and recorded."""

    sim: Simulator
    seed: int
    film: bool = False
    judge: Judge = field(default_factory=Judge)
    observation: Observation = field(init=False)
    states: list[np.ndarray] = field(default_factory=list)
    """Full states: at the start, and after each step."""
    outcomes: list[Evidence] = field(default_factory=list)
    """After each step."""
    actions: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    robosuite_success: bool = False

    def __post_init__(self) -> None:
        self.mutants = {name: Without(missing=name) for name in ALL_CONDITIONS}
        self.observation = self.sim.reset(self.seed)
        first, first_velocity = self.sim.cube_addresses()[0], self.sim.cube_velocity_addresses()[0]
        self.cube_qpos = slice(first, first + 7)  # slices, because what they select must be writable
        self.cube_qvel = slice(first_velocity, first_velocity + 6)
        self.cube_body = self.sim.model.body(f"{self.sim.config.scene.target}_main").id

    @property
    def evidence(self) -> Evidence:
        """The latest."""
        return self.observation.evidence

    def begin(self) -> None:
        """The episode starts here; what was set up before was its reset."""
        self.observation = self.sim.changed_by_hand()
        for judge in (self.judge, *self.mutants.values()):
            judge.start(self.evidence)
        self.states.append(self.sim.full_state())

    def act(self, action: np.ndarray, tamper: Callable[[], None] | None = None) -> None:
        """One control step; `tamper` changes the state that it led to, before anybody looks."""
        if not self.states:
            self.begin()
        action = np.asarray(action, dtype=np.float32)
        self.actions.append(action)
        try:
            self.observation, _ = self.sim.step(action)
        except SimulationDivergedError as error:
            for judge in (self.judge, *self.mutants.values()):
                judge.invalidate(str(error))
            self.observation = self.sim.changed_by_hand()
        if tamper is not None:
            tamper()
            self.observation = self.sim.changed_by_hand()
        for judge in (self.judge, *self.mutants.values()):
            judge.update(self.evidence)
        self.robosuite_success = self.robosuite_success or self.sim.robosuite_success()
        self.states.append(self.sim.full_state())
        self.outcomes.append(self.evidence)
        if self.film:
            caption = Caption(len(self.actions), "", f"seed {self.seed}", float(action[-1]), self.evidence, self.judge)
            self.frames.append(annotate(self.observation.image, caption))

    def expert(
        self, until: Callable[[], bool] = lambda: False, steps: int = 120, config: ExpertConfig | None = None
    ) -> None:
        """The honest expert acts, until something holds."""
        actor = ExpertActor(config or ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
        for _ in range(steps):
            if until():
                return
            self.act(actor.select_action(self.observation).action)

    def grasp(self) -> None:
        """The honest expert acts until the cube is grasped, still on the table."""
        self.expert(lambda: self.evidence.is_grasped(self.judge.limits))

    def lift(self, gripper: float = GRIPPER_CLOSE, to_m: float = 0.15, steps: int = 30, **tampering: Any) -> None:
        """The hand rises until the cube's bottom would be at `to_m`."""
        target = self.evidence.gripper_pos + [0.0, 0.0, to_m - max(0.0, self.evidence.height_m)]
        self.go(target, gripper, steps, **tampering)

    def stay(self, steps: int = 40, gripper: float = GRIPPER_CLOSE, **tampering: Any) -> None:
        """The hand keeps its place."""
        self.go(self.evidence.gripper_pos, gripper, steps, **tampering)

    def go(
        self,
        target: np.ndarray,
        gripper: float,
        steps: int,
        tamper: Callable[[], None] | None = None,
        keep: bool = True,
        tilt_rad: float = 0.0,
    ) -> None:
        """Move the grip site to (3,) world metres and stay; `keep` False: only until it is there.

        The hand is upright, or its fingers are tilted forwards by `tilt_rad`, as far as the arm's joints allow.
        """
        tilt = Rotation.from_rotvec([0.0, -tilt_rad, 0.0])
        for _ in range(steps):
            move = np.asarray(target) - self.evidence.gripper_pos
            if not keep and float(np.linalg.norm(move)) < 0.004:
                return
            turn = (tilt * Rotation.from_rotvec(upright_turn(self.observation.eef_quat))).as_rotvec()
            action = np.concatenate([move / POSITION_SCALE_M, turn / ROTATION_SCALE_RAD, [gripper]])
            self.act(np.clip(action, -1, 1), tamper)

    def place_cube(
        self, position: np.ndarray, quat: np.ndarray | None = None, velocity: np.ndarray | None = None
    ) -> None:
        """Set the cube's centre (3,) metres, its orientation (w x y z; None: as it is) and velocity (6,)."""
        data = self.sim.data
        data.qpos[self.cube_qpos][:3] = position
        if quat is not None:
            data.qpos[self.cube_qpos][3:] = quat
        data.qvel[self.cube_qvel] = np.zeros(6) if velocity is None else velocity

    def cube_weight_n(self) -> float:
        """Of the cube."""
        return float(9.81 * self.sim.model.body_mass[self.cube_body])

    def push_cube(self, force_n: np.ndarray) -> None:
        """A force (3,) on the cube's centre, world frame, from now on; zeros end it."""
        self.sim.data.xfrc_applied[self.cube_body, :3] = force_n

    def pads(self) -> Iterator[int]:
        """Geom ids of the left and the right finger's pad."""
        for finger in (1, 2):
            yield self.sim.model.geom(f"gripper0_right_finger{finger}_pad_collision").id

    def finger_qpos(self) -> list[int]:
        """Addresses of the finger joints' positions."""
        return [int(self.sim.model.joint(f"gripper0_right_finger_joint{i}").qposadr[0]) for i in (1, 2)]
