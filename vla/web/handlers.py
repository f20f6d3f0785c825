"""What happens on a click, for all visitors."""

from __future__ import annotations

import contextlib
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

from vla.controls import CONTROLS
from vla.env import TEST_SEEDS, EnvConfig, Placement
from vla.errors import UserError
from vla.evaluation import EvalTask
from vla.instructions import INSTRUCTIONS
from vla.perturb import parse_perturbations
from vla.policy import ControlConfig
from vla.verdict import Judge
from vla.video import demo_frames, episode_frames, write_video
from vla.web import browse, image, live, table
from vla.web.episode import Episode, Mailboxes, Message
from vla.web.policies import Policies
from vla.web.simulator import Interference, Moment, SimulatorProcess

MAX_INSTRUCTION_CHARS = 200
MAX_STEPS = 400
NOTHING = "nothing"
"""The choice of no perturbation."""


class Handlers:
    """What happens on a click, for all visitors."""

    def __init__(self, policies: Policies, simulator: SimulatorProcess, data: Path, results: Path) -> None:
        self.policies = policies
        self.data, self.results = data, results
        self.no_policy = f"no checkpoint at {policies.main}; train one with: make train, then start the page again"
        names = policies.names()
        self.env = policies[names[0]].env if names else EnvConfig()
        self.simulator = simulator
        self.simulator.configure(self.env)
        self._second: SimulatorProcess | None = None
        self._second_lock = threading.Lock()
        self.mail = Mailboxes()
        self.views = image.Views()

    def rehearse(self, seed: int) -> None:
        """Run the first step of an episode, so that the first visitor does not wait for what is made only once.

        Raises:
            UserError: the simulator or the policy cannot be used.
        """
        episode = self._episode(INSTRUCTIONS[0], self.drivers()[0], seed, max_steps=1)
        for _ in self._steps(self.simulator, episode):
            episode.html()

    def close(self) -> None:
        """End the second simulator, where there is one."""
        if self._second is not None:
            self._second.close()

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
        with _told_to_visitor():
            placement = checked_placement(x_cm, y_cm, yaw_deg) if by_hand else None
            episode = self._episode(instruction, driver, seed, max_steps, placement, perturbation)
            yield live.notice_html("The episode begins ..."), *nothing, {}
            stopped = False
            self.mail.open(session, episode.driver)
            try:
                for _ in self._steps(self.simulator, episode, session):
                    yield episode.html(), *nothing, episode.facts()
                stopped = episode.stopped()
            finally:
                self.mail.close(session)
        verdict = live.verdict_html(episode.judge, len(episode.moments), stopped)
        if not episode.moments:
            yield live.notice_html("The episode ended before its first step."), verdict, None, None, {}
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
        with _told_to_visitor():
            episodes = [
                self._episode(instruction_a, driver_a, seed, max_steps),
                self._episode(instruction_b, driver_b, seed, max_steps),
            ]
            waiting = live.notice_html("The episode begins ...")
            yield waiting, "", waiting, "", {}
            self.mail.open(session, driver=None)
            try:
                with ThreadPoolExecutor(max_workers=2) as threads:
                    simulators = (self.simulator, self._second_simulator())
                    runs = [self._steps(sim, run) for sim, run in zip(simulators, episodes, strict=True)]
                    running = [True, True]
                    while any(running) and not self.mail.take(session):
                        steps = [threads.submit(next, run, None) for run in runs]
                        running = [step.result() is not None for step in steps]
                        views = [run.html() if run.moments else waiting for run in episodes]
                        yield views[0], "", views[1], "", {}
            finally:
                self.mail.close(session)
        ends: list[Any] = []
        for episode in episodes:
            verdict = live.verdict_html(episode.judge, len(episode.moments), episode.stopped())
            ends += [episode.html() if episode.moments else waiting, verdict]
        facts = {
            side: episode.summary(episode.stopped()) if episode.moments else {}
            for side, episode in zip("ab", episodes, strict=True)
        }
        yield *ends, facts

    def stop(self, request: gr.Request) -> None:
        """End this visitor's episode at its next step."""
        if not self.mail.put(request.session_hash, Message("stop")):
            raise _error("no episode of yours is running; one that still waits in the queue cannot be stopped")

    def tell(self, instruction: str, request: gr.Request) -> None:
        """Give this visitor's running episode another instruction, from its next step on."""
        instruction = checked_instruction(instruction)
        driver = self.mail.driver(request.session_hash)
        embedding = None
        if driver is not None and driver not in CONTROLS:
            with _told_to_visitor():
                embedding = self.policies.embedding(driver, instruction)
        if driver is None or not self.mail.put(request.session_hash, Message("tell", instruction, embedding)):
            raise _error("no episode of yours is running; start one, then tell it something else")

    def push(self, request: gr.Request) -> None:
        """Flick the cube in this visitor's running episode."""
        if self.mail.driver(request.session_hash) is None or not self.mail.put(request.session_hash, Message("push")):
            raise _error("no episode of yours is running; start one, then push the cube")

    def table(self, x_cm: float, y_cm: float, yaw_deg: float) -> Image.Image:
        """The table from above, with the cube."""
        return table.draw_table(checked_placement(x_cm, y_cm, yaw_deg))

    def table_clicked(self, event: gr.SelectData) -> tuple[bool, float, float]:
        """The position of a click, and that it is meant."""
        x_m, y_m = table.clicked(*event.index)
        return True, round(100 * x_m, 1), round(100 * y_m, 1)

    def first_image(self, seed: int | None) -> np.ndarray:
        """(224, 224, 3) uint8: the simulator's picture at the start of an episode."""
        with _told_to_visitor():
            view = self.simulator.view(checked_seed(seed))
        self.views.remember(view)
        return view.image

    def predict_actions(
        self, upload: dict[str, Any] | None, instruction: str, name: str
    ) -> tuple[list[list[float]], Image.Image, Image.Image, str]:
        """The next K actions of the policy `name`, drawn into the picture; where it looks; what to think of it."""
        if upload is None or not upload.get("path"):
            raise _error("there is no image yet; upload one, or use a frame from the simulator")
        path = Path(upload["path"])
        # Gradio does not see to it where a hand-made request leaves out its "meta" field.
        if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise _error("only an uploaded image is read; upload one")
        with _told_to_visitor():
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

    def evaluated_episode(self, name: str, seed: float | None, instruction: str) -> Iterator[tuple[str, str | None]]:
        """Of one evaluated episode: what became of it, and its video where there is one."""
        found = self._evaluation(name)
        for result, video in zip(found.episodes, found.videos, strict=True):
            if (result.seed, result.instruction) == (seed, instruction):
                with tempfile.TemporaryDirectory() as folder:  # Gradio serves no file from anywhere else
                    copy = None if video is None else str(shutil.copy(video, folder))
                    yield browse.about_episode(result), copy
                return
        raise _error("this evaluation has no such episode; choose one from its list")

    def demonstration(self, name: str) -> Iterator[tuple[str, Image.Image, str]]:
        """Of one demonstration: what it is, its curves, its video."""
        with _told_to_visitor():
            demo = browse.read_one_demo(self.data, name)
        *_, judge = demo.judges()
        text = f"### {name}, seed {demo.seed}: {judge.explain()}\n\n“{demo.instruction}”, {len(demo)} steps."
        curves = live.curves(*browse.demo_curves(demo))
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

    def _steps(self, simulator: SimulatorProcess, episode: Episode, session: str | None = None) -> Iterator[Moment]:
        """Run the episode, with what its visitor does to it on the way."""
        episode.yaw_deg = simulator.begin(episode.task, episode.placement)
        waiting: list[Message] = []
        while True:
            waiting += self.mail.take(session) if session is not None else []
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
            answer = simulator.step(Interference(embedding, pushed))
            if isinstance(answer, Judge):
                episode.judge = answer
                return
            episode.add(answer)
            yield answer

    def _policy(self, name: str) -> Any:
        if not self.policies.names():
            raise UserError(self.no_policy)
        return self.policies[str(name)]

    def _second_simulator(self) -> SimulatorProcess:
        with self._second_lock:
            if self._second is None:
                self._second = SimulatorProcess(self.env)
            return self._second

    def _evaluation(self, name: str) -> browse.Evaluation:
        with _told_to_visitor():
            paths = self.evaluations()
            if not isinstance(name, str) or name not in paths:
                raise UserError("there is no evaluation of that name; load the list again")
            return browse.read_evaluation(paths[name])


