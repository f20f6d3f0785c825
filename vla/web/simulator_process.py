"""The page's simulator: a process of its own, so that whatever happens in it, the page lives, and says so.

The page asks for one control step after the other; whoever stops asking has ended the episode.
"""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.errors import UserError
from vla.judging.verdict import Judge
from vla.sim import gl
from vla.sim.config import EnvConfig, Placement
from vla.sim.rollout import Step

if TYPE_CHECKING:
    from vla.evaluation.episode import EvalTask

START_S = 120
ANSWER_S = 60
"""A step takes a twentieth of a second; loading a policy, a second. Beyond this the process hangs, and is killed."""


@dataclass(frozen=True)
class Moment:
    """One control step of a running episode, and all that the page shows of it."""

    step: Step
    judge: Judge
    """As it stood after this step."""
    chunk: np.ndarray
    """(K, 7) in [-1, 1]: what the policy meant to do from the step's picture on; (1, 7) for a control."""
    camera: np.ndarray
    """(3, 4), see `vla.sim.env.Simulator.camera_matrix`."""


@dataclass(frozen=True)
class View:
    """A picture, and where the gripper was when it was taken."""

    image: np.ndarray
    """(224, 224, 3) uint8."""
    gripper_pos: np.ndarray
    """(3,) world frame, metres."""
    camera: np.ndarray
    """(3, 4), see `vla.sim.env.Simulator.camera_matrix`."""
    cube_pos: np.ndarray
    """(3,) world frame, metres."""
    cube_yaw_deg: float


@dataclass(frozen=True)
class Begun:
    """An episode that has begun."""

    number: int
    """Of the episode; its steps are asked for with it."""
    yaw_deg: float
    """The cube's angle about the vertical."""


@dataclass(frozen=True)
class Interference:
    """What a visitor does to a running episode before its next step."""

    embedding: np.ndarray | None = None
    """(512,) of a new instruction."""
    push: bool = False
    """Flick the cube."""


class SimulatorProcess:
    """A simulator in a spawned process, started again when it dies.

    Its answers come one at a time, whoever asks.
    """

    def __init__(self, config: EnvConfig) -> None:
        gl.select_backend()
        self._config = config
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("spawn")
        self._closed = False
        self._number = 0
        self._start()

    def configure(self, config: EnvConfig) -> None:
        """Have it start again where it is not this simulator."""
        if config != self._config:
            self._config = config
            self._kill()
            self._start()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it answers at once; else it is being started."""
        return self._ready and self._process.is_alive()

    def view(self, seed: int, placement: Placement | None = None) -> View:
        """The picture with which the episode of `seed` begins; an episode that was running has ended.

        Raises:
            UserError: the process died, and is being started again.
        """
        with self._lock:
            self._number += 1
            view: View = self._ask_anew("view", seed, placement)
        return view

    def begin(self, task: EvalTask, placement: Placement | None = None) -> Begun:
        """Begin an episode; one that was running has ended.

        Raises:
            UserError: a checkpoint that cannot be used; or as in `view`.
        """
        with self._lock:
            self._number += 1
            return Begun(self._number, yaw_deg=self._ask_anew("begin", task, placement))

    def step(self, number: int, interference: Interference) -> Moment | Judge:
        """The next step of the episode `number`, or the final judge when it has ended.

        Raises:
            UserError: another episode has begun since; or as in `view`.
        """
        with self._lock:
            if number != self._number:
                raise UserError("another episode has begun in this simulator; run yours again")
            answer: Moment | Judge = self._ask("step", interference)
        return answer

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed = True
        self._process.kill()  # not waited for: giving back its memory can take it seconds

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._connection, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other, self._config), daemon=True)
        self._process.start()
        other.close()
        self._ready = False

    def _ask_anew(self, kind: str, *arguments: Any) -> Any:
        """Ask what needs no episode before it: a process that died while nobody asked is not the visitor's concern."""
        if not self._process.is_alive() and not self._closed:
            self._connection.close()
            self._start()
        return self._ask(kind, *arguments)

    def _ask(self, kind: str, *arguments: Any) -> Any:
        try:
            if not self._ready:
                answer = self._receive(START_S)
                self._ready = not isinstance(answer, Exception)
            if self._ready:
                self._connection.send((kind, *arguments))
                answer = self._receive(ANSWER_S)
        except (EOFError, OSError, TimeoutError) as error:
            how = "did not answer" if isinstance(error, TimeoutError) else "died"
            self._kill()
            self._connection.close()
            if self._closed:
                raise UserError("the page is closing") from None
            self._start()
            raise UserError(f"the simulator's process {how}; it is being started again: try once more") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _receive(self, limit_s: float) -> Any:
        if not self._connection.poll(limit_s):
            raise TimeoutError
        return self._connection.recv()


def _serve(connection: Connection, config: EnvConfig) -> None:
    from vla.web.simulator_server import (
        serve,  # here, so that the page need not wait for torch before it starts this process
    )

    serve(connection, config)
