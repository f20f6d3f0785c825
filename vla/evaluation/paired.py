"""Compares two policies on the same seeds: the paired table and an exact McNemar test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.evaluate import publish, run_episodes
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.runner import resumable
from vla.evaluation.statistics import mcnemar, rate, success_interval
from vla.files import run_lock, write_text
from vla.markdown import markdown_table

COMPARE_VERSION = 1


def compare_policies(plan: EvaluationPlan, first: Subject, second: Subject, output_dir: Path) -> None:
    """Evaluate two policies on the same seeds into `a` and `b` of `output_dir`, write the comparison, and print it.

    As in `vla.evaluation.evaluate`, a stopped run loses no finished episode, and older results stay until both
    evaluations are whole.

    Raises:
        MachineError: the machine failed.
        UserError: the policies belong to different simulators, or another run is writing into these folders.
    """
    check_same_episodes(first, second)
    sides = output_dir / "a", output_dir / "b"
    with run_lock(output_dir), run_lock(sides[0]), run_lock(sides[1]), resumable():
        evaluations = [
            run_episodes(plan, subject, folder) for subject, folder in zip((first, second), sides, strict=True)
        ]
        results = [[episode.result for episode in evaluation.episodes] for evaluation in evaluations]
        content, text = comparison([str(subject.checkpoint) for subject in (first, second)], *results)
        head = {"compare_version": COMPARE_VERSION, "subjects": [first.facts, second.facts]} | plan.conditions()
        for evaluation in evaluations:
            publish(evaluation)
        write_text(output_dir / "compare.json", json.dumps(head | content, indent=1))
        write_text(output_dir / "compare.md", f"{text}\n")
        for evaluation in evaluations:
            evaluation.partial.remove()
    print(f"\n{text}\n\nresults: {output_dir / 'compare.json'}, each with pictures in a/ and b/ beside it")


def check_same_episodes(first: Subject, second: Subject) -> None:
    """Check that two policies belong to the same simulator: only then can they be run in the same episodes.

    Raises:
        UserError: they belong to different ones.
    """
    ours, theirs = dataclasses.asdict(first.env), dataclasses.asdict(second.env)
    differing = [f"{name} {ours[name]}, {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise UserError(
            f"{first.checkpoint} and {second.checkpoint} were trained in different scenes ({'; '.join(differing)}): "
            "their episodes would not be the same; evaluate each by itself with --checkpoint"
        )


def comparison(
    names: Sequence[str], first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]
) -> tuple[dict[str, Any], str]:
    """The comparison of two evaluations of the same episodes, as JSON types and as Markdown."""
    pairs = list(zip(first, second, strict=True))
    assert all((a.seed, a.instruction) == (b.seed, b.instruction) for a, b in pairs), "not the same episodes"
    only_first = sum(a.success and not b.success for a, b in pairs)
    only_second = sum(b.success and not a.success for a, b in pairs)
    both = sum(a.success and b.success for a, b in pairs)
    lifted = [both + only_first, both + only_second]
    content = {
        "names": list(names),
        "episodes": len(pairs),
        "lifted": lifted,
        "lifted_interval_95": [success_interval(count, len(pairs)) for count in lifted],
        "lifted_by_both": both,
        "lifted_by_first_only": only_first,
        "lifted_by_second_only": only_second,
        "lifted_by_neither": len(pairs) - both - only_first - only_second,
        "mcnemar_exact_p": mcnemar(only_first, only_second),
        "differing": [
            {
                "seed": a.seed,
                "instruction": a.instruction,
                "lifted_by": names[0] if a.success else names[1],
                "verdicts": [a.verdict, b.verdict],
            }
            for a, b in pairs
            if a.success != b.success
        ],
    }
    return content, _comparison_text(content)


def _comparison_text(content: dict[str, Any]) -> str:
    """The paired table, both rates, the test, and the episodes that only one policy lifted, as Markdown."""
    names, lifted, episodes = content["names"], content["lifted"], content["episodes"]
    both, neither = str(content["lifted_by_both"]), str(content["lifted_by_neither"])
    only_first, only_second = str(content["lifted_by_first_only"]), str(content["lifted_by_second_only"])
    table = markdown_table(
        ("", f"B lifted ({names[1]})", "B failed"),
        [(f"A lifted ({names[0]})", both, only_first), ("A failed", only_second, neither)],
    )
    p_value = content["mcnemar_exact_p"]
    meaning = "a difference" if p_value < 0.05 else "no difference that these episodes could show"
    test = (
        f"A: {rate(lifted[0], episodes)}; B: {rate(lifted[1], episodes)}; "
        f"exact McNemar test: p = {p_value:.3g}, {meaning} at 5%."
    )
    differing = [
        f"seed {row['seed']}: lifted by {row['lifted_by']} only; A: {row['verdicts'][0]}; B: {row['verdicts'][1]}"
        for row in content["differing"]
    ]
    return "\n\n".join([table, test, *differing])
