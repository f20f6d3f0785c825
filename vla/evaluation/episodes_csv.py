"""`episodes.csv`: one row for each episode of an evaluation, for spreadsheets and statistics programs."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.evaluation.episode import EpisodeResult
from vla.evaluation.milestones import PHASES


def write_csv(path: Path, results: Sequence[EpisodeResult]) -> None:
    """Write a header and one row for each episode, as UTF-8.

    The columns have the names of the keys of an episode in `results.json`, with `phase_times_s.touched` and the like
    for the milestones' times; the last one is the median time from image to action, which differs from run to run. An
    empty cell means that there is no value. Lists are joined with "; ".
    """
    rows = [_row(result) for result in results]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _row(result: EpisodeResult) -> dict[str, Any]:
    row = dataclasses.asdict(result)
    times, inference_ms = row.pop("phase_times_s"), row.pop("inference_ms")
    return {
        **row,
        **{f"phase_times_s.{phase}": times.get(phase) for phase in PHASES},
        "inference_ms_median": float(np.median(inference_ms)) if inference_ms else None,
    }


def _cell(value: Any) -> Any:
    """A value as a cell: true and false as in JSON, nothing for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
