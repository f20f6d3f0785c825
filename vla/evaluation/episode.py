"""One evaluated episode: how it is run, and what is recorded and reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vla.errors import MachineError, UserError, describe_error
from vla.evaluation.failures import failure_kind, measure_approach
from vla.evaluation.milestones import PHASES, count_losses, distance_m, phases_by_step
from vla.evaluation.video import frame_strip, video_written
from vla.judging.bystanders import Bystanders, judge_obedience
from vla.judging.verdict import Judge
from vla.policies.faults import is_machine_fault
from vla.sim.config import ACTION_DIM
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Actor, Step, Trace, rollout
from vla.sim.second_look import second_look
from vla.sim.table import TableLayout


@dataclass(frozen=True)
class EpisodeResult:
    """What is reported of an evaluated episode."""

    seed: int
    instruction: str
    success: bool
    """Success by the verdict."""
    reported_success: bool
    """Success by the report's flawed rule."""
    verdict: str
    """The verdict in words."""
    failed: str | None
    """The condition that a failure failed (`vla.judging.verdict.Verdict`)."""
    failed_step: int | None
    invalid_reason: str | None
    failure_kind: str | None
    """Why it failed: one of `vla.evaluation.failures.FAILURE_KINDS`; None for a success."""
    phase: str
    """The furthest of PHASES; "none" where not even the first was reached."""
    phase_times_s: dict[str, float]
    """Time at which each phase was first reached."""
    steps: int
    reward: float
    """Sum of robosuite's shaped rewards."""
    gripper_closures: int
    """Times the commanded gripper changed from open to close."""
    regrasps: int
    """Times the cube was grasped again after it was lost (`vla.evaluation.milestones.count_losses`)."""
    drops: int
    """Times a raised cube was lost."""
    grasped: bool
    """At some step the closed gripper squeezed the cube (the verdict's conditions for it)."""
    lifted: bool
    """The cube was above 8 cm while grasped at some step."""
    max_height_m: float
    """Largest height of the cube's lowest point above the table; 0 where no step was run."""
    closest_m: float | None
    """Smallest distance between the grip site and the cube's centre; None where no step was run."""
    pushed_m: float | None
    """Horizontal movement of the cube by the fingers before the gripper closed at it; None, as the two below, where no
    step was run (`vla.evaluation.failures.Approach`)."""
    miss_depth_m: float | None
    """Offset of the grip site from the cube's centre along the camera's line of sight, positive beyond the cube, when
    the gripper first closed at the cube, or else at the closest approach."""
    miss_sideways_m: float | None
    """Length of the same offset across the line of sight."""
    path_m: float
    """Length of the grip site's path."""
    cube_x_m: float | None
    """Position of the cube at the start, world frame; None, as the two below, where the worker process died."""
    cube_y_m: float | None
    cube_yaw_deg: float | None
    """Angle of the cube about the vertical at the start, in [-45, 45)."""
    push_m: float | None
    """How far the push test moved the held cube; None where it was not asked for, or nothing was held."""
    inference_ms: list[float]
    """Time from image to action of each step."""
    declared: list[str] = field(default_factory=list)
    """Fields of the world that a perturbation declared to have changed (`vla.judging.world`)."""
    judges_agree: bool | None = None
    """The second judge decides as the verdict does, and the simulator repeats the episode from its seed and actions
    (`vla.sim.second_look`); None where it was not asked: on the page, and where the worker process died."""
    second_doubt: str | None = None
    """Why the second judge or the replay holds the whole episode for void; None: they do not."""
    target: int | None = 0
    """Number of the cube that the instruction names; None: no cube was to be moved."""
    cube_colours: list[str] = field(default_factory=list)
    """Colour of each cube on the table (`vla.sim.table.TableLayout`); empty, as the two lists below, where the worker
    process died."""
    first_touched: int | None = None
    """Number of the cube that a finger touched first; None: no finger touched one."""
    cubes_moved_m: list[float] = field(default_factory=list)
    """Largest distance of each cube from its first place."""
    cubes_lifted: list[int] = field(default_factory=list)
    """Numbers of the cubes that were more than 8 cm above the table, in the order of time."""

    def cube_start(self) -> str:
        """Where the cube lay at the start, in words."""
        if self.cube_x_m is None or self.cube_y_m is None or self.cube_yaw_deg is None:
            return "at an unknown place"
        return (
            f"at ({100 * self.cube_x_m:.1f}, {100 * self.cube_y_m:.1f}) cm, turned by {self.cube_yaw_deg:.0f} degrees"
        )


