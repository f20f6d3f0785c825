"""What is evaluated: the episodes, how the policy is run in them, and who acts."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.evaluation.asked_episodes import STILL_STEPS, AskedEpisode
from vla.evaluation.identity import Question, as_json
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.evaluation.task import EvalTask, check_not_rewritten
from vla.files import FileVersion, file_version, sha256
from vla.judging.thresholds import Thresholds
from vla.policies.checkpoint import build_model, instruction_embeddings, load_checkpoint, provenance
from vla.policies.execution import ControlConfig
from vla.policies.text_encoder import EMBEDDING_DIM
from vla.shards import Item, Shard
from vla.sim.config import EnvConfig, Scene, warn_of_version_drift
from vla.sim.engines import Engine
from vla.sim.perturbations import Perturbation

InferenceMode = Literal["auto", "workers", "shared"]
"""Who computes the policy: each worker, one server for all workers, or (auto) the server where there is a GPU."""


@dataclass(frozen=True)
class Subject:
    """Who is evaluated: a checkpoint's policy or a control."""

    policy: str
    """One of `vla.experts.controls.CONTROLS`, or "checkpoint"."""
    checkpoint: Path
    """Ignored for a control."""
    env: EnvConfig
    """The simulator that the policy belongs to."""
    embeddings: dict[str, np.ndarray]
    """(dim,) float32 raw embedding of each instruction."""
    facts: dict[str, Any]
    """What result files say of it."""
    checkpoint_version: FileVersion | None = None
    """The checkpoint's file, as `facts` describe it; None for a control."""


def checkpoint_subject(path: Path, instructions: tuple[str, ...], control: ControlConfig, clip_weights: str) -> Subject:
    """Load and check a checkpoint, so that no worker has to report what is wrong with it.

    Raises:
        UserError: the checkpoint is missing or broken, `control` does not fit its chunks, or an instruction cannot be
            encoded with `clip_weights`; or the checkpoint was rewritten meanwhile.
    """
    version = file_version(path)
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint, path)
    control.check(model.config.chunk_size)
    warn_of_version_drift(checkpoint["env_args"], str(path))
    embeddings = instruction_embeddings(checkpoint, clip_weights)
    print(f"policy: {path}, {provenance(checkpoint)}")
    subject = Subject(
        policy="checkpoint",
        checkpoint=path,
        env=EnvConfig.from_env_args(checkpoint["env_args"]),
        embeddings={instruction: embeddings[instruction].numpy() for instruction in instructions},
        facts={
            "policy": str(path),
            "checkpoint_sha256": sha256(path),
            "weights": provenance(checkpoint),
            "trained_epochs": checkpoint["training"]["epoch"],
        },
        checkpoint_version=version,
    )
    check_not_rewritten(path, version)
    return subject


def control_subject(name: str, instructions: tuple[str, ...]) -> Subject:
    """One of `vla.experts.controls.CONTROLS`, in the standard simulator."""
    embeddings = {instruction: np.zeros(EMBEDDING_DIM, dtype=np.float32) for instruction in instructions}
    return Subject(name, Path(), EnvConfig(), embeddings, {"policy": name, "weights": "none"})


