"""Tables of an evaluation: Table 4 of the report, failures, instructions, rates and the push test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla.evaluation.episode import PHASES, EpisodeResult
from vla.evaluation.statistics import percent_bounds, rate, share
from vla.judging.push_test import MAX_PUSH_M
from vla.markdown import markdown_table

TABLE_4 = ("Table 4: metric", "report, reported", "report, actual", "here")
FAILURES = ("failures: came as far as", "failed condition", "episodes")


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


def failure_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str]]:
    """For the failed episodes: the furthest phase, the failed condition, and the number of episodes."""
    failures = Counter((result.phase, result.failed or "-") for result in results if not result.success)
    order = ("none", *PHASES)
    by_phase = sorted(failures.items(), key=lambda item: (order.index(item[0][0]), -item[1]))
    return [(phase, failed.replace("_", " "), str(count)) for (phase, failed), count in by_phase]


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
    """Rows of an event, its share of the episodes, and the exact 95% interval."""
    count = len(results)

    def row(event: str, met: Sequence[bool]) -> tuple[str, str, str]:
        return event, share(sum(met), count), " to ".join(percent_bounds(sum(met), count))

    return [
        row("true success, by the verdict", [result.success for result in results]),
        row("success by the report's rule", [result.reported_success for result in results]),
        row("grasped", [result.grasped for result in results]),
        row("lifted", [result.lifted for result in results]),
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
