"""Honest holds of an arm that is shaken, and dishonest ones: how far apart they are in what "moving together" measures.

The scripted expert acts under white noise on its actions (`--perturb action-noise`), and goes on holding after its
success. A cube that is above 8 cm for a second without a break, by its height alone, counts as held, and the verdict
should accept it. Beside it stand the attacks in which the cube moves in the grip. Writes the result file into
docs/results, from which `benchmarks/tables.py` makes the table in docs/verdict.md.

    python benchmarks/shaken_holds.py
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scripts  # noqa: F401 (makes the packages importable)
from tqdm import tqdm

from tests.attacks.attacks import ATTACKS
from tests.attacks.director import Director
from vla.errors import UserError, run_script
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import rate
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import write_text
from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Judge
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS
from vla.sim.env import Simulator
from vla.sim.model_edits import restored
from vla.sim.perturbations import Perturbation

SHAKEN_HOLDS_VERSION = 1
MAX_STEPS = 120
SHAKEN = {
    "still": ("the expert, not shaken", None),
    "noise-1": ("the expert under noise of 0.1", Perturbation("action-noise", 1)),
    "noise-2": ("the expert under noise of 0.2", Perturbation("action-noise", 2)),
    "noise-3": ("the expert under noise of 0.4", Perturbation("action-noise", 3)),
}
DISHONEST = ("rattling", "spinning", "creeping")
QUANTITIES = {"slip_mmps": "slip, mm/s", "spin_radps": "spin, rad/s", "drift_mm": "drift in a second, mm"}
"""What is measured at every state of a hold: speed and turning against the gripper, and the movement since a second
before."""


@dataclass(frozen=True)
class ShakenHoldsOptions:
    """Options of the benchmark."""

    starts: int = 50
    """Starts under noise of 0.1: the first test seeds. The others have half of them."""
    output: Path = Path("docs/results/shaken_holds.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.starts < 2:
            raise UserError(f"--starts must be at least 2, got {self.starts}")


def main(options: ShakenHoldsOptions) -> None:
    sim = Simulator(render_images=False)
    rows = {}
    for name, (what, perturbation) in SHAKEN.items():
        starts = options.starts if name == "noise-1" else options.starts // 2
        episodes = [_shaken(sim, perturbation, seed) for seed in tqdm(TEST_SEEDS[:starts], desc=name)]
        rows[name] = _summary(what, episodes)
    for name in DISHONEST:
        seeds = tqdm(TEST_SEEDS[: options.starts // 2], desc=name)
        rows[name] = _summary(ATTACKS[name].what, [_dishonest(sim, name, seed) for seed in seeds])
    content = {
        "shaken_holds_version": SHAKEN_HOLDS_VERSION,
        "versions": run_versions(),
        "thresholds": dataclasses.asdict(Thresholds()),
        "rows": rows,
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(shaken_holds_table(content))


def _shaken(sim: Simulator, perturbation: Perturbation | None, seed: int) -> tuple[bool, list[Evidence]]:
    """Run the expert for all steps; returns whether the verdict accepts it, and the evidence after each step."""
    actor, judge = ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0)), Judge()
    sim.perturbation = perturbation
    observation = sim.reset(seed)
    sim.perturbation = None
    actor.reset("", seed)
    judge.start(observation.evidence)
    outcomes = []
    for _ in range(MAX_STEPS):
        observation, _ = sim.step(actor.select_action(observation).action)
        judge.update(observation.evidence)
        outcomes.append(observation.evidence)
    return judge.success, outcomes


def _dishonest(sim: Simulator, name: str, seed: int) -> tuple[bool, list[Evidence]]:
    """Run an attack; returns whether the verdict accepts it, and the evidence after each step."""
    with restored(sim.model):
        director = Director(sim, seed, ATTACKS[name].declared)
        ATTACKS[name].run(director)
    return director.judge.success, director.outcomes


def _holds(outcomes: Sequence[Evidence], limits: Thresholds) -> list[Sequence[Evidence]]:
    """The unbroken stretches of a second and more in which the cube is above 8 cm."""
    stretches: list[list[Evidence]] = [[]]
    for outcome in outcomes:
        if outcome.height_m > limits.min_height_m:
            stretches[-1].append(outcome)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if len(stretch) > limits.hold_steps]


def _summary(what: str, episodes: Sequence[tuple[bool, list[Evidence]]]) -> dict[str, Any]:
    limits = Thresholds()
    held = [(accepted, _holds(outcomes, limits)) for accepted, outcomes in episodes]
    held = [(accepted, holds) for accepted, holds in held if holds]
    stretches = [hold for _, holds in held for hold in holds]
    values = {
        "slip_mmps": [1e3 * e.slip_speed_mps for hold in stretches for e in hold],
        "spin_radps": [e.slip_spin_radps for hold in stretches for e in hold],
        "drift_mm": [
            1e3 * float(np.linalg.norm(now.cube_in_gripper - before.cube_in_gripper))
            for hold in stretches
            for before, now in zip(hold[: -limits.hold_steps], hold[limits.hold_steps :], strict=True)
        ],
    }
    return {
        "what": what,
        "episodes": len(episodes),
        "held": len(held),
        "accepted": sum(accepted for accepted, _ in held),
        "accepted_of_others": sum(accepted for accepted, _ in episodes) - sum(accepted for accepted, _ in held),
        **{name: [float(np.percentile(of, q)) for q in (50, 95, 100)] if of else None for name, of in values.items()},
    }


def shaken_holds_table(content: dict[str, Any]) -> str:
    """What the verdict accepts of the holds, and how the cube moves in the grip: median, 95th percentile and most."""
    rows = [
        (
            row["what"],
            f"{row['held']} of {row['episodes']}",
            rate(row["accepted"], row["held"]) if row["held"] else "-",
            *(" / ".join(f"{value:.2g}" for value in row[name]) if row[name] else "-" for name in QUANTITIES),
        )
        for row in content["rows"].values()
    ]
    limits = Thresholds()
    accepted = (1e3 * limits.max_slip_speed_mps, limits.max_slip_spin_radps, 1e3 * limits.max_drift_m)
    rows.append(("the verdict accepts", "", "", *(f"<= {limit:g}" for limit in accepted)))
    head = ("who holds the cube", "above 8 cm for a second", "of these accepted", *QUANTITIES.values())
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_script(main, ShakenHoldsOptions, __doc__)
