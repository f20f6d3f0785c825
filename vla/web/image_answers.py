"""The answers to a single image: the planned actions, where the network looks, and how to take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.sim.config import POSITION_SCALE_M
from vla.web.known_views import Viewpoint
from vla.web.live_view import planned_path

FAMILIAR_SHARE = 0.85
"""Share of familiar pixels below which an image is called strange; docs/page.md shows what unchanged and
perturbed episodes reach."""
_DRAWN_PX = 448
_YELLOW, _OPEN, _CLOSE = (255, 214, 10), (120, 130, 140), (59, 130, 196)
_FONT, _SMALL = ImageFont.load_default(size=13), ImageFont.load_default(size=11)


def draw_plan(image: np.ndarray, action_chunk: np.ndarray, viewpoint: Viewpoint) -> Image.Image:
    """Draw the planned path into the image, and the gripper's command of each step below it."""
    canvas = Image.new("RGB", (_DRAWN_PX, _DRAWN_PX + 44), (24, 26, 30))
    canvas.paste(Image.fromarray(image).resize((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(canvas)
    shares = planned_path(viewpoint.eef_pos, action_chunk, viewpoint.camera_matrix)
    path = [(float(u) * _DRAWN_PX, float(v) * _DRAWN_PX) for u, v in shares]
    draw.line(path, fill=_YELLOW, width=3, joint="curve")
    for x, y in path[1:]:
        draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=_YELLOW)
    x, y = path[0]
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_YELLOW, outline=(0, 0, 0))
    _draw_gripper_commands(draw, action_chunk[:, -1])
    return canvas


def _draw_gripper_commands(draw: ImageDraw.ImageDraw, commands: np.ndarray) -> None:
    draw.text((8, _DRAWN_PX + 13), "gripper", fill=(230, 230, 230), font=_FONT)
    width = (_DRAWN_PX - 72) / len(commands)
    previous = ""
    for index, command in enumerate(commands):
        share = (float(command) + 1) / 2
        colour = tuple(round(o + share * (c - o)) for o, c in zip(_OPEN, _CLOSE, strict=True))
        box = (68 + index * width, _DRAWN_PX + 8, 68 + (index + 1) * width - 3, _DRAWN_PX + 36)
        draw.rectangle(box, fill=colour)
        word = "close" if command > 0 else "open"
        if word != previous:  # written where the command changes
            draw.text((box[0] + 3, box[1] + 7), word, fill=(255, 255, 255), font=_SMALL)
        previous = word


def draw_heat(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Draw one map of `LoadedPolicy.where_it_looks` over the image."""
    from matplotlib import colormaps

    colour = colormaps["inferno"](heat)[..., :3] * 255  # (224, 224, 3)
    weight = 0.75 * heat[..., None] ** 0.7
    mixed = (1 - weight) * (0.6 * image + 0.4 * image.mean(axis=-1, keepdims=True)) + weight * colour
    return Image.fromarray(mixed.astype(np.uint8)).resize((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BICUBIC)


def note(familiar_share: float, strangeness: float, viewpoint_known: bool) -> str:
    """Return what a visitor should know about the answer, as Markdown."""
    measured = (
        f"{familiar_share:.0%} of its pixels look like the training camera's view (its own frames: at least "
        f"{FAMILIAR_SHARE:.0%}), and its features are {strangeness:.1f} times as far from a training frame as those "
        "are from each other."
    )
    if familiar_share < FAMILIAR_SHARE or strangeness > 1:
        notes = [
            f"**This image is far from what the policy was trained on**: {measured} The actions below are what the "
            "network answers, not what would work."
        ]
    else:
        notes = [
            f"This image resembles those of the training: {measured} Small changes are not noticed: an image from a "
            "camera moved by 4 cm can look like this, although the policy then lifts far fewer cubes "
            "(docs/perturbations.md)."
        ]
    return "\n\n".join(filter(None, (*notes, viewpoint_note(viewpoint_known))))


def viewpoint_note(known: bool, read: bool = False) -> str:
    """Return what a visitor should know about the drawn path; "" where there is nothing to know.

    Args:
        known: whether it is known where the gripper is in the image.
        read: whether the policy reads that, beside the image.
    """
    fingers = (
        "The policy also reads how wide the fingers are open: here, as at the start of an episode." if read else ""
    )
    if known:
        return fingers
    where = "the path is drawn from where it stands when an episode begins"
    unknown = f"Where the gripper is in this image is not known; {where}{', which the policy is told' if read else ''}."
    return f"{unknown} {fingers}".strip()


def difference_note(first: np.ndarray, second: np.ndarray) -> str:
    """Return how much the first action, (7,), depends on which of two instructions is given, as Markdown."""
    hand = POSITION_SCALE_M * 1000 * float(np.linalg.norm(np.clip(first, -1, 1)[:3] - np.clip(second, -1, 1)[:3]))
    return (
        f"Between the two instructions, the commanded motion of the hand differs by **{hand:.0f} mm** in the first "
        "step (at most 50 mm along each axis). Both maps have one scale: 1 is the strongest spot of the two."
    )


def action_rows(action_chunk: np.ndarray) -> list[list[Any]]:
    """Return a row for each action: its number, then seven values."""
    return [[index, *(round(float(value), 3) for value in action)] for index, action in enumerate(action_chunk, 1)]
