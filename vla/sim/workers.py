"""Simulator workers: spawned processes that each hold one simulator.

They are spawned, not forked: a GL context that was made before a fork crashes the child.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vla.errors import MachineError, UserError
from vla.sim import gl
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator

Task = TypeVar("Task")
Result = TypeVar("Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
"""Environment variables that limit the threads of numerical libraries: a worker has one."""
_simulator: Simulator | None = None
_start_error: Exception | None = None
"""Why this worker has no simulator."""


def _simulator_pool(workers: int, config: EnvConfig, render_images: bool, loads_torch: bool) -> ProcessPoolExecutor:
    gl.select_backend()  # once here, so that every worker inherits the choice
    # More threads than cores made two workers ten times slower than one.
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialise,
        initargs=(config, render_images, loads_torch),
    )


class Workers(ABC):
    """Processes whose tasks may call `simulator()`; a death of one, such as by a lack of memory, ends no run.

    Use them as a context manager. When an exception leaves the context, tasks that have not begun are cancelled.
    """

    @abstractmethod
    def __enter__(self) -> Workers:
        """Start the processes.

        Raises:
            MachineError: one cannot start its simulator.
            UserError: the configuration is one that no simulator can run.
        """

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes."""

    @abstractmethod
    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        done: Callable[[int, Result | None], None] | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Result | None]:
        """Run `function` on every task and return the results in the order of the tasks.

        When a worker dies, a task that was running is run again. The result of a task whose worker died each time is
        None.

        Args:
            function: runs one task in a worker; importable, as it is pickled.
            tasks: the arguments of `function`.
            done: called in this process with the number of a task and its result, as soon as that is known.
            enough: asked before each task. Once it is true, no further task begins: those that run are finished, and
                tasks that did not begin have no result.
        """

    def run_all(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], object]
    ) -> list[Result]:
        """Run `function` on every task, each of which must have a result; return the results in the order of the tasks.

        Args:
            function: as for `run`.
            tasks: as for `run`.
            done: called in this process with each result, as soon as it is known.

        Raises:
            MachineError: the workers of one task died.
        """

        def check(_: int, result: Result | None) -> None:
            if result is None:
                raise MachineError(
                    "a worker process died each time at the same task (out of memory?); "
                    "run the same command again with fewer --workers, or Ray's tasks with more memory"
                )
            done(result)

        return [result for result in self.run(function, tasks, check) if result is not None]


class SimulatorWorkers(Workers):
    """Spawned processes on this machine."""

    def __init__(self, count: int, config: EnvConfig, render_images: bool = True, loads_torch: bool = True) -> None:
        """Prepare to start `count` processes; the rest as for `vla.sim.engines.simulator_workers`."""
        self._count, self._config, self._render_images, self._loads_torch = count, config, render_images, loads_torch

    def __enter__(self) -> SimulatorWorkers:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        done: Callable[[int, Result | None], None] | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Result | None]:
        """Run the tasks. One that was running when a worker died is run once more, alone.

        That tells the task that kills its worker from those that merely ran beside it.
        """
        results: dict[int, Result | None] = {}

        def keep(number: int, result: Result | None) -> None:
            results[number] = result
            if done is not None:
                done(number, result)

        while not enough() and (missing := [number for number in range(len(tasks)) if number not in results]):
            wanted = itertools.takewhile(lambda _: not enough(), missing)
            for suspect in self._run_until_death(function, tasks, wanted, keep):
                if self._run_until_death(function, tasks, [suspect], keep):
                    keep(suspect, None)
        return [results[number] for number in sorted(results)]

    def _run_until_death(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        numbers: Iterable[int],
        keep: Callable[[int, Result | None], None],
    ) -> list[int]:
        """Run the tasks of these numbers; return those that were running when a worker died, none where none died."""
        queue = iter(numbers)
        running: dict[Future[Result], int] = {}
        try:
            # No more than there are workers: a task that only waits in the pool is not suspected when it breaks.
            for number in itertools.islice(queue, self._count):
                running[self._pool.submit(function, tasks[number])] = number
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    keep(running.pop(future), result)
                    for number in itertools.islice(queue, 1):
                        running[self._pool.submit(function, tasks[number])] = number
        except BrokenProcessPool:
            self._pool.shutdown()
            self._start()
            return list(running.values())
        return []

    def _start(self) -> None:
        self._pool = _simulator_pool(self._count, self._config, self._render_images, self._loads_torch)
        # A task for each worker starts all of them. If one cannot start, none can: the first answer will do.
        first, *_ = [self._pool.submit(_check_simulator) for _ in range(self._count)]
        try:
            first.result()
        except BrokenProcessPool:
            raise MachineError(
                "a simulator process died while it started (out of memory?); try again with fewer --workers"
            ) from None


def simulator() -> Simulator:
    """Return this worker's simulator.

    Raises:
        MachineError: it could not be started.
        UserError: the same, because of a mistake of the user.
    """
    if isinstance(_start_error, UserError):
        raise _start_error
    if _start_error is not None:
        raise MachineError(f"a simulator cannot start: {type(_start_error).__name__}: {_start_error}")
    assert _simulator is not None, "called outside a simulator worker"
    return _simulator


def adopt_simulator(own: Simulator) -> None:
    """Let `simulator()` return this one, in a process that was not started by `SimulatorWorkers`."""
    global _simulator
    _simulator = own


def _check_simulator() -> None:
    simulator()


def _initialise(config: EnvConfig, render_images: bool, loads_torch: bool) -> None:
    global _simulator, _start_error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process answers Ctrl-C
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        _simulator = Simulator(config, render_images, loads_torch)
    except Exception as error:  # raised by the first task: an exception here would break the pool without its reason
        _start_error = error


def die_with_parent() -> None:
    """End this process when its parent ends: a parent that was killed cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
