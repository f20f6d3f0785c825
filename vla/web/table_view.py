"""The table from above, on which a visitor chooses by a click where the cube lies."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.sim.config import Placement
from vla.web.checks import PLACEMENT_RANGE_M

SEEDED_RANGE_M = 0.03
"""How far from the table's middle robosuite's Lift puts the cube, along x and along y."""
_SHOWN_M = 2 * 1.1 * PLACEMENT_RANGE_M
"""Side of the part of the table that is shown."""
_SIDE_PX = 320
_HALF_CUBE_M = 0.021
_GROUND, _GRID, _INK, _CUBE, _CUBE_EDGE = (238, 233, 224), (214, 207, 195), (90, 84, 74), (190, 40, 40), (90, 10, 10)
_FONT = ImageFont.load_default(size=13)


def draw_table(placement: Placement | None) -> Image.Image:
    """Draw the table, (320, 320) RGB, from above and with the robot at the top, as the camera looks at it.

    Without a `placement`, no cube lies on it.
    """
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), _GROUND)
    draw = ImageDraw.Draw(picture)
    for centimetres in range(-12, 13, 3):
        at = _pixel(centimetres / 100)
        draw.line([(at, 0), (at, _SIDE_PX)], fill=_GRID)
        draw.line([(0, at), (_SIDE_PX, at)], fill=_GRID)
    low, high = _pixel(-SEEDED_RANGE_M), _pixel(SEEDED_RANGE_M)
    draw.rectangle((low, low, high, high), outline=_INK, width=2)
    draw.text((low + 4, high + 3), "seeds put it here", fill=_INK, font=_FONT)
    draw.text((_SIDE_PX / 2 - 62, 4), "robot (grid: 3 cm)", fill=_INK, font=_FONT)
    if placement is None:
        return picture
    corners = _HALF_CUBE_M * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    angle = np.radians(placement.yaw_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = corners @ turn.T + [placement.x_m, placement.y_m]
    draw.polygon([(_pixel(float(y)), _pixel(float(x))) for x, y in xy], fill=_CUBE, outline=_CUBE_EDGE)
    return picture


def position_of_click(u_px: float, v_px: float) -> tuple[float, float]:
    """Return x and y in metres of a click on `draw_table`'s picture; u_px counts from the left, v_px from the top."""
    x_m, y_m = _metres(v_px), _metres(u_px)
    limit = PLACEMENT_RANGE_M
    return float(np.clip(x_m, -limit, limit)), float(np.clip(y_m, -limit, limit))


def _pixel(metres: float) -> float:
    return (metres / _SHOWN_M + 0.5) * _SIDE_PX


def _metres(pixel: float) -> float:
    return (pixel / _SIDE_PX - 0.5) * _SHOWN_M