@dataclass(frozen=True)
class Recording:
    """States and actions of an episode for the second judge, and a strip of its frames for people."""

    states: np.ndarray
    """(T + 1, n) float64 full states (`Simulator.full_state`); (0, 0) where the worker process died."""
    actions: np.ndarray
    """(T, 7) float32 as executed; one more where it ended the episode and led to no state."""
    strip: np.ndarray | None
    """(h, w, 3) uint8, frames from the first to the last, side by side; None where the worker process died."""


@dataclass(frozen=True)
class EvaluatedEpisode:
    """An evaluated episode: its result, its recording, and whether its video was written."""

    result: EpisodeResult
    recording: Recording
    has_video: bool = False
    switched_step: int | None = None
    """Control step at which another instruction was given (`vla.evaluation.switching`); None: none was."""


def run_episode(
    sim: Simulator,
    actor: Actor,
    instruction: str,
    seed: int,
    max_steps: int,
    video: Path | None = None,
    push: bool = False,
) -> EvaluatedEpisode:
    """Run one episode.

    An exception of the policy makes the episode INVALID, which counts as a failure. A video that cannot be written is
    reported by a warning, and costs nothing but the video.

    Args:
        sim: simulator to run in; its target, perturbation and placement apply.
        actor: policy, control or expert that acts.
        instruction: what `actor` is asked to do.
        seed: seed of the episode.
        max_steps: control steps after which the episode has failed.
        video: MP4 file to write; None: no video.
        push: whether to push the held cube after a success (`vla.judging.push_test`).

    Raises:
        MachineError: the simulator could not be reset, or a resource of the machine failed (memory, GPU, files, GL).
    """
    judge = Judge()
    steps: list[Step] = []
    trace = Trace()
    try:
        for step in rollout(sim, actor, instruction, seed, max_steps, judge, trace):
            steps.append(step)
    except (UserError, MachineError):
        raise
    except Exception as error:  # a policy may raise anything
        if trace.first is None:
            raise MachineError(
                f"the simulator cannot begin the episode of seed {seed}: {describe_error(error)}"
            ) from error
        if is_machine_fault(error):
            raise MachineError(f"the episode of seed {seed} was cut off: {describe_error(error)}") from error
        judge.invalidate(f"the episode crashed: {type(error).__name__}: {error}")
    push_m = sim.push_test() if push and judge.success else None
    has_video = video is not None and bool(steps) and video_written(video, steps, instruction)
    first = trace.first
    assert first is not None, "a rollout that began has seen the start"
    recording = Recording(
        states=np.stack(trace.states),
        actions=np.stack(trace.actions) if trace.actions else np.zeros((0, ACTION_DIM), np.float32),
        strip=frame_strip([step.observation.image for step in steps] or [first.image]),
    )
    result = episode_result(
        steps, judge, instruction, seed, trace.layout, sim.target, first, push_m, sim.camera_matrix()
    )
    declared = list(sim.declared)
    second = second_look(sim, seed, recording.states, recording.actions)  # last, for it resets the simulator
    agree = second.agrees(result.success, result.invalid_reason is None)
    result = replace(result, declared=declared, judges_agree=agree, second_doubt=second.doubt)
    return EvaluatedEpisode(result, recording, has_video)


def start_only(episode: EvaluatedEpisode) -> EvaluatedEpisode:
    """The episode without its recording, but for the first state: thousands of them fit into memory."""
    recording = Recording(episode.recording.states[:1].copy(), np.zeros((0, ACTION_DIM), np.float32), None)
    return replace(episode, recording=recording)