def checked_instruction(text: str | None) -> str:
    """The instruction without blanks around it, or the reason why it cannot be one."""
    text = text.strip() if isinstance(text, str) else ""
    if not text or not text.isprintable():
        raise _error(f"the instruction is empty, or no plain text; say what to do, such as “{INSTRUCTIONS[0]}”")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise _error(f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} fit; shorten it")
    return text


def checked_seed(seed: float | None) -> int:
    """The seed, or the reason why it cannot be one."""
    if seed is None or not 0 <= seed < TEST_SEEDS.stop or seed != int(seed):
        raise _error(f"the seed must be a whole number from 0 to {TEST_SEEDS.stop - 1}, got {seed}")
    return int(seed)


def checked_placement(x_cm: float, y_cm: float, yaw_deg: float) -> Placement:
    """Where the cube is to lie, or the reason why it cannot lie there."""
    limit = 100 * table.RANGE_M
    if not (abs(x_cm) <= limit and abs(y_cm) <= limit and abs(yaw_deg) <= 45):
        raise _error(f"the cube can lie within {limit:.0f} cm of the middle, turned by up to 45 degrees")
    return Placement(x_cm / 100, y_cm / 100, yaw_deg)


def _error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


@contextlib.contextmanager
def _told_to_visitor() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _error(str(error)) from None
