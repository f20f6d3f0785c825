"""Simulator workers on a Ray cluster: Ray places the tasks, repeats those whose node or process died, and shows them.

Every node needs this project, its environment and the folders that a run reads and writes at the same paths, on a
shared file system, as under Slurm (docs/scale.md).
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import MachineError, UserError
from vla.sim import gl, workers
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.sim.workers import THREAD_VARIABLES, Result, Task, Workers

try:
    import ray
    from ray.autoscaler.sdk import request_resources
except ImportError:
    raise UserError("Ray is not installed; install it with: pip install -r requirements-ray.txt") from None

ATTEMPTS = 3
"""How often a task is begun whose process or node dies. Ray does not tell whose fault it was, so that these are more
than on one machine."""
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class _Place:
    """What a process of Ray needs before it can run a task."""

    folder: str
    """Working directory, which relative paths begin at."""
    config: EnvConfig
    render_images: bool
    loads_torch: bool


class RayWorkers(Workers):
    """Tasks on the cluster of RAY_ADDRESS, or else on a Ray instance of this process; one CPU for each task."""

    def __init__(self, config: EnvConfig, render_images: bool = True, loads_torch: bool = True) -> None:
        self._config, self._render_images, self._loads_torch = config, render_images, loads_torch

    def __enter__(self) -> RayWorkers:
        gl.select_backend()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray sends its makers what it runs
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, "1")
        variables = {name: os.environ[name] for name in THREAD_VARIABLES} | {"PYTHONPATH": str(ROOT)}
        address = os.environ.get("RAY_ADDRESS", "local")
        try:
            _knock(address)
            ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={address} "
                f"({' '.join(str(error).split())[:160]}); start one with: ray start --head"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ray.shutdown()  # cancels what runs, and ends the instance if this process started it

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        done: Callable[[int, Result | None], None] | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Result | None]:
        """Run the tasks, as many at once as the cluster has CPUs. Nodes may come and go meanwhile.

        A task whose process or node died ATTEMPTS times has no result.
        """
        place = _Place(str(Path.cwd()), self._config, self._render_images, self._loads_torch)
        remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_run_at)
        results: dict[int, Result | None] = {}
        running: dict[Any, int] = {}
        waiting = list(reversed(range(len(tasks))))
        request_resources(num_cpus=len(tasks))  # lets a cluster that can grow do so
        while True:
            while waiting and len(running) < _cluster_cpus() and not enough():
                number = waiting.pop()
                running[remote.remote(place, function, tasks[number])] = number
            if not running:
                request_resources(num_cpus=0)
                return [results[number] for number in sorted(results)]
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                number = running.pop(reference)
                results[number] = result = _result(reference)
                if done is not None:
                    done(number, result)


def _knock(address: str) -> None:
    """Connect once to a cluster's address, such as "host:6379": Ray itself goes on trying for many minutes.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _cluster_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _result(reference: Any) -> Any:
    """A task's result; None where its processes died.

    Raises:
        Exception: what the task raised.
    """
    try:
        return ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
        return None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise MachineError(f"Ray cannot go on: {' '.join(str(error).split())[:200]}") from None


def _run_at(place: _Place, function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task in a process of Ray, which keeps its simulator for the next one."""
    os.chdir(place.folder)
    workers.adopt_simulator(_simulator_of(place.config, place.render_images, place.loads_torch))
    return function(task)


@functools.lru_cache(maxsize=1)
def _simulator_of(config: EnvConfig, render_images: bool, loads_torch: bool) -> Simulator:
    gl.select_backend()
    try:
        return Simulator(config, render_images, loads_torch)
    except UserError:
        raise
    except Exception as error:  # robosuite raises various types
        raise MachineError(f"a simulator cannot start: {type(error).__name__}: {error}") from None
