"""What the comparisons with other projects' policies share: the episodes, the result and the table.

A peer learns from the demonstrations that the recipe `cpu` has, for as many minutes as it is given, and runs the first
test seeds of docs/results/shipped.json, the evaluation of the shipped policy that it is compared with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts import ROOT
from tqdm import tqdm

from vla.evaluation.episode import run_episode
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import rate
from vla.files import SHIPPED, sha256
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.sim.rollout import Actor


@dataclasses.dataclass(frozen=True)
class PeerOptions:
    """Options that all comparisons have."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    num_demos: int = 135
    """Training demonstrations to use, the first ones: as many as the recipe cpu learns from."""
    minutes: float = 20.0
    """Training time on two CPU cores; on one, give twice as many."""
    num_episodes: int = 50
    """Test episodes, the first ones of docs/results/shipped.json."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    seed: int = 0
    """Seed of the initial weights and the order."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What a peer's policy is, and how it was trained."""

    project: str
    """Name and version of the project."""
    algorithm: str
    demos: int
    data: Path
    """HDF5 file of the demonstrations."""
    minutes: float
    steps: int
    batch: int
    """Frames in a batch."""
    final_loss: float


def shipped_episodes() -> dict[str, Any]:
    """The result file of the shipped policy."""
    content: dict[str, Any] = json.loads((ROOT / "docs/results/shipped.json").read_text())
    return content


def judge_peer(actor: Actor, env_args: str, training: Training, num_episodes: int, max_steps: int) -> dict[str, Any]:
    """Run the peer on the shipped policy's first seeds; returns the content of its result file.

    Args:
        actor: the trained policy.
        env_args: the demonstrations' own, which build the simulator.
        training: what the file says of it.
        num_episodes: episodes to run.
        max_steps: control steps after which an episode has failed.
    """
    simulator = Simulator(EnvConfig.from_env_args(env_args))
    seeds = [episode["seed"] for episode in shipped_episodes()["episodes"]][:num_episodes]
    results = [
        run_episode(simulator, actor, "Pick up the cube", seed, max_steps).result
        for seed in tqdm(seeds, unit="episode", desc="evaluate")
    ]
    closest = [result.closest_m for result in results if result.closest_m is not None]
    return {
        "project": training.project,
        "algorithm": training.algorithm,
        "demos": training.demos,
        "data_sha256": sha256(training.data),
        "train_minutes": training.minutes,
        "cpu_threads": torch.get_num_threads(),
        "steps": training.steps,
        "batch": training.batch,
        "final_loss": training.final_loss,
        "max_steps": max_steps,
        "episodes": len(results),
        "lifted": sum(result.success for result in results),
        "grasped": sum(result.grasped for result in results),
        "closest_cm": 100 * float(np.mean(closest)) if closest else None,
        "seeds": seeds,
        "machine": machine_facts(),
        "versions": run_versions(),
        "thresholds": dataclasses.asdict(Thresholds()),
    }


def peers_table(peers: Sequence[dict[str, Any]], ours: dict[str, Any]) -> str:
    """The peers' policies and the shipped one on the same seeds, as Markdown."""
    (seeds,) = {tuple(peer["seeds"]) for peer in peers}
    same = [episode for episode in ours["episodes"] if episode["seed"] in seeds]
    training = load_checkpoint(ROOT / SHIPPED)["training"]
    minutes = sum(epoch["seconds"] for epoch in training["history"]) / 60
    batch = training["identity"]["recipe"]["batch_windows"]
    rows = [
        (
            f"{peer['project']}, {peer['algorithm']}",
            str(peer["demos"]),
            _trained(peer["train_minutes"], peer["cpu_threads"], peer["steps"], peer["batch"]),
            rate(peer["grasped"], peer["episodes"]),
            rate(peer["lifted"], peer["episodes"]),
        )
        for peer in peers
    ]
    rows.append(
        (
            "this project, shipped policy",
            str(len(training["identity"]["episodes"]["train"])),
            _trained(minutes, 2, training["step"], batch),
            rate(sum(episode["grasped"] for episode in same), len(same)),
            rate(sum(episode["success"] for episode in same), len(same)),
        )
    )
    return markdown_table(("policy", "demonstrations", "training", "grasped", "truly lifted"), rows)


def _trained(minutes: float, cores: int, steps: int, batch: int) -> str:
    return f"{minutes:.0f} min on {cores} CPU core{'s' if cores > 1 else ''} ({steps} steps of {batch} frames)"
