"""The events of the tabs "Evaluations" and "Demonstrations": they show what was recorded earlier."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vla.errors import UserError
from vla.evaluation.video import demo_frames, write_video
from vla.web import past_evaluations
from vla.web.checks import PageError, user_errors_shown
from vla.web.curves import draw_curves
from vla.web.demo_listing import DemoFile, demo_evidence
from vla.web.picture import served


class ArchiveHandlers:
    """Shows past evaluations and the demonstrations."""

    def __init__(self, results: Path, demos: DemoFile) -> None:
        """`results` is the folder of past evaluations."""
        self.results = results
        self.demos = demos

    def evaluation_names(self) -> list[str]:
        """Return the names of the evaluations that can be shown now."""
        return list(past_evaluations.find_evaluations(self.results))

    def evaluations(self) -> tuple[Any, str]:
        """Return the list of evaluations as it is now, and what cannot be shown."""
        return gr.Dropdown(self.evaluation_names()), past_evaluations.hidden_evaluations(self.results)

    def evaluation(self, name: str | None) -> tuple[str, str, list[list[Any]]]:
        """Return of one evaluation: its description, rates with intervals, and a row for each episode."""
        if not name:
            return "No evaluation yet; run one with: `make evaluate`", "", []
        found = self._read(name)
        return past_evaluations.description(found), past_evaluations.rates(found), past_evaluations.episode_rows(found)

    def evaluated_episode(self, name: str, seed: float | None, instruction: str) -> Iterator[tuple[str, str | None]]:
        """Yield of one evaluated episode: its description, and its video if there is one."""
        found = self._read(name)
        for result, video in zip(found.episodes, found.videos, strict=True):
            if (result.seed, result.instruction) == (seed, instruction):
                with tempfile.TemporaryDirectory() as folder:  # Gradio serves no file from anywhere else
                    copy = None if video is None else str(shutil.copy(video, folder))
                    yield past_evaluations.episode_description(result), copy
                return
        raise PageError("this evaluation has no such episode; choose one from its list")

    def demonstration(self, name: str) -> Iterator[tuple[str, str, str]]:
        """Yield of one demonstration: its description, its curves, its video."""
        with user_errors_shown():
            demo = self.demos.read(name)
        text = f"### {name}, seed {demo.seed}: {demo.verdict().words}\n\n“{demo.instruction}”, {len(demo)} steps."
        curves = served(draw_curves(*demo_evidence(demo)))
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, f"{name}.mp4")
            write_video(video, demo_frames(demo))
            yield text, curves, str(video)

    def _read(self, name: str) -> past_evaluations.Evaluation:
        with user_errors_shown():
            paths = past_evaluations.find_evaluations(self.results)
            if not isinstance(name, str) or name not in paths:
                raise UserError("there is no evaluation of that name; load the list again")
            return past_evaluations.read_evaluation(paths[name])
