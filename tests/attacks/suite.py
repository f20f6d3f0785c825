"""Runs attacks and honest lifts, and collects what each judge says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.attacks.attacks import ATTACKS
from tests.attacks.director import Director
from vla.env import TEST_SEEDS, Simulator
from vla.model_edits import move_table, resize_cube, restored, scale_friction, scale_mass
from vla.second_judge import rejudge
from vla.video import write_video
from vla.workers import simulator


@dataclass(frozen=True)
class AttackResult:
    """What the judges said of one episode."""

    name: str
    seed: int
    what: str
    accepted: bool
    accepted_by_second_judge: bool
    accepted_by_robosuite: bool
    accepted_by_report: bool
    accepted_without: tuple[str, ...]
    """Conditions without which the verdict would have accepted it, each alone."""
    words: str
    push_m: float | None = None
    """Of an honest lift: how far the push test moved the cube."""


HONEST = "honest"


def run_in_worker(name: str, seed: int, video: Path | None = None) -> AttackResult:
    """An attack, or an honest lift, with this worker's simulator."""
    if name == HONEST:
        return run_honest(simulator(), seed, video)
    return run_attack(simulator(), name, seed, video)


def run_attack(sim: Simulator, name: str, seed: int, video: Path | None = None) -> AttackResult:
    """One attack on the start of test episode number `seed`."""
    with restored(sim.model):
        director = Director(sim, TEST_SEEDS[seed], film=video is not None)
        ATTACKS[name].run(director)
        return _result(director, name, ATTACKS[name].what, video)


def run_honest(sim: Simulator, seed: int, video: Path | None = None) -> AttackResult:
    """The expert on a cube of another size (x 0.8-1.2), mass and friction (x 0.5-2), on a table moved by up to 3 cm."""
    rng = np.random.default_rng([seed, 4])
    size = rng.uniform(0.8, 1.2)
    mass, friction = np.exp(rng.uniform(np.log(0.5), np.log(2.0), size=2))
    shift = rng.uniform(-0.03, 0.03, size=3)
    with restored(sim.model):
        resize_cube(sim.model, "cube", size)
        scale_mass(sim.model, "cube", mass)
        scale_friction(sim.model, "cube", friction)
        move_table(sim.model, shift)
        director = Director(sim, TEST_SEEDS[seed], film=video is not None)
        director.expert(until=lambda: director.judge.success, steps=200)
        what = f"size x{size:.2f}, mass x{mass:.2f}, friction x{friction:.2f}, table {np.round(100 * shift, 1)} cm"
        push = sim.push_test() if director.judge.success else None
        return _result(director, HONEST, what, video, push)


def _result(director: Director, name: str, what: str, video: Path | None, push: float | None = None) -> AttackResult:
    if video is not None:
        write_video(video, director.frames)
    verdict = director.judge.verdict()
    target = director.sim.config.scene.target
    return AttackResult(
        name=name,
        seed=director.seed,
        what=what,
        accepted=verdict.success,
        accepted_by_second_judge=rejudge(director.sim.model, target, director.states, director.closing).success,
        accepted_by_robosuite=director.robosuite_success,
        accepted_by_report=verdict.reported_success,
        accepted_without=tuple(missing for missing, judge in director.mutants.items() if judge.success),
        words=verdict.words,
        push_m=push,
    )
