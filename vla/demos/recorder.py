"""Records demonstrations in a simulator worker, those of each seed in a file of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from vla.demos.schema import Demo, write_demo
from vla.experts.idle import IDLE_STEPS, IdleActor
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import atomic_path
from vla.judging.bystanders import MOVED_M, Bystanders, judge_obedience
from vla.judging.evidence import MEASURED
from vla.judging.verdict import Judge
from vla.policies.asked import Asked, ask_counterfactuals
from vla.sim.config import Scene
from vla.sim.env import Simulator
from vla.sim.rollout import Actor, Step, Trace, rollout
from vla.sim.table import TableLayout, table_layout
from vla.sim.workers import simulator


@dataclass(frozen=True)
class RecordTask:
    """A part of the collection: its seeds are tried in order until all episodes of one of them pass the verdict."""

    part: Path
    """File to write."""
    instruction: str | None
    """None: instructions are drawn that make sense in the scene of the seed (`ask_counterfactuals`)."""
    seeds: tuple[int, ...]
    max_steps: int
    expert: ExpertConfig
    policy: Path | None = None
    """Checkpoint of a policy that acts first (`vla.experts.dagger`); None: the expert acts alone."""
    demos_per_seed: int = 1
    """Episodes that begin in the scene of one seed, with instructions of different meaning, where these are drawn."""


def record_in_worker(task: RecordTask) -> list[tuple[int, str]]:
    """Record `task` with this worker's simulator; returns seed and reason of each rejected seed."""
    return record(simulator(), task)


def record(sim: Simulator, task: RecordTask) -> list[tuple[int, str]]:
    """Record `task` in `sim`; returns seed and reason of each rejected seed. No part is written if all were rejected.

    An episode in which another cube than the target moved by more than 2 cm teaches nothing good: it is rejected, too.
    """
    rejected: list[tuple[int, str]] = []
    for seed in task.seeds:
        demos: list[tuple[Demo, str]] = []
        for asked in _asked(sim.config.scene, task, seed):
            demo = _record_episode(sim, task, asked, seed)
            if isinstance(demo, str):
                rejected.append((seed, demo))
                break
            demos.append((demo, sim.model_xml()))
        else:
            _write_part(task.part, demos, rejected)
            break
    return rejected


def _asked(scene: Scene, task: RecordTask, seed: int) -> list[Asked]:
    if task.instruction is not None:
        return [Asked(task.instruction, target=0)]
    return ask_counterfactuals(table_layout(scene, seed), seed, task.demos_per_seed)


def _record_episode(sim: Simulator, task: RecordTask, asked: Asked, seed: int) -> Demo | str:
    """Returns the demonstration of an episode, or why it is none."""
    idle = asked.target is None
    expert: Actor = IdleActor(task.expert) if idle else ExpertActor(task.expert)
    actor = expert if task.policy is None else _dagger_actor(task.policy, expert)
    sim.target = asked.target
    judge, trace = Judge(), Trace()
    max_steps = IDLE_STEPS if idle else task.max_steps
    steps = list(rollout(sim, actor, asked.instruction, seed, max_steps, judge, trace))
    reason = rejection(judge, steps, trace.layout, asked.target)
    layout = None if sim.config.scene.kind == "lift" else trace.layout
    return reason or demo_from_steps(steps, asked.instruction, seed, layout, asked.target)


def _dagger_actor(policy: Path, expert: Actor) -> Actor:
    # Its torch would cost a collection without DAgger seconds at every start.
    from vla.experts.dagger import DaggerActor

    return DaggerActor.load(policy, expert)


def _write_part(part: Path, demos: list[tuple[Demo, str]], rejected: list[tuple[int, str]]) -> None:
    with atomic_path(part) as temporary, h5py.File(temporary, "w") as file:
        for number, (demo, model_xml) in enumerate(demos):
            write_demo(file.create_group(f"demo_{number}"), demo, model_xml)
        file.attrs["rejected"] = json.dumps(rejected)


def rejection(judge: Judge, steps: list[Step], layout: TableLayout, target: int | None) -> str | None:
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
