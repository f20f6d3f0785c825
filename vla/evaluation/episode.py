"""Closed-loop episodes of a policy, what is reported of each, and Table 4 over all of them."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.errors import UserError
from vla.evaluation.statistics import rate
from vla.evaluation.video import episode_frames, frame_strip, write_video
from vla.experts.controls import control
from vla.judging.push_test import MAX_PUSH_M
from vla.judging.verdict import Evidence, Judge, Thresholds, check
from vla.markdown import markdown_table
from vla.policies.actor import ControlConfig, PolicyActor
from vla.policies.checkpoint import load_checkpoint, load_policy
from vla.policies.inference_server import RemoteModel
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import ACTION_DIM
from vla.sim.env import Simulator
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Actor, Step, Trace, rollout
from vla.sim.workers import simulator

PHASES = ("approached", "touched", "grasped", "lifted", "held")
"""How far an episode came: within 5 cm of the cube, a finger on it, both squeezing it, above 8 cm, held for 1 s."""
APPROACHED_M = 0.05
RAISED_M = 0.01
"""Once a grasped cube has been above this height, losing it is a drop."""


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
    failed: str | None
    """The condition that a failure failed (`vla.judging.verdict.Verdict`)."""
    failed_step: int | None
    invalid_reason: str | None
    phase: str
    """The furthest of PHASES; "none" where not even the first was reached."""
    phase_times_s: dict[str, float]
    """When each was reached first."""
    steps: int
    reward: float
    """Sum of robosuite's shaped rewards."""
    gripper_closures: int
    """Times the commanded gripper changed from open to close."""
    regrasps: int
    """Times the cube was grasped again after it was lost (`count_losses`)."""
    drops: int
    """Times a raised cube was lost (`count_losses`)."""
    grasped: bool
    """At some step the closed gripper squeezed the cube (the verdict's conditions for it)."""
    lifted: bool
    """The cube was above 8 cm while grasped at some step."""
    max_height_m: float
    """Largest height of the cube's lowest point above the table."""
    closest_m: float | None
    """Smallest distance of the grip site from the cube's centre; None where no step was run."""
    path_m: float
    """Way of the grip site."""
    cube_x_m: float
    """Where the cube lay when the episode began, world frame."""
    cube_y_m: float
    cube_yaw_deg: float
    """Its angle about the vertical then, in [-45, 45)."""
    push_m: float | None
    """How far the push test moved the held cube; None where it was not asked for, or nothing was held."""
    inference_ms: list[float]
    """Time from image to action of each step."""


@dataclass(frozen=True)
class EvalTask:
    """One episode to run in a worker; paths and plain values only."""

    policy: str
    """One of `vla.experts.controls.CONTROLS`, or "checkpoint"."""
    checkpoint: Path
    embedding: np.ndarray
    """(512,) raw embedding of the instruction, computed once by the parent."""
    seed: int
    instruction: str
    max_steps: int
    control: ControlConfig
    video: Path | None
    blind: bool = False
    push: bool = False
    perturbation: Perturbation | None = None
    server: str | None = None
    """Address of the inference server that computes (`vla.policies.inference_server`); None: this worker computes, on
    one CPU thread."""


@dataclass(frozen=True)
class Recording:
    """An episode's states for the second judge, and a strip of its frames for a person."""

    states: np.ndarray
    """(T + 1, n) full states (`Simulator.full_state`)."""
    actions: np.ndarray
    """(T, 7) as executed; one more where it ended the episode and led to no state."""
    strip: np.ndarray
    """(h, w, 3) uint8, frames from the first to the last, side by side."""


def run_episode(
    sim: Simulator,
    actor: Actor,
    instruction: str,
    seed: int,
    max_steps: int,
    video: Path | None = None,
    push: bool = False,
) -> tuple[EpisodeResult, Recording]:
    """Run one episode; write its video where a path is given; push the held cube at the end where asked.

    An episode in which the policy crashes has begun, and so it counts: as INVALID.
    """
    judge = Judge()
    steps: list[Step] = []
    trace = Trace()
    try:
        for step in rollout(sim, actor, instruction, seed, max_steps, judge, trace):
            steps.append(step)
    except UserError:
        raise
    except Exception as error:  # whatever a policy may raise
        judge.invalidate(f"the episode crashed: {type(error).__name__}: {error}")
    push_m = sim.push_test() if push and judge.success else None
    if video is not None and steps:
        write_video(video, episode_frames(steps, itertools.repeat(instruction)))
    first = trace.first
    assert first is not None, "a rollout that was begun has seen the start"
    recording = Recording(
        states=np.stack(trace.states),
        actions=np.stack(trace.actions) if trace.actions else np.zeros((0, ACTION_DIM), np.float32),
        strip=frame_strip([step.observation.image for step in steps] or [first.image]),
    )
    return episode_result(steps, judge, instruction, seed, trace.yaw_deg, first.evidence, push_m), recording


