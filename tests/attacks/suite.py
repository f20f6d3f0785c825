"""Runs attacks and honest lifts, and collects the result of each judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.attacks.attacks import ATTACKS
from tests.attacks.director import Director
from vla.evaluation.video import write_video
from vla.judging.evidence import Evidence
from vla.judging.second_judge import rejudge
from vla.judging.thresholds import Thresholds
from vla.sim.config import TEST_SEEDS
from vla.sim.effect import Effect, PerturbableSimulator
from vla.sim.env import Simulator
from vla.sim.model_edits import (
    FRICTION_FIELDS,
    MASS_FIELDS,
    SIZE_FIELDS,
    TABLE_FIELDS,
    move_table,
    resize_cube,
    restored,
    scale_friction,
    scale_mass,
)
from vla.sim.second_look import second_look
from vla.sim.workers import simulator


@dataclass(frozen=True)
class AttackResult:
    """Results of all judges for one episode."""

    name: str
    seed: int
    what: str
    accepted: bool
    accepted_by_second_judge: bool
    """By the recorded states. A declared change cannot be repeated; any other episode has to follow from its actions
    as well, as in an evaluation."""
    accepted_by_robosuite: bool
    accepted_by_report: bool
    accepted_without: tuple[str, ...]
    """Conditions without any one of which the verdict would have accepted the episode."""
    words: str
    """The verdict in one sentence."""
    push_m: float | None = None
    """How far the push test moved the cube; None unless an honest lift was accepted."""
    cube: dict[str, float] | None = None
    """Factors of the cube's size, mass and friction; None unless an honest lift was accepted."""
    hold: dict[str, tuple[float, float]] | None = None
    """Minimum and maximum of each of QUANTITIES over the hold; None unless an honest lift was accepted."""


HONEST = "honest"
"""Name of the honest lifts, beside the names of the attacks."""


@dataclass(frozen=True)
class Quantity:
    """A measured quantity that a condition of the verdict limits."""

    condition: str
    what: str
    """The quantity in words, for the tables."""
    unit: str
    accepted: str
    """The limit in words."""
    of: Callable[[Evidence], Sequence[float]]
    """Reads the values from the evidence, in that unit: one, or one for each finger."""


_LIMITS = Thresholds()
_FIT = f"{1e3 * _LIMITS.fit_margin_m:.0f}"
QUANTITIES = (
    Quantity("lifted", "height", "mm", f"> {1e3 * _LIMITS.min_height_m:.0f}", lambda e: [1e3 * e.height_m]),
    Quantity(
        *("fitting", "opening, less the cube's shortest edge", "mm", f">= -{_FIT}"),
        lambda e: [1e3 * (e.opening_m - e.cube_width_m)],
    ),
    Quantity(
        *("fitting", "opening, less the cube's extent along the closing axis", "mm", f"<= {_FIT}"),
        lambda e: [1e3 * (e.opening_m - e.cube_extent_m)],
    ),
    Quantity(
        *("squeezed", "force of each finger", "N", f">= {_LIMITS.min_squeeze_n:g}"),
        lambda e: [e.left_squeeze_n, e.right_squeeze_n],
    ),
    Quantity(
        *("opposed", "angle of each finger's force", "degrees", f"<= {_LIMITS.max_squeeze_angle_deg:g}"),
        lambda e: [e.left_angle_deg, e.right_angle_deg],
    ),
    Quantity(
        *("borne", "what the fingers carry", "weights", f">= {_LIMITS.min_borne_weights:g}"),
        lambda e: [e.borne_weights],
    ),
    Quantity(
        *("moving_together", "speed against the gripper", "mm/s", f"<= {1e3 * _LIMITS.max_slip_speed_mps:g}"),
        lambda e: [1e3 * e.slip_speed_mps],
    ),
    Quantity(
        *("not_spinning", "turning against the gripper", "rad/s", f"<= {_LIMITS.max_slip_spin_radps:g}"),
        lambda e: [e.slip_spin_radps],
    ),
)
DRIFT = ("not_slipping", "movement in the gripper since the hold began", "mm", f"<= {1e3 * _LIMITS.max_drift_m:g}")
"""A quantity like the others, but of the whole hold: condition, words, unit and limit."""


def hold_ranges(held: Sequence[Evidence]) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of each quantity over the states of a hold, by the quantity's words."""
    values = {quantity.what: [value for e in held for value in quantity.of(e)] for quantity in QUANTITIES}
    values[DRIFT[1]] = [1e3 * float(np.linalg.norm(e.cube_in_gripper - held[0].cube_in_gripper)) for e in held]
    return {what: (min(of_all), max(of_all)) for what, of_all in values.items()}


