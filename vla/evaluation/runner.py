"""Runs the episodes of an evaluation in simulator workers, with one copy of the network for all of them if asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vla.errors import MachineError, describe_error, is_machine_error
from vla.evaluation.episode import EvaluatedEpisode, died_episode
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.task import EvalTask, check_not_rewritten
from vla.evaluation.worker import evaluate_in_worker
from vla.policies.checkpoint import load_policy
from vla.policies.devices import choose_device, stop_on_machine_fault
from vla.policies.execution import Precision
from vla.policies.inference_server import BATCH, InferenceServer
from vla.sim.engines import simulator_workers
from vla.sim.workers import Workers

DIED = "the simulator process died each time"


class EpisodeRunner:
    """Simulator workers that run episodes; `episode_runner` makes one."""

    def __init__(self, workers: Workers, addresses: Mapping[Path, str], device: torch.device) -> None:
        self._workers = workers
        self._addresses = addresses
        self.facts: dict[str, Any] = {
            "gl_backend": os.environ.get("MUJOCO_GL", ""),
            "inference": f"shared, {_device_name(device)}" if addresses else "each worker, one CPU thread",
            "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", ""),
        }
        """What else decides the last digits of a result."""

    def run(
        self,
        tasks: Sequence[EvalTask],
        label: str,
        keep: Callable[[int, EvaluatedEpisode], None] | None = None,
        finished: Sequence[bool] = (),
        enough: Callable[[], bool] = lambda: False,
    ) -> list[EvaluatedEpisode]:
        """Run the tasks and return their episodes in the same order, whatever the number of workers.

        An episode whose worker died twice is INVALID.

        Args:
            tasks: the episodes to run.
            label: text before the progress bar.
            keep: called with the number of a task and its episode, as soon as that has ended.
            finished: whether each episode that an earlier run has finished was a success, for the progress bar.
            enough: once it is true, no further episode begins, and the episodes that began are returned.
        """
        successes = sum(finished)
        episodes: dict[int, EvaluatedEpisode] = {}
        total = len(finished) + len(tasks)
        with tqdm(total=total, initial=len(finished), unit="episode", desc=label) as bar:

            def done(number: int, episode: EvaluatedEpisode | None) -> None:
                nonlocal successes
                if episode is None:
                    task = tasks[number]
                    episode = died_episode(task.seed, task.instruction, DIED, task.target)
                episodes[number] = episode
                if keep is not None:
                    keep(number, episode)
                successes += episode.result.success
                bar.update()
                bar.set_postfix_str(f"{successes} succeeded")

            served = [dataclasses.replace(task, server=self._addresses.get(task.checkpoint)) for task in tasks]
            self._workers.run(evaluate_in_worker, served, done, enough)
        return [episodes[number] for number in sorted(episodes)]


@contextmanager
def episode_runner(plan: EvaluationPlan, *subjects: Subject) -> Iterator[EpisodeRunner]:
    """Start simulator workers, and an inference server for each checkpoint where the plan asks for it.

    Args:
        plan: how the episodes are run.
        subjects: whose episodes the runner can run; they belong to the same simulator.

    Raises:
        MachineError: a simulator cannot start, or the GPU has no room for the policy.
        UserError: a checkpoint was rewritten after its subject was made.
    """
    env, count = subjects[0].env, plan.worker_count()
    with simulator_workers(plan.engine, count, env) as simulators, ExitStack() as servers:
        device = choose_device()
        # A server answers the processes of its own machine.
        wanted = plan.inference == "auto" and device.type == "cuda" and plan.engine == "local"
        shared = plan.inference == "shared" or wanted
        addresses: dict[Path, str] = {}
        for subject in subjects:
            if shared and subject.policy == "checkpoint" and subject.checkpoint not in addresses:
                server = _inference_server(subject, device, plan.control.precision)
                addresses[subject.checkpoint] = servers.enter_context(server).address
        yield EpisodeRunner(simulators, addresses, device)


@contextmanager
def _inference_server(subject: Subject, device: torch.device, precision: Precision) -> Iterator[InferenceServer]:
    """One copy of a checkpoint's policy; closed before the workers end, as one may be waiting for an answer."""
    with stop_on_machine_fault("free it, or give --inference workers"):
        model, _ = load_policy(subject.checkpoint, device, precision)
    check_not_rewritten(subject.checkpoint, subject.checkpoint_version)
    # Batches have a fixed size. A CPU would compute their empty rows for nothing (LOG.md): there it is 1.
    server = InferenceServer(model, device, BATCH if device.type == "cuda" else 1)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def resumable() -> Iterator[None]:
    """Add to a fault of the machine that the same command continues.

    Raises:
        MachineError: the machine failed; an OSError such as a full disk is one.
        OSError: a mistake of the user, such as a folder where a file should be.
    """
    try:
        yield
    except (MachineError, OSError) as fault:
        if isinstance(fault, OSError) and not is_machine_error(fault):
            raise
        what = str(fault) if isinstance(fault, MachineError) else describe_error(fault)
        raise MachineError(f"{what}; what has finished is kept: run the same command again to continue") from fault


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
