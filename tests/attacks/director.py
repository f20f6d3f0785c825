"""Runs one attack in the real simulator, judged by the verdict, by its mutants and by robosuite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vla.evaluation.video import Caption, annotate
from vla.experts.scripted import ExpertActor, ExpertConfig, upright_turn
from vla.judging.evidence import Evidence
from vla.judging.verdict import CONDITIONS, Judge
from vla.sim.config import GRIPPER_CLOSE, POSITION_SCALE_M, ROTATION_SCALE_RAD
from vla.sim.env import Observation, SimulationDivergedError, Simulator

ALL_CONDITIONS = (*CONDITIONS, "hold", "settled", "valid", "unchanged")
"""Everything that a success requires: the conditions, held for long enough, a settled start, valid physics and a world
that nobody changed in secret."""


@dataclass
class Without(Judge):
    """The judge without one of ALL_CONDITIONS. What it accepts and the whole judge rejects, that condition rejects."""

    missing: str = ""
    """The condition that is left out."""

    def __post_init__(self) -> None:
        if self.missing == "hold":
            self.limits = replace(self.limits, hold_steps=1)

    def conditions(self, evidence: Evidence) -> dict[str, bool]:
        """Evaluate the conditions, with the missing one always met."""
        met = super().conditions(evidence)
        return {name: met[name] or name == self.missing for name in met}

    def invalidate(self, reason: str, failed: str = "valid") -> None:
        """Make the episode INVALID, unless the missing check is the one that failed."""
        if failed != self.missing:
            super().invalidate(reason, failed)


@dataclass
class Director:
    """An episode in which an attack may change the simulator; every state is judged and recorded."""

    sim: Simulator
    seed: int
    declared: bool = False
    """Every change of the simulator is declared, so that the conditions alone can reject the episode."""
    film: bool = False
    """Keep an annotated frame of every step."""
    judge: Judge = field(default_factory=Judge)
    observation: Observation = field(init=False)
    states: list[np.ndarray] = field(default_factory=list)
    """Full states (`Simulator.full_state`): at the start, and after each step."""
    outcomes: list[Evidence] = field(default_factory=list)
    """Evidence after each step."""
    actions: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    robosuite_success: bool = False
    """Whether robosuite's check succeeded at any step."""

    def __post_init__(self) -> None:
        self.mutants = {name: Without(missing=name) for name in ALL_CONDITIONS}
        self.observation = self.sim.reset(self.seed)
        first, first_velocity = self.sim.cube_addresses()[0], self.sim.cube_velocity_addresses()[0]
        self.cube_qpos = slice(first, first + 7)  # slices, because what they select must be writable
        self.cube_qvel = slice(first_velocity, first_velocity + 6)
        self.cube_body = self.sim.model.body(f"{self.sim.target_name}_main").id

    @property
    def evidence(self) -> Evidence:
        """Evidence of the latest observation."""
        return self.observation.evidence

    def begin(self) -> None:
        """Start the episode; the state that was set up before counts as its reset."""
        self.sim.declare("qpos", "qvel", "time")
        self.observe()
        for judge in (self.judge, *self.mutants.values()):
            judge.start(self.evidence)
        self.states.append(self.sim.full_state())

    def act(self, action: np.ndarray, tamper: Callable[[], None] | None = None) -> None:
        """Run one control step; `tamper` changes the state after it, before that state is judged."""
        if not self.states:
            self.begin()
        action = np.asarray(action, dtype=np.float32)
        self.actions.append(action)
        self._declare()
        try:
            self.observation, _ = self.sim.step(action)
        except SimulationDivergedError as error:
            for judge in (self.judge, *self.mutants.values()):
                judge.invalidate(str(error))
            self.observe()
        if tamper is not None:
            tamper()
            self.observe()
        for judge in (self.judge, *self.mutants.values()):
            judge.update(self.evidence)
        if self.judge.success:
            for judge in (self.judge, *self.mutants.values()):
                self.sim.confirm(judge)
        self.robosuite_success = self.robosuite_success or self.sim.robosuite_success()
        self.states.append(self.sim.full_state())
        self.outcomes.append(self.evidence)
        if self.film:
            caption = Caption(len(self.actions), "", f"seed {self.seed}", float(action[-1]), self.evidence, self.judge)
            self.frames.append(annotate(self.observation.image, caption))

    def observe(self) -> None:
        """Observe anew, after the attack changed the simulator."""
        self._declare()
        self.observation = self.sim.changed_by_hand()

    def _declare(self) -> None:
        if self.declared:
            self.sim.declare(*self.sim.watched)

    @property
    def fooled(self) -> bool:
        """Whether an attack has reached what it can: the conditions accept the episode, changes of the world aside."""
        return self.mutants["unchanged"].success

    def expert(
        self, until: Callable[[], bool] = lambda: False, steps: int = 120, config: ExpertConfig | None = None
    ) -> None:
        """Let the honest expert act until `until` returns True, for `steps` at most."""
        actor = ExpertActor(config or ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
        for _ in range(steps):
            if until():
                return
            self.act(actor.select_action(self.observation).action)

    def grasp(self) -> None:
        """Let the honest expert act until the cube is grasped, still on the table."""
        self.expert(lambda: self.evidence.is_grasped(self.judge.limits))

    def approach(self) -> None:
        """Let the honest expert act until it would close the gripper around the cube."""
        actor = ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
        while len(self.actions) < 60:
            action = actor.select_action(self.observation).action
            if action[-1] == GRIPPER_CLOSE:
                return
            self.act(action)

    def lift(self, gripper: float = GRIPPER_CLOSE, to_m: float = 0.15, steps: int = 30, **tampering: Any) -> None:
        """Raise the hand until the bottom of a held cube would be `to_m` above the table."""
        target = self.evidence.gripper_pos + [0.0, 0.0, to_m - max(0.0, self.evidence.height_m)]
        self.go(target, gripper, steps, **tampering)

    def carry(self, rise_m: float = 0.1, tamper: Callable[[], None] | None = None, steps: int = 60) -> None:
        """Raise the hand by `rise_m` and keep it there, until the attack has reached what it can."""
        target = self.evidence.gripper_pos + [0.0, 0.0, rise_m]
        for _ in range(steps):
            if self.fooled:
                return
            self.go(target, GRIPPER_CLOSE, 1, tamper)

    def stay(self, steps: int = 40, gripper: float = GRIPPER_CLOSE, **tampering: Any) -> None:
        """Keep the hand in its place."""
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
        """Move the grip site to `target`, (3,) metres in the world frame, and keep it there.

        Args:
            target: where to.
            gripper: command of the gripper at every step.
            steps: number of control steps.
            tamper: as in `act`.
            keep: False ends the motion as soon as the target is reached.
            tilt_rad: angle by which the fingers are tilted forwards, as far as the arm's joints allow.
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
        """Set the cube's centre, (3,) metres, its orientation (w x y z; None keeps it) and its velocity, (6,)."""
        data = self.sim.data
        data.qpos[self.cube_qpos][:3] = position
        if quat is not None:
            data.qpos[self.cube_qpos][3:] = quat
        data.qvel[self.cube_qvel] = np.zeros(6) if velocity is None else velocity

    def cube_weight_n(self) -> float:
        """Weight of the cube."""
        return float(9.81 * self.sim.model.body_mass[self.cube_body])

    def push_cube(self, force_n: np.ndarray) -> None:
        """Apply a force, (3,) in the world frame, to the cube's centre from now on; zeros end it."""
        self.sim.data.xfrc_applied[self.cube_body, :3] = force_n

    def pads(self) -> Iterator[int]:
        """Yield the geom ids of the left and the right finger's pad."""
        for finger in (1, 2):
            yield self.sim.model.geom(f"gripper0_right_finger{finger}_pad_collision").id

    def finger_qpos(self) -> list[int]:
        """Indices of the finger joints in `data.qpos`."""
        return [int(self.sim.model.joint(f"gripper0_right_finger_joint{i}").qposadr[0]) for i in (1, 2)]
