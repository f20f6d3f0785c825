"""What the page shows of an episode: the live view, the verdict's card, and the curves behind the verdict."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from vla.judging.verdict import CONDITIONS, Evidence, Judge
from vla.sim.config import POSITION_SCALE_M, EnvConfig
from vla.web.simulator_process import Moment

_INK = "#8a8f98"
"""Readable on white and on black: the figures have no ground of their own."""
_LEFT, _RIGHT, _LIMIT, _GOOD = "#3b82c4", "#d97706", "#dc4c4c", "#2a9d5c"
STEPS_PER_S = EnvConfig.control_freq_hz
REACHED_SHARE = 0.25
"""Of a commanded displacement, what the arm covers before the next command begins anew from where it is; regression
over an expert's episode (tests/test_web_parts.py)."""
FULL_OPENING_M = 0.08
"""Of the gripper, for the bar that shows it."""
BAR_HEIGHT_M = 0.15
"""End of the bar that shows the cube's height."""


def planned_path(start: np.ndarray, chunk: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """About where a chunk would lead the gripper: (K + 1, 2) of the picture, in [0, 1].

    Args:
        start: (3,) grip site, world frame, metres.
        chunk: (K, 7) actions in [-1, 1].
        camera: (3, 4), see `vla.sim.env.Simulator.camera_matrix`.
    """
    moves = REACHED_SHARE * POSITION_SCALE_M * np.clip(chunk[:, :3], -1, 1)
    points = np.concatenate([start[None], start + moves.cumsum(axis=0)])  # (K + 1, 3)
    projected = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ camera.T
    path: np.ndarray = projected[:, :2] / projected[:, 2:]
    return path


def live_html(moment: Moment, instruction: str, max_steps: int, reached: str) -> str:
    """The picture with the planned path, gauges, and the verdict's conditions as they light up.

    `reached` is the furthest of `vla.evaluation.episode.PHASES`; the expert has phases of its own beside it.
    """
    step, judge = moment.step, moment.judge
    seen, came = step.observation.evidence, step.outcome.evidence
    path = planned_path(seen.gripper_pos, moment.chunk, moment.camera)
    return _template("live").render(
        picture=_jpeg_url(step.observation.image),
        path=" ".join(f"{100 * u:.2f},{100 * v:.2f}" for u, v in path),
        tip=[100 * float(value) for value in path[0]],
        instruction=instruction,
        step=step.index + 1,
        max_steps=max_steps,
        phase="" if step.decision.phase == "policy" else step.decision.phase,
        reached=reached,
        ms=step.decision_ms,
        gripper=[float(action[-1]) for action in moment.chunk],
        height_cm=max(0.0, 100 * came.height_m),  # a resting cube sinks in by a hair: not "-0.0"
        height_share=float(np.clip(came.height_m / BAR_HEIGHT_M, 0, 1)),
        height_limit_share=judge.limits.min_height_m / BAR_HEIGHT_M,
        opening_mm=1e3 * came.opening_m,
        opening_share=float(np.clip(came.opening_m / FULL_OPENING_M, 0, 1)),
        conditions=[
            (name.replace("_", " "), text, "now" if judge.now[name] else "earlier" if judge.ever[name] else "never")
            for name, text in CONDITIONS.items()
        ],
        held=judge.held_steps,
        hold_steps=judge.limits.hold_steps,
    )


def verdict_html(judge: Judge, steps: int, stopped: bool) -> str:
    """How the episode ended, in words, and what the report would have claimed."""
    verdict = judge.verdict()
    how = "Stopped by hand after" if stopped else "The episode took"
    return _template("verdict").render(
        success=verdict.success,
        words=verdict.words,
        failed=(verdict.failed or "").replace("_", " "),
        ended=f"{how} {steps} steps, {steps / STEPS_PER_S:.1f} s.",
        reported=verdict.reported_success,
    )


def notice_html(text: str) -> str:
    """A line where the live view will be."""
    return _template("notice").render(text=text)


def curves(evidence: Sequence[Evidence], met: Sequence[bool]) -> Image.Image:
    """A picture of `curves_figure`."""
    buffer = io.BytesIO()
    curves_figure(evidence, met).savefig(buffer, format="png", dpi=110)
    return Image.open(buffer)


def curves_figure(evidence: Sequence[Evidence], met: Sequence[bool]) -> Any:
    """Height, opening, forces and relative velocity over time, with the verdict's thresholds drawn in.

    Args:
        evidence: after each step.
        met: whether every condition held after that step; drawn as a green ground.
    """
    from matplotlib.figure import Figure

    limits = Judge().limits
    time_s = np.arange(1, len(evidence) + 1) / STEPS_PER_S
    figure = Figure(figsize=(6.4, 7.6), layout="constrained")
    figure.patch.set_alpha(0)
    height, opening, force, slip, spin = panels = figure.subplots(5, 1, sharex=True)
    limit = {"color": _LIMIT, "linestyle": "--", "linewidth": 1}

    height.plot(time_s, [100 * e.height_m for e in evidence], color=_LEFT, label="cube above the table (cm)")
    height.axhline(100 * limits.min_height_m, label="to exceed", **limit)
    opening.plot(time_s, [1e3 * e.opening_m for e in evidence], color=_LEFT, label="finger opening (mm)")
    least = [1e3 * (e.cube_width_m - limits.fit_margin_m) for e in evidence]
    most = [1e3 * (e.cube_extent_m + limits.fit_margin_m) for e in evidence]
    opening.fill_between(time_s, least, most, color=_LIMIT, alpha=0.2, linewidth=0, label="fits the cube")
    force.plot(time_s, [e.left_squeeze_n for e in evidence], color=_LEFT, label="left finger (N)")
    force.plot(time_s, [e.right_squeeze_n for e in evidence], color=_RIGHT, label="right finger (N)")
    force.axhline(limits.min_squeeze_n, label="to exceed", **limit)
    slip.plot(time_s, [100 * e.slip_speed_mps for e in evidence], color=_LEFT, label="cube against gripper (cm/s)")
    spin.plot(time_s, [e.slip_spin_radps for e in evidence], color=_LEFT, label="turning against it (rad/s)")
    for panel in panels:
        panel.margins(x=0, y=0.3)
    for panel, top in ((slip, 100 * limits.max_slip_speed_mps), (spin, limits.max_slip_spin_radps)):
        panel.axhline(top, label="not to exceed", **limit)
        panel.set_ylim(0, 4 * top)  # what matters is near the threshold; the way to the cube is cut off
    for panel in panels:
        ground = {"transform": panel.get_xaxis_transform(), "color": _GOOD, "alpha": 0.18, "linewidth": 0}
        panel.fill_between(time_s, 0, 1, where=list(met), **ground)
        panel.legend(loc="upper left", fontsize=8, framealpha=0, ncols=3, labelcolor=_INK)
        panel.patch.set_alpha(0)
        panel.tick_params(labelsize=8, color=_INK, labelcolor=_INK)
        for spine in panel.spines.values():
            spine.set_color(_INK)
    height.set_title("What the verdict was judged from", fontsize=10, color=_INK)
    spin.set_xlabel("seconds (green: every condition holds)", color=_INK)
    return figure


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
