"""What a simulator worker does with one task of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from vla.evaluation.episode import EvaluatedEpisode, run_episode, start_only
from vla.evaluation.switching import SwitchingActor
from vla.evaluation.task import EvalTask, check_not_rewritten
from vla.experts.controls import control
from vla.experts.idle import IdleActor
from vla.experts.scripted import ExpertConfig
from vla.files import FileVersion
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import load_checkpoint, load_policy
from vla.policies.inference_server import RemoteModel
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.rollout import Actor
from vla.sim.workers import simulator


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


@functools.cache
def _remote_policy(server: str, path: Path, version: FileVersion | None) -> tuple[RemoteModel, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    check_not_rewritten(path, version)
    return RemoteModel(server, checkpoint["model_config"]), checkpoint
