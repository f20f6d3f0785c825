"""Records demonstrations in a simulator worker, each in a file of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from vla.demos.schema import Demo, write_demo
from vla.experts.dagger import DaggerActor
from vla.experts.idle import IdleActor
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import atomic_path
from vla.judging.bystanders import MOVED_M, Bystanders, judge_obedience
from vla.judging.evidence import MEASURED
from vla.judging.verdict import Judge
from vla.sim.env import Simulator
from vla.sim.rollout import Actor, Step, Trace, rollout
from vla.sim.table import TableLayout
from vla.sim.workers import simulator


@dataclass(frozen=True)
class RecordTask:
    """One demonstration to record: its seeds are tried in order until an episode passes the verdict."""

    part: Path
    """File to write."""
    instruction: str
    seeds: tuple[int, ...]
    max_steps: int
    expert: ExpertConfig
    policy: Path | None = None
    """Checkpoint of a policy that acts first (`vla.experts.dagger`); None: the expert acts alone."""
    target: int | None = 0
    """Number of the cube that the instruction names (`vla.sim.table.TableLayout`); None: no cube is to be moved, and
    the demonstration has `max_steps` steps."""


def record_in_worker(task: RecordTask) -> list[tuple[int, str]]:
    """Record `task` with this worker's simulator; returns seed and reason of each rejected episode."""
    return record(simulator(), task)


def record(sim: Simulator, task: RecordTask) -> list[tuple[int, str]]:
    """Write the first episode that passes the verdict to `task.part`, with seed and reason of each rejected one.

    An episode in which another cube than the target moved by more than 2 cm teaches nothing good: it is rejected, too.

    Returns:
        Seed and reason of each rejected episode. Where no seed passed, no file is written.
    """
    rejected: list[tuple[int, str]] = []
    expert: Actor = IdleActor(task.expert) if task.target is None else ExpertActor(task.expert)
    actor = expert if task.policy is None else DaggerActor.load(task.policy, expert)
    sim.target = task.target
    for seed in task.seeds:
        judge, trace = Judge(), Trace()
        steps = list(rollout(sim, actor, task.instruction, seed, task.max_steps, judge, trace))
        reason = _rejection(judge, steps, trace.layout, task.target)
        if reason is not None:
            rejected.append((seed, reason))
            continue
        layout = None if sim.config.scene.kind == "lift" else trace.layout
        demo = demo_from_steps(steps, task.instruction, seed, layout, task.target)
        with atomic_path(task.part) as temporary, h5py.File(temporary, "w") as file:
            write_demo(file.create_group("demo"), demo, sim.model_xml())
            file.attrs["rejected"] = json.dumps(rejected)
        break
    return rejected


def _rejection(judge: Judge, steps: list[Step], layout: TableLayout, target: int | None) -> str | None:
    """Why an episode is no demonstration; None: it is one."""
    followed = Bystanders.of([step.observation.cubes for step in steps[:1]] + [step.outcome.cubes for step in steps])
    valid = judge.invalid_reason is None
    verdict = judge_obedience(judge.verdict(), valid, followed, target, layout.describe)
    if not verdict.success:
        return verdict.words
    if followed.others_moved(target):
        return f"another cube than the target moved by more than {100 * MOVED_M:.0f} cm"
    return None


def demo_from_steps(
    steps: list[Step], instruction: str, seed: int, layout: TableLayout | None = None, target: int | None = 0
) -> Demo:
    """Gather the arrays of one finished episode; `layout` and `target` are those of the scene "cubes"."""
    observations = [step.observation for step in steps]
    cubes = {} if layout is None else {"cubes_pos": np.stack([obs.cubes.pos for obs in observations])}
    outcomes = [step.outcome.evidence for step in steps]
    return Demo(
        instruction=instruction,
        seed=seed,
        images=np.stack([obs.image for obs in observations]),
        actions=np.stack([step.decision.label for step in steps]),
        executed_actions=np.stack([step.decision.action for step in steps]),
        rewards=np.array([step.reward for step in steps], dtype=np.float32),
        states=np.stack([step.state for step in steps]),
        phases=np.array([step.decision.phase.encode() for step in steps]),
        sources=np.array([step.decision.source.encode() for step in steps]),
        observations={
            "robot0_eef_pos": np.stack([obs.eef_pos for obs in observations]),
            "robot0_eef_quat": np.stack([obs.eef_quat for obs in observations]),
            "robot0_gripper_qpos": np.stack([obs.gripper_qpos for obs in observations]),
            "cube_pos": np.stack([obs.evidence.cube_pos for obs in observations]),
            **cubes,
        },
        evidence={name: np.array([getattr(outcome, name) for outcome in outcomes]) for name in MEASURED},
        start_evidence=observations[0].evidence,
        layout=layout,
        target=target,
    )
