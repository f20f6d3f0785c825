"""What happens on a click, for all visitors."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from vla.errors import UserError
from vla.evaluation.episode import EvalTask
from vla.evaluation.video import demo_frames, episode_frames, write_video
from vla.experts.controls import CONTROLS
from vla.judging.verdict import Judge
from vla.policies.actor import ControlConfig
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import EnvConfig, Placement
from vla.sim.perturbations import parse_perturbations
from vla.web import browse, image, live_view, table
from vla.web.checks import MAX_STEPS, checked_instruction, checked_placement, checked_seed, page_error, told_to_visitor
from vla.web.gallery import Gallery
from vla.web.live_episode import Episode, Mailbox, Mailboxes, Message
from vla.web.policies import Policies
from vla.web.simulator_process import Interference, Moment, SimulatorProcess
from vla.web.waiting_line import Line

NOTHING = "nothing"
"""The choice of no perturbation."""


class Handlers:
    """What happens on a click, for all visitors."""

    def __init__(self, policies: Policies, simulator: SimulatorProcess, data: Path, results: Path) -> None:
        self.policies = policies
        self.data, self.results = data, results
        self.no_policy = f"no checkpoint at {policies.main}; train one with: make train, then start the page again"
        first = policies.first()
        self.env = EnvConfig() if first is None else first.env
        self.first_driver = "expert" if first is None else first.path.name
        """Who drives unless the visitor says otherwise."""
        self.simulator = simulator
        self.simulator.configure(self.env)
        self.mail = Mailboxes()
        self.views = image.Views()
        self.gallery = Gallery(self.env)
        self.line: Line
        """Of the page, which is built upon these handlers."""

    def rehearse(self, seed: int) -> None:
        """Run the first step of an episode, so that the first visitor does not wait for what is made only once.

        Raises:
            UserError: the simulator or the policy cannot be used.
        """
        self.gallery.keep(seed, self.simulator.view(seed))
        episode = self._episode(INSTRUCTIONS[0], self.first_driver, seed, max_steps=1)
        for _ in self._steps(self.simulator, episode):
            episode.html()

    def warm_up(self) -> None:
        """Begin to load, in the background, what only some visitors ask for."""
        self.gallery.start()
        threading.Thread(target=self.policies.warm_up, daemon=True).start()

    def close(self) -> None:
        """End the second simulator."""
        self.gallery.close()

    def admit(self, request: gr.Request, *asked: Any) -> list[Any]:
        """Whether an episode more can wait for the simulator; `asked` is looked at when it runs."""
        self.line.admit(request)
        return [gr.validate(True, "") for _ in asked]

    def drivers(self) -> list[str]:
        """Who can drive the arm: checkpoints by file name, then the controls."""
        return [*self.policies.names(), "expert", *(name for name in CONTROLS if name != "expert")]

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
        """Run one episode; yields (live view, verdict, curves, video, facts), the middle three at the end only."""
        session = request.session_hash
        nothing: tuple[Any, ...] = ("", None, None)
        with told_to_visitor():
            placement = checked_placement(x_cm, y_cm, yaw_deg) if by_hand else None
            yield live_view.notice_html(self._before(instruction, driver)), *nothing, {}
            episode = self._episode(instruction, driver, seed, max_steps, placement, perturbation)
            stopped = False
            box = self.mail.open(session, episode.driver)
            try:
                for _ in self._steps(self.simulator, episode, box):
                    yield episode.html(), *nothing, episode.facts()
                    if self.line.has_gone(session):
                        return
                stopped = episode.stopped()
            finally:
                self.mail.close(session, box)
        verdict = live_view.verdict_html(episode.judge, len(episode.moments), stopped)
        if not episode.moments:
            yield live_view.notice_html("The episode ended before its first step."), verdict, None, None, {}
            return
        view, curves, summary = episode.html(), episode.curves(), episode.summary(stopped)
        yield view, verdict, curves, None, summary
        with tempfile.TemporaryDirectory() as folder:  # Gradio copies the video before it asks for more
            video = Path(folder, f"episode_{episode.task.seed}.mp4")
            write_video(video, episode_frames([m.step for m in episode.moments], episode.said))
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
        """Run two episodes of one seed beside each other; yields (live A, verdict A, live B, verdict B, facts)."""
        session = request.session_hash
        waiting = live_view.notice_html("The episodes begin ...")
        with told_to_visitor():
            yield waiting, "", waiting, "", {}
            episodes = [
                self._episode(instruction_a, driver_a, seed, max_steps),
                self._episode(instruction_b, driver_b, seed, max_steps),
            ]
            box = self.mail.open(session, driver=None)
            try:
                for _ in self._abreast(episodes, box):
                    views = [run.html() if run.moments else waiting for run in episodes]
                    yield views[0], "", views[1], "", {}
                    if self.line.has_gone(session):
                        return
            finally:
                self.mail.close(session, box)
        ends: list[Any] = []
        for episode in episodes:
            verdict = live_view.verdict_html(episode.judge, len(episode.moments), episode.stopped())
            ends += [episode.html() if episode.moments else waiting, verdict]
        facts = {
            side: episode.summary(episode.stopped()) if episode.moments else {}
            for side, episode in zip("ab", episodes, strict=True)
        }
        yield *ends, facts

    async def stop(self, request: gr.Request) -> None:
        """End this visitor's episode at its next step, or take it out of the line where it still waits."""
        box = self.mail.find(request.session_hash)
        if box is not None:
            box.put(Message("stop"))
        elif not await self.line.leave(request.session_hash):
            raise page_error("no episode of yours is running, and none waits")

    def tell(self, instruction: str, request: gr.Request) -> None:
        """Give this visitor's running episode another instruction, from its next step on."""
        instruction = checked_instruction(instruction)
        box = self._box(request)
        if box.driver in CONTROLS:
            raise page_error(f"the {box.driver} listens to nobody; run a checkpoint, and tell that something else")
        with told_to_visitor():
            embedding = self.policies.embedding(str(box.driver), instruction)
        _put(box, Message("tell", instruction, embedding))

    def push(self, request: gr.Request) -> None:
        """Flick the cube in this visitor's running episode."""
        _put(self._box(request), Message("push"))

    def above(self, by_hand: bool, x_cm: float, y_cm: float, yaw_deg: float, seed: int | None) -> Image.Image:
        """The table from above, with the cube where it was put by hand, or where the seed puts it."""
        if by_hand:
            return table.draw_table(checked_placement(x_cm, y_cm, yaw_deg))
        try:
            view = self.gallery.view(checked_seed(seed))
        except (UserError, gr.Error):  # told when the episode is asked for
            return table.draw_table(None)
        return table.draw_table(Placement(float(view.cube_pos[0]), float(view.cube_pos[1]), view.cube_yaw_deg))

    def table_clicked(self, event: gr.SelectData) -> tuple[bool, float, float]:
        """The position of a click, and that it is meant."""
        x_m, y_m = table.clicked(*event.index)
        return True, round(100 * x_m, 1), round(100 * y_m, 1)

    def first_image(self, seed: int | None) -> np.ndarray:
        """(224, 224, 3) uint8: the simulator's picture at the start of an episode."""
        with told_to_visitor():
            view = self.gallery.view(checked_seed(seed))
        self.views.remember(view)
        return view.image

    def predict_actions(
        self, upload: dict[str, Any] | None, instruction: str, name: str
    ) -> tuple[list[list[float]], Image.Image, Image.Image, str]:
        """The next K actions of the policy `name`, drawn into the picture; where it looks; what to think of it."""
        if not isinstance(upload, dict) or not isinstance(upload.get("path"), str):
            raise page_error("there is no image yet; upload one, or use a frame from the simulator")
        path = Path(upload["path"])
        # Gradio does not see to it where a hand-made request leaves out its "meta" field.
        if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise page_error("only an uploaded image is read; upload one")
        with told_to_visitor():
            instruction = checked_instruction(instruction)
            picture = image.read_square(path)
            policy = self._policy(name)
            self.policies.embedding(policy.path.name, instruction)
            chunk = policy.chunk(picture, instruction)
            heat = image.where_it_looks(policy, picture, instruction)
        known = self.views.find(picture)
        gripper, camera = known or (self.views.home, self.views.camera)
        strangeness = self.views.strangeness(policy, picture)
        note = image.about(self.views.familiar_share(picture), strangeness, known is not None)
        plan = image.draw_plan(picture, chunk, gripper, camera)
        return image.table(chunk), plan, image.draw_heat(picture, heat), note

    def evaluations(self) -> dict[str, Path]:
        """Past evaluations by name."""
        return browse.find_evaluations(self.results)

    def evaluation(self, name: str | None) -> tuple[str, str, list[list[Any]]]:
        """Of one evaluation: who and how; rates with intervals; a row for each episode, failures first."""
        if not name:
            return "No evaluation yet; run one with: `make evaluate`", "", []
        found = self._evaluation(name)
        return browse.about_evaluation(found), browse.rates(found), browse.episode_rows(found)

    def evaluations_now(self) -> tuple[Any, str]:
        """The list of evaluations as it is now, and what is not in it."""
        return gr.Dropdown(list(self.evaluations())), browse.hidden_evaluations(self.results)

    def evaluated_episode(self, name: str, seed: float | None, instruction: str) -> Iterator[tuple[str, str | None]]:
        """Of one evaluated episode: what became of it, and its video where there is one."""
        found = self._evaluation(name)
        for result, video in zip(found.episodes, found.videos, strict=True):
            if (result.seed, result.instruction) == (seed, instruction):
                with tempfile.TemporaryDirectory() as folder:  # Gradio serves no file from anywhere else
                    copy = None if video is None else str(shutil.copy(video, folder))
                    yield browse.about_episode(result), copy
                return
        raise page_error("this evaluation has no such episode; choose one from its list")

    def demonstration(self, name: str) -> Iterator[tuple[str, Image.Image, str]]:
        """Of one demonstration: what it is, its curves, its video."""
        with told_to_visitor():
            demo = browse.read_one_demo(self.data, name)
        *_, judge = demo.judges()
        text = f"### {name}, seed {demo.seed}: {judge.explain()}\n\n“{demo.instruction}”, {len(demo)} steps."
        curves = live_view.curves(*browse.demo_curves(demo))
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, f"{name}.mp4")
            write_video(video, demo_frames(demo))
            yield text, curves, str(video)

    def _episode(
        self,
        instruction: str,
        driver: str,
        seed: int | None,
        max_steps: float,
        placement: Placement | None = None,
        perturbation: str = NOTHING,
    ) -> Episode:
        """What is to be run, checked."""
        instruction = checked_instruction(instruction)
        if not isinstance(driver, str) or driver not in self.drivers():
            raise UserError(f"choose who drives the arm: {', '.join(self.drivers())}")
        if not 1 <= max_steps <= MAX_STEPS:
            raise UserError(f"an episode has 1 to {MAX_STEPS} steps, got {max_steps}")
        policy = None if driver in CONTROLS else self._policy(driver)
        if policy is not None and policy.env != self.env:
            raise UserError(f"{driver} was trained in another simulator than this page shows; start the page with it")
        task = EvalTask(
            policy=driver if policy is None else "checkpoint",
            checkpoint=self.policies.main if policy is None else policy.path,
            embedding=np.zeros(0) if policy is None else self.policies.embedding(driver, instruction),
            seed=checked_seed(seed),
            instruction=instruction,
            max_steps=int(max_steps),
            control=ControlConfig(),
            video=None,
            perturbation=None if perturbation == NOTHING else parse_perturbations(str(perturbation))[0],
        )
        return Episode(instruction, driver, task, placement)

    def _before(self, instruction: str, driver: str) -> str:
        """What the visitor reads until the first frame is there."""
        if not self.simulator.ready:
            return "The simulator is being started ..."
        if driver in self.policies.names() and not self.policies.knows(driver, instruction):
            return "Reading an instruction that the policy has not been trained on ..."
        return "The episode begins ..."

    def _abreast(self, episodes: list[Episode], box: Mailbox) -> Iterator[None]:
        """Run two episodes side by side, until both have ended or the visitor stops them."""
        with self.gallery.borrowed() as second, ThreadPoolExecutor(max_workers=2) as threads:
            runs = [self._steps(sim, run) for sim, run in zip((self.simulator, second), episodes, strict=True)]
            running = [True, True]
            while any(running) and not box.take():
                steps = [threads.submit(next, run, None) for run in runs]
                running = [step.result() is not None for step in steps]
                yield

    def _steps(self, simulator: SimulatorProcess, episode: Episode, box: Mailbox | None = None) -> Iterator[Moment]:
        """Run the episode, with what its visitor does to it on the way."""
        begun = simulator.begin(episode.task, episode.placement)
        episode.yaw_deg = begun.yaw_deg
        waiting: list[Message] = []
        while True:
            waiting += box.take() if box is not None else []
            if any(message.kind == "stop" for message in waiting):
                return
            # Before the first step there is nothing to push, and the first instruction would be heard last.
            heard, waiting = (waiting, []) if episode.moments else ([], waiting)
            embedding = None
            for message in heard:
                if message.kind == "tell":
                    embedding = message.embedding
                    episode.tell(message.text)
            pushed = any(message.kind == "push" for message in heard)
            answer = simulator.step(begun.number, Interference(embedding, pushed))
            if isinstance(answer, Judge):
                episode.judge = answer
                return
            episode.add(answer)
            yield answer

    def _policy(self, name: str) -> Any:
        if not self.policies.names():
            raise UserError(self.no_policy)
        return self.policies[str(name)]

    def _box(self, request: gr.Request) -> Mailbox:
        """Of this visitor's running episode."""
        box = self.mail.find(request.session_hash)
        if box is None or box.driver is None:
            raise page_error("no episode of yours is running; start one first")
        return box

    def _evaluation(self, name: str) -> browse.Evaluation:
        with told_to_visitor():
            paths = self.evaluations()
            if not isinstance(name, str) or name not in paths:
                raise UserError("there is no evaluation of that name; load the list again")
            return browse.read_evaluation(paths[name])


def _put(box: Mailbox, message: Message) -> None:
    if not box.put(message):
        raise page_error("too much at once: the episode has not yet heard what you said before; try again")
