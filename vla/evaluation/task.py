"""One episode of an evaluation as a task for a simulator worker."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.evaluation.episode import EvaluatedEpisode, run_episode
from vla.experts.controls import control
from vla.policies.actor import ControlConfig, PolicyActor
from vla.policies.checkpoint import load_checkpoint, load_policy
from vla.policies.inference_server import RemoteModel
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Actor
from vla.sim.workers import simulator


@dataclass(frozen=True)
class EvalTask:
    """One episode to run in a worker; paths and plain values only."""

    policy: str
    """One of `vla.experts.controls.CONTROLS`, or "checkpoint"."""
    checkpoint: Path
    embedding: np.ndarray
    """(512,) raw embedding of the instruction, computed once by the parent process."""
    seed: int
    instruction: str
    max_steps: int
    control: ControlConfig
    video: Path | None
    """MP4 file to write; None: no video."""
    blind: bool = False
    push: bool = False
    perturbation: Perturbation | None = None
    server: str | None = None
    """Address of the inference server that computes the policy (`vla.policies.inference_server`); None: the worker
    computes it on one CPU thread."""


def evaluate_in_worker(task: EvalTask) -> EvaluatedEpisode:
    """Run `task` with the worker's simulator and its copy of the policy."""
    sim = simulator()
    sim.perturbation = task.perturbation
    return run_episode(sim, task_actor(task), task.instruction, task.seed, task.max_steps, task.video, task.push)


def task_actor(task: EvalTask) -> Actor:
    """Return who acts in `task`: a control, or the checkpoint's policy, which a process loads once."""
    if task.policy != "checkpoint":
        return control(task.policy)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if task.server is None:
        model, checkpoint = load_policy(task.checkpoint, device)
    else:
        model, checkpoint = _remote_policy(task.server, task.checkpoint)
    known = {task.instruction: torch.from_numpy(task.embedding)}
    embeddings = InstructionEmbeddings(known, checkpoint["text_identity"], "")
    return PolicyActor(model, embeddings, device, task.control, task.blind)


@functools.cache
def _remote_policy(server: str, path: Path) -> tuple[RemoteModel, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    return RemoteModel(server, checkpoint["model_config"]), checkpoint
