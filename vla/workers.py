"""Simulator workers: spawned processes that each hold one simulator.

Spawned, not forked: a GL context made before a fork crashes the child.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

from vla import gl
from vla.env import EnvConfig, Simulator

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
