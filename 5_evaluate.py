"""Evaluate a policy in closed loop (report sec. 5).

Reads a checkpoint, or drives a control policy. Writes `results.json`, Table 4 (`results.md`), a page with every episode
(`report.html`), the episodes' states (`episodes.hdf5`) and a video of each into the output directory. Every started
episode counts; the seeds are fixed beforehand, and test seeds are no training's and no validation's.

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
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.errors import UserError, run_script
from vla.evaluation.episode import EvalTask, failure_table, instruction_table, push_line, report_table
from vla.evaluation.html_report import write_report
from vla.evaluation.paired import COMPARE_VERSION, check_same_episodes, compare
from vla.evaluation.perturbation_table import (
    UNPERTURBED,
    measured_cell,
    perturbation_table,
    read_cells,
    write_cells,
    write_perturbation_plot,
)
from vla.evaluation.recordings import rejudge_file, write_episodes
from vla.evaluation.results_json import results_json, run_versions
from vla.evaluation.runner import Episode, Evaluator, evaluator
from vla.evaluation.statistics import rate
from vla.files import default_checkpoint, sha256, write_text
from vla.judging.verdict import Thresholds
from vla.policies.actor import ControlConfig
from vla.policies.checkpoint import build_model, instruction_embeddings, load_checkpoint, provenance
from vla.policies.instructions import INSTRUCTIONS
from vla.policies.text_encoder import EMBEDDING_DIM
from vla.sim.config import TEST_SEEDS, VALIDATION_SEEDS, EnvConfig, warn_of_version_drift
from vla.sim.perturbations import Perturbation, parse_perturbations

SEEDS = {"validation": VALIDATION_SEEDS, "test": TEST_SEEDS}


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
    """An evaluation's episodes.hdf5 to be judged again by the second judge instead; no policy is run, the simulator
    repeats each episode."""
    num_episodes: int = 10
    """Episodes to run."""
    instruction: str = "Pick up the cube"
    """What the policy is told."""
    every_instruction: bool = False
    """Run that many episodes with each of the eight training instructions instead, each with seeds of its own, and
    report each."""
    blind: bool = False
    """Show the policy black pictures, as a control: it should lift nothing."""
    push_test: bool = False
    """After a success, push the held cube with ten times its weight, six ways, on a copy of the state."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    split: Literal["test", "validation"] = "test"
    """Which seeds: test, for what is reported; validation, for choosing between checkpoints, as training does."""
    seed: int | None = None
    """Seed of the first episode, the next ones follow; None: the split's first."""
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
        first, last = self.seeds()
        allowed = SEEDS[self.split]
        if first not in allowed or last not in allowed:
            raise UserError(
                f"--seed {first}: --split {self.split} has the seeds {allowed.start}-{allowed.stop - 1}, and these "
                f"episodes would have {first}-{last}; seeds that chose a checkpoint must not test it"
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

    def seeds(self) -> tuple[int, int]:
        """The first and the last."""
        first = SEEDS[self.split].start if self.seed is None else self.seed
        return first, first + self.num_episodes * len(self.instructions()) - 1

    def instructions(self) -> tuple[str, ...]:
        """What the policy is told; `num_episodes` episodes each."""
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
    warn_of_version_drift(checkpoint["env_args"], str(path))
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


def _evaluate(options: EvaluateOptions, subject: Subject) -> list[Episode]:
    """Run the episodes and write everything about them into the output directory."""
    with _evaluator(options, subject) as runner:
        _remove_old_results(options.output_dir)
        episodes = runner.run(_tasks(options, subject), "evaluate")
    results = [result for result, _ in episodes]
    seeds = "{}-{}".format(*options.seeds())
    facts = subject.facts | {"split": options.split} | runner.facts
    videos = [
        _video(options, number) if options.videos and result.steps else None
        for number, result in enumerate(results, start=1)
    ]
    push = push_line(results) if options.push_test else None
    tables = [report_table(results)]
    if options.every_instruction:
        tables.append(instruction_table(results))
    if not all(result.success for result in results):
        tables.append(failure_table(results))
    tables.extend([push] if push else [])
    tables.append(f"{options.spoken()}, {options.split} seeds {seeds}; weights: {facts['weights']}")
    told = dataclasses.asdict(options) | {"seed": options.seeds()[0]}
    content = results_json(facts, told, subject.env, results, videos)
    write_text(options.output_dir / "results.json", json.dumps(content, indent=1, allow_nan=False))
    write_text(options.output_dir / "results.md", "\n\n".join(tables) + "\n")
    write_episodes(options.output_dir / "episodes.hdf5", subject.env, episodes)
    write_report(
        options.output_dir / "report.html",
        f"{facts['policy']} on Lift: {sum(result.success for result in results)} of {len(results)} truly lifted",
        {name.replace("_", " "): str(value) for name, value in facts.items()}
        | {"told": options.spoken(), "seeds": seeds}
        | run_versions(),
        results,
        [recording.strip for _, recording in episodes],
        videos,
        push,
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
    subjects = [_subject(options, path) for path in paths]
    check_same_episodes(paths, [subject.env for subject in subjects])
    runs = []
    for side, subject in zip("ab", subjects, strict=True):
        folder = dataclasses.replace(options, output_dir=options.output_dir / side)
        runs.append([result for result, _ in _evaluate(folder, subject)])
    content, text = compare([str(path) for path in paths], *runs)
    told = {"compare_version": COMPARE_VERSION, "subjects": [subject.facts for subject in subjects]} | _asked(options)
    write_text(options.output_dir / "compare.json", json.dumps(told | content, indent=1))
    write_text(options.output_dir / "compare.md", text + "\n")
    print(f"\n{text}\n\nresults: {options.output_dir / 'compare.json'}, each with pictures in a/ and b/ beside it")


def _asked(options: EvaluateOptions) -> dict[str, Any]:
    """What decides about the episodes besides the policy; for the files of --compare and --perturb."""
    return {
        "versions": run_versions(),
        "told": options.spoken(),
        "split": options.split,
        "seeds": options.seeds(),
        "max_steps": options.max_steps,
        "control": dataclasses.asdict(options.control()),
        "thresholds": dataclasses.asdict(Thresholds()),
    }


def _perturb(options: EvaluateOptions, subject: Subject, perturbations: list[Perturbation]) -> None:
    path = options.output_dir / "perturb.json"
    asked = {"subject": subject.facts} | _asked(options)
    cells = read_cells(path, asked)
    try:
        with _evaluator(options, subject) as runner:
            for perturbation in (None, *perturbations):
                name = UNPERTURBED if perturbation is None else str(perturbation)
                if name in cells:
                    print(f"{name}: already measured")
                    continue
                tasks = _tasks(dataclasses.replace(options, videos=False), subject, perturbation)
                cells[name] = measured_cell(perturbation, [result for result, _ in runner.run(tasks, name)])
                write_cells(path, asked, cells)
                print(f"{name}: {rate(cells[name]['lifted'], cells[name]['episodes'])}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again; it continues with the missing cells") from None
    write_text(path.with_suffix(".md"), perturbation_table(cells) + "\n")
    write_perturbation_plot(path.with_suffix(".png"), cells)
    print(f"\n{perturbation_table(cells)}\n\nresults: {path}, {path.with_suffix('.png')}")


def _video(options: EvaluateOptions, number: int) -> Path:
    return options.output_dir / f"eval_trial_{number}.mp4"


def _remove_old_results(folder: Path) -> None:
    """So that no table is left lying beside the videos of another policy."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("results.json", "results.md", "report.html", "episodes.hdf5")
    for old in (*(folder / name for name in names), *folder.glob("eval_trial_*.mp4")):
        old.unlink(missing_ok=True)


def _evaluator(options: EvaluateOptions, subject: Subject) -> AbstractContextManager[Evaluator]:
    workers = min(options.workers, options.num_episodes * len(subject.told))
    checkpoint = subject.checkpoint if subject.policy == "checkpoint" else None
    return evaluator(workers, subject.env, checkpoint, options.inference)


def _tasks(options: EvaluateOptions, subject: Subject, perturbation: Perturbation | None = None) -> list[EvalTask]:
    """The episodes of each instruction, every one with a seed of its own: they are independent trials."""
    numbered = enumerate(itertools.product(subject.told, range(options.num_episodes)))
    return [
        EvalTask(
            policy=subject.policy,
            checkpoint=subject.checkpoint,
            embedding=subject.told[instruction],
            seed=options.seeds()[0] + number,
            instruction=instruction,
            max_steps=options.max_steps,
            control=options.control(),
            video=_video(options, number + 1) if options.videos else None,
            blind=options.blind,
            push=options.push_test,
            perturbation=perturbation,
        )
        for number, (instruction, _) in numbered
    ]


if __name__ == "__main__":
    run_script(main, EvaluateOptions, __doc__)
