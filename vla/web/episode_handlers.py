"""The events of the tabs "Full simulation" and "Side by side": they run episodes and act on running ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vla.evaluation.video import write_video
from vla.web import live_view
from vla.web.checkpoint_choices import control_of
from vla.web.checks import PageError, checked_instruction, checked_placement, user_errors_shown
from vla.web.episode_runner import EpisodeRunner
from vla.web.live_episode import LiveEpisode
from vla.web.mailbox import InstructionChange, Mailbox, Mailboxes, Push
from vla.web.picture import served
from vla.web.waiting_lines import WaitingLines

STARTING = "The episodes start ..."


class EpisodeHandlers:
    """Runs the episodes of all visitors."""

    def __init__(self, runner: EpisodeRunner, lines: WaitingLines) -> None:
        self._runner = runner
        self._lines = lines
        self._mailboxes = Mailboxes()

    def simulate(
        self,
        instruction: str,
        driver: str,
        seed: int | None,
        max_steps: float,
        by_hand: bool,
        x_cm: float,
        y_cm: float,
        yaw_deg: float,
        perturbation: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Run one episode; yields (live view, verdict, curves, video, facts), of which the middle three at the end."""
        session = request.session_hash
        no_results: tuple[Any, ...] = ("", None, None)
        with user_errors_shown():
            placement = checked_placement(x_cm, y_cm, yaw_deg) if by_hand else None
            notice = self._runner.preparation_notice(instruction, driver)
            yield live_view.notice_html(notice), *no_results, {}
            episode = self._runner.prepare(instruction, driver, seed, max_steps, placement, perturbation)
            mailbox = self._mailboxes.open(session, episode.driver, self._runner.listens(episode.driver))
            try:
                for _ in self._runner.run(episode, mailbox):
                    yield episode.html(), *no_results, episode.progress()
                    if self._lines.has_gone(session):
                        return
            finally:
                self._mailboxes.close(session, mailbox)
        if not episode.steps:
            notice = live_view.notice_html("The episode ended before its first step.")
            yield notice, episode.verdict_html(), None, None, {}
            return
        view, verdict, summary = episode.html(), episode.verdict_html(), episode.summary()
        drawn = episode.curves()
        curves = None if drawn is None else served(drawn)
        yield view, verdict, curves, None, summary
        with tempfile.TemporaryDirectory() as folder:  # Gradio copies the video before it asks for more
            video = Path(folder, f"episode_{episode.task.seed}.mp4")
            write_video(video, episode.frames())
            yield view, verdict, curves, str(video), summary

    def compare(
        self,
        instruction_a: str,
        driver_a: str,
        instruction_b: str,
        driver_b: str,
        seed: int | None,
        max_steps: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Run two episodes of one seed at the same time; yields (live A, verdict A, live B, verdict B, facts)."""
        session = request.session_hash
        with user_errors_shown():
            yield live_view.notice_html(STARTING), "", live_view.notice_html(STARTING), "", {}
            a = self._runner.prepare(instruction_a, driver_a, seed, max_steps)
            b = self._runner.prepare(instruction_b, driver_b, seed, max_steps)
            mailbox = self._mailboxes.open(session, driver=None)
            try:
                for _ in self._runner.run_side_by_side((a, b), mailbox):
                    yield _html(a), "", _html(b), "", {}
                    if self._lines.has_gone(session):
                        return
            finally:
                self._mailboxes.close(session, mailbox)
        facts = {"a": a.summary(), "b": b.summary()}
        yield _html(a), a.verdict_html(), _html(b), b.verdict_html(), facts

    async def stop(self, request: gr.Request) -> None:
        """End this visitor's episode before its next step, or take it out of the line where it still waits."""
        mailbox = self._mailboxes.find(request.session_hash)
        if mailbox is not None:
            mailbox.stop()
        elif not await self._lines.leave(request.session_hash):
            raise PageError("no episode of yours is running or waiting")

    def set_instruction(self, instruction: str, request: gr.Request) -> None:
        """Give this visitor's running episode another instruction, from its next step on."""
        instruction = checked_instruction(instruction)
        mailbox, driver = self._running_episode(request)
        if not mailbox.listens:
            raise PageError(f"{driver} follows no instruction; run a checkpoint to give it another one")
        embedding = None
        if control_of(driver) is None:
            with user_errors_shown():
                embedding = self._runner.choices[driver].embedding(instruction)
        _put(mailbox, InstructionChange(instruction, embedding))

    def push(self, request: gr.Request) -> None:
        """Flick the cube in this visitor's running episode."""
        mailbox, _ = self._running_episode(request)
        _put(mailbox, Push())

    def _running_episode(self, request: gr.Request) -> tuple[Mailbox, str]:
        """Return the mailbox and the driver of this visitor's running episode."""
        mailbox = self._mailboxes.find(request.session_hash)
        if mailbox is None or mailbox.driver is None:
            raise PageError("no episode of yours is running; start one first")
        return mailbox, mailbox.driver


def _html(episode: LiveEpisode) -> str:
    return episode.html() if episode.steps else live_view.notice_html(STARTING)


def _put(mailbox: Mailbox, message: InstructionChange | Push) -> None:
    if not mailbox.put(message):
        raise PageError("too many requests at once: the episode has not taken the earlier ones; try again")
