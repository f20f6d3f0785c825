"""What it costs to train on more frames than there is memory for: peak memory, and the time to read a batch.

The same short training runs twice, each time in a process of its own: with its frames in memory, and with memory for a
quarter of them, so that a temporary file holds them. Then batches of the recipe are read from both places in turn, in
one process. The file may still lie in the system's cache, which takes what memory is left over. Writes the result file
into docs/results, from which `benchmarks/tables.py` makes the table in docs/training.md.

    python benchmarks/frame_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scripts
import torch

from vla import stages
from vla.demos.frames import Frames, FramesInFile, FramesInMemory, frame_bytes
from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.files import write_text
from vla.markdown import markdown_table
from vla.policies.preprocess import cut_shape
from vla.sim.config import EnvConfig
from vla.training.demonstrations import Demonstrations
from vla.training.recipes import RECIPES

SHARE = 0.25
"""Share of the frames that the allowed memory has room for."""


@dataclass(frozen=True)
class FrameMemoryOptions:
    """Options of the benchmark."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    steps: int = 30
    """Optimiser steps of each training."""
    batches: int = 100
    """Batches that are read from each place."""
    output: Path = Path("docs/results/frame_memory.json")
    """Result file."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batches) < 1:
            raise UserError(f"--steps and --batches must be at least 1, got {self.steps} and {self.batches}")


def main(options: FrameMemoryOptions) -> None:
    demonstrations = Demonstrations.select(options.data, None, None)
    recipe = RECIPES["cpu"]
    margin_px = recipe.augmentation.margin_px(EnvConfig.from_env_args(demonstrations.env_args).image_size_px)
    shape = cut_shape(demonstrations.picture_shape, recipe.image, margin_px)
    count = demonstrations.frame_count
    allowed_gb = SHARE * count * frame_bytes(shape) / 1e9
    # First, while this process is small: what a command is started from counts as its peak, too.
    trained = {"memory": _train(options, 1000.0), "file": _train(options, allowed_gb)}
    with tempfile.TemporaryDirectory() as folder:
        places: dict[str, Frames] = {
            "memory": FramesInMemory(count, shape),
            "file": FramesInFile(count, shape, Path(folder)),
        }
        read_ms = _read_in_turn(demonstrations, places, margin_px, options.batches)
    measured = {
        place: {"peak_mb": peak_mb, "step_s": step_s, "read_ms": float(np.median(read_ms[place]))}
        for place, (peak_mb, step_s) in trained.items()
    }
    content = {
        "frames": count,
        "frames_mb": count * frame_bytes(shape) / 1e6,
        "allowed_mb": 1000 * allowed_gb,
        "places": measured,
        "machine": machine_facts(),
        "versions": run_versions(),
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(frame_memory_table(content))


def _read_in_turn(
    demonstrations: Demonstrations, places: dict[str, Frames], margin_px: int, batches: int
) -> dict[str, list[float]]:
    """Milliseconds to read each batch of random segments, from each place."""
    loader, recipe = stages.dataset_loader(), RECIPES["cpu"]
    served = {}
    for place, frames in places.items():
        dataset = loader.LiftDataset(
            demonstrations.path,
            [*demonstrations.names["train"], *demonstrations.names["valid"]],
            recipe.stride,
            recipe.windows_per_segment,
            recipe.observation_horizon,
            image=recipe.image,
            margin_px=margin_px,
            frames=frames,
        )
        served[place] = loader.make_loader(dataset, recipe.batch_segments, torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {place: [] for place in places}
    while len(taken["memory"]) < batches:
        iterators = {place: iter(batches_of) for place, batches_of in served.items()}
        for _ in range(min(map(len, served.values()))):
            for place, iterator in iterators.items():
                start = time.perf_counter()
                next(iterator)
                taken[place].append(1000 * (time.perf_counter() - start))
    return taken


def _train(options: FrameMemoryOptions, memory_gb: float) -> tuple[float, float]:
    """Run a training; returns its peak memory in MB, and its seconds for a step with its share of the validation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(scripts.ROOT / "4_train.py"), "--data", str(options.data.resolve())),
            *("--output-dir", folder, "--log-dir", str(Path(folder, "log")), "--clip-weights", "none"),
            *("--epochs", "1", "--max-steps", str(options.steps), "--rollout-episodes", "0"),
            *("--frame-memory-gb", f"{memory_gb:.6f}"),
        ]
        process = subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise UserError(f"4_train.py ended with {os.waitstatus_to_exitcode(status)}; mend what it says")
        (record,) = json.loads(Path(folder, "history.json").read_text())
    return used.ru_maxrss / 1000, record["seconds"] / options.steps


def frame_memory_table(content: dict[str, Any]) -> str:
    """A row for each place."""
    rows = [
        (
            f"in {'memory' if place == 'memory' else 'a temporary file'}",
            f"{found['peak_mb']:,.0f} MB",
            f"{found['read_ms']:.1f} ms",
            f"{found['step_s']:.2f} s",
        )
        for place, found in content["places"].items()
    ]
    return markdown_table(["frames", "peak memory of training", "reading a batch", "a step, with its validation"], rows)


if __name__ == "__main__":
    run_script(main, FrameMemoryOptions, __doc__, "run the same command again")
