"""The table from above, to choose by a click where the cube lies."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.sim.config import Placement

RANGE_M = 0.12
"""How far from the table's middle the cube can be put, along x and y."""
TRAINED_M = 0.03
"""How far robosuite's Lift puts it."""
_SIDE_PX = 320
_HALF_CUBE_M = 0.021
_GROUND, _GRID, _INK, _CUBE = (238, 233, 224), (214, 207, 195), (90, 84, 74), (190, 40, 40)
_FONT = ImageFont.load_default(size=13)


def draw_table(placement: Placement | None) -> Image.Image:
    """(320, 320) RGB, seen from above by someone who stands where the camera is: the robot is at the top.

    Without a `placement` there is no cube on it.
    """
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), _GROUND)
    draw = ImageDraw.Draw(picture)
    for centimetres in range(-12, 13, 3):
        at = _pixel(centimetres / 100)
        draw.line([(at, 0), (at, _SIDE_PX)], fill=_GRID)
        draw.line([(0, at), (_SIDE_PX, at)], fill=_GRID)
    low, high = _pixel(-TRAINED_M), _pixel(TRAINED_M)
    draw.rectangle((low, low, high, high), outline=_INK, width=2)
    draw.text((low + 4, high + 3), "seeds put it here", fill=_INK, font=_FONT)
    draw.text((_SIDE_PX / 2 - 62, 4), "robot (grid: 3 cm)", fill=_INK, font=_FONT)
    if placement is None:
        return picture
    corners = _HALF_CUBE_M * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    angle = np.radians(placement.yaw_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = corners @ turn.T + [placement.x_m, placement.y_m]
    draw.polygon([(_pixel(float(y)), _pixel(float(x))) for x, y in xy], fill=_CUBE, outline=(90, 10, 10))
    return picture


def clicked(u_px: float, v_px: float) -> tuple[float, float]:
    """x and y in metres of a click on `draw_table`'s picture."""
    x, y = ((value / _SIDE_PX - 0.5) * 2 * 1.1 * RANGE_M for value in (v_px, u_px))
    return float(np.clip(x, -RANGE_M, RANGE_M)), float(np.clip(y, -RANGE_M, RANGE_M))


def _pixel(metres: float) -> float:
    return (metres / (2 * 1.1 * RANGE_M) + 0.5) * _SIDE_PX
