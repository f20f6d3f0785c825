"""Closed-loop episodes of a policy, what is reported of each, and Table 4 over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vla.checkpoint import load_policy
from vla.env import Simulator
from vla.policy import ControlConfig, PolicyActor
from vla.rollout import Actor, rollout
from vla.stats import markdown_table, rate
from vla.text import InstructionEmbeddings
from vla.verdict import Judge, check
from vla.video import episode_frames, write_video
from vla.workers import simulator


@dataclass(frozen=True)
class EpisodeResult:
    """One evaluated episode."""

    seed: int
    instruction: str
    success: bool
    """By the verdict."""
    reported_success: bool
    """By the report's flawed rule."""
    verdict: str
    """In words."""
    steps: int
    reward: float
    """Sum of robosuite's shaped rewards."""
    gripper_closures: int
    """Times the commanded gripper changed from open to close."""
    grasped: bool
    """At some step the closed gripper squeezed the cube (the verdict's conditions for it)."""
    lifted: bool
    """The cube was above 8 cm while grasped at some step."""
    max_height_m: float
    """Largest height of the cube's lowest point above the table."""
    closest_m: float | None
    """Smallest distance of the grip site from the cube's centre; None where no step was run."""
    inference_ms: list[float]
    """Time from image to action of each step."""


@dataclass(frozen=True)
class EvalTask:
    """One episode to run in a worker; paths and plain values only."""

    checkpoint: Path
    embedding: np.ndarray
    """(512,) raw embedding of the instruction, computed once by the parent."""
    seed: int
    instruction: str
    max_steps: int
    control: ControlConfig
    video: Path | None
    blind: bool = False


def run_episode(
    sim: Simulator, actor: Actor, instruction: str, seed: int, max_steps: int, video: Path | None = None
) -> EpisodeResult:
    """Run one episode; write its video where a path is given."""
    judge = Judge()
    steps = list(rollout(sim, actor, instruction, seed, max_steps, judge))
    if video is not None and steps:
        write_video(video, episode_frames(steps, instruction))
    outcomes = [step.outcome.evidence for step in steps]
    closing = np.array([False] + [outcome.closing_commanded for outcome in outcomes])
    met = [check(outcome, judge.limits) for outcome in outcomes]
    grasped = [outcome.is_grasped(judge.limits) for outcome in outcomes]
    return EpisodeResult(
        seed=seed,
        instruction=instruction,
        success=judge.success,
        reported_success=judge.reported_success,
        verdict=judge.verdict().words,
        steps=len(steps),
        reward=float(sum(step.reward for step in steps)),
        gripper_closures=int((closing[1:] & ~closing[:-1]).sum()),
        grasped=any(grasped),
        lifted=any(held and now["lifted"] and now["free"] for held, now in zip(grasped, met, strict=True)),
        max_height_m=max((outcome.height_m for outcome in outcomes), default=0.0),
        closest_m=min((float(np.linalg.norm(o.gripper_pos - o.cube_pos)) for o in outcomes), default=None),
        inference_ms=[step.decision_ms for step in steps],
    )


def summarise(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Shares of episodes with true success and with a grasp, and the mean closest distance in centimetres."""
    closest = [result.closest_m for result in results if result.closest_m is not None]
    summary = {
        "success": sum(result.success for result in results) / len(results),
        "grasped": sum(result.grasped for result in results) / len(results),
    }
    return summary | ({"closest_cm": 100 * float(np.mean(closest))} if closest else {})


def evaluate_in_worker(task: EvalTask) -> EpisodeResult:
    """Run `task` with this worker's simulator and its copy of the policy."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, checkpoint = load_policy(task.checkpoint, device)
    known = {task.instruction: torch.from_numpy(task.embedding)}
    embeddings = InstructionEmbeddings(known, checkpoint["text_identity"], "")
    actor = PolicyActor(model, embeddings, device, task.control, task.blind)
    return run_episode(simulator(), actor, task.instruction, task.seed, task.max_steps, task.video)


def instruction_table(results: Sequence[EpisodeResult]) -> str:
    """Success by the verdict for each instruction, with exact 95% intervals."""
    rows = []
    for instruction in dict.fromkeys(result.instruction for result in results):
        successes = [result.success for result in results if result.instruction == instruction]
        rows.append((instruction, rate(sum(successes), len(successes))))
    return markdown_table(("instruction", "success by the verdict"), rows)


def report_table(results: Sequence[EpisodeResult]) -> str:
    """Table 4 of the report: what it reported, what was true of it, and this run; exact 95% intervals."""
    count = len(results)
    times = np.array([ms for result in results for ms in result.inference_ms])

    def share(met: Callable[[EpisodeResult], bool]) -> str:
        return rate(sum(map(met, results)), count)

    rows = [
        ("Success by the report's rule (world height > 8 cm)", "10/10", "10/10", share(lambda r: r.reported_success)),
        ("Success by the verdict (true lift, held 1 s)", "-", "0/10", share(lambda r: r.success)),
        ("Episodes with a gripper closure", "-", "0/10", share(lambda r: r.gripper_closures > 0)),
        ("Gripper closure events", "-", "0", str(sum(r.gripper_closures for r in results))),
        ("Cubes grasped", "-", "0/10", share(lambda r: r.grasped)),
        ("Cubes lifted", "-", "0/10", share(lambda r: r.lifted)),
        ("Average episode length (steps)", "87", "200", f"{np.mean([r.steps for r in results]):.0f}"),
        ("Average total reward", "49.01", "39.26", f"{np.mean([r.reward for r in results]):.2f}"),
        (
            "Inference time per action, median (p95)",
            "52 ms",
            "52 ms",
            f"{np.median(times):.0f} ms ({np.percentile(times, 95):.0f} ms)" if times.size else "-",
        ),
    ]
    return markdown_table(("Table 4: metric", "report, reported", "report, actual", "here"), rows)
