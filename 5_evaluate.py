"""Evaluate a policy in closed loop (report sec. 5).

Reads a checkpoint, or drives a control policy. Writes `results.json`, Table 4 (`results.md`), a page with every episode
(`report.html`), the episodes' states (`episodes.hdf5`) and a video of each into the output directory. Every started
episode counts; the seeds are fixed beforehand and were used for nothing else.

    python 5_evaluate.py --checkpoint checkpoints/best_model.pth --num-episodes 10
    python 5_evaluate.py --policy random --num-episodes 50
    python 5_evaluate.py --compare checkpoints/best_model.pth checkpoints/lift.pth --num-episodes 100
    python 5_evaluate.py --perturb all --num-episodes 30
    python 5_evaluate.py --rejudge videos/episodes.hdf5
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from vla import gl
from vla.checkpoint import (
    build_model,
    instruction_embeddings,
    load_checkpoint,
    load_policy,
    provenance,
    warn_of_drift,
)
from vla.compare import compare
from vla.env import TEST_SEEDS, EnvConfig, installed_versions
from vla.episodes import rejudge_file, write_episodes
from vla.errors import UserError, run_script
from vla.evaluation import (
    EpisodeResult,
    EvalTask,
    Recording,
    evaluate_in_worker,
    failure_table,
    instruction_table,
    report_table,
)
from vla.files import default_checkpoint, sha256, write_text
from vla.inference import BATCH, InferenceServer
from vla.instructions import INSTRUCTIONS
from vla.perturb import Perturbation, parse_perturbations
from vla.policy import ControlConfig
from vla.report import perturbation_table, write_perturbation_plot, write_report
from vla.stats import rate, success_interval
from vla.text import EMBEDDING_DIM
from vla.workers import simulator_pool

RESULTS_VERSION = 2


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint to evaluate; without one of your own, the shipped checkpoints/lift.pth."""
    policy: Literal["checkpoint", "zero", "random", "always-close", "nan", "expert"] = "checkpoint"
    """Who acts: the checkpoint, or a control: no motion, uniform noise, a closing gripper, actions that are not
    numbers, or the scripted expert, which sees the simulator's state."""
    compare: tuple[Path, Path] | None = None
    """Two checkpoints to evaluate on the same seeds instead, with an exact McNemar test."""
    perturb: str | None = None
    """Perturbations to evaluate under instead: AXIS, AXIS:LEVEL (1-3) or all; the same seeds without one beside them.
    Stopped half-way, the same command continues."""
    rejudge: Path | None = None
    """An evaluation's episodes.hdf5 to be judged again by the second judge instead; nothing is run."""
    num_episodes: int = 10
    """Episodes to run."""
    instruction: str = "Pick up the cube"
    """What the policy is told."""
    every_instruction: bool = False
    """Run the episodes once with each of the eight training instructions instead, and report each."""
    blind: bool = False
    """Show the policy black pictures, as a control: it should lift nothing."""
    push_test: bool = False
    """After a success, push the held cube with ten times its weight, six ways, on a copy of the state."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    seed: int = TEST_SEEDS.start
    """Seed of the first episode; the next ones follow."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes."""
    inference: Literal["auto", "workers", "shared"] = "auto"
    """Who computes: each worker on one CPU thread, or one copy of the policy that answers all workers in batches;
    auto: shared on a GPU."""
    output_dir: Path = Path("videos")
    """Folder of what is written."""
    execute_steps: int = 1
    """Actions executed of each predicted chunk (the report: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling: weights exp(-decay i), i-th oldest first; None: off."""
    videos: bool = True
    """Write eval_trial_N.mp4."""
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
        if self.policy != "checkpoint" and (self.blind or self.compare is not None):
            raise UserError(
                f"--policy {self.policy} looks at no picture and is no checkpoint; leave --blind/--compare out"
            )
        modes = [f"--{name}" for name in ("compare", "perturb", "rejudge") if getattr(self, name) is not None]
        if len(modes) > 1:
            raise UserError(f"{' and '.join(modes)} were given together; give one of them at a time")
        if self.perturb is not None:
            parse_perturbations(self.perturb)
        self.control()

    def control(self) -> ControlConfig:
        """What is done with the predicted chunks."""
        return ControlConfig(self.execute_steps, self.ensemble_decay)

    def instructions(self) -> tuple[str, ...]:
        """What the policy is told, one run over the episodes for each."""
        return INSTRUCTIONS if self.every_instruction else (self.instruction,)

    def spoken(self) -> str:
        """The same for a person, with who acts and how."""
        told = "each instruction" if self.every_instruction else f'"{self.instruction}"'
        return told + (", BLIND" if self.blind else "")


