"""Simulator workers: spawned processes that each hold one simulator.

Spawned, not forked: a GL context made before a fork crashes the child.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vla.sim import gl
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator

Task = TypeVar("Task")
Result = TypeVar("Result")

_simulator: Simulator | None = None


def simulator_pool(workers: int, config: EnvConfig, draws: bool = True) -> ProcessPoolExecutor:
    """A pool whose tasks may call `simulator()`, which draws pictures or leaves them black."""
    gl.select_backend()  # once here, so that every worker inherits the choice
    # More threads than cores made two workers ten times slower than one.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialise,
        initargs=(config, draws),
    )


class SimulatorWorkers:
    """A pool that survives the death of a worker, a segmentation fault or for want of memory.

    A context manager; when something fails, what was not begun is forgotten.

    Raises:
        BrokenProcessPool: workers die before they have a simulator.
    """

    def __init__(self, count: int, config: EnvConfig, draws: bool = True) -> None:
        self._count, self._config, self._draws = count, config, draws

    def __enter__(self) -> SimulatorWorkers:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], None] | None = None
    ) -> list[Result | None]:
        """Results in the order of the tasks; `done` sees each as it comes.

        When a worker dies, each task that was under way is run once more, alone, which tells whose fault it was. None
        stands for a task whose worker died twice.
        """
        results: dict[int, Result | None] = {}
        while missing := [number for number in range(len(tasks)) if number not in results]:
            for suspect in self._run_until_death(function, tasks, missing, results, done):
                if self._run_until_death(function, tasks, [suspect], results, done):
                    results[suspect] = None
        return [results[number] for number in range(len(tasks))]

    def _run_until_death(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        numbers: Sequence[int],
        results: dict[int, Result | None],
        done: Callable[[Result], None] | None,
    ) -> list[int]:
        """Fill `results`; return the tasks that were under way when a worker died, none where none did."""
        queue = iter(numbers)
        running: dict[Future[Result], int] = {}
        try:
            # No more than there are workers: what only waits in the pool is under no suspicion when it breaks.
            for number in itertools.islice(queue, self._count):
                running[self._pool.submit(function, tasks[number])] = number
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    results[running.pop(future)] = result
                    if done is not None:
                        done(result)
                    for number in itertools.islice(queue, 1):
                        running[self._pool.submit(function, tasks[number])] = number
        except BrokenProcessPool:
            self._pool.shutdown()
            self._start()
            return list(running.values())
        return []

    def _start(self) -> None:
        self._pool = simulator_pool(self._count, self._config, self._draws)
        first, *_ = [self._pool.submit(os.getpid) for _ in range(self._count)]  # starts all of them
        first.result()


def simulator() -> Simulator:
    """This worker's simulator."""
    assert _simulator is not None, "called outside a worker of simulator_pool"
    return _simulator


def _initialise(config: EnvConfig, draws: bool) -> None:
    global _simulator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=die_with_parent, daemon=True).start()
    _simulator = Simulator(config, draws)


def die_with_parent() -> None:
    """A parent that was killed cannot stop its workers; they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
