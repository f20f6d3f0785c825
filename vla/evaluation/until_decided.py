"""Runs pairs of episodes until the sequential test decides which of two policies is better, or the budget ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla.evaluation.evaluate import BegunEvaluation, Evaluation, begin
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.runner import episode_runner
from vla.evaluation.sequential import Decision, decide, ended_pairs


@dataclass(frozen=True)
class SequentialRun:
    """Pairs of episodes that have ended, and what they decided."""

    evaluations: list[Evaluation]
    """Of both policies, up to the deciding pair; the same for any number of workers."""
    decision: Decision
    budget: int
    """The most pairs that would have been run."""
    beyond: int
    """Episodes beyond the deciding pair that other workers had begun. They count for nothing."""


def run_until_decided(plan: EvaluationPlan, subjects: Sequence[Subject], folders: Sequence[Path]) -> SequentialRun:
    """Run the same episodes of two policies, in the order of the seeds; publish nothing yet.

    Workers take the next episode as soon as they are free. The decision is taken on the pairs in the order of the
    seeds. A run that is stopped loses no finished episode: the same command continues.
    """
    with episode_runner(plan, *subjects) as runner:
        sides = [begin(plan, subject, folder, runner.facts) for subject, folder in zip(subjects, folders, strict=True)]
        first, second = (side.tasks for side in sides)
        missing = [
            (side, task)
            for pair in zip(first, second, strict=True)
            for side, task in zip(sides, pair, strict=True)
            if task.seed not in side.finished
        ]
        if missing:
            runner.run(
                [task for _, task in missing],
                "until decided",
                lambda number, episode: missing[number][0].keep(episode),
                [episode.result.success for side in sides for episode in side.finished.values()],
                lambda: _decision(sides).better is not None,
            )
    decision = _decision(sides)
    beyond = sum(len(side.finished) for side in sides) - 2 * decision.pairs
    return SequentialRun([_cut(side, decision) for side in sides], decision, plan.num_episodes, beyond)


def _decision(sides: Sequence[BegunEvaluation]) -> Decision:
    """What the episodes that have ended decide."""
    first, second = ({seed: each.result.success for seed, each in side.finished.items()} for side in sides)
    return decide(ended_pairs([task.seed for task in sides[0].tasks], first, second))


def _cut(side: BegunEvaluation, decision: Decision) -> Evaluation:
    """One policy's evaluation, up to the deciding pair."""
    stopping = (
        f"--until-decided: {decision.pairs} of at most {side.plan.num_episodes} episodes. Their outcomes decided when "
        "to stop, for which the exact intervals do not allow; those of the comparison do"
    )
    return dataclasses.replace(
        side,
        plan=dataclasses.replace(side.plan, episodes=side.plan.episodes[: decision.pairs]),
        tasks=side.tasks[: decision.pairs],
        facts=side.facts | {"stopping": stopping},
    ).ended()