@dataclass(frozen=True)
class Subject:
    """Who is evaluated, checked before anything runs."""

    policy: str
    checkpoint: Path
    env: EnvConfig
    told: dict[str, np.ndarray]
    """The embedding of each instruction."""
    facts: dict[str, Any]
    """For results.json."""


def main(options: EvaluateOptions) -> None:
    if options.rejudge is not None:
        _rejudge(options.rejudge)
        return
    if options.compare is not None:
        _compare(options, *options.compare)
        return
    subject = _subject(options, options.checkpoint)
    if options.perturb is not None:
        _perturb(options, subject, parse_perturbations(options.perturb))
        return
    episodes = _evaluate(options, subject)
    results = [result for result, _ in episodes]
    print(f"\n{(options.output_dir / 'results.md').read_text()}")
    for number, result in enumerate(results, start=1):
        video = f"  {_video(options, number)}" if options.videos and result.steps else ""
        print(f"episode {number:3d}  seed {result.seed}  {result.steps:3d} steps  {result.verdict}{video}")
    print(f"\nresults: {options.output_dir / 'results.json'}, with pictures: {options.output_dir / 'report.html'}")


def _subject(options: EvaluateOptions, path: Path) -> Subject:
    """The policy and the simulator that it belongs to; what is wrong with it is told here, not by a worker."""
    if options.policy != "checkpoint":
        told = {instruction: np.zeros(EMBEDDING_DIM, dtype=np.float32) for instruction in options.instructions()}
        return Subject(options.policy, path, EnvConfig(), told, {"policy": options.policy, "weights": "none"})
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint, path)
    options.control().check(model.config.chunk_size)
    warn_of_drift(checkpoint, path)
    embeddings = instruction_embeddings(checkpoint, options.clip_weights)
    print(f"policy: {path}, {provenance(checkpoint)}")
    return Subject(
        policy="checkpoint",
        checkpoint=path,
        env=EnvConfig.from_env_args(checkpoint["env_args"]),
        told={instruction: embeddings[instruction].numpy() for instruction in options.instructions()},
        facts={
            "policy": str(path),
            "checkpoint_sha256": sha256(path),
            "weights": provenance(checkpoint),
            "trained_epochs": checkpoint["training"]["epoch"],
        },
    )


def _evaluate(options: EvaluateOptions, subject: Subject) -> list[tuple[EpisodeResult, Recording]]:
    """Run the episodes and write everything about them into the output directory."""
    with _workers(options, subject) as workers:
        _remove_old_results(options.output_dir)
        episodes = _run(options, subject, workers)
    results = [result for result, _ in episodes]
    tables = [report_table(results)]
    if options.every_instruction:
        tables.append(instruction_table(results))
    if not all(result.success for result in results):
        tables.append(failure_table(results))
    last_seed = options.seed + options.num_episodes - 1
    facts = subject.facts
    summary = f"{options.spoken()}, seeds {options.seed}-{last_seed}; weights: {facts['weights']}"
    content = _as_json(options, subject, results)
    write_text(options.output_dir / "results.json", json.dumps(content, indent=1, allow_nan=False))
    write_text(options.output_dir / "results.md", "\n\n".join([*tables, summary]) + "\n")
    write_episodes(options.output_dir / "episodes.hdf5", subject.env, episodes)
    write_report(
        options.output_dir / "report.html",
        f"{facts['policy']} on Lift: {sum(result.success for result in results)} of {len(results)} truly lifted",
        {name.replace("_", " "): str(value) for name, value in facts.items()}
        | {"told": options.spoken(), "seeds": f"{options.seed}-{last_seed}"}
        | installed_versions(),
        results,
        [recording.strip for _, recording in episodes],
        [
            _video(options, number) if options.videos and result.steps else None
            for number, result in enumerate(results, start=1)
        ],
    )
    return episodes


