"""Speedrun: from an empty folder to a policy that lifts at least 95 of 100 unseen cubes, as fast as possible.

Collects demonstrations, trains, and evaluates on test seeds on which nothing else is run; from pixels, without
pretrained weights, and on the CPU unless there is a GPU. The clock runs from the start of the collection until the
policy is written; the evaluation comes after it, and is timed apart. Each training seed begins anew, with the
collection, so that no part of a time is shared.

A run prints its row. With --record, the runs become a record of docs/results/speedrun.json, from which
`benchmarks/tables.py` makes the table in docs/performance.md: the time, and what was changed to reach it.

    python benchmarks/speedrun.py
    python benchmarks/speedrun.py --seeds 0 1 2 --record "what is new"
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import run_stage
from trainings import UNTRAINED, evaluate, outcomes, recipe

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import share
from vla.files import write_text
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.training.recipes import RecipeName

SPEEDRUN_VERSION = 1
RECIPE: RecipeName = "fast"
NUM_DEMOS = 110
FIRST_SEED = 2_006_000
"""Seed of the first test episode. The ones before are other evaluations' (docs/results.md)."""
NUM_EPISODES = 100
NEEDED = 95
"""Episodes that must be lifted for a run to count."""
MAX_STEPS = 200
WITHOUT_MISTAKES = ("--recovery-fraction", 0, "--video-episodes")


@dataclass(frozen=True)
class SpeedrunOptions:
    """Options of the benchmark."""

    seeds: tuple[int, ...] = (0,)
    """Training seeds. A record needs three."""
    record: str | None = None
    """What is new since the last record, in a few words; the runs are then added to the result file."""
    work_dir: Path = Path("runs/speedrun")
    """Folder of the runs; that of a seed is emptied first."""
    output: Path = Path("docs/results/speedrun.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.record is not None and len(self.seeds) < 3:
            raise UserError(f"--record needs three training seeds, such as --seeds 0 1 2; got {len(self.seeds)}")


def main(options: SpeedrunOptions) -> None:
    runs = [_run(seed, options.work_dir / f"seed-{seed}") for seed in options.seeds]
    record = {
        "what": options.record or "not recorded",
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "recipe": recipe(RECIPE),
        "demonstrations": NUM_DEMOS,
        "episodes": [FIRST_SEED, FIRST_SEED + NUM_EPISODES - 1],
        "thresholds": dataclasses.asdict(Thresholds()),
        "runs": runs,
        "machine": machine_facts(),
        "versions": run_versions(),
    }
    if options.record is not None:
        content: dict[str, Any] = {"speedrun_version": SPEEDRUN_VERSION, "records": []}
        if options.output.exists():
            content = json.loads(options.output.read_text())
        content["records"].append(record)
        write_text(options.output, json.dumps(content, indent=1))
    print(speedrun_table([record]))


def _run(seed: int, folder: Path) -> dict[str, Any]:
    """One run from nothing: the seconds of its stages, and the outcomes of its episodes.

    Raises:
        UserError: a stage failed.
    """
    if folder.exists():
        shutil.rmtree(folder)
    data, checkpoints = folder / "demos.hdf5", folder / "checkpoints"
    seconds: dict[str, float] = {}
    started = time.monotonic()
    run_stage("1_collect_demos.py", "--output", data, "--num-episodes", NUM_DEMOS, *WITHOUT_MISTAKES)
    seconds["collection"] = time.monotonic() - started
    run_stage(
        *("4_train.py", "--recipe", RECIPE, "--seed", seed, "--data", data, "--output-dir", checkpoints),
        *("--log-dir", folder / "log", "--proprioception", "--rollout-episodes", 0, *UNTRAINED),
    )
    seconds["training"] = time.monotonic() - started - seconds["collection"]
    started = time.monotonic()
    episodes = range(FIRST_SEED, FIRST_SEED + NUM_EPISODES)
    evaluation = evaluate(checkpoints / "last.pth", folder / "evaluation", episodes, "test", MAX_STEPS)
    seconds["evaluation"] = time.monotonic() - started
    return {"seed": seed, "seconds": seconds, "success": outcomes(evaluation)}


def minutes(run: dict[str, Any]) -> float:
    """Minutes until a run's policy was written."""
    return float(run["seconds"]["collection"] + run["seconds"]["training"]) / 60


def speedrun_table(records: Sequence[dict[str, Any]]) -> str:
    """One row for each record, the first one first: its time, and what each training seed lifted."""
    rows = []
    for record in records:
        runs = record["runs"]
        lifted = [run["success"].count("1") for run in runs]
        stages = (f"{statistics.median(run['seconds'][stage] for run in runs):.0f} s" for stage in runs[0]["seconds"])
        counts = min(lifted) >= NEEDED
        rows.append(
            (
                record["date"],
                record["what"],
                f"{statistics.median(map(minutes, runs)):.1f} min" + ("" if counts else " (does not count)"),
                ", ".join(f"{minutes(run):.1f}" for run in runs),
                " + ".join(stages),
                ", ".join(share(count, len(run["success"])) for count, run in zip(lifted, runs, strict=True)),
                record["machine"]["cpu"],
            )
        )
    head = ("date", "what is new", "median", "each training seed, min", "collection + training + evaluation")
    return markdown_table((*head, "truly lifted", "CPU"), rows)


if __name__ == "__main__":
    run_script(main, SpeedrunOptions, __doc__, "run the same command again; it begins anew")
