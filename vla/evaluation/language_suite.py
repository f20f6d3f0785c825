"""Runs the language suite: the same starts under many instructions, judged, counted and reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.errors import MachineError
from vla.evaluation.episode import EvaluatedEpisode
from vla.evaluation.language_cases import Case
from vla.evaluation.language_report import HEAT_MAP, write_heat_map, write_language_page
from vla.evaluation.language_results import suite_results
from vla.evaluation.language_rows import Row, RowKey, RowsFile, as_json_lines, different_starts
from vla.evaluation.language_tables import suite_markdown
from vla.evaluation.machine import machine_facts
from vla.evaluation.plan import EvaluationPlan, Subject
from vla.evaluation.results_json import run_versions
from vla.evaluation.runner import episode_runner, resumable
from vla.files import run_lock, write_text
from vla.judging.thresholds import Thresholds

LANGUAGE_VERSION = 2
"""Version of language.json and of what the suite says; 2: more wordings, more colours that no cube has, new seeds."""


def evaluate_language(plan: EvaluationPlan, subject: Subject, cases: Sequence[Case], output_dir: Path) -> None:
    """Run the episodes of `cases`, write `language.json`, its tables, its heat map and its page, and print the tables.

    A run that is stopped, by whatever, loses no finished episode: the same command continues. No episode is recorded.

    Args:
        plan: has the episodes of the cases, in their order.
        subject: who acts.
        cases: what is said in each episode, and what it is counted under.
        output_dir: folder for the results; older ones in it stay until the new ones are whole.

    Raises:
        MachineError: the machine failed, or the same seed did not always give the same start.
        UserError: another run is writing into `output_dir`.
    """
    with run_lock(output_dir, shard=plan.shard), resumable():
        found, run_facts, file = _run(plan, subject, cases, output_dir)
        if plan.shard is not None:
            print(plan.shard.farewell("writes the results"))
            return
        rows = [found[key] for key in map(_key, cases)]
        differing = different_starts(rows)
        if differing:
            raise MachineError(
                f"the episodes of seed {differing[0]} did not all begin in the same state, so nothing can be said of "
                f"their instructions; delete {file.path}"
            )
        content = suite_results(rows)
        text = _publish(plan, subject.facts | run_facts, subject.env.to_env_args(), content, rows, output_dir)
        file.remove()
    print(f"\n{text}\n\nresults: {output_dir / 'language.json'}, with its heat map: {output_dir / 'language.html'}")


def _run(
    plan: EvaluationPlan, subject: Subject, cases: Sequence[Case], output_dir: Path
) -> tuple[dict[RowKey, Row], dict[str, Any], RowsFile]:
    """Run the episodes that an earlier run of the same question has not finished; return all that have ended."""
    with episode_runner(plan, subject) as runner:
        question = plan.question(subject, runner.facts) | {"cases": [_question(case) for case in cases]}
        file = RowsFile(output_dir, question, plan.shard)
        rows = {row.key: row for row in file.load()}
        if rows:
            print(f"continuing: {len(rows)} of {len(cases)} episodes are finished ({file.path})")
        missing = [number for number in plan.asked(range(len(cases))) if _key(cases[number]) not in rows]

        def keep(number: int, episode: EvaluatedEpisode) -> None:
            row = Row.of(cases[missing[number]], episode)
            file.add(row)
            rows[row.key] = row

        if missing:
            tasks = plan.tasks(subject, None)
            finished = [row.success for row in rows.values()]
            runner.run([tasks[number] for number in missing], "language suite", keep, finished)
        return rows, runner.facts, file


def _key(case: Case) -> RowKey:
    """The key of its row."""
    return case.part, case.episode.seed, case.number


def _question(case: Case) -> list[Any]:
    """What decides an episode and what is said of it, as JSON types."""
    switch = case.episode.switch
    return [case.part, case.episode.seed, case.number, *case.episode.instructions, switch and switch.step]


def _publish(
    plan: EvaluationPlan,
    facts: dict[str, Any],
    env_args: str,
    content: dict[str, Any],
    rows: Sequence[Row],
    output_dir: Path,
) -> str:
    """Write all results; return the tables as Markdown."""
    head = {
        "language_version": LANGUAGE_VERSION,
        **facts,
        "split": plan.split,
        "machine": machine_facts(),
        "versions": run_versions(),
        "env_args": env_args,
        "thresholds": dataclasses.asdict(Thresholds()),
        "options": json.loads(json.dumps(plan.options, default=str)),
        "starts": "the episodes of a seed and scene begin in the same state, to the bit",
        **content,
    }
    text = f"{suite_markdown(content)}\n\n{_describe(plan, facts)}"
    picture = None
    if content["said_x_lifted"]["said"]:
        picture = output_dir / HEAT_MAP
        write_heat_map(picture, content)
    title = f"{facts['policy']}: what words decide"
    write_language_page(output_dir / "language.html", title, _facts(head), content, picture)
    write_text(output_dir / "language.md", f"{text}\n")
    write_text(output_dir / "language.json", as_json_lines(head, rows))
    return text


def _describe(plan: EvaluationPlan, facts: dict[str, Any]) -> str:
    """What was run, in a line."""
    first, last = plan.seeds()
    blind = ", BLIND" if plan.blind else ""
    return (
        f"{facts['policy']}{blind}; {len(plan.episodes)} episodes, {plan.split} seeds between {first} and {last}; "
        f"weights: {facts['weights']}"
    )


def _facts(head: dict[str, Any]) -> dict[str, str]:
    """Names and values for the page's table of the run."""
    shown = ("policy", "checkpoint_sha256", "weights", "trained_epochs", "split", "inference", "gl_backend")
    facts = {name.replace("_", " "): str(head[name]) for name in shown if name in head}
    return facts | head["machine"] | head["versions"]