def _rejudge(path: Path) -> None:
    rejudged = rejudge_file(path)
    agreed = sum(episode.verdict == episode.second_opinion for episode in rejudged)
    for episode in rejudged:
        if episode.verdict != episode.second_opinion or not episode.follows:
            second = "a success" if episode.second_opinion else "no success"
            doubt = f" ({episode.doubt})" if episode.doubt else ""
            who = f"{episode.name}, seed {episode.seed}"
            print(f"{who}: the second judge says {second}{doubt}; the verdict: {episode.words}")
    lifted = sum(episode.verdict for episode in rejudged)
    print(f"{path}: the judges agree on {agreed} of {len(rejudged)} episodes ({lifted} successes by the verdict)")


def _compare(options: EvaluateOptions, *paths: Path) -> None:
    runs = []
    subjects = [_subject(options, path) for path in paths]
    for side, subject in zip("ab", subjects, strict=True):
        folder = dataclasses.replace(options, output_dir=options.output_dir / side)
        runs.append([result for result, _ in _evaluate(folder, subject)])
    content, text = compare([str(path) for path in paths], *runs)
    write_text(options.output_dir / "compare.json", json.dumps(content, indent=1))
    write_text(options.output_dir / "compare.md", text + "\n")
    print(f"\n{text}\n\nresults: {options.output_dir / 'compare.json'}, each with pictures in a/ and b/ beside it")


def _perturb(options: EvaluateOptions, subject: Subject, perturbations: list[Perturbation]) -> None:
    path = options.output_dir / "perturb.json"
    asked = {
        "subject": subject.facts,
        "versions": installed_versions(),
        "told": options.spoken(),
        "seeds": [options.seed, options.seed + options.num_episodes - 1],
        "max_steps": options.max_steps,
        "control": dataclasses.asdict(options.control()),
    }
    cells = _measured_cells(path, asked)
    with _workers(options, subject) as workers:
        for perturbation in (None, *perturbations):
            name = "none" if perturbation is None else str(perturbation)
            if name in cells:
                print(f"{name}: already measured")
                continue
            episodes = _run(dataclasses.replace(options, videos=False), subject, workers, perturbation)
            results = [result for result, _ in episodes]
            failed = Counter(str(result.failed) for result in results if not result.success)
            lifted = sum(result.success for result in results)
            cells[name] = {"lifted": lifted, "episodes": len(results), "failed": dict(failed.most_common())}
            write_text(path, json.dumps({**asked, "cells": cells}, indent=1))
            print(f"{name}: {rate(lifted, len(results))}")
    write_text(path.with_suffix(".md"), perturbation_table(cells) + "\n")
    write_perturbation_plot(path.with_suffix(".png"), cells)
    print(f"\n{perturbation_table(cells)}\n\nresults: {path}, {path.with_suffix('.png')}")


