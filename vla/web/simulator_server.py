"""What runs in the page's simulator process: it answers the requests of `vla.web.messages`."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
from collections.abc import Generator
from multiprocessing.connection import Connection

import numpy as np
import torch

from vla.errors import UserError
from vla.evaluation.task import EvalTask
from vla.evaluation.worker import task_actor
from vla.experts.controls import control
from vla.judging.verdict import Judge
from vla.policies.actor import PolicyActor
from vla.sim.config import EnvConfig
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Actor, Decision, Step, rollout
from vla.sim.table import TableLayout
from vla.sim.workers import die_with_parent
from vla.web.messages import (
    Answer,
    CameraView,
    EpisodeRequest,
    Intervention,
    Request,
    Retarget,
    StepRequest,
    StepView,
    ViewRequest,
)

PUSH_MPS = 0.6
"""Speed that a push adds to the cube."""


def serve(connection: Connection, config: EnvConfig) -> None:
    """Answer requests until the page closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the page too, which ends this process
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        server = SimulatorServer(Simulator(config))
    except UserError as error:
        connection.send(error)
        return
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv()
            answer: Answer | UserError
            try:
                answer = server.answer(request)
            except UserError as error:
                answer = error
            connection.send(answer)


class ToldExpert:
    """The expert of the scene "cubes": it lifts the simulator's target, which a visitor may change on the way; without
    one, it keeps still."""

    def __init__(self, sim: Simulator) -> None:
        self._sim, self._expert, self._idle = sim, control("expert"), control("zero")

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode."""
        self._expert.reset(instruction, seed)
        self._idle.reset(instruction, seed)

    def select_action(self, obs: Observation) -> Decision:
        """Choose the next action."""
        return (self._idle if self._sim.target is None else self._expert).select_action(obs)


class SimulatorServer:
    """A simulator and its running episode."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._judge = Judge()
        self._actor: Actor | None = None
        self._steps: Generator[Step, Judge | None, None] | None = None
        self._push_rng = np.random.default_rng()

    def answer(self, request: Request) -> Answer:
        """Do what one request asks for.

        Raises:
            UserError: a checkpoint that cannot be used.
        """
        if isinstance(request, ViewRequest):
            return self._start_view(request)
        if isinstance(request, EpisodeRequest):
            return self._start_episode(request)
        assert isinstance(request, StepRequest)
        return self._step(request.intervention)

    def _start_view(self, request: ViewRequest) -> CameraView:
        self._steps = None
        self._sim.perturbation, self._sim.placement, self._sim.target = None, request.placement, 0
        obs = self._sim.reset(request.seed)
        return CameraView(
            image=obs.image,
            eef_pos=obs.eef_pos,
            camera_matrix=self._sim.camera_matrix(),
            cube_pos=obs.evidence.cube_pos,
            cube_yaw_deg=self._sim.target_yaw_deg(),
        )

    def _start_episode(self, request: EpisodeRequest) -> TableLayout:
        task = request.task
        self._sim.perturbation, self._sim.placement, self._sim.target = (
            task.perturbation,
            request.placement,
            task.target,
        )
        self._judge, self._actor = Judge(), self._make_actor(task)
        self._steps = rollout(self._sim, self._actor, task.instruction, task.seed, task.max_steps, self._judge)
        self._push_rng = np.random.default_rng([task.seed, 7])
        self._sim.reset(task.seed)
        return self._sim.layout

    def _step(self, intervention: Intervention) -> StepView | Judge:
        if intervention.push:
            angle = self._push_rng.uniform(0, 2 * np.pi)
            self._sim.push_cube(PUSH_MPS * np.array([np.cos(angle), np.sin(angle)]))
        policy = self._actor if isinstance(self._actor, PolicyActor) else None
        if policy is not None and intervention.embedding is not None:
            policy.set_instruction(torch.from_numpy(intervention.embedding))
        try:
            step = self._next_step(intervention.retarget)
        except StopIteration:
            return self._judge
        action_chunk = step.decision.action[None] if policy is None else policy.action_chunk
        return StepView(step, copy.deepcopy(self._judge), action_chunk, self._sim.camera_matrix())

    def _next_step(self, retarget: Retarget | None) -> Step:
        assert self._steps is not None, "an episode has been started"
        if retarget is None:
            return next(self._steps)
        self._sim.target = retarget.target
        self._judge = Judge(steps=self._judge.steps)
        self._judge.start(self._sim.evidence(), on_the_way=True)
        return self._steps.send(self._judge)

    def _make_actor(self, task: EvalTask) -> Actor:
        if task.policy == "expert" and self._sim.config.scene.kind == "cubes":
            return ToldExpert(self._sim)
        return task_actor(task)
