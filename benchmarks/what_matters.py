"""What matters: the `cpu` recipe with one thing changed at a time, each arm trained equally long, on the same seeds.

The training is short on purpose: a reference that lifts everything could not be improved, and the arms must fit into an
evening on two cores. The seeds are validation seeds, because a recipe may be chosen by this table. A further training
seed repeats an arm with other initial weights and another order, on the same demonstrations: what differs between two
seeds is chance. Errors marked with * are on demonstrations of another kind and cannot be compared with the others.

Reads nothing. Writes the data and checkpoints of every arm into --work-dir, and the result file into docs/results, from
which `benchmarks/tables.py` makes the table in docs/results.md. A training that the result file holds is not run again,
so the benchmark can be stopped, continued and extended.

    python benchmarks/what_matters.py --arms reference no-recovery --seeds 0 1
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import ARMS, Arm
from arms_table import arms_table
from scripts import run_stage

from vla.demos.schema import demo_names, open_demos
from vla.errors import UserError, run_script
from vla.evaluation.results_json import run_versions
from vla.files import sha256, write_text
from vla.judging.verdict import Thresholds


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Arms to run, in this order."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds: all arms with the first, then all with the next."""
    steps: int = 900
    """Training steps of the reference, less than half of the whole recipe. An arm with slower steps has fewer."""
    num_episodes: int = 50
    """Validation episodes of each training."""
    max_steps: int = 100
    """Control steps of an episode; an expert needs 45."""
    work_dir: Path = Path("runs/what_matters")
    """Folder of demonstrations and checkpoints."""
    output: Path = field(default_factory=lambda: Path("docs/results/what_matters.json"))
    """Result file."""

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown:
            raise UserError(f"--arms {' '.join(sorted(unknown))}: unknown; choose from {' '.join(ARMS)}")

    def settings(self) -> dict[str, Any]:
        """Settings that all arms in one result file must share."""
        numbers = {name: getattr(self, name) for name in ("steps", "num_episodes", "max_steps")}
        return {**numbers, "versions": run_versions(), "thresholds": dataclasses.asdict(Thresholds())}


def main(options: BenchmarkOptions) -> None:
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    asked = options.settings()
    for name, result in results.items():
        for what, value in asked.items():
            if result["settings"].get(what) != value:
                raise UserError(
                    f"{options.output}: {name} was measured with other {what} ({result['settings'].get(what)}, now "
                    f"{value}), and is not to be compared; give another --output"
                )
    for seed in options.seeds:
        for name in options.arms:
            arm = ARMS[name]
            result = results.get(name, {"what": arm.what, "settings": asked, "trainings": {}})
            if str(seed) in result["trainings"]:
                print(f"{name}, training seed {seed}: already measured")
                continue
            result["trainings"][str(seed)] = _measure(name, arm, seed, options)
            results[name] = result
            write_text(options.output, json.dumps(results, indent=1))
    print(arms_table(results))


def _measure(name: str, arm: Arm, seed: int, options: BenchmarkOptions) -> dict[str, Any]:
    folder = _folder(name, seed, options)
    data = _demonstrations(arm, seed, options)
    demos = round(0.9 * arm.demos)
    steps = round(options.steps / arm.step_cost)
    epochs = math.ceil(steps / _steps_per_epoch(data, demos, arm.batch))
    per_epoch = math.ceil(steps / epochs)
    run_stage(
        *("4_train.py", "--recipe", "cpu", "--data", data, "--num-demos", demos, "--epochs", epochs),
        *("--max-steps", per_epoch, "--rollout-episodes", "0", "--overwrite", "--seed", seed),
        *("--vision-weights", "none", "--clip-weights", "none"),  # whether there is a network or not
        *("--output-dir", folder, "--log-dir", folder / "log", *arm.train),
    )
    run_stage(
        *("5_evaluate.py", "--checkpoint", folder / "last.pth", "--num-episodes", options.num_episodes),
        *("--split", "validation", "--max-steps", options.max_steps, "--no-videos"),
        *("--output-dir", folder / "evaluation"),
    )
    evaluation = json.loads((folder / "evaluation/results.json").read_text())
    return {
        "demos": arm.demos,
        "steps": epochs * per_epoch,
        "lifted": sum(episode["success"] for episode in evaluation["episodes"]),
        "episodes": len(evaluation["episodes"]),
        "grasped": sum(episode["grasped"] for episode in evaluation["episodes"]),
        "closures": sum(episode["gripper_closures"] for episode in evaluation["episodes"]),
        "drops": sum(episode["drops"] for episode in evaluation["episodes"]),
        **_offline(folder, arm),
        "reported_success_rate": evaluation["reported_success_rate"],
        "weights": evaluation["weights"],
        "seeds": [episode["seed"] for episode in evaluation["episodes"]],
    }


def _folder(name: str, seed: int, options: BenchmarkOptions) -> Path:
    return options.work_dir / f"{name}-{seed}"


def _offline(folder: Path, arm: Arm) -> dict[str, Any]:
    """Errors of the first action on validation demonstrations, which vary less than the lifts of 50 episodes."""
    last = json.loads((folder / "history.json").read_text())[-1]
    return {
        "position_error_cm": last["valid/position_error_cm"],
        "first_motion": last["valid/first_motion"],
        "first_gripper_accuracy": last["valid/first_gripper_accuracy"],
        "own_validation": bool(arm.collect or arm.dagger),
    }


def _demonstrations(arm: Arm, seed: int, options: BenchmarkOptions) -> Path:
    """The file of demonstrations of an arm; arms with the same collection options share one."""
    collect = ("1_collect_demos.py", "--video-episodes")
    if arm.dagger:
        policy = _folder(arm.dagger, seed, options) / "last.pth"
        if not policy.exists():
            raise UserError(f"this arm needs the policy {policy}; run the arm {arm.dagger} first, on this machine")
        data = options.work_dir / f"dagger-{sha256(policy)[:8]}.hdf5"  # another policy's episodes are not to be reused
        first = ARMS[arm.dagger].demos
        run_stage(*collect, "--output", data, "--num-episodes", first)
        run_stage(*collect, "--output", data, "--num-episodes", arm.demos - first, "--dagger", policy)
        return data
    data = options.work_dir / f"{'-'.join(arm.collect).strip('-') or 'standard'}.hdf5"
    run_stage(*collect, "--output", data, "--num-episodes", 150 if arm.collect else 200, *arm.collect)
    return data


def _steps_per_epoch(data: Path, demos: int, batch: int) -> int:
    with open_demos(data) as file:
        names = demo_names(file, "train")[:demos]
        windows = sum(int(file["data"][name].attrs["episode_length"]) for name in names)
    return math.ceil(windows / batch)


if __name__ == "__main__":
    run_script(main, BenchmarkOptions, __doc__, "run the same command again; it continues with the missing arms")
