"""Measures the demonstrations per minute of a collection with one worker and with two, and whether the files are equal.

Each number of workers collects the same demonstrations --repetitions times, in alternating order, so that a machine
that slows down on the way slows both. Every file must have the same bytes. The start of a collection takes some
seconds; a collection of --few of the demonstrations is timed as well, and taken off for the rate without it.

Writes docs/results/collection_speed.json, from which `benchmarks/tables.py` makes the table in docs/performance.md.

    python benchmarks/collection_speed.py
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts import run_stage

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.files import sha256, write_text
from vla.markdown import markdown_table

WORKERS = (1, 2)


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the benchmark."""

    num_episodes: int = 44
    """Demonstrations in each collection."""
    few: int = 4
    """Demonstrations of the short collection."""
    repetitions: int = 3
    """Collections with each number of workers."""
    work_dir: Path = Path("runs/collection_speed")
    """Folder of the files, which are deleted when they have been compared."""
    output: Path = Path("docs/results/collection_speed.json")
    """Result file."""

    def __post_init__(self) -> None:
        if not 0 < self.few < self.num_episodes or self.repetitions < 1:
            raise UserError(
                f"--few {self.few} must be from 1 to below --num-episodes {self.num_episodes}, and --repetitions "
                f"{self.repetitions} at least 1"
            )


def main(options: SpeedOptions) -> None:
    seconds: dict[str, dict[str, list[float]]] = {str(workers): {"few": [], "all": []} for workers in WORKERS}
    hashes = set()
    for repetition in range(options.repetitions):
        for workers in WORKERS if repetition % 2 == 0 else WORKERS[::-1]:
            taken = seconds[str(workers)]
            taken["few"].append(_collect(options.few, workers, options.work_dir)[0])
            all_s, file_hash = _collect(options.num_episodes, workers, options.work_dir)
            taken["all"].append(all_s)
            hashes.add(file_hash)
    result = {
        "speed_version": 1,
        "demonstrations": options.num_episodes,
        "few": options.few,
        "repetitions": options.repetitions,
        "seconds": seconds,
        "different_files": len(hashes),
        "machine": machine_facts(),
    }
    write_text(options.output, json.dumps(result, indent=1))
    print(collection_table(result))
    if len(hashes) > 1:
        raise UserError(
            f"the same demonstrations became {len(hashes)} different files; collect them by hand and compare"
        )


def _collect(count: int, workers: int, folder: Path) -> tuple[float, str]:
    """Collect `count` demonstrations from seed 0; returns the seconds, and the hash of the file."""
    path = folder / f"{count}_{workers}.hdf5"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    run_stage(
        *("1_collect_demos.py", "--num-episodes", count, "--workers", workers, "--video-episodes", 0, "--seed", 0),
        *("--output", path),
    )
    taken = time.monotonic() - started
    file_hash = sha256(path)
    path.unlink()
    return taken, file_hash


def collection_table(result: dict[str, Any]) -> str:
    """Demonstrations per minute by number of workers, with and without the start, as Markdown."""
    count, more = result["demonstrations"], result["demonstrations"] - result["few"]
    per_minute = {
        workers: (
            60 * count / float(np.median(taken["all"])),
            60 * more / float(np.median(np.subtract(taken["all"], taken["few"]))),
        )
        for workers, taken in result["seconds"].items()
    }
    one = per_minute["1"]
    rows = [
        (
            workers,
            ", ".join(f"{taken:.0f}" for taken in result["seconds"][workers]["all"]) + " s",
            *(f"{rate:.1f} ({rate / first:.2f} x)" for rate, first in zip(rates, one, strict=True)),
        )
        for workers, rates in per_minute.items()
    ]
    head = ("workers", f"{count} demonstrations, each time", "a minute, with the start", "a minute, without it")
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_script(main, SpeedOptions, __doc__)