@dataclass(frozen=True)
class AttackTask:
    """One episode of the suite."""

    name: str
    """Of an attack, or HONEST."""
    seed: int
    video: Path | None = None
    """Where to write a video; None: nowhere."""


def run_in_worker(task: AttackTask) -> AttackResult:
    """Run an attack, or an honest lift, with this worker's simulator."""
    if task.name == HONEST:
        return run_honest(simulator(), task.seed, task.video)
    return run_attack(simulator(), task.name, task.seed, task.video)


def run_attack(sim: Simulator, name: str, seed: int, video: Path | None = None) -> AttackResult:
    """Run one attack, from the start of test episode number `seed`."""
    attack = ATTACKS[name]
    with restored(sim.model):
        director = Director(sim, TEST_SEEDS[seed], attack.declared, film=video is not None)
        attack.run(director)
        second = _by_states(director) if attack.declared else None
    if second is None:
        second = _second_look(director)
    return _result(director, name, attack.what, second, video)


@dataclass(frozen=True)
class OtherCube:
    """A declared change of an honest lift, from its start on: factors of the cube's size, mass and friction, and the
    table's shift, (3,) metres."""

    size: float
    mass: float
    friction: float
    shift_m: np.ndarray

    def apply(self, sim: PerturbableSimulator, seed: int, undo: ExitStack) -> Effect:
        """Change the model; closing `undo` reverts it."""
        undo.enter_context(restored(sim.model))
        resize_cube(sim.model, "cube", self.size)
        scale_mass(sim.model, "cube", self.mass)
        scale_friction(sim.model, "cube", self.friction)
        move_table(sim.model, self.shift_m)
        sim.declare(*SIZE_FIELDS, *MASS_FIELDS, *FRICTION_FIELDS, *TABLE_FIELDS)
        return Effect(0.0, np.random.default_rng(seed))

    def __str__(self) -> str:
        shift = np.round(100 * self.shift_m, 1)
        return f"size x{self.size:.2f}, mass x{self.mass:.2f}, friction x{self.friction:.2f}, table {shift} cm"


def run_honest(sim: Simulator, seed: int, video: Path | None = None) -> AttackResult:
    """Let the expert lift a cube of other size (x 0.8-1.2), mass and friction (x 0.5-2), on a table moved by up to 3
    cm.

    `seed` determines the changes, and the start: that of the test episode of this number.
    """
    rng = np.random.default_rng([seed, 4])
    size = rng.uniform(0.8, 1.2)
    mass, friction = np.exp(rng.uniform(np.log(0.5), np.log(2.0), size=2))
    cube = OtherCube(size, mass, friction, rng.uniform(-0.03, 0.03, size=3))
    sim.perturbation = cube
    try:
        director = Director(sim, TEST_SEEDS[seed], film=video is not None)
        director.expert(until=lambda: director.judge.success, steps=200)
        success = director.judge.success
        push_m = sim.push_test() if success else None
        result = _result(director, HONEST, str(cube), _second_look(director), video)
        if not success:
            return result
        return replace(
            result,
            push_m=push_m,
            cube={"size": float(size), "mass": float(mass), "friction": float(friction)},
            hold=hold_ranges(director.outcomes[-director.judge.limits.hold_steps - 1 :]),
        )
    finally:
        sim.perturbation = None
        sim.reset(TEST_SEEDS[seed])  # reverts the changes


def _by_states(director: Director) -> bool:
    """Whether the second judge accepts the recorded states, in the world as the episode left it."""
    model, target = director.sim.model, director.sim.target_name
    return rejudge(model, target, director.states, np.stack(director.actions)).success


def _second_look(director: Director) -> bool:
    """Whether the second judge accepts the episode as in an evaluation: the simulator, reset, repeats it."""
    return second_look(director.sim, director.seed, np.stack(director.states), np.stack(director.actions)).success


def _result(director: Director, name: str, what: str, second: bool, video: Path | None) -> AttackResult:
    if video is not None:
        write_video(video, director.frames)
    verdict = director.judge.verdict()
    return AttackResult(
        name=name,
        seed=director.seed,
        what=what,
        accepted=verdict.success,
        accepted_by_second_judge=second,
        accepted_by_robosuite=director.robosuite_success,
        accepted_by_report=verdict.reported_success,
        accepted_without=tuple(missing for missing, judge in director.mutants.items() if judge.success),
        words=verdict.words,
    )
