"""The work behind the buttons of `web_interface.py`: one simulator for all visitors, the policy, episodes as text."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.utils import get_upload_folder
from PIL import Image, ImageOps
from torch import nn

from vla.checkpoint import build_model, instruction_embeddings
from vla.env import TEST_SEEDS, EnvConfig, Simulator
from vla.errors import UserError
from vla.expert import ExpertActor
from vla.instructions import INSTRUCTIONS
from vla.policy import PolicyActor
from vla.rollout import Actor, Step, rollout
from vla.text import InstructionEmbeddings
from vla.verdict import CONDITIONS, Judge
from vla.video import episode_frames, step_frame, write_video

MAX_INSTRUCTION_CHARS = 200
FRAME_EVERY_STEPS = 2
"""Every how many steps a live frame is sent; the video holds all of them."""


class SimulatorThread:
    """One simulator in a thread of its own, because a GL context belongs to the thread that made it.

    It computes a step when the step is asked for, so whoever stops asking has ended the episode.
    """

    def __init__(self, config: EnvConfig) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulator")
        self._sim = self._thread.submit(Simulator, config).result()

    def first_image(self, seed: int) -> np.ndarray:
        """(H, W, 3) uint8: what the camera sees when the episode of `seed` begins."""
        return self._thread.submit(self._sim.reset, seed).result().image

    def steps(self, actor: Actor, instruction: str, seed: int, max_steps: int, judge: Judge) -> Iterator[Step]:
        """`vla.rollout.rollout`, each step computed in the simulator's thread."""
        episode = rollout(self._sim, actor, instruction, seed, max_steps, judge)
        while (step := self._thread.submit(next, episode, None).result()) is not None:
            yield step

    def close(self) -> None:
        """Release the GL context."""
        self._thread.submit(self._sim.close).result()
        self._thread.shutdown()


@dataclass(frozen=True)
class Policy:
    """A trained network, ready to act."""

    model: nn.Module
    embeddings: InstructionEmbeddings
    device: torch.device

    @classmethod
    def load(cls, checkpoint: dict[str, Any], path: Path, clip_weights: str) -> Policy:
        """The policy of a checkpoint, on the GPU where there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(build_model(checkpoint, path).to(device), instruction_embeddings(checkpoint, clip_weights), device)

    def actor(self) -> PolicyActor:
        """An actor with an empty observation buffer."""
        return PolicyActor(self.model, self.embeddings, self.device)

    def chunk(self, picture: np.ndarray, instruction: str) -> np.ndarray:
        """(224, 224, 3) uint8 -> (K, 7) actions in [-1, 1], the picture filling the whole buffer."""
        actor = self.actor()
        actor.reset(instruction, seed=0)
        actor.act_on_image(picture)
        return actor.chunk


class Handlers:
    """What happens on a click, for all visitors."""

    def __init__(self, simulator: SimulatorThread, policy: Policy | None, checkpoint: Path) -> None:
        self.simulator = simulator
        self.policy = policy
        self.no_policy = f"no checkpoint at {checkpoint}; train one with: make train, then start this page again"
        self._stopped: set[str | None] = set()
        """Sessions whose episode should end at its next step."""

    def simulate(
        self, instruction: str, driver: str, seed: int | None, max_steps: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Run one episode; yields (frame, progress, verdict, video), the last two at the end only."""
        judge = Judge()
        steps: list[Step] = []
        try:
            instruction, seed = checked_instruction(instruction), checked_seed(seed)
            yield None, "starting ...", "", None
            with _told_to_visitor():
                for step in self.simulator.steps(self._actor(driver), instruction, seed, int(max_steps), judge):
                    steps.append(step)
                    if request.session_hash in self._stopped:
                        break
                    if step.index % FRAME_EVERY_STEPS == 0:
                        yield step_frame(step, judge, instruction), progress_text(step, judge), gr.skip(), gr.skip()
            verdict = verdict_text(judge, len(steps), stopped=request.session_hash in self._stopped)
        finally:
            self._stopped.discard(request.session_hash)
        if not steps:
            yield None, "", verdict, None
            return
        with tempfile.TemporaryDirectory() as folder:  # Gradio copies the video before it asks for more
            video = Path(folder, f"episode_{seed}.mp4")
            write_video(video, episode_frames(steps, instruction))
            yield step_frame(steps[-1], judge, instruction), progress_text(steps[-1], judge), verdict, str(video)

    def stop(self, request: gr.Request) -> None:
        """End this visitor's episode at its next step."""
        self._stopped.add(request.session_hash)

    def forget_stop(self, request: gr.Request) -> None:
        """Begin anew: a click on Stop while nothing ran means nothing."""
        self._stopped.discard(request.session_hash)

    def first_image(self, seed: int | None) -> np.ndarray:
        """(224, 224, 3) uint8: the simulator's picture at the start of an episode."""
        return self.simulator.first_image(checked_seed(seed))

    def predict_actions(self, upload: dict[str, Any] | None, instruction: str) -> list[list[float]]:
        """The next K actions, 7 numbers in [-1, 1] each."""
        if upload is None or not upload.get("path"):
            raise _error("there is no image yet; upload one, or use a frame from the simulator")
        path = Path(upload["path"])
        # Gradio does not see to it where a hand-made request leaves out its "meta" field.
        if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise _error("only an uploaded image is read; upload one")
        picture = read_square(path)
        if self.policy is None:
            raise _error(self.no_policy)
        with _told_to_visitor():
            chunk = self.policy.chunk(picture, checked_instruction(instruction))
        return [[round(float(value), 3) for value in action] for action in chunk]

    def _actor(self, driver: str) -> Actor:
        if driver == "expert":
            return ExpertActor()
        if self.policy is None:
            raise UserError(self.no_policy)
        return self.policy.actor()


