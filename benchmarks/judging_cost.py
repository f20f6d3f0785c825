"""What the verdict costs: the time of each of its parts in a control step, and of the second look after an episode.

The scripted expert lifts a cube in the simulator, with images as an evaluation has them. Writes the result file into
docs/results, from which `benchmarks/tables.py` makes the table in docs/verdict.md. Times mean something only on a
machine that does nothing else.

    python benchmarks/judging_cost.py
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scripts  # noqa: F401 (makes the packages importable)

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import write_text
from vla.judging.measurement import measure
from vla.judging.verdict import Judge
from vla.judging.world import WorldWatch
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS
from vla.sim.env import Simulator
from vla.sim.rollout import Trace, rollout
from vla.sim.second_look import second_look

CHECKS_PER_STEP = 2
"""Comparisons of the world in a control step: before the physics, and when the evidence is measured."""


@dataclass(frozen=True)
class JudgingCostOptions:
    """Options of the benchmark."""

    repetitions: int = 500
    """Repetitions of each part; their median counts."""
    output: Path = Path("docs/results/judging_cost.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise UserError(f"--repetitions must be at least 1, got {self.repetitions}")


def main(options: JudgingCostOptions) -> None:
    sim = Simulator()
    import mujoco  # imported before the simulator has chosen the GL backend, it could not draw

    judge, trace = Judge(), Trace()
    actor = ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
    start = time.perf_counter()
    steps = list(rollout(sim, actor, "Pick up the cube", TEST_SEEDS[0], 200, judge, trace))
    episode_s = time.perf_counter() - start
    assert judge.success, judge.explain()

    scratch, target = mujoco.MjData(sim.model), sim.target_name
    watch = WorldWatch(sim.model, sim.data)
    watch.remember()
    seen = [copy.deepcopy(judge) for _ in range(options.repetitions)]
    last = steps[-1].outcome.evidence

    def of(part: Callable[[], object], repetitions: int = options.repetitions) -> float:
        return _median_us(part, repetitions)

    parts = {
        "check": CHECKS_PER_STEP * of(lambda: watch.check(sim.model, sim.data)),
        "stepped": of(watch.stepped),
        "measure": of(lambda: measure(sim.model, sim.data, scratch, target, True)),
        "judge": of(lambda: seen.pop().update(last)),
        "meshes_per_step": of(watch.check_meshes, 20) / len(steps),
    }
    start = time.perf_counter()
    look = second_look(sim, TEST_SEEDS[0], np.stack(trace.states), np.stack(trace.actions))
    look_s = time.perf_counter() - start
    assert look.success, look.doubt
    sim.reset(TEST_SEEDS[0])
    still = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
    content = {
        "parts_us": parts,
        "step_us": of(lambda: sim.step(still), 100),
        "episode_steps": len(steps),
        "expert_episode_s": episode_s,
        "second_look_s": look_s,
        "versions": run_versions(),
        "machine": machine_facts(),
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(judging_cost_table(content))


def _median_us(part: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        part()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def judging_cost_table(content: dict[str, Any]) -> str:
    """Each part's time in a control step, its share of the step, and what the second look adds to an episode."""
    parts, step = content["parts_us"], content["step_us"]
    rows = [
        (what, f"{1e-3 * parts[name]:.3f} ms", f"{parts[name] / step:.2%}")
        for name, what in (
            ("check", "the world is compared, twice"),
            ("stepped", "the state is remembered"),
            ("meshes_per_step", "all meshes are compared at the end, spread over the steps"),
            ("measure", "the evidence is measured"),
            ("judge", "the conditions are judged"),
        )
    ]
    watching = parts["check"] + parts["stepped"] + parts["meshes_per_step"]
    rows.append(("**watching the world, together**", f"{1e-3 * watching:.3f} ms", f"{watching / step:.2%}"))
    rows.append(("a control step of the simulator, with its image", f"{1e-3 * step:.1f} ms", "100%"))
    second = content["second_look_s"]
    rows.append(
        (
            f"second judge and replay, once for an episode of {content['episode_steps']} steps",
            f"{1e3 * second:.0f} ms",
            f"{second / (1e-6 * step * content['episode_steps']):.0%} of its simulation",
        )
    )
    return markdown_table(("part of judging", "time", "share"), rows)


if __name__ == "__main__":
    run_script(main, JudgingCostOptions, __doc__)
