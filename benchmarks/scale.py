"""Measures what a demonstration and an evaluated episode cost, and what a million and a hundred thousand of them would.

Each is run in two sizes; the difference between them is the cost without the start of the processes. Nothing else may
run beside it. Writes the result file into docs/results, from which `benchmarks/tables.py` makes the tables in
docs/scale.md.

    python benchmarks/scale.py
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import run_stage

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.files import SHIPPED, write_text
from vla.markdown import markdown_table

MANY_DEMOS, MANY_EPISODES = 1_000_000, 100_000
CORE_HOUR_DOLLARS = 0.04
"""An assumption, not a measurement: about what a core of a large cloud's machines costs for an hour."""
TERABYTE_MONTH_DOLLARS = 25
"""Likewise, of object storage."""


@dataclass(frozen=True)
class ScaleOptions:
    """Options of the benchmark."""

    few: int = 8
    """Demonstrations and episodes of the small runs."""
    many: int = 32
    """Of the large runs."""
    workers: int = 2
    """Simulator processes; no more than there are cores."""
    output: Path = Path("docs/results/scale.json")
    """Result file."""

    def __post_init__(self) -> None:
        if not 2 <= self.few < self.many:
            raise UserError(f"--few must be at least 2, and less than --many, got {self.few} and {self.many}")


def main(options: ScaleOptions) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demos = {count: folder / f"{count}.hdf5" for count in (options.few, options.many)}
        collect = ("1_collect_demos.py", "--workers", options.workers, "--video-episodes")
        joined = ("2_dataset_loader.py", "--output", folder / "joined.hdf5", "--merge", *demos.values())
        evaluate = ("5_evaluate.py", "--checkpoint", SHIPPED, "--workers", options.workers, "--no-videos")
        # The second collection begins behind the seeds of the first, so that both can be joined.
        collected = _slope(
            options,
            lambda count: (*collect, "--num-episodes", count, "--output", demos[count], "--seed", 1000 * count),
        )
        joining_s = _seconds(joined) / (options.few + options.many)
        episodes = _slope(
            options, lambda count: (*evaluate, "--num-episodes", count, "--output-dir", folder / f"{count}")
        )
        result = {
            "scale_version": 1,
            "few": options.few,
            "many": options.many,
            "workers": options.workers,
            "demo_core_s": collected * options.workers,
            "demo_bytes": demos[options.many].stat().st_size / options.many,
            "join_s": joining_s,
            "episode_core_s": episodes * options.workers,
            "episode_bytes": (folder / str(options.many) / "episodes.hdf5").stat().st_size / options.many,
            "versions": run_versions(),
            "machine": machine_facts(),
        }
    write_text(options.output, json.dumps(result, indent=1))
    print(f"{cost_table(result)}\n\n{estimate_table(result)}")


def _slope(options: ScaleOptions, command: Any) -> float:
    """Seconds that one more demonstration or episode takes; `command` makes the arguments for a number of them."""
    few, many = (_seconds(command(count)) for count in (options.few, options.many))
    return (many - few) / (options.many - options.few)


def _seconds(arguments: tuple[object, ...]) -> float:
    started = time.monotonic()
    run_stage(*arguments)
    return time.monotonic() - started


def cost_table(result: dict[str, Any]) -> str:
    """What one demonstration and one episode cost, as Markdown."""
    rows = [
        ("a demonstration, collected and verified", f"{result['demo_core_s']:.1f} s", _size(result["demo_bytes"])),
        ("joining it to the others, one process", f"{result['join_s']:.2f} s", ""),
        (
            "an evaluated episode, second judge and replay included",
            f"{result['episode_core_s']:.1f} s",
            _size(result["episode_bytes"]),
        ),
    ]
    return markdown_table(("cost, processes' start not counted", "time of a core", "on the disk"), rows)


def estimate_table(result: dict[str, Any]) -> str:
    """What very many would cost, as Markdown."""
    rows = []
    for what, count, core_s, size in (
        (f"{MANY_DEMOS:,} demonstrations", MANY_DEMOS, result["demo_core_s"], result["demo_bytes"]),
        (f"{MANY_EPISODES:,} episodes", MANY_EPISODES, result["episode_core_s"], result["episode_bytes"]),
    ):
        hours = count * core_s / 3600
        terabytes = count * size / 1e12
        rows.append(
            (
                what,
                f"{hours:,.0f} h",
                f"{hours / 1000:.1f} h",
                _size(count * size),
                f"{hours * CORE_HOUR_DOLLARS:,.0f} + {terabytes * TERABYTE_MONTH_DOLLARS:,.1f} a month",
            )
        )
    joining = MANY_DEMOS * result["join_s"] / 3600
    rows.append(("joining the demonstrations into one file", "", f"{joining:.1f} h, one process", "", ""))
    return markdown_table(("estimate", "cores' time", "on 1000 cores", "on the disk", "dollars"), rows)


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


if __name__ == "__main__":
    run_script(main, ScaleOptions, __doc__)
