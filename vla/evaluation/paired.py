"""Two policies on the same seeds: the paired table and an exact McNemar test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.statistics import mcnemar, rate, success_interval
from vla.markdown import markdown_table
from vla.sim.config import EnvConfig

COMPARE_VERSION = 1


def check_same_episodes(paths: Sequence[Path], configs: Sequence[EnvConfig]) -> None:
    """Two policies can be compared on the same episodes only.

    Raises:
        UserError: they belong to simulators that differ.
    """
    first, second = (dataclasses.asdict(config) for config in configs)
    differing = [f"{name} {first[name]}, {second[name]}" for name in first if first[name] != second[name]]
    if differing:
        raise UserError(
            f"{paths[0]} and {paths[1]} were trained in different scenes ({'; '.join(differing)}): their episodes "
            "would not be the same; evaluate each by itself with --checkpoint"
        )


def compare(
    names: Sequence[str], first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]
) -> tuple[dict[str, Any], str]:
    """The comparison of two evaluations of the same episodes, as JSON types and as Markdown."""
    pairs = list(zip(first, second, strict=True))
    assert all((a.seed, a.instruction) == (b.seed, b.instruction) for a, b in pairs), "not the same episodes"
    only = [sum(a.success and not b.success for a, b in pairs), sum(b.success and not a.success for a, b in pairs)]
    both = sum(a.success and b.success for a, b in pairs)
    neither = len(pairs) - both - sum(only)
    p_value = mcnemar(*only)
    differing: list[dict[str, Any]] = [
        {"seed": a.seed, "instruction": a.instruction, "lifted_by": names[0] if a.success else names[1]}
        | {"verdicts": [a.verdict, b.verdict]}
        for a, b in pairs
        if a.success != b.success
    ]
    lifted = [both + only[0], both + only[1]]
    content = {
        "names": list(names),
        "episodes": len(pairs),
        "lifted": lifted,
        "lifted_interval_95": [success_interval(count, len(pairs)) for count in lifted],
        "lifted_by_both": both,
        "lifted_by_first_only": only[0],
        "lifted_by_second_only": only[1],
        "lifted_by_neither": neither,
        "mcnemar_exact_p": p_value,
        "differing": differing,
    }
    table = markdown_table(
        ("", f"B lifted ({names[1]})", "B failed"),
        [(f"A lifted ({names[0]})", str(both), str(only[0])), ("A failed", str(only[1]), str(neither))],
    )
    meaning = "a difference" if p_value < 0.05 else "no difference that these episodes could show"
    lines = [
        table,
        f"A: {rate(lifted[0], len(pairs))}; B: {rate(lifted[1], len(pairs))}; "
        f"exact McNemar test: p = {p_value:.3g}, {meaning} at 5%.",
    ]
    for row in differing:
        lines.append(
            f"seed {row['seed']}: lifted by {row['lifted_by']} only; A: {row['verdicts'][0]}; B: {row['verdicts'][1]}"
        )
    return content, "\n\n".join(lines)
