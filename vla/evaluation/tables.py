"""Tables of an evaluation: Table 4 of the report, milestones, failures, instructions, rates and the push test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla.evaluation.episode import EpisodeResult
from vla.evaluation.failures import FAILURE_KINDS
from vla.evaluation.milestones import PHASES
from vla.evaluation.statistics import percent_bounds, rate, share
from vla.judging.push_test import MAX_PUSH_M
from vla.markdown import markdown_table

TABLE_4 = ("Table 4: metric", "report, reported", "report, actual", "here")
MILESTONES = ("milestone", "episodes [95%]", "meaning")
FAILURES = ("failure", "episodes [95%]", "failed conditions", "meaning")


def report_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str, str]]:
    """Rows of Table 4: what the report claimed, what was true of it, and this run, with exact 95% intervals."""
    count = len(results)
    times = np.array([ms for result in results for ms in result.inference_ms])

    def episodes(met: Callable[[EpisodeResult], bool]) -> str:
        return rate(sum(met(result) for result in results), count)

    return [
        (
            "Success by the report's rule (world height > 8 cm)",
            "10/10",
            "10/10",
            episodes(lambda result: result.reported_success),
        ),
        ("Success by the verdict (true lift, held 1 s)", "-", "0/10", episodes(lambda result: result.success)),
        ("Episodes with a gripper closure", "-", "0/10", episodes(lambda result: result.gripper_closures > 0)),
        ("Gripper closure events", "-", "0", str(sum(result.gripper_closures for result in results))),
        ("Cubes grasped", "-", "0/10", episodes(lambda result: result.grasped)),
        ("Cubes lifted", "-", "0/10", episodes(lambda result: result.lifted)),
        ("Episodes with a drop", "-", "-", episodes(lambda result: result.drops > 0)),
        (
            "Invalid episodes (counted as failures)",
            "-",
            "-",
            episodes(lambda result: result.invalid_reason is not None),
        ),
        (
            "Episodes on which the second judge disagrees",
            "-",
            "-",
            episodes(lambda result: result.judges_agree is False),
        ),
        ("Average episode length (steps)", "87", "200", f"{np.mean([result.steps for result in results]):.0f}"),
        ("Average total reward", "49.01", "39.26", f"{np.mean([result.reward for result in results]):.2f}"),
        (
            "Inference time per action, median (p95)",
            "52 ms",
            "52 ms",
            f"{np.median(times):.0f} ms ({np.percentile(times, 95):.0f} ms)" if times.size else "-",
        ),
    ]


def report_table(results: Sequence[EpisodeResult]) -> str:
    """Table 4 as Markdown (`report_rows`)."""
    return markdown_table(TABLE_4, report_rows(results))


def milestone_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str]]:
    """For each of PHASES: how many episodes reached it, with the exact 95% interval, and its meaning.

    Episodes in which nothing was to be moved do not count; without any others there are no rows.
    """
    asked = [result for result in results if result.target is not None]
    return [
        (phase, rate(sum(phase in result.phase_times_s for result in asked), len(asked)), meaning)
        for phase, meaning in PHASES.items()
        if asked
    ]


def milestone_table(results: Sequence[EpisodeResult]) -> str:
    """The milestones as Markdown (`milestone_rows`)."""
    return markdown_table(MILESTONES, milestone_rows(results))


def failure_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str, str]]:
    """For each kind of failure that occurred: its share of all episodes with the exact 95% interval, the conditions of
    the verdict that failed with their counts, and its meaning."""
    return [
        (
            kind.replace("_", " "),
            rate(conditions.total(), len(results)),
            ", ".join(f"{failed.replace('_', ' ')} {count}" for failed, count in conditions.most_common()),
            FAILURE_KINDS[kind],
        )
        for kind, conditions in count_failures(results).items()
        if conditions
    ]


def count_failures(results: Sequence[EpisodeResult]) -> dict[str, Counter[str]]:
    """For each of FAILURE_KINDS: how often each condition was what a failure of that kind failed."""
    return {
        kind: Counter(str(result.failed) for result in results if result.failure_kind == kind) for kind in FAILURE_KINDS
    }


def failure_table(results: Sequence[EpisodeResult]) -> str:
    """The failures as Markdown (`failure_rows`)."""
    return markdown_table(FAILURES, failure_rows(results))


def instruction_table(results: Sequence[EpisodeResult]) -> str:
    """Success by the verdict for each instruction, with exact 95% intervals, as Markdown."""
    rows = []
    for instruction in dict.fromkeys(result.instruction for result in results):
        successes = [result.success for result in results if result.instruction == instruction]
        rows.append((instruction, rate(sum(successes), len(successes))))
    return markdown_table(("instruction", "success by the verdict"), rows)


def rate_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str]]:
    """Rows of an event, its share of the episodes, and the exact 95% interval; `milestone_rows` has the milestones."""
    count = len(results)

    def row(event: str, met: Sequence[bool]) -> tuple[str, str, str]:
        return event, share(sum(met), count), " to ".join(percent_bounds(sum(met), count))

    return [
        row("true success, by the verdict", [result.success for result in results]),
        row("success by the report's rule", [result.reported_success for result in results]),
        row("with a drop", [result.drops > 0 for result in results]),
        row("with more than one grasp", [result.regrasps > 0 for result in results]),
        row("invalid (counted as failures)", [result.invalid_reason is not None for result in results]),
    ]


def push_summary(results: Sequence[EpisodeResult]) -> dict[str, Any] | None:
    """What the push test found, as JSON types; None where no held cube was pushed."""
    pushes = [result.push_m for result in results if result.push_m is not None]
    if not pushes:
        return None
    return {
        "pushed": len(pushes),
        "withstood": sum(push <= MAX_PUSH_M for push in pushes),
        "largest_m": max(pushes),
        "limit_m": MAX_PUSH_M,
    }


def push_line(results: Sequence[EpisodeResult]) -> str:
    """What the push test found, in words."""
    found = push_summary(results)
    if found is None:
        return "Push test: no cube was held that could have been pushed."
    return (
        f"Push test, ten times the cube's weight, six ways: {found['withstood']} of {found['pushed']} held cubes moved "
        f"by {1e3 * MAX_PUSH_M:.0f} mm at most; the largest movement was {1e3 * found['largest_m']:.1f} mm."
    )
