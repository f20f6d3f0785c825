"""Times several ways to do the same, in turn, so that a machine that slows down slows all of them (`bench.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WAYS = ("ours", "limit", "naive")
"""What is timed of each part: this project's way, the least that it can take, and the way one would begin with."""


@dataclass(frozen=True)
class Part:
    """One thing that is done in three ways; None where there is no such way, or none that can be called here."""

    name: str
    ours: Callable[[], object] | None
    limit: Callable[[], object] | None
    naive: Callable[[], object] | None
    calls: int = 10
    """Calls that are timed together; the time of one is reported."""
    naive_calls: int | None = None
    """Likewise of the naive way, where it takes very long."""


def time_parts(parts: list[Part], repetitions: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of one call of each way: median, and the quartiles over the repetitions, after one that warms up."""
    taken: dict[str, dict[str, list[float]]] = {part.name: {} for part in parts}
    for repetition in range(repetitions + 1):
        for part in parts:
            for way in WAYS:
                call = getattr(part, way)
                if call is None:
                    continue
                calls = part.naive_calls if way == "naive" and part.naive_calls else part.calls
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                if repetition:
                    taken[part.name].setdefault(way, []).append(1e3 * (time.perf_counter() - start) / calls)
    return {name: {way: spread(values) for way, values in ways.items()} for name, ways in taken.items()}


def spread(values_ms: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (float(value) for value in np.percentile(values_ms, (25, 50, 75)))
    return {"median_ms": median, "low_ms": low, "high_ms": high}
