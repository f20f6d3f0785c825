"""Where simulator workers run: the one place that knows of engines."""

from __future__ import annotations

from typing import Literal

from vla.sim.config import EnvConfig
from vla.sim.workers import SimulatorWorkers, Workers

Engine = Literal["local", "ray"]
"""local: processes on this machine. ray: tasks on a Ray cluster, or on a Ray instance that this process starts."""


def simulator_workers(engine: Engine, count: int, config: EnvConfig, render_images: bool = True) -> Workers:
    """Workers that are started when they are entered.

    Args:
        engine: where they run.
        count: processes of the local engine. A Ray cluster runs as many tasks at once as it has CPUs.
        config: their simulator.
        render_images: False: its images are black.

    Raises:
        UserError: the engine is not installed.
    """
    if engine == "local":
        return SimulatorWorkers(count, config, render_images)
    from vla.sim.ray_workers import RayWorkers  # its import takes a second, and Ray is an optional package

    return RayWorkers(config, render_images)
