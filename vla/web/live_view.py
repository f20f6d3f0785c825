"""HTML of a running episode: the live view and the verdict."""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from vla.judging.bystanders import NOT_STILL, WRONG_OBJECT
from vla.judging.verdict import CONDITIONS, Judge, Verdict
from vla.policies.grammar import meaning_of
from vla.sim.config import POSITION_SCALE_M, EnvConfig
from vla.web.goals import Goal, Said
from vla.web.messages import StepView

STEPS_PER_S = EnvConfig.control_freq_hz
REACHED_SHARE = 0.25
"""Share of a commanded displacement that the arm covers in one step; the next command starts from where the arm is.
Found by regression over an expert's episode (tests/test_web_parts.py)."""
FULL_OPENING_M = 0.08
"""Opening of the gripper at the end of its bar."""
BAR_HEIGHT_M = 0.15
"""Height of the cube at the end of its bar."""


def planned_path(eef_pos: np.ndarray, action_chunk: np.ndarray, camera_matrix: np.ndarray) -> np.ndarray:
    """Return roughly where a chunk would lead the gripper: (K + 1, 2) image coordinates in [0, 1].

    Args:
        eef_pos: (3,) grip site, world frame, metres.
        action_chunk: (K, 7) in [-1, 1].
        camera_matrix: (3, 4), see `vla.sim.env.Simulator.camera_matrix`.
    """
    moves = REACHED_SHARE * POSITION_SCALE_M * np.clip(action_chunk[:, :3], -1, 1)
    points = np.concatenate([eef_pos[None], eef_pos + moves.cumsum(axis=0)])  # (K + 1, 3)
    projected = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ camera_matrix.T
    path: np.ndarray = projected[:, :2] / projected[:, 2:]
    return path


def live_html(
    view: StepView, said: Said, news: str, verdict: Verdict | None, max_steps: int, furthest_phase: str
) -> str:
    """Return the camera's image with the planned path, gauges, and the verdict's conditions, lit while they hold.

    Args:
        view: the latest step.
        said: the instruction that is followed now.
        news: what has happened to the cubes (`vla.web.obedience`).
        verdict: on the instruction so far; None where nobody can say what it asks for.
        max_steps: control steps of the episode at most.
        furthest_phase: one of `vla.evaluation.milestones.PHASES`; the expert has other phases of its own.
    """
    step, judge = view.step, view.judge
    before, after = step.observation.evidence, step.outcome.evidence
    path = planned_path(before.gripper_pos, view.action_chunk, view.camera_matrix)
    conditions = [(name.replace("_", " "), text, _state(judge, name)) for name, text in CONDITIONS.items()]
    if said.goal.target is None:  # no cube is to be lifted
        conditions = []
    return _template("live").render(
        picture=_jpeg_url(step.observation.image),
        path=" ".join(f"{100 * u:.2f},{100 * v:.2f}" for u, v in path),
        tip=[100 * float(value) for value in path[0]],
        said=said,
        heard=heard_words(said),
        news=news,
        disobeyed=verdict is not None and verdict.failed in (WRONG_OBJECT, NOT_STILL) and _plain_words(verdict),
        step=step.index + 1,
        max_steps=max_steps,
        phase="" if step.decision.phase == "policy" else step.decision.phase,
        reached=furthest_phase,
        ms=step.decision_ms,
        gripper=[float(action[-1]) for action in view.action_chunk],
        height_cm=max(0.0, 100 * after.height_m),  # a resting cube sinks in a little: not "-0.0"
        height_share=float(np.clip(after.height_m / BAR_HEIGHT_M, 0, 1)),
        height_limit_share=judge.limits.min_height_m / BAR_HEIGHT_M,
        opening_mm=1e3 * after.opening_m,
        opening_share=float(np.clip(after.opening_m / FULL_OPENING_M, 0, 1)),
        conditions=conditions,
        held=judge.held_steps,
        hold_steps=judge.limits.hold_steps,
    )


def _state(judge: Judge, condition: str) -> str:
    """Return whether a condition of the verdict holds "now", held "earlier" or "never"."""
    if judge.now[condition]:
        return "now"
    return "earlier" if judge.ever[condition] else "never"


def verdict_html(verdict: Verdict | None, said: Said, news: str, steps: int, stopped: bool, is_lift: bool) -> str:
    """Return how the episode ended, in words.

    Args:
        verdict: on the latest instruction; None: nobody can say what it asks for.
        said: that instruction.
        news: what has happened to the cubes (`vla.web.obedience`).
        steps: control steps of the episode.
        stopped: whether the visitor has stopped it.
        is_lift: whether it ran in the scene "lift", of which the report would have claimed something.
    """
    how = "Stopped by hand after" if stopped else "The episode took"
    return _template("verdict").render(
        title=_title(verdict, said.goal),
        success=verdict is not None and verdict.success,
        words=None if verdict is None else verdict.words,
        failed="" if verdict is None else (verdict.failed or "").replace("_", " "),
        said=said,
        heard=heard_words(said),
        news=news,
        ended=f"{how} {steps} steps, {steps / STEPS_PER_S:.1f} s.",
        reported=verdict.reported_success if verdict is not None and is_lift else None,
    )


def heard_words(said: Said) -> str:
    """Return what the policy heard; "" where that is not known."""
    heard = said.heard
    if heard is None:
        return ""
    meant = meaning_of(said.instruction)
    other = meant is not None and heard.meaning is not None and heard.meaning != meant
    but = ", which means something else" if other else ""
    if heard.wording == said.instruction:
        return f"“{heard.wording}”, a wording of its training"
    return f"“{heard.wording}”{but} (nearest wording of its training; similarity {heard.similarity:.2f}, at most 1)"


def _plain_words(verdict: Verdict) -> str:
    return verdict.words.removeprefix("FAILURE: ")


def _title(verdict: Verdict | None, goal: Goal) -> str:
    if verdict is None:
        return "No verdict"
    if verdict.failed == WRONG_OBJECT:
        return "Wrong object"
    if goal.target is not None:
        return "Truly lifted" if verdict.success else "Not lifted"
    if verdict.failed == NOT_STILL:
        return "Not left alone"
    return "Rightly left alone" if verdict.success else "Failed"


def asks_html(goal: Goal) -> str:
    """Return what an instruction asks for; blank in the scene "lift", unless it names what is not there."""
    return str(_template("asks").render(goal=goal)).strip()


def notice_html(text: str) -> str:
    """Return a line of text in the place of the live view."""
    return _template("notice").render(text=text)


@functools.cache
def _template(name: str) -> Any:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    )
    return environment.get_template(f"{name}.html.j2")


def _jpeg_url(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
