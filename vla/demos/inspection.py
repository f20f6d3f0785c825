"""What the inspection measures of each stored demonstration, and of each beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from vla.demos.index import DemoRow
from vla.demos.schema import Demo, checked_demos, demo_names, read_bare_demo, read_demo
from vla.demos.source import Source
from vla.errors import UserError
from vla.judging.verdict import Verdict
from vla.sim.table import TableLayout

STILL_M = 0.001
"""The grip site stands still in a step that moves it by less (at 20 steps a second, 2 cm/s)."""
STILL_OPENING_M = 0.0005
"""The fingers stand still in a step that changes their distance by less."""
IDLE_STEPS = 10
"""Steps in a row, half a second, from which standing still is an idle stretch."""
NEAR_CM = 1.0
"""Distance below which two demonstrations are near-duplicates. The closest two of the 150 that the collection makes by
default are 2.7 cm apart."""
PATH_POINTS = 20
"""Points of the grip site's path that are compared."""
_CORNER_CM = 2.8
"""Distance of a corner of the cube from its axis, which turns a difference of angles into a length."""

CURVES = ("height_m", "opening_m", "left_squeeze_n", "right_squeeze_n")
"""Columns of the evidence that the page draws."""

Run = tuple[str, int]
"""A name, and for how many steps in a row it stands in a column."""


@dataclass(frozen=True)
class Inspected:
    """One stored demonstration of T steps, as the inspection sees it: small, for a file may hold thousands."""

    name: str
    split: str
    """'train' or 'valid'; empty if it is on neither side."""
    excluded: bool
    """It is on the exclusion list already."""
    instruction: str
    seed: int | None
    """None: it was not recorded here."""
    layout: TableLayout | None
    target: int | None
    """These, and the arrays, are as in `Demo`."""
    actions: np.ndarray
    executed_actions: np.ndarray
    phases: np.ndarray
    sources: np.ndarray
    evidence: dict[str, np.ndarray]
    """The columns that the page draws, CURVES; NaN: not recorded."""
    label: bool
    """The stored attribute `success`."""
    verdict: Verdict | None
    """Judged anew from the stored evidence; None: there is none."""
    start: tuple[float, float, float] | None
    """The target's x and y on the table (cm) and its angle in [-45, 45) degrees at the start; None: no target."""
    path: np.ndarray
    """(PATH_POINTS, 3) positions of the grip site, evenly spaced in time, metres."""
    idle: list[tuple[int, int]]
    """Idle stretches: the first step, and the one behind the last."""
    closings: list[int]
    """Steps at which the label begins to close the gripper."""

    def __len__(self) -> int:
        return len(self.actions)

    def label_holds(self) -> bool:
        """Whether nothing speaks against the label."""
        return self.verdict is None or self.verdict.success == self.label

    def in_range(self) -> bool:
        """Whether all labels are finite and in [-1, 1]."""
        return bool(np.isfinite(self.actions).all() and np.abs(self.actions).max() <= 1)

    def idle_share(self) -> float:
        """Share of the steps that lie in idle stretches."""
        return sum(stop - first for first, stop in self.idle) / len(self)


@dataclass(frozen=True)
class Neighbour:
    """The demonstration most like another one."""

    index: int
    """Its place in the list."""
    distance_cm: float


def inspect_file(file: h5py.File, kept: Sequence[str]) -> list[Inspected]:
    """Inspect all demonstrations of an open file, but for their images; `kept` names those on no exclusion list."""
    inspect = _inspect if Source.of(file) is None else _inspect_imported
    split_of = {name: split for split in ("train", "valid") for name in demo_names(file, split)}
    chosen = set(kept)
    names = demo_names(file)
    demos = tqdm(
        checked_demos(file, names), total=len(names), unit="episode", desc="inspect", leave=False, disable=None
    )
    return [inspect(demo, name, split_of.get(name, ""), name not in chosen) for name, demo in demos]


def check_episodes(episodes: Sequence[Inspected], path: Path, page: Path, source: Source | None) -> None:
    """Check that every selected episode has its label by the verdict on its evidence, and actions in range.

    Raises:
        UserError: one of them does not. `page` shows it.
    """
    remedy = (
        f"look at {page}, and name it in a file for --exclude, or collect others with: "
        "python 1_collect_demos.py --output NEW_FILE"
    )
    kept = [episode for episode in episodes if not episode.excluded]
    for episode in kept:
        if not episode.in_range():
            raise UserError(f"{path}: {episode.name} has actions outside [-1, 1]; {remedy}")
        if episode.verdict is not None and not episode.label_holds():
            found = f"is labelled success={episode.label} but: {episode.verdict.words}"
            raise UserError(f"{path}: {episode.name} {found}; {remedy}")
    judged = "each judged again from its evidence: all labels hold"
    unjudged = f"unjudged: imported ({source}), without evidence to judge them from"
    print(f"{path}: {len(kept)} episodes, {judged if source is None else unjudged}")


def runs(column: np.ndarray) -> list[Run]:
    """Lengths of the stretches in which a column of bytes keeps its value."""
    return [(value.decode(errors="replace"), len(list(steps))) for value, steps in groupby(column.tolist())]


