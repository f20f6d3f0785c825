"""Videos of episodes, with what a person needs in order to judge them written beside the image."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary

from vla.demos.schema import Demo
from vla.errors import describe_error
from vla.files import atomic_path
from vla.judging.evidence import Evidence
from vla.judging.verdict import CONDITIONS, Judge
from vla.sim.rollout import Step

FPS = 20
_PICTURE_PX = 448
_PANEL_PX = 352
_INK, _DIM, _YES, _NO = (20, 20, 24), (120, 120, 128), (20, 130, 60), (190, 40, 40)
_FONT = ImageFont.load_default(size=16)


@dataclass(frozen=True)
class Caption:
    """What the panel beside the image says about one step."""

    step: int
    phase: str
    instruction: str
    gripper_command: float
    evidence: Evidence
    judge: Judge


def annotate(image: np.ndarray, caption: Caption) -> np.ndarray:
    """`image` (H, W, 3) uint8 enlarged, with a panel at its right: (448, 800, 3) uint8."""
    canvas = Image.new("RGB", (_PICTURE_PX + _PANEL_PX, _PICTURE_PX), (250, 250, 248))
    canvas.paste(Image.fromarray(image).resize((_PICTURE_PX, _PICTURE_PX), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (text, colour) in enumerate(_panel_lines(caption)):
        draw.text((_PICTURE_PX + 16, 6 + 19 * row), text, fill=colour, font=_FONT)
    return np.asarray(canvas)


def _panel_lines(caption: Caption) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines of the panel, with their colours."""
    evidence, judge = caption.evidence, caption.judge
    touching = [side for side, touch in (("left", evidence.left_touch), ("right", evidence.right_touch)) if touch]
    command = "close" if caption.gripper_command > 0 else "open"
    conditions = []
    for name in CONDITIONS:
        answer, colour = ("yes", _YES) if judge.now[name] else ("no ", _NO)
        conditions.append((f"{answer}  {name.replace('_', ' ')}", colour))
    return [
        (f"“{caption.instruction}”", _INK),
        (f"step {caption.step:3d}   phase {caption.phase or '-'}", _INK),
        (f"gripper command {caption.gripper_command:+.2f} ({command})", _INK),
        (f"cube {max(0.0, 100 * evidence.height_m):5.1f} cm above the table", _INK),
        (f"fingers touching: {' and '.join(touching) or 'none'}", _INK),
        ("", _INK),
        ("verdict", _DIM),
        *conditions,
        (f"held {judge.held_steps}/{judge.limits.hold_steps} steps", _INK),
        ("SUCCESS" if judge.success else "not yet", _YES if judge.success else _NO),
        (f"report's rule says: {'success' if judge.reported_success else 'no success'}", _DIM),
    ]


def demo_frames(demo: Demo) -> Iterator[np.ndarray]:
    """The annotated frames of a recorded demonstration."""
    for row, judge in enumerate(demo.judges()):
        evidence = Evidence(**{name: column[row] for name, column in demo.evidence.items()})
        gripper = float(demo.executed_actions[row, -1])
        caption = Caption(row, demo.phases[row].decode(), demo.instruction, gripper, evidence, judge)
        yield annotate(demo.images[row], caption)


def step_frame(step: Step, judge: Judge, instruction: str) -> np.ndarray:
    """The annotated frame of a step; `judge` has seen the episode up to that step."""
    gripper = float(step.decision.action[-1])
    caption = Caption(step.index, step.decision.phase, instruction, gripper, step.outcome.evidence, judge)
    return annotate(step.observation.image, caption)


def episode_frames(steps: Iterable[Step], instructions: Iterable[str]) -> Iterator[np.ndarray]:
    """The annotated frames of a finished episode.

    The episode is judged again step by step, because its own judge shows its end only.

    Args:
        steps: the steps of the episode.
        instructions: the instruction at each step; at least as many as steps.
    """
    judge = Judge()
    for index, (step, instruction) in enumerate(zip(steps, instructions, strict=False)):
        if index == 0:
            judge.start(step.observation.evidence)
        judge.update(step.outcome.evidence)
        yield step_frame(step, judge, instruction)


def frame_strip(images: Sequence[np.ndarray], count: int = 8, height_px: int = 96) -> np.ndarray:
    """`count` images, evenly spaced from the first to the last, side by side: (height, count * height, 3) uint8."""
    rows = np.linspace(0, len(images) - 1, count).round().astype(int)
    size = (height_px, height_px)
    return np.concatenate([np.asarray(Image.fromarray(images[row]).resize(size)) for row in rows], axis=1)


def write_video(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Write `frames` (H, W, 3) uint8 as H.264 at 20 fps, real time; the file is whole or absent.

    Raises:
        OSError: ffmpeg died, or could not write.
        RuntimeError: there is no ffmpeg.
    """
    options: dict[str, Any] = {"format": "FFMPEG", "fps": FPS, "codec": "libx264", "macro_block_size": 16}
    with atomic_path(path) as temporary:
        with imageio.get_writer(temporary, **options) as writer:
            for frame in frames:  # one after the other: the frames of a long episode take 400 MB together
                writer.append_data(frame)  # type: ignore[attr-defined]  # missing in imageio's type hints
        if not _is_whole_mp4(temporary):  # imageio does not look at ffmpeg's exit code
            raise OSError(f"ffmpeg did not finish {path} (is the disk full?)")


def video_written(path: Path, steps: Sequence[Step], instruction: str) -> bool:
    """Write the video of an episode; where that fails, warn, and leave no older video in its place."""
    try:
        write_video(path, episode_frames(steps, itertools.repeat(instruction)))
    except (OSError, RuntimeError) as error:  # imageio raises RuntimeError where it finds no ffmpeg
        path.unlink(missing_ok=True)
        print(f"WARNING: the video {path.name} could not be written: {describe_error(error)}", flush=True)
        return False
    return True


def _is_whole_mp4(path: Path) -> bool:
    """Whether the boxes of an MP4 file fill it exactly, and its index, which ffmpeg writes last, is among them."""
    size, position, kinds = path.stat().st_size, 0, set()
    with open(path, "rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # the length follows in 64 bits
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                return False
            kinds.add(header[4:8])
            position += length
    return position == size and b"moov" in kinds


def gif_summary(tag: str, video: Path) -> Summary:
    """A written video as an animated image for TensorBoard (every third frame, half size)."""
    frames = [Image.fromarray(frame[::2, ::2]) for frame in imageio.mimread(video, memtest=False)[::3]]
    gif = io.BytesIO()
    frames[0].save(gif, format="GIF", save_all=True, append_images=frames[1:], duration=3000 // FPS, loop=0)
    image = Summary.Image(encoded_image_string=gif.getvalue(), height=frames[0].height, width=frames[0].width)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
