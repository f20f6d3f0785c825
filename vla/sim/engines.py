"""Where simulator workers run: the one place that knows of engines."""

from __future__ import annotations

import os
from typing import Literal

from vla.sim.config import EnvConfig
from vla.sim.workers import SimulatorWorkers, Workers

Engine = Literal["local", "ray"]
"""local: processes on this machine. ray: tasks on a Ray cluster, or on a Ray instance that this process starts."""


MOST_WORKERS = 32
"""Workers that are started unless another number is asked for: each takes most of a gigabyte."""


def default_workers() -> int:
    """One local worker for each core that this process may use, at least 1 and at most MOST_WORKERS."""
    # A container or a Slurm job often may use fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def simulator_workers(
    engine: Engine, count: int, config: EnvConfig, render_images: bool = True, loads_torch: bool = True
) -> Workers:
    """Workers that are started when they are entered.

    Args:
        engine: where they run.
        count: processes of the local engine. A Ray cluster runs as many tasks at once as it has CPUs.
        config: their simulator.
        render_images: False: its images are black.
        loads_torch: as for `vla.sim.env.Simulator`.

    Raises:
        UserError: the engine is not installed.
    """
    if engine == "local":
        return SimulatorWorkers(count, config, render_images, loads_torch)
    from vla.sim.ray_workers import RayWorkers  # its import takes a second, and Ray is an optional package

    return RayWorkers(config, render_images, loads_torch)
