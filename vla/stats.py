"""Tables about data and rates: the report's figures beside ours."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.stats import binomtest

from vla.demos import demo_names

OBSERVATION_HORIZON = 10
WINDOW_STRIDE = 5


def window_count(length: int, stride: int = WINDOW_STRIDE) -> int:
    """Windows of one episode: one ends at every `stride`-th step, the first at step 0."""
    return len(range(0, length, stride))


def success_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95% (Clopper-Pearson) interval of a success rate."""
    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="exact")
    return float(interval.low), float(interval.high)


def rate(successes: int, trials: int) -> str:
    """'7/10 = 70% [34.7%, 93.4%]', the interval exact at 95% and rounded outwards."""
    return f"{share(successes, trials)} [{', '.join(percent_bounds(successes, trials))}]"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: were two policies equally good, an episode that only one lifts would be
    either's with probability one half."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def share(successes: int, trials: int) -> str:
    """'7/10 = 70%', '2/3 = 66.7%'; none but all of them is 100%, none but not one is 0%."""
    percent = 100 * successes / trials
    if percent == round(percent):
        text = f"{percent:.0f}%"
    elif 0.05 <= percent < 99.95:
        text = f"{percent:.1f}%"
    else:
        text = "<0.1%" if percent < 50 else ">99.9%"
    return f"{successes}/{trials} = {text}"


def percent_bounds(successes: int, trials: int) -> tuple[str, str]:
    """The interval's bounds in per cent, rounded outwards: what is printed never claims more than what is known."""
    low, high = success_interval(successes, trials)
    floor, ceiling = math.floor(1000 * low) / 10, math.ceil(1000 * high) / 10
    return "0%" if floor == 0 else f"{floor:.1f}%", "100%" if ceiling == 100 else f"{ceiling:.1f}%"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(text)


def dataset_table(file: h5py.File, path: Path) -> str:
    """Table 2 of the report for an open demonstration file."""
    demos = [file["data"][name] for name in demo_names(file)]
    lengths = [int(demo.attrs["episode_length"]) for demo in demos]
    successes = sum(bool(demo.attrs["success"]) for demo in demos)
    instructions = {demo.attrs["language_instruction"] for demo in demos}
    rejected = len(json.loads(file["data"].attrs["rejected"]))
    height, width = demos[0]["images"].shape[1:3]
    raw = sum(demo["images"].size for demo in demos)
    size = path.stat().st_size
    rows = [
        ("Total episodes", "50", str(len(demos))),
        ("Successful episodes (by the verdict)", "50 (100%)", f"{successes} ({successes / len(demos):.0%})"),
        ("Episodes rejected while collecting", "-", str(rejected)),
        ("Language variations", "8", str(len(instructions))),
        ("Average episode length (steps)", "85", f"{np.mean(lengths):.1f}"),
        ("Total timesteps", "4250", str(sum(lengths))),
        (f"Training sequences (stride={WINDOW_STRIDE})", "840", str(sum(map(window_count, lengths)))),
        ("Image resolution", "224 x 224 RGB", f"{height} x {width} RGB"),
        ("Action space dimension", "7", str(demos[0]["actions"].shape[1])),
        ("Dataset size", "1.2 GB", f"{size / 1e6:.0f} MB ({size / raw:.0%} of the raw pixels)"),
    ]
    return markdown_table(("Table 2: dataset", "report", "here"), rows)
