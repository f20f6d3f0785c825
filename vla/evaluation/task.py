"""One episode of an evaluation as a task for a simulator worker."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.errors import UserError
from vla.evaluation.asked_episodes import Switch
from vla.evaluation.episode import EvaluatedEpisode, run_episode, start_only
from vla.evaluation.switching import SwitchingActor
from vla.experts.controls import control
from vla.experts.idle import IdleActor
from vla.experts.scripted import ExpertConfig
from vla.files import FileVersion, file_version
from vla.policies.actor import ControlConfig, PolicyActor
from vla.policies.checkpoint import load_checkpoint, load_policy
from vla.policies.inference_server import RemoteModel
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import Scene
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
    """(dim,) raw embedding of the instruction, computed once by the parent process."""
    seed: int
    instruction: str
    max_steps: int
    control: ControlConfig
    video: Path | None
    """MP4 file to write; None: no video."""
    blind: bool = False
    push: bool = False
    perturbation: Perturbation | None = None
    target: int | None = 0
    """Number of the cube that the instruction names (`vla.sim.table.TableLayout`); None: no cube is to be moved."""
    server: str | None = None
    """Address of the inference server that computes the policy (`vla.policies.inference_server`); None: the worker
    computes it on one CPU thread."""
    checkpoint_version: FileVersion | None = None
    """The file that must be loaded (`vla.files.file_version`); None: whatever file lies there now."""
    scene: Scene | None = None
    """What may lie on the table; None: what the simulator was made with."""
    switch: Switch | None = None
    """Another instruction on the way; `target` is then the cube that this one names."""
    switch_embedding: np.ndarray | None = None
    """(dim,) raw embedding of the instruction of `switch`."""
    recorded: bool = True
    """False: of the recording, only the first state is kept, when the episode has been judged."""


def evaluate_in_worker(task: EvalTask) -> EvaluatedEpisode:
    """Run `task` with the worker's simulator and its copy of the policy."""
    sim = simulator()
    sim.perturbation, sim.target = task.perturbation, task.target
    if task.scene is not None:
        sim.change_scene(task.scene)
    actor = task_actor(task)
    if task.switch is not None:
        actor = SwitchingActor(sim, actor, task.switch, task.switch_embedding)
    episode = run_episode(sim, actor, task.instruction, task.seed, task.max_steps, task.video, task.push)
    if isinstance(actor, SwitchingActor):
        episode = dataclasses.replace(episode, switched_step=actor.switched_step)
    return episode if task.recorded else start_only(episode)


def task_actor(task: EvalTask) -> Actor:
    """Return who acts in `task`: a control, or the checkpoint's policy, which a process loads once.

    Raises:
        UserError: the checkpoint cannot be loaded, or is another file than the task asks for.
    """
    if task.policy == "expert" and task.target is None:
        return IdleActor(ExpertConfig(noise_std=0.0))
    if task.policy != "checkpoint":
        return control(task.policy)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if task.server is None:
        model, checkpoint = load_policy(task.checkpoint, device, task.control.precision)
        check_not_rewritten(task.checkpoint, task.checkpoint_version)
    else:
        model, checkpoint = _remote_policy(task.server, task.checkpoint, task.checkpoint_version)
    known = {task.instruction: torch.from_numpy(task.embedding)}
    embeddings = InstructionEmbeddings(known, checkpoint["text_identity"], "")
    return PolicyActor(model, embeddings, device, task.control, task.blind)


def check_not_rewritten(checkpoint: Path, version: FileVersion | None) -> None:
    """Check, after a checkpoint was read, that it is still the file of this version; None: any file will do.

    Raises:
        UserError: it was rewritten, and what was read may be another policy.
    """
    if version is not None and file_version(checkpoint) != version:
        raise UserError(f"{checkpoint} was rewritten while it was being evaluated; copy it and evaluate the copy")


@functools.cache
def _remote_policy(server: str, path: Path, version: FileVersion | None) -> tuple[RemoteModel, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    check_not_rewritten(path, version)
    return RemoteModel(server, checkpoint["model_config"]), checkpoint
