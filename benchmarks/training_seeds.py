"""The whole `cpu` recipe, trained with several seeds: what another training would give, beside the shipped policy.

All seeds learn from the same demonstrations, the collection's default; a seed decides the initial weights, the order
of the batches, the augmentation and the dropout. Each training is that of `make demo RECIPE=cpu`, with the policy
chosen by validation episodes, and each policy runs the same test episodes, on which nothing has been run before.

Reads the demonstrations, or collects them where there are none. Writes checkpoints and evaluations into --work-dir,
and the result file into docs/results, from which `benchmarks/tables.py` makes the table in docs/results.md. What is
finished is not repeated, and what was stopped goes on.

    python benchmarks/training_seeds.py --seeds 0 1 2
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arms_table import recipe_rate, successes
from scripts import run_stage
from trainings import check_comparable, evaluate, outcomes, recipe, train

from vla.errors import UserError, run_script
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.evaluation.statistics import rate
from vla.files import sha256, write_text
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import TEST_SEEDS

TRAINING_SEEDS_VERSION = 1
FIRST_SEED = 2_004_000
"""Seed of the first test episode. The ones before are other evaluations' (docs/results.md)."""
MAX_STEPS = 200


@dataclass(frozen=True)
class TrainingSeedsOptions:
    """Options of the benchmark."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    num_episodes: int = 100
    """Test episodes of each policy, the same for all."""
    train_only: bool = False
    """Train what is asked for and evaluate nothing; the same command without this option evaluates it."""
    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations, collected by 1_collect_demos.py with its defaults."""
    work_dir: Path = Path("runs/training_seeds")
    """Folder of checkpoints and evaluations."""
    output: Path = Path("docs/results/training_seeds.json")
    """Result file."""

    def __post_init__(self) -> None:
        most = TEST_SEEDS.stop - FIRST_SEED
        if not 2 <= self.num_episodes <= most:
            raise UserError(f"--num-episodes must lie in [2, {most}], got {self.num_episodes}")

    def episode_seeds(self) -> range:
        """Seeds of the episodes that every policy is evaluated on."""
        return range(FIRST_SEED, FIRST_SEED + self.num_episodes)

    def begun(self) -> dict[str, Any]:
        """A result file without trainings; `settings` is what all trainings in one file must share."""
        return {
            "training_seeds_version": TRAINING_SEEDS_VERSION,
            "results_version": RESULTS_VERSION,
            "settings": {
                "episodes": [self.episode_seeds().start, self.episode_seeds()[-1]],
                "max_steps": MAX_STEPS,
                "recipe": recipe(),
                "versions": run_versions(),
                "thresholds": dataclasses.asdict(Thresholds()),
            },
            "trainings": {},
        }


def main(options: TrainingSeedsOptions) -> None:
    results = options.begun()
    if options.output.exists() and not options.train_only:
        results = check_comparable(options.output, results)
    for seed in options.seeds:
        if str(seed) in results["trainings"]:
            print(f"training seed {seed}: already measured")
            continue
        folder = options.work_dir / f"seed-{seed}"
        train(folder, {"seed": seed, "data": str(options.data)}, partial(_arguments, seed, options.data))
        if not options.train_only:
            results["trainings"][str(seed)] = _measure(folder, options)
            write_text(options.output, json.dumps(results, indent=1))
    if len(results["trainings"]) > 1:
        print(training_seeds_table(results))


def _arguments(seed: int, data: Path) -> tuple[object, ...]:
    """Arguments of 4_train.py; collects the demonstrations where there are none."""
    run_stage("1_collect_demos.py", "--output", data)
    return "--data", data, "--seed", seed


def _measure(folder: Path, options: TrainingSeedsOptions) -> dict[str, Any]:
    checkpoint = folder / "best_model.pth"
    evaluation = evaluate(checkpoint, folder / "evaluation", options.episode_seeds(), "test", MAX_STEPS)
    return {
        "success": outcomes(evaluation),
        "checkpoint_sha256": sha256(checkpoint),
        "data_sha256": load_checkpoint(checkpoint)["training"]["identity"]["data_sha256"],
        "trained_epochs": evaluation["trained_epochs"],
        "weights": evaluation["weights"],
        "machine": evaluation["machine"],
    }


def pooled_rate(results: dict[str, Any]) -> str:
    """The rate over all seeds and episodes, with its interval over both."""
    return recipe_rate(successes(results["trainings"]))


def training_seeds_table(results: dict[str, Any], shipped: dict[str, Any] | None = None) -> str:
    """Each seed's rate, that of all with its interval over both, and the shipped policy's where it is given.

    Args:
        results: the content of the result file.
        shipped: the content of the shipped policy's results.json.
    """
    first, last = results["settings"]["episodes"]
    rows = [
        (f"training seed {seed}", f"{first}-{last}", rate(training["success"].count("1"), len(training["success"])))
        + ("episodes",)
        for seed, training in sorted(results["trainings"].items())
    ]
    rows.append((f"all {len(rows)} training seeds", f"{first}-{last}", pooled_rate(results), "seeds and episodes"))
    if shipped is not None:
        episodes = shipped["episodes"]
        lifted = rate(sum(episode["success"] for episode in episodes), len(episodes))
        rows.append(("the shipped policy", f"{episodes[0]['seed']}-{episodes[-1]['seed']}", lifted, "episodes"))
    return markdown_table(("policy", "test seeds", "truly lifted", "the interval is over"), rows)


if __name__ == "__main__":
    run_script(
        main, TrainingSeedsOptions, __doc__, "run the same command again; it continues with the missing trainings"
    )
