"""The page's simulator in a process of its own: the page survives whatever happens there, and reports it.

The page asks for one control step at a time. An episode for which nobody asks any more has ended.
"""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection
from typing import Any

from vla.errors import UserError
from vla.evaluation.task import EvalTask
from vla.judging.verdict import Judge
from vla.sim.config import EnvConfig, Placement
from vla.web.messages import (
    CameraView,
    EpisodeRequest,
    EpisodeStart,
    Intervention,
    Request,
    StepRequest,
    StepView,
    ViewRequest,
)

START_S = 120
"""Longest time that the process may take to start."""
ANSWER_S = 60
"""Longest time for an answer. A step takes a twentieth of a second and loading a policy one second, so a process that
takes longer hangs; it is killed."""


class SimulatorProcess:
    """A simulator in a spawned process, which is started again when it dies.

    Requests of several threads are answered one after the other.
    """

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("spawn")
        self._closed = False
        self._episode_number = 0
        self._start_process()

    def configure(self, config: EnvConfig) -> None:
        """Restart the process if it runs another simulator than that of `config`; this ends the running episode.

        One process holds one simulator, and a visitor who changes the scene waits until it has started again. A second
        simulator within it would save that time, but keep 0.6 GB more, in each of the page's two processes.
        """
        with self._lock:
            if config != self._config and not self._closed:
                self._config = config
                self._episode_number += 1
                self._kill_process()
                self._connection.close()
                self._start_process()

    @property
    def pid(self) -> int | None:
        """PID of the simulator process."""
        return self._process.pid

    def ready_for(self, config: EnvConfig) -> bool:
        """Whether the process has started with this simulator, and answers at once."""
        return config == self._config and self._ready and self._process.is_alive()

    def start_view(self, seed: int, placement: Placement | None = None) -> CameraView:
        """Show how the episode of `seed` begins. This ends the running episode.

        Raises:
            UserError: the process died or hung; a new one is being started.
        """
        with self._lock:
            self._episode_number += 1
            view: CameraView = self._ask_running_process(ViewRequest(seed, placement))
        return view

    def start_episode(self, task: EvalTask, placement: Placement | None = None) -> EpisodeStart:
        """Start an episode. This ends the running one.

        Raises:
            UserError: the checkpoint cannot be used; or as in `start_view`.
        """
        with self._lock:
            self._episode_number += 1
            layout = self._ask_running_process(EpisodeRequest(task, placement))
            return EpisodeStart(self._episode_number, layout)

    def step(self, episode_number: int, intervention: Intervention) -> StepView | Judge:
        """Run the next step of an episode; returns the final judge when the episode has ended.

        Raises:
            UserError: another episode has started since; or as in `start_view`.
        """
        with self._lock:
            if episode_number != self._episode_number:
                raise UserError("another episode has started in this simulator; run yours again")
            answer: StepView | Judge = self._ask(StepRequest(intervention))
        return answer

    def close(self) -> None:
        """End the process and start no other."""
        self._closed = True
        self._process.kill()  # without a join: releasing its memory can take the process seconds

    def _kill_process(self) -> None:
        self._process.kill()
        self._process.join()

    def _start_process(self) -> None:
        self._connection, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other, self._config), daemon=True)
        self._process.start()
        other.close()
        self._ready = False

    def _ask_running_process(self, request: Request) -> Any:
        """Send a request that needs no earlier episode; a process that died between requests is replaced silently."""
        if not self._process.is_alive() and not self._closed:
            self._connection.close()
            self._start_process()
        return self._ask(request)

    def _ask(self, request: Request) -> Any:
        try:
            if not self._ready:
                answer = self._receive(START_S)
                self._ready = not isinstance(answer, Exception)
            if self._ready:
                self._connection.send(request)
                answer = self._receive(ANSWER_S)
        except (EOFError, OSError, TimeoutError) as error:
            how = "did not answer" if isinstance(error, TimeoutError) else "died"
            self._kill_process()
            self._connection.close()
            if self._closed:
                raise UserError("the page is closing") from None
            self._start_process()
            raise UserError(f"the simulator's process {how}; it is being started again: try once more") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _receive(self, limit_s: float) -> Any:
        if not self._connection.poll(limit_s):
            raise TimeoutError
        return self._connection.recv()


def _serve(connection: Connection, config: EnvConfig) -> None:
    # Imported here, because the server imports torch and the page starts this process before it has loaded torch.
    from vla.web.simulator_server import serve

    serve(connection, config)
