"""The charts of the inspection over all episodes, as what its template draws: numbers for SVG, in user units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.demos.inspection import Inspected

ACTION_NAMES = ("x", "y", "z", "turn about x", "turn about y", "turn about z", "gripper")
STARTS = 2000
"""Starts that are drawn at most."""
_ACTION_BINS = 41
_STEPS_PER_S = 20
_WIDTH, _HEIGHT = 240.0, 90.0


@dataclass(frozen=True)
class Histogram:
    """Bars, and the outline of a second distribution over the same bins."""

    title: str
    low: str
    high: str
    """Words at both ends of the axis."""
    bars: list[tuple[float, float, float, float]]
    """x, y, width and height of each bar that is not empty."""
    outline: str
    """Points of a polyline."""
    peak: str
    """Height of the highest bar or line, in words."""
    width: float = _WIDTH
    height: float = _HEIGHT


@dataclass(frozen=True)
class Start:
    """One start on the table, y to the right and x upwards, in cm."""

    name: str
    x: float
    y: float
    yaw_deg: float
    colour: str
    """Of the cube; empty in the scene with one."""
    split: str


@dataclass(frozen=True)
class StartChart:
    """Where the targets lay."""

    starts: list[Start]
    left_out: int
    """Starts that are not drawn."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """Borders of the chart, whole centimetres."""


def action_charts(actions: Sequence[np.ndarray], executed: Sequence[np.ndarray]) -> list[Histogram]:
    """A histogram of each dimension of the labels, (T, 7) of each episode; the outline is what was executed.

    Heights are square roots of the shares: half of the steps are near 0, and would hide the others.
    """
    edges = np.linspace(-1, 1, _ACTION_BINS + 1)
    labels, done = (np.concatenate([*columns, np.zeros((0, 7))]) for columns in (actions, executed))
    return [
        _histogram(name, labels[:, axis], done[:, axis], edges, ("-1", "1"), "steps", 0.5)
        for axis, name in enumerate(ACTION_NAMES)
    ]


def closing_chart(closings: Sequence[Sequence[int]]) -> Histogram:
    """When the gripper begins to close for the last time (bars) and for the first time (outline), in each episode."""
    times = [[step / _STEPS_PER_S for step in steps] for steps in closings if steps]
    last = max((steps[-1] for steps in times), default=0.0)
    edges = np.linspace(0, np.floor(last) + 1, min(40, 4 * int(last + 1)) + 1)
    finals, firsts = np.array([steps[-1] for steps in times]), np.array([steps[0] for steps in times])
    return _histogram("", finals, firsts, edges, ("0 s", f"{edges[-1]:.0f} s"), "episodes")


def start_chart(episodes: Sequence[Inspected]) -> StartChart:
    """Where the targets of the episodes lay, and how they were turned."""
    placed = [episode for episode in episodes if episode.start is not None and np.isfinite(episode.start).all()]
    chosen = placed[:: max(1, -(-len(placed) // STARTS))]
    starts = []
    for episode in chosen:
        assert episode.start is not None
        layout, target = episode.layout, episode.target
        colour = "" if layout is None or target is None else layout.cubes[target].colour
        starts.append(Start(episode.name, *episode.start, colour, episode.split))
    return StartChart(
        starts, len(placed) - len(chosen), _borders([s.x for s in starts]), _borders([s.y for s in starts])
    )


def _borders(values: Sequence[float]) -> tuple[float, float]:
    return (float(np.floor(min(values)) - 1), float(np.ceil(max(values)) + 1)) if values else (-1.0, 1.0)


def _histogram(
    title: str,
    values: np.ndarray,
    others: np.ndarray,
    edges: np.ndarray,
    ends: tuple[str, str],
    unit: str,
    power: float = 1.0,
) -> Histogram:
    """Histogram of `values`, with that of `others` as the outline; heights are the shares to this power."""
    shares = [np.histogram(column, edges)[0] / max(len(column), 1) for column in (values, others)]
    peak = max(share.max() for share in shares) or 1.0
    bars, lines = (_HEIGHT * (share / peak) ** power for share in shares)
    width = _WIDTH / len(bars)
    points = [(width * (bin_ + side), _HEIGHT - line) for bin_, line in enumerate(lines) for side in (0, 1)]
    return Histogram(
        title=title,
        low=ends[0],
        high=ends[1],
        bars=[
            (round(width * bin_, 1), round(_HEIGHT - bar, 1), round(width, 1), round(bar, 1))
            for bin_, bar in enumerate(bars)
            if bar > 0
        ],
        outline=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        peak=f"{peak:.0%} of the {unit}",
    )
