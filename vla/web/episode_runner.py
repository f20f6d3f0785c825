"""Runs what visitors ask for: one episode, or two of the same seed side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from vla.errors import UserError
from vla.evaluation.task import EvalTask
from vla.judging.verdict import Judge
from vla.policies.execution import ControlConfig
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import Placement
from vla.sim.perturbations import parse_perturbations
from vla.sim.table import TableLayout
from vla.web.checkpoint_choices import EXPERT, CheckpointChoices, control_of
from vla.web.checks import MAX_STEPS, checked_instruction, checked_seed
from vla.web.goals import Said, goal_of, layout_of
from vla.web.live_episode import LiveEpisode
from vla.web.mailbox import InstructionChange, Mailbox, Push
from vla.web.messages import Intervention, Retarget, StepView
from vla.web.second_simulator import SecondSimulator
from vla.web.simulator_process import SimulatorProcess

if TYPE_CHECKING:  # see vla.web.known_views
    from vla.web.loaded_policy import LoadedPolicy

NO_PERTURBATION = "nothing"
"""The visitor's choice of no perturbation."""


class EpisodeRunner:
    """Checks requests for episodes and runs them in the page's simulators."""

    def __init__(self, choices: CheckpointChoices, simulator: SimulatorProcess) -> None:
        """`simulator` is restarted where an episode needs another one, as it does for the first checkpoint."""
        self.choices = choices
        self._turn = threading.Lock()
        env = choices.env(choices.first_driver())
        self.second = SecondSimulator(env)
        self.simulator = simulator
        self.simulator.configure(env)

    def rehearse(self, seed: int) -> None:
        """Load the first policy and run a step of an episode: the first visitor waits for nothing that comes only once.

        A visitor who was faster has the first turn, and no step is run.

        Raises:
            UserError: the simulator cannot be used.
        """
        try:
            policy = self.choices.first()  # while the simulator starts
            if self._turn.acquire(blocking=False):
                try:
                    self._rehearse_step(policy, seed)
                finally:
                    self._turn.release()
        finally:
            self.second.let_go()

    def _rehearse_step(self, policy: LoadedPolicy | None, seed: int) -> None:
        # An instruction of the training, which needs no encoder.
        instruction = INSTRUCTIONS[0] if policy is None else policy.facts["language"]["texts"][0]
        episode = self.prepare(instruction, self.choices.first_driver(), seed, max_steps=1)
        self.simulator.configure(episode.env)
        self.second.keep(episode.env, seed, self.simulator.start_view(seed))
        for _ in self._steps(self.simulator, episode, Mailbox(driver=None)):
            episode.html()

    def prepare(
        self,
        instruction: str,
        driver: str,
        seed: float | None,
        max_steps: float,
        placement: Placement | None = None,
        perturbation: str = NO_PERTURBATION,
    ) -> LiveEpisode:
        """Check what a visitor asks for and return the episode to run.

        Raises:
            UserError: the driver cannot be used, or an input is out of range.
        """
        instruction = checked_instruction(instruction)
        if not isinstance(driver, str) or driver not in self.choices.drivers():
            raise UserError(f"choose who drives the arm: {', '.join(self.choices.drivers())}")
        if not 1 <= max_steps <= MAX_STEPS:
            raise UserError(f"an episode has 1 to {MAX_STEPS} steps, got {max_steps}")
        control, seed = control_of(driver), checked_seed(seed)
        policy = None if control is not None else self.choices[driver]
        env = self.choices.env(driver)
        if placement is not None and env.scene.kind != "lift":
            raise UserError("in the scene of several cubes the seed places them all; give no place by hand")
        said = self.said(instruction, driver, layout_of(env, seed))
        task = EvalTask(
            policy=control or "checkpoint",
            checkpoint=self.choices.main if policy is None else policy.path,
            embedding=np.zeros(0) if policy is None else policy.embedding(instruction),
            seed=seed,
            instruction=instruction,
            max_steps=int(max_steps),
            control=ControlConfig(),
            video=None,
            perturbation=None if perturbation == NO_PERTURBATION else parse_perturbations(str(perturbation))[0],
            target=said.goal.target,
        )
        return LiveEpisode(said, driver, env, task, placement)

    def listens(self, driver: str) -> bool:
        """Whether a driver follows another instruction: a policy does, and the expert that is told its target."""
        told = control_of(driver) == EXPERT and self.choices.env(driver).scene.kind == "cubes"
        return control_of(driver) is None or told

    def said(self, instruction: str, driver: str, layout: TableLayout) -> Said:
        """Return what an instruction asks for on a table (see `goal_of`), and what the driver hears.

        Raises:
            UserError: the driver cannot be used, or its text encoder cannot be had here.
        """
        goal = goal_of(instruction, layout, control_of(driver) is None)
        if control_of(driver) is not None or not layout.cubes:
            return Said(instruction, goal)
        return Said(instruction, goal, self.choices[driver].heard(instruction))

    def preparation_notice(self, instruction: str, driver: str) -> str:
        """Return what the visitor reads until the first frame arrives."""
        if driver in self.choices.drivers() and not self.simulator.ready_for(self.choices.env(driver)):
            return "The simulator is starting ..."
        if driver in self.choices.names() and instruction not in self.choices[driver].embeddings:
            return "Encoding an instruction that the policy was not trained on ..."
        return "The episode starts ..."

    def run(self, episode: LiveEpisode, mailbox: Mailbox) -> Iterator[StepView]:
        """Run an episode in the first simulator until it ends or is stopped; yields each step."""
        with self._turn:
            self.simulator.configure(episode.env)
            yield from self._steps(self.simulator, episode, mailbox)

    def run_side_by_side(self, episodes: tuple[LiveEpisode, LiveEpisode], mailbox: Mailbox) -> Iterator[None]:
        """Run two episodes at the same time until both have ended or are stopped; yields after each pair of steps."""
        with (
            self._turn,
            self.second.borrowed(episodes[1].env) as second,
            ThreadPoolExecutor(max_workers=2) as threads,
        ):
            self.simulator.configure(episodes[0].env)
            runs = (self._steps(self.simulator, episodes[0], mailbox), self._steps(second, episodes[1], mailbox))
            running = [True, True]
            while any(running) and not mailbox.stopped:
                steps = [threads.submit(next, run, None) for run in runs]
                running = [step.result() is not None for step in steps]
                yield

    def _steps(self, simulator: SimulatorProcess, episode: LiveEpisode, mailbox: Mailbox) -> Iterator[StepView]:
        """Run an episode in `simulator`, with what its visitor does to it; yields each step."""
        start = simulator.start_episode(episode.task, episode.placement)
        episode.layout = start.layout
        while not mailbox.stopped:
            # The first step sets the task's own instruction, so messages wait for the second one.
            intervention = self._intervention(episode, mailbox) if episode.steps else Intervention()
            answer = simulator.step(start.number, intervention)
            if isinstance(answer, Judge):
                episode.judge = answer
                return
            episode.add(answer)
            yield answer

    def _intervention(self, episode: LiveEpisode, mailbox: Mailbox) -> Intervention:
        """Take the messages for the next step; changes of the instruction are noted in the episode."""
        embedding = None
        push = False
        before = episode.said.goal.target
        for message in mailbox.take():
            if isinstance(message, InstructionChange):
                layout = layout_of(episode.env, episode.task.seed)
                episode.tell(self.said(message.instruction, episode.driver, layout))
                embedding = message.embedding
            elif isinstance(message, Push):
                push = True
        now = episode.said.goal.target
        return Intervention(embedding, push, None if now == before else Retarget(now))