@dataclass(frozen=True)
class EvaluationPlan:
    """Which episodes are run, and how."""

    episodes: tuple[AskedEpisode, ...]
    split: str
    """Whose seeds these are: "test" or "validation"."""
    max_steps: int
    """Control steps of an episode; where nothing is to be moved, at most STILL_STEPS."""
    control: ControlConfig
    blind: bool
    """The policy is shown black images."""
    push_test: bool
    videos: bool
    workers: int
    inference: InferenceMode
    options: dict[str, Any]
    """The command's options, for results.json."""
    scene: Scene = field(default_factory=Scene)
    """What may lie on the table in all episodes that have no scene of their own."""
    recorded: bool = True
    """Whether states, actions and frames of the episodes are kept."""
    engine: Engine = "local"
    """Where the simulator workers run."""
    shard: Shard | None = None
    """The part of the episodes that is run, without results at the end; None: all of them, with results."""

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def instructions(self) -> tuple[str, ...]:
        """The different instructions, in the order in which they are first said."""
        return tuple(dict.fromkeys(text for episode in self.episodes for text in episode.instructions))

    def seeds(self) -> tuple[int, int]:
        """The first and the last seed."""
        seeds = [episode.seed for episode in self.episodes]
        return min(seeds), max(seeds)

    def skipped_seeds(self) -> list[int]:
        """Seeds between these that have no episode, because the instruction does not fit their scenes."""
        first, last = self.seeds()
        return sorted(set(range(first, last + 1)) - {episode.seed for episode in self.episodes})

    def describe(self) -> str:
        """The instruction as people read it, and whether the policy was blind."""
        if len(self.instructions) == 1:
            instruction = f'"{self.instructions[0]}"'
        else:
            instruction = "each instruction" if self.scene.kind == "lift" else "an instruction of its own for each seed"
        return instruction + (", BLIND" if self.blind else "")

    def worker_count(self) -> int:
        """Simulator processes to start: no more than there are episodes."""
        return max(1, min(self.workers, len(self.asked(self.episodes))))

    def asked(self, items: Sequence[Item]) -> list[Item]:
        """Of something for each episode, in their order, what this run has to do: the shard's part, or all of it."""
        return list(items) if self.shard is None else self.shard.part(items)

    def tasks(
        self, subject: Subject, video_folder: Path | None, perturbation: Perturbation | None = None
    ) -> list[EvalTask]:
        """The episodes as tasks for the workers, in their order."""
        return [
            EvalTask(
                policy=subject.policy,
                checkpoint=subject.checkpoint,
                embedding=subject.embeddings[episode.instruction],
                seed=episode.seed,
                instruction=episode.instruction,
                max_steps=self.max_steps if episode.target is not None else min(self.max_steps, STILL_STEPS),
                control=self.control,
                video=None if video_folder is None else video_folder / video_name(index + 1),
                blind=self.blind,
                push=self.push_test,
                perturbation=perturbation,
                target=episode.target,
                scene=episode.scene or self.scene,
                switch=episode.switch,
                switch_embedding=None if episode.switch is None else subject.embeddings[episode.switch.instruction],
                recorded=self.recorded,
                checkpoint_version=subject.checkpoint_version,
            )
            for index, episode in enumerate(self.episodes)
        ]

    def conditions(self) -> Question:
        """What decides the episodes besides the policy; in the files of --compare and --perturb."""
        several = self.scene.kind == "cubes"  # the scene "lift" is described as it was before there were others
        return {
            "versions": run_versions(),
            "machine": machine_facts(),
            "instruction": self.describe(),
            "split": self.split,
            "seeds": self.seeds(),
            "max_steps": self.max_steps,
            "control": dataclasses.asdict(self.control),
            "thresholds": dataclasses.asdict(Thresholds()),
            **({"scene": self.scene.to_json_types(), "skipped_seeds": self.skipped_seeds()} if several else {}),
        }

    def question(self, subject: Subject, run_facts: dict[str, Any]) -> Question:
        """Everything that decides the episodes and what is recorded of them: runs that agree in it can be joined.

        The number of workers is not part of it, nor the place of the checkpoint.
        """
        embeddings = b"".join(subject.embeddings[instruction].tobytes() for instruction in self.instructions)
        return as_json(
            {
                "policy": subject.facts.get("checkpoint_sha256", subject.policy),
                **self.conditions(),
                **run_facts,
                "instructions": self.instructions,
                "embeddings_sha256": hashlib.sha256(embeddings).hexdigest(),
                "env_args": subject.env.to_env_args(),
                "push_test": self.push_test,
                "videos": self.videos,
                "results_version": RESULTS_VERSION,
            }
        )


def video_name(number: int) -> str:
    """File name of the video of episode `number`, counted from 1."""
    return f"eval_trial_{number}.mp4"


def is_video(path: Path) -> bool:
    """Whether a file has a name that `video_name` returns."""
    return re.fullmatch(r"eval_trial_\d+\.mp4", path.name) is not None
