"""Compares two policies on the same seeds: the paired table, and an exact McNemar test or a sequential one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.evaluate import publish, run_episodes
from vla.evaluation.obedience import STILL_COUNTS
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.runner import resumable
from vla.evaluation.sequential import THRESHOLD, anytime_interval
from vla.evaluation.statistics import mcnemar, rate, success_interval
from vla.evaluation.until_decided import SequentialRun, run_until_decided
from vla.files import run_lock, write_text
from vla.markdown import markdown_table
from vla.sim.config import EnvConfig

COMPARE_VERSION = 2
"""Layout of compare.json: 2 since it may be that of a sequential comparison."""


def compare_policies(
    plan: EvaluationPlan, first: Subject, second: Subject, output_dir: Path, until_decided: bool = False
) -> None:
    """Evaluate two policies on the same seeds into `a` and `b` of `output_dir`, write the comparison, and print it.

    As in `vla.evaluation.evaluate`, a stopped run loses no finished episode, and older results stay until both
    evaluations are whole.

    Args:
        plan: the episodes of each policy.
        first: A of the comparison.
        second: B of the comparison.
        output_dir: where the comparison is written.
        until_decided: stop at the pair at which the sequential test decides; the plan's episodes are the most that
            are run.

    Raises:
        MachineError: the machine failed.
        UserError: the policies belong to different simulators, or another run is writing into these folders.
    """
    check_same_episodes(first, second)
    sides = output_dir / "a", output_dir / "b"
    with ExitStack() as locks, resumable():
        for folder in (output_dir, *sides):
            locks.enter_context(run_lock(folder, shard=plan.shard))
        run = None
        if until_decided:
            run = run_until_decided(plan, (first, second), sides)
            evaluations = run.evaluations
        else:
            begun = [run_episodes(plan, first, sides[0]), run_episodes(plan, second, sides[1])]
            if plan.shard is not None:
                print(plan.shard.farewell("writes the comparison"))
                return
            evaluations = [side.ended() for side in begun]
        ours, theirs = ([episode.result for episode in evaluation.episodes] for evaluation in evaluations)
        content, text = comparison([str(subject.checkpoint) for subject in (first, second)], ours, theirs, run)
        if plan.scene.kind == "cubes":
            text += f"\n\n{STILL_COUNTS}"
        head = {"compare_version": COMPARE_VERSION, "subjects": [first.facts, second.facts]}
        head |= evaluations[0].plan.conditions()
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
    check_same_simulator((first.checkpoint, second.checkpoint), (first.env, second.env))


def check_same_simulator(checkpoints: Sequence[Path], envs: Sequence[EnvConfig]) -> None:
    """As `check_same_episodes`, for the simulators of any number of checkpoints.

    Raises:
        UserError: they belong to different ones.
    """
    ours = dataclasses.asdict(envs[0])
    for path, env in zip(checkpoints, envs, strict=True):
        theirs = dataclasses.asdict(env)
        differing = [f"{name} {ours[name]}, {theirs[name]}" for name in ours if ours[name] != theirs[name]]
        if differing:
            raise UserError(
                f"{checkpoints[0]} and {path} were trained in different scenes ({'; '.join(differing)}): "
                "their episodes would not be the same; evaluate each by itself with --checkpoint"
            )


def comparison(
    names: Sequence[str],
    first: Sequence[EpisodeResult],
    second: Sequence[EpisodeResult],
    run: SequentialRun | None = None,
) -> tuple[dict[str, Any], str]:
    """The comparison of two evaluations of the same episodes, as JSON types and as Markdown.

    Args:
        names: of both policies.
        first: episodes of the first one.
        second: the same episodes of the second one.
        run: how many episodes there are was decided by their outcomes; None: it was fixed beforehand.
    """
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
        "lifted_by_both": both,
        "lifted_by_first_only": only_first,
        "lifted_by_second_only": only_second,
        "lifted_by_neither": len(pairs) - both - only_first - only_second,
        **(_fixed_test(lifted, len(pairs), only_first, only_second) if run is None else _sequential_test(lifted, run)),
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


def _fixed_test(lifted: Sequence[int], episodes: int, only_first: int, only_second: int) -> dict[str, Any]:
    """Intervals and p-value for a number of episodes that was fixed beforehand."""
    return {
        "lifted_interval_95": [success_interval(count, episodes) for count in lifted],
        "mcnemar_exact_p": mcnemar(only_first, only_second),
    }


def _sequential_test(lifted: Sequence[int], run: SequentialRun) -> dict[str, Any]:
    """Intervals and p-value that hold although the outcomes decided when to stop.

    McNemar's p and the exact intervals are left out: they would not be valid, and nobody should quote them.
    """
    decision = run.decision
    return {
        "lifted_anytime_interval_95": [anytime_interval(count, decision.pairs) for count in lifted],
        "sequential": {
            "decided_for": None if decision.better is None else {"first": "A", "second": "B"}[decision.better],
            "budget": run.budget,
            "pairs": decision.pairs,
            "discordant": decision.only_first + decision.only_second,
            "e_value": decision.e_value,
            "e_value_that_decides": THRESHOLD,
            "anytime_p": decision.p_value,
            "episodes_beyond": run.beyond,
        },
    }


def _comparison_text(content: dict[str, Any]) -> str:
    """The paired table, both rates, the test, and the episodes that only one policy lifted, as Markdown."""
    names = content["names"]
    both, neither = str(content["lifted_by_both"]), str(content["lifted_by_neither"])
    only_first, only_second = str(content["lifted_by_first_only"]), str(content["lifted_by_second_only"])
    table = markdown_table(
        ("", f"B lifted ({names[1]})", "B failed"),
        [(f"A lifted ({names[0]})", both, only_first), ("A failed", only_second, neither)],
    )
    test = _sequential_text(content) if "sequential" in content else _fixed_text(content)
    differing = [
        f"seed {row['seed']}: lifted by {row['lifted_by']} only; A: {row['verdicts'][0]}; B: {row['verdicts'][1]}"
        for row in content["differing"]
    ]
    return "\n\n".join([table, test, *differing])


def _fixed_text(content: dict[str, Any]) -> str:
    p_value = content["mcnemar_exact_p"]
    meaning = "a difference" if p_value < 0.05 else "no difference that these episodes could show"
    first, second = (rate(count, content["episodes"]) for count in content["lifted"])
    return f"A: {first}; B: {second}; exact McNemar test: p = {p_value:.3g}, {meaning} at 5%."


def _sequential_text(content: dict[str, Any]) -> str:
    test = content["sequential"]
    if test["decided_for"] is None:
        decided = (
            f"Undecided: the budget of {test['budget']} pairs ended. That does not show that both are equally good."
        )
    else:
        decided = f"Decided after {test['pairs']} of at most {test['budget']} pairs: {test['decided_for']} is better."
    evidence = (
        f"Pairs that only one policy lifted: {test['discordant']}, {content['lifted_by_first_only']} by A and "
        f"{content['lifted_by_second_only']} by B; e-value {test['e_value']:.3g} ({test['e_value_that_decides']:g} "
        f"decides); anytime-valid p = {test['anytime_p']:.3g}."
    )
    first, second = (rate(count, content["episodes"], anytime_interval) for count in content["lifted"])
    rates = (
        f"A: {first}; B: {second}. These 95% intervals allow for stopping at any pair. Exact intervals and McNemar's p "
        "do not, and are left out."
    )
    return "\n\n".join([decided, evidence, rates])
