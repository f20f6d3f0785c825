"""Table 2 of the report: the content of a demonstration file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from vla.demos.index import read_index
from vla.demos.schema import checked_demo
from vla.demos.source import Source
from vla.markdown import markdown_table

OBSERVATION_HORIZON = 10
"""Observations in a training window."""
WINDOW_STRIDE = 5
"""Control steps between the ends of successive training windows."""


def window_count(length: int, stride: int = WINDOW_STRIDE) -> int:
    """Number of windows of one episode: one ends at every `stride`-th step, the first at step 0."""
    return len(range(0, length, stride))


def dataset_table(file: h5py.File, path: Path) -> str:
    """Table 2 for an open demonstration file, beside the report's figures."""
    index = read_index(file)
    lengths = [row.length for row in index.values()]
    imported = Source.of(file) is not None
    successes = sum(row.success for row in index.values())
    judged = "unjudged" if imported else f"{successes} ({successes / len(index):.0%})"
    instructions = {row.instruction for row in index.values()}
    rejected = "-" if imported else str(len(json.loads(file["data"].attrs["rejected"])))
    first = checked_demo(file, next(iter(index)))
    height, width, channels = first["images"].shape[1:]
    raw = sum(lengths) * height * width * channels  # one camera draws a whole file
    size = path.stat().st_size
    rows = [
        ("Total episodes", "50", str(len(index))),
        ("Successful episodes (by the verdict)", "50 (100%)", judged),
        ("Episodes rejected while collecting", "-", rejected),
        ("Language variations", "8", str(len(instructions))),
        ("Average episode length (steps)", "85", f"{np.mean(lengths):.1f}"),
        ("Total timesteps", "4250", str(sum(lengths))),
        (f"Training sequences (stride={WINDOW_STRIDE})", "840", str(sum(map(window_count, lengths)))),
        ("Image resolution", "224 x 224 RGB", f"{height} x {width} RGB"),
        ("Action space dimension", "7", str(first["actions"].shape[1])),
        ("Dataset size", "1.2 GB", f"{size / 1e6:.0f} MB ({size / raw:.0%} of the raw pixels)"),
    ]
    return markdown_table(("Table 2: dataset", "report", "here"), rows)