def read_square(path: Path) -> np.ndarray:
    """The central square of an image file, resized: (224, 224, 3) uint8 RGB."""
    side = EnvConfig.image_size_px
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL's, by the kind of damage
        raise _error(f"this file is not an image that can be read ({type(error).__name__}); give PNG or JPEG") from None
    return np.array(ImageOps.fit(upright, (side, side)))


def checked_instruction(text: str | None) -> str:
    """The instruction without blanks around it, or the reason why it cannot be one."""
    text = (text or "").strip()
    if not text:
        raise _error(f"the instruction is empty; say what to do, such as “{INSTRUCTIONS[0]}”")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise _error(f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} fit; shorten it")
    return text


def checked_seed(seed: int | None) -> int:
    """The seed, or the reason why it cannot be one."""
    if seed is None or not 0 <= seed < TEST_SEEDS.stop:
        raise _error(f"the seed must be a whole number from 0 to {TEST_SEEDS.stop - 1}, got {seed}")
    return seed


def progress_text(step: Step, judge: Judge) -> str:
    """Where the episode stands after `step`, as Markdown."""
    height_cm = max(0.0, 100 * step.outcome.evidence.height_m)  # a resting cube sinks in by a hair: not "-0.0"
    conditions = [
        f"- {'**now**' if judge.now[name] else 'earlier' if judge.ever[name] else 'not yet'}: {text}"
        for name, text in CONDITIONS.items()
    ]
    return (
        f"Step **{step.index}**, phase **{step.decision.phase or '-'}**, cube **{height_cm:.1f} cm** above the table. "
        f"Success needs all of these together for {judge.limits.hold_steps} steps (now held: {judge.held_steps}):\n\n"
        + "\n".join(conditions)
    )


def verdict_text(judge: Judge, steps: int, stopped: bool) -> str:
    """How the episode ended, and what the report's rule says of it, as Markdown."""
    return (
        f"### {judge.explain()}\n{'Stopped by hand after' if stopped else 'The episode took'} {steps} steps.\n\n"
        f"The report would have claimed: **{'success' if judge.reported_success else 'no success'}**. Its rule asks "
        "whether the cube's centre is ever 8 cm above the *world's* origin; the table top itself is at 80 cm."
    )


def _error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


@contextlib.contextmanager
def _told_to_visitor() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _error(str(error)) from None
