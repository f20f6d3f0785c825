"""The simulator's process of the page: what it answers, see `vla.web.simulator_process`."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch

from vla.errors import UserError
from vla.evaluation.episode import EvalTask, task_actor
from vla.judging.verdict import Judge
from vla.sim.config import EnvConfig, Placement
from vla.sim.env import Simulator
from vla.sim.rollout import Actor, Step, rollout
from vla.sim.workers import die_with_parent
from vla.web.simulator_process import Interference, Moment, View

PUSH_MPS = 0.6


def serve(connection: Connection, config: EnvConfig) -> None:
    """Answer one question after the other, until the page is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the page's to answer
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        stage = _Stage(Simulator(config))
    except UserError as error:
        connection.send(error)
        return
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            kind, *arguments = connection.recv()
            try:
                answer = getattr(stage, kind)(*arguments)
            except UserError as error:
                answer = error
            connection.send(answer)


class _Stage:
    """What the process answers, by the names of its questions."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._judge = Judge()
        self._actor: Actor | None = None
        self._episode: Iterator[Step] = iter(())

    def view(self, seed: int, placement: Placement | None) -> View:
        self._episode = iter(())
        self._sim.perturbation, self._sim.placement = None, placement
        observation = self._sim.reset(seed)
        return View(
            observation.image,
            observation.evidence.gripper_pos,
            self._sim.camera_matrix(),
            observation.evidence.cube_pos,
            self._sim.target_yaw_deg(),
        )

    def begin(self, task: EvalTask, placement: Placement | None) -> float:
        self._sim.perturbation, self._sim.placement = task.perturbation, placement
        self._judge, self._actor = Judge(), task_actor(task)
        self._episode = rollout(self._sim, self._actor, task.instruction, task.seed, task.max_steps, self._judge)
        self._rng = np.random.default_rng([task.seed, 7])
        self._sim.reset(task.seed)
        return self._sim.target_yaw_deg()

    def step(self, interference: Interference) -> Moment | Judge:
        if interference.push:
            angle = self._rng.uniform(0, 2 * np.pi)
            self._sim.push_cube(PUSH_MPS * np.array([np.cos(angle), np.sin(angle)]))
        hear = getattr(self._actor, "hear", None)
        if interference.embedding is not None and hear is not None:
            hear(torch.from_numpy(interference.embedding))
        step = next(self._episode, None)
        if step is None:
            return self._judge
        chunk = getattr(self._actor, "chunk", step.decision.action[None])
        return Moment(step, copy.deepcopy(self._judge), chunk, self._sim.camera_matrix())
