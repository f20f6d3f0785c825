"""The table from above, on which a visitor sees where the cubes lie, and chooses by a click where the one lies."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.sim.config import Placement
from vla.sim.table import COLOURS, HALF_AREA_M, TableLayout
from vla.web.checks import PLACEMENT_RANGE_M

SEEDED_RANGE_M = 0.03
"""How far from the table's middle robosuite's Lift puts the cube, along x and along y."""
_SHOWN_M = 2 * 1.1 * PLACEMENT_RANGE_M
"""Side of the part of the table that is shown."""
_SIDE_PX = 320
_HALF_CUBE_M = 0.021
_GROUND, _GRID, _INK = (238, 233, 224), (214, 207, 195), (90, 84, 74)
_RED, _RED_EDGE = (190, 40, 40), (90, 10, 10)
_FONT = ImageFont.load_default(size=13)


def draw_table(placement: Placement | None) -> Image.Image:
    """Draw the table, (320, 320) RGB, from above and with the robot at the top, as the camera looks at it.

    Without a `placement`, no cube lies on it.
    """
    picture = _empty_table((SEEDED_RANGE_M, SEEDED_RANGE_M), "seeds put it here")
    if placement is not None:
        _draw_cube(picture, placement, _RED, _RED_EDGE)
    return picture


def draw_cubes(layout: TableLayout) -> Image.Image:
    """Draw the table as `draw_table` does, with all cubes of the scene "cubes"."""
    picture = _empty_table(HALF_AREA_M, "seeds put them here")
    for cube in layout.cubes:
        red, green, blue = (round(255 * share) for share in COLOURS[cube.colour])
        _draw_cube(picture, Placement(cube.x_m, cube.y_m, cube.yaw_deg), (red, green, blue), _INK)
    return picture


def position_of_click(u_px: float, v_px: float) -> tuple[float, float]:
    """Return x and y in metres of a click on `draw_table`'s picture; u_px counts from the left, v_px from the top."""
    x_m, y_m = _metres(v_px), _metres(u_px)
    limit = PLACEMENT_RANGE_M
    return float(np.clip(x_m, -limit, limit)), float(np.clip(y_m, -limit, limit))


def _empty_table(seeded_m: tuple[float, float], words: str) -> Image.Image:
    """Draw the table without cubes; `seeded_m` is how far from its middle seeds put them, along x and along y."""
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), _GROUND)
    draw = ImageDraw.Draw(picture)
    for centimetres in range(-12, 13, 3):
        at = _pixel(centimetres / 100)
        draw.line([(at, 0), (at, _SIDE_PX)], fill=_GRID)
        draw.line([(0, at), (_SIDE_PX, at)], fill=_GRID)
    x_m, y_m = seeded_m
    draw.rectangle((_pixel(-y_m), _pixel(-x_m), _pixel(y_m), _pixel(x_m)), outline=_INK, width=2)
    draw.text((_pixel(-y_m) + 4, _pixel(x_m) + 3), words, fill=_INK, font=_FONT)
    draw.text((_SIDE_PX / 2 - 62, 4), "robot (grid: 3 cm)", fill=_INK, font=_FONT)
    return picture


def _draw_cube(
    picture: Image.Image, placement: Placement, fill: tuple[int, int, int], edge: tuple[int, int, int]
) -> None:
    corners = _HALF_CUBE_M * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    angle = np.radians(placement.yaw_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = corners @ turn.T + [placement.x_m, placement.y_m]
    points = [(_pixel(float(y)), _pixel(float(x))) for x, y in xy]
    ImageDraw.Draw(picture).polygon(points, fill=fill, outline=edge)


def _pixel(metres: float) -> float:
    return (metres / _SHOWN_M + 0.5) * _SIDE_PX


def _metres(pixel: float) -> float:
    return (pixel / _SIDE_PX - 0.5) * _SHOWN_M
