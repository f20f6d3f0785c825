"""`results.json`: everything about an evaluation that a machine may ask for, with versions and intervals."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vla.evaluation.episode import EpisodeResult, failure_rows, push_summary
from vla.evaluation.statistics import success_interval
from vla.judging.verdict import Thresholds
from vla.sim.config import EnvConfig, installed_versions

RESULTS_VERSION = 2
_RATES: dict[str, Callable[[EpisodeResult], bool]] = {
    "success": lambda r: r.success,
    "reported_success": lambda r: r.reported_success,
    "gripper_closure": lambda r: r.gripper_closures > 0,
    "grasped": lambda r: r.grasped,
    "lifted": lambda r: r.lifted,
    "drop": lambda r: r.drops > 0,
    "regrasp": lambda r: r.regrasps > 0,
    "invalid": lambda r: r.invalid_reason is not None,
}


def run_versions() -> dict[str, str]:
    """The packages that decide how an episode runs, and those that compute the policy."""
    computed = {name: version(name) for name in ("torch", "torchvision")}
    return installed_versions() | computed | {"python": platform.python_version()}


def results_json(
    facts: dict[str, Any],
    options: dict[str, Any],
    env: EnvConfig,
    results: Sequence[EpisodeResult],
    videos: Sequence[Path | None],
) -> dict[str, Any]:
    """Everything but wall-clock times is the same for the same command on the same machine; those are in `timing`.

    `facts` is about the policy and the run, `options` are the command's.
    """
    successes, reported = (sum(met) for met in zip(*((r.success, r.reported_success) for r in results), strict=True))
    times = [result.inference_ms for result in results]
    every = [ms for episode in times for ms in episode]
    episodes = []
    for result, video in zip(results, videos, strict=True):
        episode = dataclasses.asdict(result)
        del episode["inference_ms"]
        episode["video"] = None if video is None else str(video)
        episodes.append(episode)
    return {
        "results_version": RESULTS_VERSION,
        **facts,
        "versions": run_versions(),
        "env_args": env.to_env_args(),
        "thresholds": dataclasses.asdict(Thresholds()),
        "options": json.loads(json.dumps(options, default=str)),  # paths as text, those in a pair too
        "success_rate": successes / len(results),
        "success_interval_95": success_interval(successes, len(results)),
        "reported_success_rate": reported / len(results),
        "reported_success_interval_95": success_interval(reported, len(results)),
        "table_4": _table_4(results),
        "failures": [
            {"phase": phase, "failed": failed, "episodes": int(count)} for phase, failed, count in failure_rows(results)
        ],
        "push_test": push_summary(results),
        "timing": {
            "inference_ms_median": [float(np.median(episode)) if episode else None for episode in times],
            "inference_ms_all_median_p95": [float(np.percentile(every, at)) for at in (50, 95)] if every else None,
        },
        "episodes": episodes,
    }


def _table_4(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """The figures of `vla.evaluation.episode.report_table`."""
    rates = {}
    for name, met in _RATES.items():
        count = sum(map(met, results))
        rates[name] = {
            "count": count,
            "rate": count / len(results),
            "interval_95": success_interval(count, len(results)),
        }
    return {
        "rates": rates,
        "gripper_closures": sum(result.gripper_closures for result in results),
        "mean_steps": float(np.mean([result.steps for result in results])),
        "mean_reward": float(np.mean([result.reward for result in results])),
    }
