"""Evaluate a checkpoint in closed loop (report sec. 5).

Reads a checkpoint. Writes `results.json`, Table 4 (`results.md`) and a video of each episode into the output
directory. Every started episode counts; the seeds are fixed beforehand and were used for nothing else.

    python 5_evaluate.py --checkpoint checkpoints/best_model.pth --num-episodes 10
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla import gl
from vla.checkpoint import (
    build_model,
    default_checkpoint,
    instruction_embeddings,
    load_checkpoint,
    provenance,
    warn_of_drift,
)
from vla.env import TEST_SEEDS, EnvConfig, installed_versions
from vla.errors import UserError, run_script
from vla.evaluation import EpisodeResult, EvalTask, evaluate_in_worker, instruction_table, report_table
from vla.files import sha256, write_text
from vla.instructions import INSTRUCTIONS
from vla.policy import ControlConfig
from vla.stats import success_interval
from vla.workers import simulator_pool

RESULTS_VERSION = 1


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint to evaluate; without one of your own, the shipped checkpoints/lift.pth."""
    num_episodes: int = 10
    """Episodes to run."""
    instruction: str = "Pick up the cube"
    """What the policy is told."""
    every_instruction: bool = False
    """Run the episodes once with each of the eight training instructions instead, and report each."""
    blind: bool = False
    """Show the policy black pictures, as a control: it should lift nothing."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    seed: int = TEST_SEEDS.start
    """Seed of the first episode; the next ones follow."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes, each with its copy of the policy."""
    output_dir: Path = Path("videos")
    """Folder of results.json, results.md and the videos."""
    execute_steps: int = 1
    """Actions executed of each predicted chunk (the report: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling: weights exp(-decay i), i-th oldest first; None: off."""
    videos: bool = True
    """Write videos/eval_trial_N.mp4."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""

    def __post_init__(self) -> None:
        for name in ("num_episodes", "max_steps", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not self.instruction.strip():
            raise UserError('--instruction is empty; say what to do, such as "Pick up the cube"')
        if self.seed not in TEST_SEEDS or self.seed + self.num_episodes - 1 not in TEST_SEEDS:
            raise UserError(
                f"--seed {self.seed}: test episodes have seeds {TEST_SEEDS.start}-{TEST_SEEDS.stop - 1}; "
                "smaller ones were free for training and for choosing the checkpoint"
            )
        self.control()

    def control(self) -> ControlConfig:
        """What is done with the predicted chunks."""
        return ControlConfig(self.execute_steps, self.ensemble_decay)

    def instructions(self) -> tuple[str, ...]:
        """What the policy is told, one run over the episodes for each."""
        return INSTRUCTIONS if self.every_instruction else (self.instruction,)


def main(options: EvaluateOptions) -> None:
    checkpoint = load_checkpoint(options.checkpoint)
    model = build_model(checkpoint, options.checkpoint)
    options.control().check(model.config.chunk_size)  # what is wrong is told here, in one line, not by a worker
    warn_of_drift(checkpoint, options.checkpoint)
    embeddings = instruction_embeddings(checkpoint, options.clip_weights)
    told = {instruction: embeddings[instruction].numpy() for instruction in options.instructions()}
    gl.select_backend()
    _remove_old_results(options.output_dir)
    print(f"policy: {options.checkpoint}, {provenance(checkpoint)}")
    results = _run(options, EnvConfig.from_env_args(checkpoint["env_args"]), told)
    table = report_table(results)
    if options.every_instruction:
        table += f"\n\n{instruction_table(results)}"
    spoken = "each instruction" if options.every_instruction else f'"{options.instruction}"'
    if options.blind:
        spoken += ", BLIND"
    last_seed = options.seed + options.num_episodes - 1
    summary = f"{spoken}, seeds {options.seed}-{last_seed}; weights: {provenance(checkpoint)}"
    write_text(
        options.output_dir / "results.json",
        json.dumps(_as_json(options, checkpoint, results), indent=1, allow_nan=False),
    )
    write_text(options.output_dir / "results.md", f"{table}\n\n{summary}\n")
    print(f"\n{table}\n{summary}\n")
    for number, result in enumerate(results, start=1):
        video = f"  {_video(options, number)}" if options.videos and result.steps else ""
        print(f"episode {number:3d}  seed {result.seed}  {result.steps:3d} steps  {result.verdict}{video}")
    print(f"\nresults: {options.output_dir / 'results.json'}")


def _video(options: EvaluateOptions, number: int) -> Path:
    return options.output_dir / f"eval_trial_{number}.mp4"


def _remove_old_results(folder: Path) -> None:
    """So that no table is left lying beside the videos of another policy."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / "results.json", folder / "results.md", *folder.glob("eval_trial_*.mp4")):
        old.unlink(missing_ok=True)


def _run(options: EvaluateOptions, env: EnvConfig, told: dict[str, np.ndarray]) -> list[EpisodeResult]:
    """The episodes in the order of their seeds, for each instruction, whatever the number of workers."""
    episodes = list(itertools.product(told, range(options.num_episodes)))
    tasks = [
        EvalTask(
            checkpoint=options.checkpoint,
            embedding=told[instruction],
            seed=options.seed + index,
            instruction=instruction,
            max_steps=options.max_steps,
            control=options.control(),
            video=_video(options, number) if options.videos else None,
            blind=options.blind,
        )
        for number, (instruction, index) in enumerate(episodes, start=1)
    ]
    workers = min(options.workers, len(tasks))
    with simulator_pool(workers, env) as pool, tqdm(total=len(tasks), unit="episode", desc="evaluate") as bar:
        futures = [pool.submit(evaluate_in_worker, task) for task in tasks]
        lifted = 0
        try:
            for future in as_completed(futures):
                lifted += future.result().success
                bar.update()
                bar.set_postfix_str(f"{lifted} lifted")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _as_json(options: EvaluateOptions, checkpoint: dict[str, Any], results: list[EpisodeResult]) -> dict[str, Any]:
    successes = sum(result.success for result in results)
    episodes = []
    for number, result in enumerate(results, start=1):
        episode = dataclasses.asdict(result)
        times = episode.pop("inference_ms")
        episode["inference_ms_median"] = float(np.median(times)) if times else None
        episode["video"] = str(_video(options, number)) if options.videos and result.steps else None
        episodes.append(episode)
    return {
        "results_version": RESULTS_VERSION,
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": sha256(options.checkpoint),
        "weights": provenance(checkpoint),
        "trained_epochs": checkpoint["training"]["epoch"],
        "versions": installed_versions(),
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(options).items()
        },
        "success_rate": successes / len(results),
        "success_interval_95": success_interval(successes, len(results)),
        "reported_success_rate": sum(result.reported_success for result in results) / len(results),
        "episodes": episodes,
    }


if __name__ == "__main__":
    run_script(main, EvaluateOptions, __doc__)
