"""What is evaluated: the episodes, how the policy is run in them, and who acts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.evaluation.identity import Question, as_json
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.evaluation.task import EvalTask, check_not_rewritten
from vla.files import FileVersion, file_version, sha256
from vla.judging.thresholds import Thresholds
from vla.policies.actor import ControlConfig
from vla.policies.checkpoint import build_model, instruction_embeddings, load_checkpoint, provenance
from vla.policies.text_encoder import EMBEDDING_DIM
from vla.sim.config import EnvConfig, warn_of_version_drift
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
    """(512,) float32 raw embedding of each instruction."""
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

    instructions: tuple[str, ...]
    num_episodes: int
    """Episodes with each instruction."""
    split: str
    """Whose seeds these are: "test" or "validation"."""
    first_seed: int
    """Seed of the first episode; each further episode has the next one."""
    max_steps: int
    control: ControlConfig
    blind: bool
    """The policy is shown black images."""
    push_test: bool
    videos: bool
    workers: int
    inference: InferenceMode
    options: dict[str, Any]
    """The command's options, for results.json."""

    def seeds(self) -> tuple[int, int]:
        """The first and the last seed."""
        return self.first_seed, self.first_seed + self.num_episodes * len(self.instructions) - 1

    def describe(self) -> str:
        """The instruction as people read it, and whether the policy was blind."""
        instruction = f'"{self.instructions[0]}"' if len(self.instructions) == 1 else "each instruction"
        return instruction + (", BLIND" if self.blind else "")

    def worker_count(self) -> int:
        """Simulator processes to start: no more than there are episodes."""
        return min(self.workers, self.num_episodes * len(self.instructions))

    def tasks(
        self, subject: Subject, video_folder: Path | None, perturbation: Perturbation | None = None
    ) -> list[EvalTask]:
        """The episodes of each instruction. Each has a seed of its own, so that all are independent trials."""
        instructions = itertools.chain.from_iterable([name] * self.num_episodes for name in self.instructions)
        return [
            EvalTask(
                policy=subject.policy,
                checkpoint=subject.checkpoint,
                embedding=subject.embeddings[instruction],
                seed=self.first_seed + index,
                instruction=instruction,
                max_steps=self.max_steps,
                control=self.control,
                video=None if video_folder is None else video_folder / video_name(index + 1),
                blind=self.blind,
                push=self.push_test,
                perturbation=perturbation,
                checkpoint_version=subject.checkpoint_version,
            )
            for index, instruction in enumerate(instructions)
        ]

    def conditions(self) -> Question:
        """What decides the episodes besides the policy; in the files of --compare and --perturb."""
        return {
            "versions": run_versions(),
            "machine": machine_facts(),
            "instruction": self.describe(),
            "split": self.split,
            "seeds": self.seeds(),
            "max_steps": self.max_steps,
            "control": dataclasses.asdict(self.control),
            "thresholds": dataclasses.asdict(Thresholds()),
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
