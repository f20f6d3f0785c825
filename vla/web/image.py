"""The single-image page: an uploaded picture, what the policy would do, where it looks, and how strange it is."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vla.errors import UserError
from vla.policies.preprocess import ImageSpec, prepare
from vla.sim.config import EnvConfig
from vla.web.live_view import planned_path
from vla.web.policies import Policy
from vla.web.simulator_process import View

SIDE_PX = EnvConfig.image_size_px
MAX_PIXELS = 40_000_000
"""Of an upload: 40 megapixels take 160 MB when they are decoded."""
FORMATS = ("PNG", "JPEG", "WEBP")
EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
TOLERANCE = 4
"""Largest difference of a colour (of 255) at which a pixel still counts as the same."""
FAMILIAR_SHARE = 0.85
"""Of the pixels; benchmarks/make_examples.py prints what unchanged and perturbed episodes reach."""
_DRAWN_PX = 448
_YELLOW, _OPEN, _CLOSE = (255, 214, 10), (120, 130, 140), (59, 130, 196)
_FONT, _SMALL = ImageFont.load_default(size=13), ImageFont.load_default(size=11)


def read_square(path: Path) -> np.ndarray:
    """The central square of an image file, resized: (224, 224, 3) uint8 RGB.

    Raises:
        UserError: not a picture, of another format, or too large; its size is known before anything is decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise UserError(f"this picture has {width} x {height} pixels, at most {MAX_PIXELS:,} are read")
            picture.thumbnail((1024, 1024))  # decoded once; what follows copies a small picture
            upright = _upright(picture).convert("RGB")
    except UserError:
        raise
    except Exception as error:  # PIL raises a different type for each way in which a file can be broken
        raise UserError(
            f"this file is not an image that can be read ({type(error).__name__}); give PNG, JPEG or WebP"
        ) from None
    return np.array(ImageOps.fit(upright, (SIDE_PX, SIDE_PX)))


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF data asks; damaged ones, for which PIL raises all sorts of errors, ask for nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


