"""The curves of an episode's evidence, with the verdict's thresholds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import Judge
from vla.sim.config import EnvConfig

_INK = "#8a8f98"
"""Readable on white and on black, because the figure's background is transparent."""
_LEFT, _RIGHT, _LIMIT, _GOOD = "#3b82c4", "#d97706", "#dc4c4c", "#2a9d5c"


def draw_curves(evidence: Sequence[Evidence], met: Sequence[bool]) -> Image.Image:
    """Return `curves_figure` as an image."""
    buffer = io.BytesIO()
    curves_figure(evidence, met).savefig(buffer, format="png", dpi=110)
    return Image.open(buffer)


def curves_figure(evidence: Sequence[Evidence], met: Sequence[bool]) -> Any:
    """Plot height, opening, forces and relative velocity over time.

    Args:
        evidence: the evidence after each step.
        met: whether every condition of the verdict held after each step; drawn as a green background.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 7.6), layout="constrained")
    figure.patch.set_alpha(0)
    panels = figure.subplots(5, 1, sharex=True)
    time_s = np.arange(1, len(evidence) + 1) / EnvConfig.control_freq_hz
    _plot(panels, time_s, evidence, Judge().limits)
    for panel in panels:
        background = {"transform": panel.get_xaxis_transform(), "color": _GOOD, "alpha": 0.18, "linewidth": 0}
        panel.fill_between(time_s, 0, 1, where=list(met), **background)
        panel.legend(loc="upper left", fontsize=8, framealpha=0, ncols=3, labelcolor=_INK)
        panel.patch.set_alpha(0)
        panel.tick_params(labelsize=8, color=_INK, labelcolor=_INK)
        for spine in panel.spines.values():
            spine.set_color(_INK)
    panels[0].set_title("What the verdict was judged from", fontsize=10, color=_INK)
    panels[-1].set_xlabel("seconds (green: every condition holds)", color=_INK)
    return figure


def _plot(panels: Sequence[Any], time_s: np.ndarray, evidence: Sequence[Evidence], limits: Thresholds) -> None:
    height, opening, force, slip, spin = panels
    threshold = {"color": _LIMIT, "linestyle": "--", "linewidth": 1}
    height.plot(time_s, [100 * e.height_m for e in evidence], color=_LEFT, label="cube above the table (cm)")
    height.axhline(100 * limits.min_height_m, label="to exceed", **threshold)
    opening.plot(time_s, [1e3 * e.opening_m for e in evidence], color=_LEFT, label="finger opening (mm)")
    least = [1e3 * (e.cube_width_m - limits.fit_margin_m) for e in evidence]
    most = [1e3 * (e.cube_extent_m + limits.fit_margin_m) for e in evidence]
    opening.fill_between(time_s, least, most, color=_LIMIT, alpha=0.2, linewidth=0, label="fits the cube")
    force.plot(time_s, [e.left_squeeze_n for e in evidence], color=_LEFT, label="left finger (N)")
    force.plot(time_s, [e.right_squeeze_n for e in evidence], color=_RIGHT, label="right finger (N)")
    force.axhline(limits.min_squeeze_n, label="to exceed", **threshold)
    slip.plot(time_s, [100 * e.slip_speed_mps for e in evidence], color=_LEFT, label="cube against gripper (cm/s)")
    spin.plot(time_s, [e.slip_spin_radps for e in evidence], color=_LEFT, label="turning against it (rad/s)")
    for panel in panels:
        panel.margins(x=0, y=0.3)
    for panel, most_allowed in ((slip, 100 * limits.max_slip_speed_mps), (spin, limits.max_slip_spin_radps)):
        panel.axhline(most_allowed, label="not to exceed", **threshold)
        panel.set_ylim(0, 4 * most_allowed)  # the approach is cut off, so that the values near the threshold are seen
