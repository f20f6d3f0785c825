"""Records demonstrations in a simulator worker, one file each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from vla.demos.schema import Demo, write_demo
from vla.experts.dagger import DaggerActor
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import atomic_path
from vla.judging.verdict import Evidence, Judge
from vla.sim.env import Simulator
from vla.sim.rollout import Actor, Step, rollout
from vla.sim.workers import simulator


@dataclass(frozen=True)
class RecordTask:
    """One place in the dataset: seeds are tried in order until an episode passes the verdict."""

    part: Path
    instruction: str
    seeds: tuple[int, ...]
    max_steps: int
    expert: ExpertConfig
    policy: Path | None = None
    """Checkpoint of a policy that acts first (`vla.experts.dagger`); None: the expert alone."""


def record_in_worker(task: RecordTask) -> list[tuple[int, str]]:
    """Record `task` with this worker's simulator; return (seed, reason) of each rejected episode."""
    return record(simulator(), task)


def record(sim: Simulator, task: RecordTask) -> list[tuple[int, str]]:
    """Write the first episode that passes to `task.part`; the rejected ones are noted in it."""
    rejected: list[tuple[int, str]] = []
    expert = ExpertActor(task.expert)
    actor: Actor = expert if task.policy is None else DaggerActor.load(task.policy, expert)
    for seed in task.seeds:
        judge = Judge()
        steps = list(rollout(sim, actor, task.instruction, seed, task.max_steps, judge))
        if not judge.success:
            rejected.append((seed, judge.explain()))
            continue
        demo = demo_from_steps(steps, task.instruction, seed)
        with atomic_path(task.part) as temporary, h5py.File(temporary, "w") as file:
            write_demo(file.create_group("demo"), demo, sim.model_xml())
            file.attrs["rejected"] = json.dumps(rejected)
        break
    return rejected


def demo_from_steps(steps: list[Step], instruction: str, seed: int) -> Demo:
    """The arrays of one finished episode."""
    before = [step.observation for step in steps]
    outcomes = [step.outcome.evidence for step in steps]
    return Demo(
        instruction=instruction,
        seed=seed,
        images=np.stack([seen.image for seen in before]),
        actions=np.stack([step.decision.label for step in steps]),
        executed_actions=np.stack([step.decision.action for step in steps]),
        rewards=np.array([step.reward for step in steps], dtype=np.float32),
        states=np.stack([step.state for step in steps]),
        phases=np.array([step.decision.phase.encode() for step in steps]),
        sources=np.array([step.decision.source.encode() for step in steps]),
        observations={
            "robot0_eef_pos": np.stack([seen.evidence.gripper_pos for seen in before]),
            "robot0_eef_quat": np.stack([seen.eef_quat for seen in before]),
            "robot0_gripper_qpos": np.stack([seen.gripper_qpos for seen in before]),
            "cube_pos": np.stack([seen.evidence.cube_pos for seen in before]),
        },
        evidence={
            field.name: np.array([getattr(outcome, field.name) for outcome in outcomes])
            for field in dataclasses.fields(Evidence)
        },
        start_evidence=before[0].evidence,
    )
