"""What lies on the table in an episode. In the scene "cubes", the episode's seed decides it, without a simulator."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from vla.sim.config import CUBES, Scene

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.75, 0.06, 0.06),
    "green": (0.06, 0.55, 0.12),
    "blue": (0.08, 0.18, 0.80),
    "yellow": (0.95, 0.80, 0.05),
}
"""The colours of cubes, RGB in [0, 1]."""
HALF_AREA_M = (0.07, 0.10)
"""Largest distance of a cube's centre from the middle of the table, in x and in y: eight times the area of Lift's."""
APART_M = 0.09
"""Smallest distance between the centres of two cubes. robosuite's sampler would allow 6 cm, where the open fingers
around one cube meet the other."""


@dataclass(frozen=True)
class TableCube:
    """A cube on the table when the episode begins."""

    body: str
    """robosuite's name of the cube."""
    colour: str
    """One of COLOURS."""
    x_m: float
    """Centre, world frame; x points away from the robot, the table's middle is (0, 0)."""
    y_m: float
    yaw_deg: float
    """Angle about the vertical, in [-45, 45): it looks the same after a quarter turn."""


@dataclass(frozen=True)
class TableLayout:
    """All cubes on the table when the episode begins. A target is the number of a cube in it."""

    cubes: tuple[TableCube, ...]

    def describe(self, number: int) -> str:
        """The cube of a number, in words; with its place where its colour does not tell it from the others."""
        cube = self.cubes[number]
        alone = sum(other.colour == cube.colour for other in self.cubes) == 1
        place = "" if alone else f" at ({100 * cube.x_m:.0f}, {100 * cube.y_m:.0f}) cm"
        return f"the {cube.colour} cube{place}"

    def to_json(self) -> str:
        """Returns the layout as JSON: a list with an object for each cube."""
        return json.dumps([dataclasses.asdict(cube) for cube in self.cubes])

    @classmethod
    def from_json(cls, text: str) -> TableLayout:
        """Returns the layout that `to_json` wrote.

        Raises:
            TypeError, ValueError, RecursionError: it wrote no such text.
        """
        cubes = tuple(TableCube(**cube) for cube in json.loads(text))
        if not 1 <= len(cubes) <= len(CUBES) or any(cube.body not in CUBES for cube in cubes):
            raise ValueError(f"there are one to {len(CUBES)} cubes on a table")
        if any(cube.colour not in COLOURS for cube in cubes):
            raise ValueError(f"a cube is {', '.join(COLOURS)}")
        if not np.isfinite([[cube.x_m, cube.y_m, cube.yaw_deg] for cube in cubes]).all():
            raise ValueError("a cube has a place in metres")
        return cls(cubes)


def table_layout(scene: Scene, seed: int) -> TableLayout:
    """Draw the cubes of the episode of `seed` in the scene "cubes".

    Number of cubes, colours, places and angles are independent of each other, but for one thing: more cubes have less
    room, and lie nearer to the edges. Every colour is equally likely at every place.
    """
    # A random stream of its own: robosuite draws the arm's first position from the seed itself.
    rng = np.random.default_rng([seed, 3])
    count = int(rng.choice(scene.counts))
    twins = bool(rng.random() < scene.same_colour_share)
    colours = list(rng.permutation(list(COLOURS))[: count - twins])
    if twins:
        colours.append(colours[0])
    places = _places(rng, count)
    yaws = rng.uniform(-45, 45, count)
    # In this order: the draws above do not depend on which cube is which.
    return TableLayout(
        tuple(
            TableCube(body, str(colour), float(x), float(y), float(yaw))
            for body, colour, (x, y), yaw in zip(CUBES, rng.permutation(colours), places, yaws, strict=False)
        )
    )


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw the centres of `count` cubes until no two are too near to each other, (count, 2) metres."""
    one, other = np.triu_indices(count, 1)
    while True:  # many at a time: of four cubes, one draw in hundreds will do
        places = rng.uniform(-np.array(HALF_AREA_M), HALF_AREA_M, (256, count, 2))
        apart = np.linalg.norm(places[:, one] - places[:, other], axis=2).min(axis=1) >= APART_M
        if apart.any():
            first: np.ndarray = places[np.argmax(apart)]
            return first
