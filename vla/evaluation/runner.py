"""Runs the episodes of an evaluation in simulator workers, with one copy of the network for all of them where asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from vla.evaluation.episode import EpisodeResult, EvalTask, Recording, evaluate_in_worker
from vla.policies.checkpoint import load_policy
from vla.policies.devices import choose_device
from vla.policies.inference_server import BATCH, InferenceServer
from vla.sim.config import EnvConfig
from vla.sim.workers import SimulatorWorkers

Episode = tuple[EpisodeResult, Recording]
DIED = "the simulator process died, twice"


class Evaluator:
    """Made by `evaluator`."""

    def __init__(self, workers: SimulatorWorkers, server: InferenceServer | None, device: torch.device) -> None:
        self._workers = workers
        self.server = None if server is None else server.address
        """Address of the inference server; None: the workers compute for themselves."""
        self.facts = {
            "gl_backend": os.environ.get("MUJOCO_GL", ""),
            "inference": "each worker, one CPU thread" if server is None else f"shared, {_name(device)}",
        }
        """What else decides about the last digits of a result."""

    def run(self, tasks: Sequence[EvalTask], label: str) -> list[Episode]:
        """The episodes in the order of the tasks, whatever the number of workers; a dead worker's are INVALID."""
        lifted = 0
        with tqdm(total=len(tasks), unit="episode", desc=label) as bar:

            def count(episode: Episode) -> None:
                nonlocal lifted
                lifted += episode[0].success
                bar.update()
                bar.set_postfix_str(f"{lifted} lifted")

            tasks = [dataclasses.replace(task, server=self.server) for task in tasks]
            episodes = self._workers.run(evaluate_in_worker, tasks, count)
        return [self._dead(task) if episode is None else episode for task, episode in zip(tasks, episodes, strict=True)]

    def _dead(self, task: EvalTask) -> Episode:
        """An episode whose worker died has begun, and so it counts; known of it is only how it began."""
        begun = dataclasses.replace(task, policy="zero", max_steps=0, video=None, server=None)
        (episode,) = self._workers.run(evaluate_in_worker, [begun])
        if episode is None:
            raise BrokenProcessPool("a simulator cannot even begin this episode")
        result, recording = episode
        dead = dataclasses.replace(
            result, failed="valid", failed_step=0, verdict=f"INVALID: {DIED}", invalid_reason=DIED
        )
        return dead, recording


@contextmanager
def evaluator(
    workers: int, env: EnvConfig, checkpoint: Path | None, inference: Literal["auto", "workers", "shared"]
) -> Iterator[Evaluator]:
    """Simulator workers, and the server that computes for them where `inference` asks for it.

    `checkpoint` is the policy's; None where a control acts, which computes nothing.
    """
    with SimulatorWorkers(workers, env) as simulators:
        device = choose_device()
        shared = inference == "shared" or (inference == "auto" and device.type == "cuda")
        server = None
        if shared and checkpoint is not None:
            # Batches have a fixed size; a CPU would pay for the rows that nobody asked for (LOG.md): there it is one.
            model, _ = load_policy(checkpoint, device)
            server = InferenceServer(model, device, BATCH if device.type == "cuda" else 1)
        try:
            yield Evaluator(simulators, server, device)
        finally:
            if server is not None:
                server.close()  # before the workers are waited for: one may be waiting for an answer


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