class Views:
    """Pictures of which it is known where the gripper was: the examples, and those lately taken in the simulator."""

    KEPT = 256

    def __init__(self, folder: Path = EXAMPLES) -> None:
        stored = json.loads((folder / "views.json").read_text(encoding="utf-8"))
        self.camera = np.array(stored["camera"])
        self.home = np.array(stored["home"])
        """(3,) where the gripper stands when an episode begins."""
        self.examples = [(folder / name, str(view["what"])) for name, view in stored["views"].items()]
        self._examples: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._known: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        with np.load(folder / "familiar.npz") as file:
            self.familiar = file["pictures"]
            """(n, 224, 224, 3) uint8: frames of demonstrations, mistakes included."""
        self._distances: dict[tuple[Path, int], tuple[np.ndarray, float]] = {}
        for name, view in stored["views"].items():
            picture = read_square(folder / name)
            self._examples[_key(picture)] = (np.array(view["gripper_pos"]), self.camera)

    def remember(self, view: View) -> None:
        """Keep where the gripper was in a picture that a visitor is given."""
        self._known[_key(view.image)] = (view.gripper_pos, view.camera)
        while len(self._known) > self.KEPT:
            self._known.popitem(last=False)

    def find(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Gripper (3,) and camera (3, 4) of this very picture, where known."""
        key = _key(picture)
        return self._examples.get(key) or self._known.get(key)

    def familiar_share(self, picture: np.ndarray) -> float:
        """Share of the pixels that look as they do in one of the familiar frames: is it this camera's view?"""
        differences = np.abs(self.familiar.astype(np.int16) - picture).max(axis=-1)  # (n, 224, 224)
        return float((differences.min(axis=0) <= TOLERANCE).mean())

    def strangeness(self, policy: Policy, picture: np.ndarray) -> float:
        """Distance of the picture's features from the nearest familiar frame's, as the network itself sees them.

        In units of what 95% of the familiar frames keep from each other: above 1, it stands apart.
        """
        key = policy.path, policy.written_ns
        if key not in self._distances:
            features = _encode(policy, self.familiar)
            between = np.linalg.norm(features[:, None] - features[None], axis=-1)
            np.fill_diagonal(between, np.inf)
            self._distances[key] = features, float(np.percentile(between.min(axis=1), 95))
        features, usual = self._distances[key]
        return float(np.linalg.norm(features - _encode(policy, picture[None]), axis=-1).min()) / usual


@torch.inference_mode()
def _encode(policy: Policy, pictures: np.ndarray) -> np.ndarray:
    """(n, 224, 224, 3) uint8 -> (n, 512)."""
    prepared = prepare(torch.from_numpy(pictures).to(policy.device), policy.model.config.image)
    return np.concatenate([policy.model.encode(part).float().cpu().numpy() for part in prepared.split(16)])


def _key(picture: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()


@torch.inference_mode()
def where_it_looks(policy: Policy, picture: np.ndarray, instruction: str) -> np.ndarray:
    """How much the first action changes when a spot is hidden: (224, 224) in [0, 1], 1 at the spot that matters most.

    Occlusion (Zeiler and Fergus 2014): a square in the picture's mean colour is moved over the part that the network
    sees. Outside of that part it is 0.
    """
    spec: ImageSpec = policy.model.config.image
    left, top, side = (round(SIDE_PX * share) for share in (spec.crop_left, spec.crop_top, spec.crop_size))
    size, stride = side // 6, side // 16
    corners = [
        (top + row, left + column)
        for row in range(0, side - size + 1, stride)
        for column in range(0, side - size + 1, stride)
    ]
    hidden = np.repeat(picture[None], len(corners) + 1, axis=0)  # the last one stays whole
    for copy, (row, column) in zip(hidden, corners, strict=False):
        copy[row : row + size, column : column + size] = picture.mean(axis=(0, 1)).astype(np.uint8)
    language = policy.embeddings[instruction].to(policy.device)[None]
    actions = []
    for part in torch.from_numpy(hidden).split(32):
        features = policy.model.encode(prepare(part.to(policy.device), policy.model.config.image))
        history = features[:, None].expand(-1, policy.model.config.observation_horizon, -1)
        chunks = policy.model.decode(history, language.expand(len(part), -1)).actions()
        actions.append(chunks[:, 0].float().cpu().numpy())
    first = np.concatenate(actions)  # (n + 1, 7)
    change = np.linalg.norm(first[:-1] - first[-1], axis=-1)
    total, count = np.zeros((SIDE_PX, SIDE_PX)), np.zeros((SIDE_PX, SIDE_PX))
    for value, (row, column) in zip(change, corners, strict=True):
        total[row : row + size, column : column + size] += value
        count[row : row + size, column : column + size] += 1
    heat = total / np.maximum(count, 1)
    scaled: np.ndarray = heat / max(float(heat.max()), 1e-9)
    return scaled


def draw_plan(picture: np.ndarray, chunk: np.ndarray, gripper_pos: np.ndarray, camera: np.ndarray) -> Image.Image:
    """The picture with the planned path, and the gripper's commands under it, step by step."""
    canvas = Image.new("RGB", (_DRAWN_PX, _DRAWN_PX + 44), (24, 26, 30))
    canvas.paste(Image.fromarray(picture).resize((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(canvas)
    path = [(float(u) * _DRAWN_PX, float(v) * _DRAWN_PX) for u, v in planned_path(gripper_pos, chunk, camera)]
    draw.line(path, fill=_YELLOW, width=3, joint="curve")
    for x, y in path[1:]:
        draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=_YELLOW)
    x, y = path[0]
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_YELLOW, outline=(0, 0, 0))
    draw.text((8, _DRAWN_PX + 13), "gripper", fill=(230, 230, 230), font=_FONT)
    width = (_DRAWN_PX - 72) / len(chunk)
    said = ""
    for index, command in enumerate(chunk[:, -1]):
        share = (float(command) + 1) / 2
        colour = tuple(round(o + share * (c - o)) for o, c in zip(_OPEN, _CLOSE, strict=True))
        box = (68 + index * width, _DRAWN_PX + 8, 68 + (index + 1) * width - 3, _DRAWN_PX + 36)
        draw.rectangle(box, fill=colour)
        says = "close" if command > 0 else "open"
        if says != said:  # where it changes
            draw.text((box[0] + 3, box[1] + 7), says, fill=(255, 255, 255), font=_SMALL)
        said = says
    return canvas


def draw_heat(picture: np.ndarray, heat: np.ndarray) -> Image.Image:
    """The picture under a map of `where_it_looks`."""
    from matplotlib import colormaps

    colour = colormaps["inferno"](heat)[..., :3] * 255  # (224, 224, 3)
    weight = 0.75 * heat[..., None] ** 0.7
    mixed = (1 - weight) * (0.6 * picture + 0.4 * picture.mean(axis=-1, keepdims=True)) + weight * colour
    return Image.fromarray(mixed.astype(np.uint8)).resize((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BICUBIC)


def about(familiar_share: float, strangeness: float, known: bool) -> str:
    """What a visitor should know of the answer, as Markdown."""
    measured = (
        f"{familiar_share:.0%} of its pixels look like the training camera's view (its own frames: at least "
        f"{FAMILIAR_SHARE:.0%}), and to the network it is {strangeness:.1f} times as far from a training frame as "
        "those are from each other."
    )
    if familiar_share < FAMILIAR_SHARE or strangeness > 1:
        notes = [
            f"**This picture is far from what the policy was trained on**: {measured} The actions below are what the "
            "network answers, not what would work."
        ]
    else:
        notes = [
            f"A picture much like those of the training: {measured} Small changes are not noticed: a camera moved by "
            "4 cm can look like this, and the policy then lifts one cube in three (docs/perturbations.md)."
        ]
    if not known:
        notes.append(
            "Where the gripper is in this picture is not known; the path is drawn from where it stands when an episode "
            "begins."
        )
    return "\n\n".join(notes)


def table(chunk: np.ndarray) -> list[list[Any]]:
    """The chunk as rows: step, seven numbers."""
    return [[index, *(round(float(value), 3) for value in action)] for index, action in enumerate(chunk, start=1)]
