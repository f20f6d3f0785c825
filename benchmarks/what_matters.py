"""What matters: the `cpu` recipe with one thing changed at a time, each arm trained equally long, on the same episodes.

The training is short on purpose: a reference that lifts everything could not be improved. The episodes have validation
seeds, because a recipe may be chosen by this table. Another training seed gives other initial weights and another order
of the same demonstrations: what differs between two seeds of an arm is chance. An arm is shown once it has three.
Errors marked with * are on demonstrations of another kind and cannot be compared with the others.

Reads nothing. Writes the data and checkpoints of every arm into --work-dir, and the result file into docs/results, from
which `benchmarks/tables.py` makes the table in docs/results.md. A training that the result file holds is not evaluated
again, and one that is finished in --work-dir is not repeated, so the benchmark can be stopped, continued and extended.

    python benchmarks/what_matters.py --arms reference no-noise --seeds 0 1 2
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import ARMS, DISCUSSED, Arm
from arms_table import WHAT_MATTERS_VERSION, arms_table, shown_arms
from scripts import run_stage
from trainings import check_comparable, evaluate, outcomes, recipe, train, trained_with

from vla.demos.index import read_index
from vla.demos.schema import demo_names, open_demos
from vla.errors import UserError, run_script
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.files import sha256, write_text
from vla.judging.thresholds import Thresholds
from vla.sim.config import VALIDATION_SEEDS


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    arms: tuple[str, ...] = DISCUSSED
    """Arms to run, in this order, each with all seeds."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    steps: int = 900
    """Training steps of the reference, less than half of the whole recipe. An arm with slower steps has fewer."""
    num_episodes: int = 50
    """Validation episodes of each training."""
    max_steps: int = 100
    """Control steps of an episode; an expert needs 45."""
    train_only: bool = False
    """Train what is asked for and evaluate nothing; the same command without this option evaluates it."""
    work_dir: Path = Path("runs/what_matters")
    """Folder of demonstrations and checkpoints."""
    output: Path = field(default_factory=lambda: Path("docs/results/what_matters.json"))
    """Result file."""

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown:
            raise UserError(f"--arms {' '.join(sorted(unknown))}: unknown; choose from {' '.join(ARMS)}")
        if not 2 <= self.num_episodes <= len(VALIDATION_SEEDS):
            raise UserError(f"--num-episodes must lie in [2, {len(VALIDATION_SEEDS)}], got {self.num_episodes}")

    def episode_seeds(self) -> range:
        """Seeds of the episodes that every training is evaluated on."""
        return VALIDATION_SEEDS[: self.num_episodes]

    def begun(self) -> dict[str, Any]:
        """A result file without trainings; `settings` is what all trainings in one file must share."""
        return {
            "what_matters_version": WHAT_MATTERS_VERSION,
            "results_version": RESULTS_VERSION,
            "settings": {
                "steps": self.steps,
                "episodes": [self.episode_seeds().start, self.episode_seeds()[-1]],
                "max_steps": self.max_steps,
                "recipe": recipe(),
                "versions": run_versions(),
                "thresholds": dataclasses.asdict(Thresholds()),
            },
            "arms": {},
        }


def main(options: BenchmarkOptions) -> None:
    results = options.begun()
    if options.output.exists() and not options.train_only:
        results = check_comparable(options.output, results)
    for name in options.arms:
        for seed in options.seeds:
            trainings = results["arms"].get(name, {"trainings": {}})["trainings"]
            if str(seed) in trainings:
                print(f"{name}, training seed {seed}: already measured")
                continue
            _train(name, seed, options)
            if options.train_only:
                continue
            trainings[str(seed)] = _measure(name, seed, options)
            results["arms"][name] = {"what": ARMS[name].what, "trainings": trainings}
            write_text(options.output, json.dumps(results, indent=1))
    if shown_arms(results):
        print(arms_table(results))


def _train(name: str, seed: int, options: BenchmarkOptions) -> None:
    arm = ARMS[name]
    request = {"arm": dataclasses.asdict(arm), "seed": seed, "steps": options.steps}
    if arm.dagger:
        request["dagger_sha256"] = sha256(_teacher(arm, seed, options))

    def arguments() -> tuple[object, ...]:
        data, demos = _demonstrations(arm, seed, options), round(0.9 * arm.demos)
        steps = round(options.steps / arm.step_cost)
        epochs = math.ceil(steps / _steps_per_epoch(data, demos, arm.batch))
        return (
            *("--data", data, "--num-demos", demos, "--epochs", epochs, "--max-steps", math.ceil(steps / epochs)),
            *("--rollout-episodes", 0, "--seed", seed, *arm.train),
        )

    train(_folder(name, seed, options), request, arguments)


def _measure(name: str, seed: int, options: BenchmarkOptions) -> dict[str, Any]:
    folder, arm = _folder(name, seed, options), ARMS[name]
    checkpoint = folder / "last.pth"
    evaluation = evaluate(checkpoint, folder / "evaluation", options.episode_seeds(), "validation", options.max_steps)
    last = json.loads((folder / "history.json").read_text())[-1]
    return {
        "success": outcomes(evaluation),
        "grasped": sum(episode["grasped"] for episode in evaluation["episodes"]),
        "demos": arm.demos,
        "steps": last["step"],
        # Errors on validation demonstrations, which vary less than the lifts of 50 episodes.
        "first_motion": last["valid/first_motion"],
        "first_gripper_accuracy": last["valid/first_gripper_accuracy"],
        "own_validation": arm.has_own_demonstrations,
        "checkpoint_sha256": sha256(checkpoint),
        **trained_with(checkpoint),
        "weights": evaluation["weights"],
        "machine": evaluation["machine"],
    }


def _folder(name: str, seed: int, options: BenchmarkOptions) -> Path:
    return options.work_dir / f"{name}-{seed}"


def _teacher(arm: Arm, seed: int, options: BenchmarkOptions) -> Path:
    """The policy that acts in a part of the demonstrations of a DAgger arm."""
    policy = _folder(arm.dagger, seed, options) / "last.pth"
    if not policy.exists():
        raise UserError(f"this arm needs the policy {policy}; run the arm {arm.dagger} first, on this machine")
    return policy


def _demonstrations(arm: Arm, seed: int, options: BenchmarkOptions) -> Path:
    """The file of demonstrations of an arm; arms with the same collection options share one."""
    collect = ("1_collect_demos.py", "--video-episodes")
    if arm.dagger:
        policy = _teacher(arm, seed, options)
        data = options.work_dir / f"dagger-{sha256(policy)[:8]}.hdf5"  # another policy's episodes are not to be reused
        first = ARMS[arm.dagger].demos
        run_stage(*collect, "--output", data, "--num-episodes", first)
        run_stage(*collect, "--output", data, "--num-episodes", arm.demos - first, "--dagger", policy)
        return data
    count = max(arm.demos, Arm.demos)
    data = options.work_dir / f"{'-'.join(arm.collect).strip('-') or 'standard'}-{count}.hdf5"
    run_stage(*collect, "--output", data, "--num-episodes", count, *arm.collect)
    return data


def _steps_per_epoch(data: Path, demos: int, batch: int) -> int:
    with open_demos(data) as file:
        names = demo_names(file, "train")[:demos]
        index = read_index(file)
        windows = sum(index[name].length for name in names)
    return math.ceil(windows / batch)


if __name__ == "__main__":
    run_script(main, BenchmarkOptions, __doc__, "run the same command again; it continues with the missing trainings")