def _measured_cells(path: Path, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a stopped run of the same question has measured already."""
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text())
        cells: dict[str, dict[str, Any]] = stored.pop("cells")
    except (ValueError, AttributeError, KeyError):
        raise UserError(f"{path} is damaged, or is no result of --perturb; move it away, then start again") from None
    if stored != asked:
        raise UserError(f"{path} is of another run; give another --output-dir, or move the file away")
    return cells


def _video(options: EvaluateOptions, number: int) -> Path:
    return options.output_dir / f"eval_trial_{number}.mp4"


def _remove_old_results(folder: Path) -> None:
    """So that no table is left lying beside the videos of another policy."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("results.json", "results.md", "report.html", "episodes.hdf5")
    for old in (*(folder / name for name in names), *folder.glob("eval_trial_*.mp4")):
        old.unlink(missing_ok=True)


@dataclass(frozen=True)
class Workers:
    """Who runs the episodes."""

    pool: ProcessPoolExecutor
    server: str | None
    """Address of the inference server; None: the workers compute for themselves."""


@contextmanager
def _workers(options: EvaluateOptions, subject: Subject) -> Iterator[Workers]:
    """Simulator workers; what they have not begun is forgotten when something fails."""
    gl.select_backend()
    episodes = options.num_episodes * len(subject.told)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shared = options.inference == "shared" or (options.inference == "auto" and device.type == "cuda")
    server = None
    if shared and subject.policy == "checkpoint":
        # Batches have a fixed size; a CPU would pay for the rows that nobody asked for (LOG.md), so there it is one.
        model, _ = load_policy(subject.checkpoint, device)
        server = InferenceServer(model, device, BATCH if device.type == "cuda" else 1)
    with simulator_pool(min(options.workers, episodes), subject.env) as pool:
        try:
            yield Workers(pool, None if server is None else server.address)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if server is not None:
                server.close()


def _run(
    options: EvaluateOptions, subject: Subject, workers: Workers, perturbation: Perturbation | None = None
) -> list[tuple[EpisodeResult, Recording]]:
    """The episodes in the order of their seeds, for each instruction, whatever the number of workers."""
    numbered = enumerate(itertools.product(subject.told, range(options.num_episodes)), start=1)
    tasks = [
        EvalTask(
            policy=subject.policy,
            checkpoint=subject.checkpoint,
            embedding=subject.told[instruction],
            seed=options.seed + index,
            instruction=instruction,
            max_steps=options.max_steps,
            control=options.control(),
            video=_video(options, number) if options.videos else None,
            blind=options.blind,
            push=options.push_test,
            perturbation=perturbation,
            server=workers.server,
        )
        for number, (instruction, index) in numbered
    ]
    futures = [workers.pool.submit(evaluate_in_worker, task) for task in tasks]
    label = "evaluate" if perturbation is None else str(perturbation)
    lifted = 0
    with tqdm(total=len(tasks), unit="episode", desc=label) as bar:
        for future in as_completed(futures):
            lifted += future.result()[0].success
            bar.update()
            bar.set_postfix_str(f"{lifted} lifted")
    return [future.result() for future in futures]


def _as_json(options: EvaluateOptions, subject: Subject, results: list[EpisodeResult]) -> dict[str, Any]:
    """Everything but wall-clock times is the same for the same command on the same machine; those are in `timing`."""
    successes = sum(result.success for result in results)
    times = [result.inference_ms for result in results]
    episodes = []
    for number, result in enumerate(results, start=1):
        episode = dataclasses.asdict(result)
        del episode["inference_ms"]
        episode["video"] = str(_video(options, number)) if options.videos and result.steps else None
        episodes.append(episode)
    return {
        "results_version": RESULTS_VERSION,
        **subject.facts,
        "versions": installed_versions(),
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(options).items()
        },
        "success_rate": successes / len(results),
        "success_interval_95": success_interval(successes, len(results)),
        "reported_success_rate": sum(result.reported_success for result in results) / len(results),
        "timing": {"inference_ms_median": [float(np.median(episode)) if episode else None for episode in times]},
        "episodes": episodes,
    }


if __name__ == "__main__":
    run_script(main, EvaluateOptions, __doc__)
