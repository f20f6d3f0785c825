"""Measures the episodes per minute of an evaluation with one worker and with two, and whether the results are the same.

The episodes are divided into --parts; each part is run with one worker and with two, in alternating order, so that a
machine that slows down on the way slows both. Every field of every episode except the times must be the same. The
start of an evaluation takes some seconds and is included.

Writes docs/results/evaluation_speed.json, from which `benchmarks/tables.py` makes the table in docs/results.md.

    python benchmarks/evaluation_speed.py
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import run_stage

from vla.errors import UserError, run_script
from vla.files import write_text
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS

WORKERS = (1, 2)


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the benchmark."""

    num_episodes: int = 100
    """Test episodes with each number of workers."""
    parts: int = 2
    """Evaluations into which the episodes are divided."""
    checkpoint: Path = Path("checkpoints/lift.pth")
    """Policy to evaluate."""
    work_dir: Path = Path("runs/evaluation_speed")
    """Folder of the evaluations."""
    output: Path = Path("docs/results/evaluation_speed.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.parts < 1 or self.num_episodes < self.parts or self.num_episodes % self.parts:
            raise UserError(
                f"--num-episodes {self.num_episodes} cannot be divided into --parts {self.parts} equal parts"
            )


def main(options: SpeedOptions) -> None:
    size = options.num_episodes // options.parts
    seconds = dict.fromkeys(WORKERS, 0.0)
    episodes: dict[int, list[dict[str, Any]]] = {workers: [] for workers in WORKERS}
    for part in range(options.parts):
        for workers in WORKERS if part % 2 == 0 else WORKERS[::-1]:
            folder = options.work_dir / f"{part}_{workers}"
            started = time.monotonic()
            run_stage(
                *("5_evaluate.py", "--checkpoint", options.checkpoint, "--num-episodes", size, "--workers", workers),
                *("--seed", TEST_SEEDS.start + part * size, "--no-videos", "--output-dir", folder),
            )
            seconds[workers] += time.monotonic() - started
            content = json.loads((folder / "results.json").read_text())
            episodes[workers] += content["episodes"]
    result = {
        "speed_version": 1,
        "episodes": options.num_episodes,
        "parts": options.parts,
        "lifted": sum(episode["success"] for episode in episodes[1]),
        "steps": sum(episode["steps"] for episode in episodes[1]),
        "differing": sum(a != b for a, b in zip(*episodes.values(), strict=True)),
        "seconds": {str(workers): seconds[workers] for workers in WORKERS},
        "checkpoint_sha256": content["checkpoint_sha256"],
        "versions": content["versions"],
        "inference": content["inference"],
        "machine": content["machine"],
    }
    write_text(options.output, json.dumps(result, indent=1))
    print(speed_table(result))
    if result["differing"]:
        raise UserError(f"{result['differing']} episodes differ between one worker and two; see {options.work_dir}")


def speed_table(result: dict[str, Any]) -> str:
    """Episodes per minute, start-up included, and how many episodes have the same result, as Markdown."""
    rows = [
        (
            workers,
            f"{result['episodes']}",
            f"{taken:.0f} s",
            f"{60 * result['episodes'] / taken:.1f}",
            f"{result['episodes'] - result['differing']}/{result['episodes']}",
        )
        for workers, taken in result["seconds"].items()
    ]
    return markdown_table(
        ("workers", "episodes", f"time, {result['parts']} starts included", "episodes per minute", "the same results"),
        rows,
    )


if __name__ == "__main__":
    run_script(main, SpeedOptions, __doc__)