def idle_stretches(gripper_pos: np.ndarray, opening_m: np.ndarray, phases: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of at least IDLE_STEPS steps in which hand and fingers stand still, where that is not the task.

    Args:
        gripper_pos: (T + 1, 3) grip site at the start and after each step, metres.
        opening_m: (T + 1,) distance between the fingers, likewise.
        phases: (T,) bytes. To hold the cube still is the task in the phase hold, to leave all alone in the phase idle.

    Returns:
        the first step of each stretch, and the step behind its last.
    """
    still = np.linalg.norm(np.diff(gripper_pos, axis=0), axis=1) < STILL_M
    still &= np.abs(np.diff(opening_m)) < STILL_OPENING_M
    still &= ~np.isin(phases, [b"hold", b"idle"])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]])))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2) if stop - first >= IDLE_STEPS]


def closing_steps(gripper: np.ndarray) -> list[int]:
    """Steps at which a gripper command, (T,), begins to close the gripper; it is open at the start."""
    closes = np.concatenate([[False], gripper > 0])
    return [int(step) for step in np.flatnonzero(closes[1:] & ~closes[:-1])]


def nearest(episodes: Sequence[Inspected]) -> list[Neighbour | None]:
    """For each episode, the one most like it; None for those without a target, which are not compared.

    The distance is the root of the sum of three squares: how far apart the targets lay (cm), the way of a cube's corner
    from one target's angle to the other's (cm), and the root mean square distance of the grip sites' paths (cm).
    """
    compared = [index for index, episode in enumerate(episodes) if episode.start is not None]
    found: list[Neighbour | None] = [None] * len(episodes)
    if len(compared) < 2:
        return found
    starts = np.array([episodes[index].start for index in compared])
    paths = 100 * np.stack([episodes[index].path.ravel() for index in compared]) / np.sqrt(PATH_POINTS)
    for row, index in enumerate(compared):
        turned = np.radians(
            (starts[:, 2] - starts[row, 2] + 45) % 90 - 45
        )  # a cube looks the same after a quarter turn
        square = ((starts[:, :2] - starts[row, :2]) ** 2).sum(axis=1) + (_CORNER_CM * turned) ** 2
        square += ((paths - paths[row]) ** 2).sum(axis=1)
        square[row] = np.inf
        closest = int(np.argmin(np.nan_to_num(square, nan=np.inf)))
        found[index] = Neighbour(compared[closest], float(np.sqrt(square[closest])))
    return found


def _inspect(group: h5py.Group, name: str, split: str, excluded: bool) -> Inspected:
    demo = read_demo(group, with_images=False)
    gripper_pos = np.vstack([demo.start_evidence.gripper_pos, demo.evidence["gripper_pos"]])
    opening_m = np.concatenate([[demo.start_evidence.opening_m], demo.evidence["opening_m"]])
    return Inspected(
        name=name,
        split=split,
        excluded=excluded,
        instruction=demo.instruction,
        seed=demo.seed,
        layout=demo.layout,
        target=demo.target,
        actions=demo.actions,
        executed_actions=demo.executed_actions,
        phases=demo.phases,
        sources=demo.sources,
        evidence={column: demo.evidence[column] for column in CURVES},
        label=bool(group.attrs["success"]),
        verdict=demo.verdict(),
        start=_start(demo),
        path=_path(demo.observations["robot0_eef_pos"]),
        idle=idle_stretches(gripper_pos, opening_m, demo.phases),
        closings=closing_steps(demo.actions[:, -1]),
    )


def _inspect_imported(group: h5py.Group, name: str, split: str, excluded: bool) -> Inspected:
    """As `_inspect`, of a demonstration that says nothing of the cube, and of the arm only where it was."""
    demo = read_bare_demo(group, with_images=False)
    eef_pos, fingers = demo.observations["robot0_eef_pos"], demo.observations["robot0_gripper_qpos"]
    opening_m = fingers[:, 0] - fingers[:, 1]
    origin = np.full(len(demo.actions), b"imported")
    return Inspected(
        name=name,
        split=split,
        excluded=excluded,
        instruction=demo.instruction,
        seed=None,
        layout=None,
        target=None,
        actions=demo.actions,
        executed_actions=demo.actions,
        phases=origin,
        sources=origin,
        evidence={**dict.fromkeys(CURVES, np.full(len(origin), np.nan)), "opening_m": opening_m},
        label=DemoRow.of(group).success,
        verdict=None,
        start=None,
        path=_path(eef_pos),
        idle=idle_stretches(np.vstack([eef_pos, eef_pos[-1:]]), np.append(opening_m, opening_m[-1]), origin),
        closings=closing_steps(demo.actions[:, -1]),
    )


def _path(eef_pos: np.ndarray) -> np.ndarray:
    """(T, 3) -> (PATH_POINTS, 3), evenly spaced in time."""
    times, steps = np.linspace(0, len(eef_pos) - 1, PATH_POINTS), np.arange(len(eef_pos))
    return np.column_stack([np.interp(times, steps, eef_pos[:, axis]) for axis in range(3)])


def _start(demo: Demo) -> tuple[float, float, float] | None:
    """Where the target lay when the episode began, as in `Inspected`."""
    if demo.target is None:
        return None
    x_m, y_m, _ = demo.observations["cube_pos"][0]
    return float(100 * x_m), float(100 * y_m), _yaw_deg(demo)


def _yaw_deg(demo: Demo) -> float:
    """Angle of the target about the vertical at the start, in [-45, 45) degrees.

    A cube's free joint is stored as position and quaternion, so its place in the state is that of its position.
    """
    state, place = demo.states[0], demo.observations["cube_pos"][0]
    windows = np.lib.stride_tricks.sliding_window_view(state, 7)
    first = int(np.argmin(np.abs(windows[:, :3] - place).sum(axis=1)))
    w, x, y, z = windows[first, 3:]
    yaw_deg = np.degrees(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
    return float((yaw_deg + 45) % 90 - 45)