def episode_result(
    steps: Sequence[Step],
    judge: Judge,
    instruction: str,
    seed: int,
    yaw_deg: float,
    first: Evidence,
    push_m: float | None,
) -> EpisodeResult:
    """What is reported of an episode of these steps, which began with the evidence `first`."""
    verdict = judge.verdict()
    outcomes = [step.outcome.evidence for step in steps]
    closing = np.array([False] + [outcome.closing_commanded for outcome in outcomes])
    distances = [float(np.linalg.norm(o.gripper_pos - o.cube_pos)) for o in outcomes]
    grasped = [outcome.is_grasped(judge.limits) for outcome in outcomes]
    lifted = [
        held and (met := check(outcome, judge.limits))["lifted"] and met["free"]
        for held, outcome in zip(grasped, outcomes, strict=True)
    ]
    drops, regrasps = count_losses(outcomes, judge.limits)
    reached = {
        "approached": [distance < APPROACHED_M for distance in distances],
        "touched": [outcome.left_touch or outcome.right_touch for outcome in outcomes],
        "grasped": grasped,
        "lifted": lifted,
        "held": [False] * (len(steps) - 1) + [judge.success] if steps else [],
    }
    times = {
        phase: round(steps[met.index(True)].outcome.evidence.time_s, 3) for phase, met in reached.items() if any(met)
    }
    way = np.array([first.gripper_pos, *(outcome.gripper_pos for outcome in outcomes)])
    return EpisodeResult(
        seed=seed,
        instruction=instruction,
        success=verdict.success,
        reported_success=verdict.reported_success,
        verdict=verdict.words,
        failed=verdict.failed,
        failed_step=verdict.step,
        invalid_reason=judge.invalid_reason,
        phase=next((phase for phase in reversed(PHASES) if phase in times), "none"),
        phase_times_s=times,
        steps=len(steps),
        reward=float(sum(step.reward for step in steps)),
        gripper_closures=int((closing[1:] & ~closing[:-1]).sum()),
        regrasps=regrasps,
        drops=drops,
        grasped=any(grasped),
        lifted=any(lifted),
        max_height_m=max((outcome.height_m for outcome in outcomes), default=0.0),
        closest_m=min(distances, default=None),
        path_m=float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum()),
        cube_x_m=float(first.cube_pos[0]),
        cube_y_m=float(first.cube_pos[1]),
        cube_yaw_deg=yaw_deg,
        push_m=push_m,
        inference_ms=[step.decision_ms for step in steps],
    )


def count_losses(outcomes: Sequence[Evidence], limits: Thresholds) -> tuple[int, int]:
    """Drops and regrasps of an episode.

    A grasped cube is lost when no finger touches it any more, or when it was raised, is not squeezed, and the table
    carries it again; a squeeze that only weakens for a step is no loss. A drop is the loss of a raised cube, a regrasp
    a grasp after a loss.
    """
    drops = grasps = 0
    in_hand = raised = False
    for outcome in outcomes:
        grasped = outcome.is_grasped(limits)
        on_table = raised and not grasped and outcome.height_m <= limits.on_table_m
        if in_hand and (on_table or not (outcome.left_touch or outcome.right_touch)):
            drops += raised
            in_hand = raised = False
        elif grasped and not in_hand:
            grasps += 1
            in_hand = True
        raised = in_hand and (raised or outcome.height_m > RAISED_M)
    return drops, max(0, grasps - 1)