def died_episode(seed: int, instruction: str, reason: str, target: int | None = 0) -> EvaluatedEpisode:
    """The INVALID episode of a worker process that died: it began, and nothing else is known of it."""
    result = EpisodeResult(
        seed=seed,
        instruction=instruction,
        success=False,
        reported_success=False,
        verdict=f"INVALID: {reason}",
        failed="valid",
        failed_step=None,
        invalid_reason=reason,
        failure_kind="invalid",
        phase="none",
        phase_times_s={},
        steps=0,
        reward=0.0,
        gripper_closures=0,
        regrasps=0,
        drops=0,
        grasped=False,
        lifted=False,
        max_height_m=0.0,
        closest_m=None,
        pushed_m=None,
        miss_depth_m=None,
        miss_sideways_m=None,
        path_m=0.0,
        cube_x_m=None,
        cube_y_m=None,
        cube_yaw_deg=None,
        push_m=None,
        inference_ms=[],
        target=target,
    )
    return EvaluatedEpisode(result, Recording(np.zeros((0, 0)), np.zeros((0, ACTION_DIM), np.float32), None))


def episode_result(
    steps: Sequence[Step],
    judge: Judge,
    instruction: str,
    seed: int,
    layout: TableLayout,
    target: int | None,
    first: Observation,
    push_m: float | None,
    camera_matrix: np.ndarray,
) -> EpisodeResult:
    """The result of an episode of these steps.

    Args:
        steps: all control steps.
        judge: judged these steps.
        instruction: what the actor was asked to do.
        seed: of the episode.
        layout: what lay on the table at the start.
        target: number of the cube that the instruction names; None: no cube was to be moved, and what is said of "the
            cube" is true of the first one.
        first: observation that the episode began with.
        push_m: what the push test measured; None where there was none.
        camera_matrix: (3, 4) projection of the camera, which stands still (`Simulator.camera_matrix`).
    """
    valid = judge.invalid_reason is None
    followed = Bystanders.of([first.cubes, *(step.outcome.cubes for step in steps)])
    verdict = judge_obedience(judge.verdict(), valid, followed, target, layout.describe)
    start = first.evidence
    outcomes = [step.outcome.evidence for step in steps]
    closing = np.array([False] + [outcome.closing_commanded for outcome in outcomes])
    reached = phases_by_step(outcomes, judge)
    times = {phase: round(outcomes[met.index(True)].time_s, 3) for phase, met in reached.items() if any(met)}
    drops, regrasps = count_losses(outcomes, judge.limits)
    approach = measure_approach(start, outcomes, camera_matrix)
    path = np.array([start.gripper_pos, *(outcome.gripper_pos for outcome in outcomes)])
    return EpisodeResult(
        seed=seed,
        instruction=instruction,
        success=verdict.success,
        reported_success=verdict.reported_success,
        verdict=verdict.words,
        failed=verdict.failed,
        failed_step=verdict.step,
        invalid_reason=judge.invalid_reason,
        failure_kind=failure_kind(verdict, valid, times, drops, outcomes, approach, judge.limits),
        phase=next((phase for phase in reversed(PHASES) if phase in times), "none"),
        phase_times_s=times,
        steps=len(steps),
        reward=float(sum(step.reward for step in steps)),
        gripper_closures=int((closing[1:] & ~closing[:-1]).sum()),
        regrasps=regrasps,
        drops=drops,
        grasped=any(reached["grasped"]),
        lifted=any(reached["lifted"]),
        max_height_m=max((outcome.height_m for outcome in outcomes), default=0.0),
        closest_m=min((distance_m(outcome) for outcome in outcomes), default=None),
        pushed_m=approach.pushed_m if steps else None,
        miss_depth_m=approach.depth_m if steps else None,
        miss_sideways_m=approach.sideways_m if steps else None,
        path_m=float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()),
        cube_x_m=float(start.cube_pos[0]),
        cube_y_m=float(start.cube_pos[1]),
        cube_yaw_deg=layout.cubes[target or 0].yaw_deg,
        push_m=push_m,
        inference_ms=[step.decision_ms for step in steps],
        target=target,
        cube_colours=[cube.colour for cube in layout.cubes],
        first_touched=followed.first_touched,
        cubes_moved_m=followed.moved_m.tolist(),
        cubes_lifted=followed.lifted,
    )


def summarise(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Shares of episodes with true success, with a grasp and invalid, and the mean closest distance in centimetres."""
    closest = [result.closest_m for result in results if result.closest_m is not None]
    summary = {
        "success": sum(result.success for result in results) / len(results),
        "grasped": sum(result.grasped for result in results) / len(results),
        "invalid": sum(result.invalid_reason is not None for result in results) / len(results),
    }
    return summary | ({"closest_cm": 100 * float(np.mean(closest))} if closest else {})
