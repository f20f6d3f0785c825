"""`results.json`: what programs read of an evaluation, with versions and intervals."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vla.evaluation.episode import EpisodeResult
from vla.evaluation.milestones import PHASES
from vla.evaluation.obedience import obedience_json
from vla.evaluation.statistics import success_interval
from vla.evaluation.tables import count_failures, push_summary
from vla.judging.thresholds import Thresholds
from vla.sim.config import EnvConfig, installed_versions

RESULTS_VERSION = 3
_EVENTS: dict[str, Callable[[EpisodeResult], bool]] = {
    "success": lambda result: result.success,
    "reported_success": lambda result: result.reported_success,
    "gripper_closure": lambda result: result.gripper_closures > 0,
    "grasped": lambda result: result.grasped,
    "lifted": lambda result: result.lifted,
    "drop": lambda result: result.drops > 0,
    "regrasp": lambda result: result.regrasps > 0,
    "judges_disagree": lambda result: result.judges_agree is False,
    "invalid": lambda result: result.invalid_reason is not None,
}
"""What `table_4` counts episodes of."""


def run_versions() -> dict[str, str]:
    """Versions of the packages that decide how an episode runs, and of those that compute the policy."""
    computed = {name: version(name) for name in ("torch", "torchvision")}
    return installed_versions() | computed | {"python": platform.python_version()}


def results_json(
    facts: dict[str, Any],
    options: dict[str, Any],
    env: EnvConfig,
    results: Sequence[EpisodeResult],
    videos: Sequence[Path | None],
) -> dict[str, Any]:
    """The content of `results.json`, as JSON types.

    Everything but the key `timing` is the same for the same command on the same machine.

    Args:
        facts: about the policy and the run; they become keys of their own.
        options: the command's options.
        env: configuration of the simulator.
        results: one for each episode.
        videos: one for each episode; None: it has no video.
    """
    successes = sum(result.success for result in results)
    reported = sum(result.reported_success for result in results)
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
        "milestones": {
            phase: _share(sum(phase in result.phase_times_s for result in results), len(results)) for phase in PHASES
        },
        "failure_kinds": {
            kind: _share(conditions.total(), len(results)) | {"failed": dict(conditions)}
            for kind, conditions in count_failures(results).items()
        },
        **({"obedience": obedience_json(results)} if env.scene.kind == "cubes" else {}),
        "push_test": push_summary(results),
        "timing": _timing(results),
        "episodes": [_episode(result, video) for result, video in zip(results, videos, strict=True)],
    }


def _episode(result: EpisodeResult, video: Path | None) -> dict[str, Any]:
    """An episode without its times, with the path of its video."""
    content = dataclasses.asdict(result)
    del content["inference_ms"]
    return content | {"video": None if video is None else str(video)}


def _timing(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Median inference time of each episode, and median and 95th percentile over all steps; None without steps."""
    medians = [float(np.median(result.inference_ms)) if result.inference_ms else None for result in results]
    times = [ms for result in results for ms in result.inference_ms]
    overall = [float(np.percentile(times, percent)) for percent in (50, 95)] if times else None
    return {"inference_ms_median": medians, "inference_ms_all_median_p95": overall}


def _table_4(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """The figures of `vla.evaluation.tables.report_table`."""
    rates = {name: _share(sum(met(result) for result in results), len(results)) for name, met in _EVENTS.items()}
    return {
        "rates": rates,
        "gripper_closures": sum(result.gripper_closures for result in results),
        "mean_steps": float(np.mean([result.steps for result in results])),
        "mean_reward": float(np.mean([result.reward for result in results])),
    }


def _share(count: int, episodes: int) -> dict[str, Any]:
    """A count of episodes, its share of all, and the exact 95% interval of the share."""
    return {"count": count, "rate": count / episodes, "interval_95": success_interval(count, episodes)}
