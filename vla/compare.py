"""Two policies on the same seeds: the paired table and an exact McNemar test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

from vla.evaluation import EpisodeResult
from vla.stats import markdown_table, rate


def compare(
    names: Sequence[str], first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]
) -> tuple[dict[str, Any], str]:
    """The comparison of two evaluations of the same episodes, as JSON types and as Markdown."""
    pairs = list(zip(first, second, strict=True))
    assert all((a.seed, a.instruction) == (b.seed, b.instruction) for a, b in pairs), "not the same episodes"
    only = [sum(a.success and not b.success for a, b in pairs), sum(b.success and not a.success for a, b in pairs)]
    both = sum(a.success and b.success for a, b in pairs)
    neither = len(pairs) - both - sum(only)
    # McNemar: were they equally good, an episode that only one lifts would be either's with probability one half.
    p_value = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    differing: list[dict[str, Any]] = [
        {"seed": a.seed, "instruction": a.instruction, "lifted_by": names[0] if a.success else names[1]}
        | {"verdicts": [a.verdict, b.verdict]}
        for a, b in pairs
        if a.success != b.success
    ]
    content = {
        "names": list(names),
        "episodes": len(pairs),
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
        f"A: {rate(both + only[0], len(pairs))}; B: {rate(both + only[1], len(pairs))}; "
        f"exact McNemar test: p = {p_value:.3g}, {meaning} at 5%.",
    ]
    for row in differing:
        lines.append(
            f"seed {row['seed']}: lifted by {row['lifted_by']} only; A: {row['verdicts'][0]}; B: {row['verdicts'][1]}"
        )
    return content, "\n\n".join(lines)
