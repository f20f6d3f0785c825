"""Cases at the edge of the verdict's rules, and what it decides: which of them count as a lift, measured.

The scripted expert acts, and each case changes one thing of its episode: the gripper's command, where the cube is
gripped, or what happens after a drop. Writes the result file into docs/results, from which `benchmarks/tables.py` makes
the table in docs/verdict.md.

    python benchmarks/edge_cases.py
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scripts  # noqa: F401 (makes the packages importable)
from tqdm import tqdm

from tests.attacks.director import Director
from vla.errors import UserError, run_script
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import rate
from vla.files import write_text
from vla.judging.push_test import MAX_PUSH_M
from vla.judging.second_judge import rejudge
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN, TEST_SEEDS
from vla.sim.env import Simulator

EDGE_CASES_VERSION = 1
FALL_STEPS = 7
"""Control steps for which the gripper is open before the cube is grasped again: the cube has just landed."""


@dataclass(frozen=True)
class EdgeCasesOptions:
    """Options of the benchmark."""

    starts: int = 20
    """Starts of each case: the first test seeds."""
    output: Path = Path("docs/results/edge_cases.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise UserError(f"--starts must be at least 1, got {self.starts}")


def command_of_zero(d: Director) -> None:
    """The gripper closes, and from the grasp on its command is exactly 0."""
    d.grasp()
    d.lift(gripper=0.0)
    d.stay(30, gripper=0.0)


def never_commanded(d: Director) -> None:
    """The gripper's command is 0 from the first step on: it stays open."""
    d.go(d.evidence.cube_pos, 0.0, 40)
    d.lift(gripper=0.0)
    d.stay(30, gripper=0.0)


def grip_off_centre(offset_m: float, axis: int) -> Callable[[Director], None]:
    """Make a case in which the cube is gripped away from the middle of the pads, and lifted.

    Args:
        offset_m: distance of the grip site from the cube's centre.
        axis: 0 for a grip in front of the centre, across the closing axis; 2 for one above it.
    """

    def case(d: Director) -> None:
        d.place_cube(d.evidence.cube_pos, np.array([1.0, 0.0, 0.0, 0.0]))
        d.begin()
        place = d.evidence.cube_pos + offset_m * np.eye(3)[axis]
        d.go(place + [0.0, 0.0, 0.06], GRIPPER_OPEN, 40, keep=False)
        d.go(place, GRIPPER_OPEN, 25)
        d.stay(10)
        d.lift(steps=40)
        d.stay(30)

    return case


def grasp_again_after_a_drop(d: Director) -> None:
    """A raised cube is dropped, and grasped again as soon as it lies on the table."""
    d.grasp()
    d.lift(steps=20)
    d.stay(FALL_STEPS, GRIPPER_OPEN)
    d.expert(until=lambda: d.judge.success, steps=150)


def set_down_and_lift_again(d: Director) -> None:
    """The cube is lowered from a lift, set down, and lifted again without opening the gripper."""
    d.grasp()
    d.lift(to_m=0.06)
    d.go(d.evidence.gripper_pos - [0.0, 0.0, d.evidence.height_m], GRIPPER_CLOSE, 20)
    d.lift()
    d.stay(30)


CASES: dict[str, tuple[str, Callable[[Director], None]]] = {
    "zero": ("gripper command exactly 0 from the grasp on", command_of_zero),
    "never": ("gripper command exactly 0 from the start on", never_commanded),
    **{
        f"across-{mm}": (f"gripped {mm} mm off its centre, across the closing axis", grip_off_centre(mm / 1e3, 0))
        for mm in (10, 15, 18, 20, 22)
    },
    **{f"above-{mm}": (f"gripped {mm} mm above its centre", grip_off_centre(mm / 1e3, 2)) for mm in (10, 15, 18, 20)},
    "drop": ("dropped from a lift, and grasped again as soon as it has landed", grasp_again_after_a_drop),
    "set-down": ("lifted by 6 cm, set down, and lifted again in the same grip", set_down_and_lift_again),
}


def main(options: EdgeCasesOptions) -> None:
    sim = Simulator(render_images=False)
    results = {}
    for name, (what, case) in CASES.items():
        episodes = [_run(sim, case, seed) for seed in tqdm(TEST_SEEDS[: options.starts], desc=name)]
        results[name] = {"what": what, **_summary(episodes)}
    content = {
        "edge_cases_version": EDGE_CASES_VERSION,
        "seeds": [TEST_SEEDS[0], TEST_SEEDS[options.starts - 1]],
        "versions": run_versions(),
        "thresholds": dataclasses.asdict(Thresholds()),
        "cases": results,
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(edge_cases_table(content))


def _run(sim: Simulator, case: Callable[[Director], None], seed: int) -> dict[str, Any]:
    director = Director(sim, seed)
    case(director)
    verdict = director.judge.verdict()
    lifted = director.evidence.height_m > director.judge.limits.min_height_m
    target = sim.target_name
    return {
        "accepted": verdict.success,
        "second": rejudge(sim.model, target, director.states, np.stack(director.actions)).success,
        "failed": verdict.failed,
        "raised_at_end": lifted,
        "push_m": sim.push_test() if lifted else None,
    }


def _summary(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    pushes = [episode["push_m"] for episode in episodes if episode["push_m"] is not None]
    return {
        "starts": len(episodes),
        "accepted": sum(episode["accepted"] for episode in episodes),
        "judges_agree": sum(episode["accepted"] == episode["second"] for episode in episodes),
        "failed": Counter(episode["failed"] for episode in episodes if episode["failed"]),
        "raised_at_end": len(pushes),
        "withstood": sum(push <= MAX_PUSH_M for push in pushes),
    }


def edge_cases_table(content: dict[str, Any]) -> str:
    """What the verdict decides of each case, and whether the cubes that hang in the grip withstand the push test."""
    rows = [
        (
            case["what"],
            rate(case["accepted"], case["starts"]),
            ", ".join(f"{failed.replace('_', ' ')} {count}" for failed, count in case["failed"].items()),
            f"{case['withstood']}/{case['raised_at_end']}",
            f"{case['judges_agree']}/{case['starts']}",
        )
        for case in content["cases"].values()
    ]
    head = ("case", "accepted", "failed conditions", "withstand the push, of those held at the end", "judges agree")
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_script(main, EdgeCasesOptions, __doc__)