def summarise(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Shares of episodes with true success, with a grasp and invalid, and the mean closest distance in centimetres."""
    closest = [result.closest_m for result in results if result.closest_m is not None]
    summary = {
        "success": sum(result.success for result in results) / len(results),
        "grasped": sum(result.grasped for result in results) / len(results),
        "invalid": sum(result.invalid_reason is not None for result in results) / len(results),
    }
    return summary | ({"closest_cm": 100 * float(np.mean(closest))} if closest else {})


def evaluate_in_worker(task: EvalTask) -> tuple[EpisodeResult, Recording]:
    """Run `task` with this worker's simulator and its copy of the policy."""
    sim = simulator()
    sim.perturbation = task.perturbation
    return run_episode(sim, task_actor(task), task.instruction, task.seed, task.max_steps, task.video, task.push)


def task_actor(task: EvalTask) -> Actor:
    """Who acts in `task`: a control, or the checkpoint's policy on one CPU thread, loaded once in a process."""
    if task.policy != "checkpoint":
        return control(task.policy)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if task.server is None:
        model, checkpoint = load_policy(task.checkpoint, device)
    else:
        model, checkpoint = _remote_policy(task.server, task.checkpoint)
    known = {task.instruction: torch.from_numpy(task.embedding)}
    embeddings = InstructionEmbeddings(known, checkpoint["text_identity"], "")
    return PolicyActor(model, embeddings, device, task.control, task.blind)


@functools.cache
def _remote_policy(server: str, path: Path) -> tuple[RemoteModel, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    return RemoteModel(server, checkpoint["model_config"]), checkpoint


def instruction_table(results: Sequence[EpisodeResult]) -> str:
    """Success by the verdict for each instruction, with exact 95% intervals."""
    rows = []
    for instruction in dict.fromkeys(result.instruction for result in results):
        successes = [result.success for result in results if result.instruction == instruction]
        rows.append((instruction, rate(sum(successes), len(successes))))
    return markdown_table(("instruction", "success by the verdict"), rows)


TABLE_4 = ("Table 4: metric", "report, reported", "report, actual", "here")
FAILURES = ("failures: came as far as", "failed condition", "episodes")


def report_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str, str]]:
    """Table 4 of the report: what it reported, what was true of it, and this run; exact 95% intervals."""
    count = len(results)
    times = np.array([ms for result in results for ms in result.inference_ms])

    def share(met: Callable[[EpisodeResult], bool]) -> str:
        return rate(sum(map(met, results)), count)

    return [
        ("Success by the report's rule (world height > 8 cm)", "10/10", "10/10", share(lambda r: r.reported_success)),
        ("Success by the verdict (true lift, held 1 s)", "-", "0/10", share(lambda r: r.success)),
        ("Episodes with a gripper closure", "-", "0/10", share(lambda r: r.gripper_closures > 0)),
        ("Gripper closure events", "-", "0", str(sum(r.gripper_closures for r in results))),
        ("Cubes grasped", "-", "0/10", share(lambda r: r.grasped)),
        ("Cubes lifted", "-", "0/10", share(lambda r: r.lifted)),
        ("Episodes with a drop", "-", "-", share(lambda r: r.drops > 0)),
        ("Invalid episodes (counted as failures)", "-", "-", share(lambda r: r.invalid_reason is not None)),
        ("Average episode length (steps)", "87", "200", f"{np.mean([r.steps for r in results]):.0f}"),
        ("Average total reward", "49.01", "39.26", f"{np.mean([r.reward for r in results]):.2f}"),
        (
            "Inference time per action, median (p95)",
            "52 ms",
            "52 ms",
            f"{np.median(times):.0f} ms ({np.percentile(times, 95):.0f} ms)" if times.size else "-",
        ),
    ]


def report_table(results: Sequence[EpisodeResult]) -> str:
    """`report_rows` as Markdown."""
    return markdown_table(TABLE_4, report_rows(results))


def failure_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str]]:
    """How far the failed episodes came, which condition failed them, and how many they were."""
    failures = Counter((r.phase, r.failed or "-") for r in results if not r.success)
    order = ("none", *PHASES)
    return [
        (phase, failed.replace("_", " "), str(count))
        for (phase, failed), count in sorted(failures.items(), key=lambda item: (order.index(item[0][0]), -item[1]))
    ]


def failure_table(results: Sequence[EpisodeResult]) -> str:
    """`failure_rows` as Markdown."""
    return markdown_table(FAILURES, failure_rows(results))


def push_summary(results: Sequence[EpisodeResult]) -> dict[str, Any] | None:
    """What the push test found; None where no held cube was pushed."""
    pushes = [result.push_m for result in results if result.push_m is not None]
    if not pushes:
        return None
    return {
        "pushed": len(pushes),
        "withstood": sum(push <= MAX_PUSH_M for push in pushes),
        "largest_m": max(pushes),
        "limit_m": MAX_PUSH_M,
    }


def push_line(results: Sequence[EpisodeResult]) -> str:
    """The same in words."""
    found = push_summary(results)
    if found is None:
        return "Push test: no cube was held that could have been pushed."
    return (
        f"Push test, ten times the cube's weight, six ways: {found['withstood']} of {found['pushed']} held cubes moved "
        f"by {1e3 * MAX_PUSH_M:.0f} mm at most; the largest movement was {1e3 * found['largest_m']:.1f} mm."
    )
