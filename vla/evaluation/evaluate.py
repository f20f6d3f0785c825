"""Evaluates one policy: runs the episodes, and writes the results when all of them have ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.evaluation.episode import EvaluatedEpisode
from vla.evaluation.episodes_csv import write_csv
from vla.evaluation.html_report import write_report
from vla.evaluation.machine import machine_facts
from vla.evaluation.obedience import KINDS, OBEDIENCE, kind_rows, obedience_rows
from vla.evaluation.partial import PartialEpisodes
from vla.evaluation.plan import EvaluationPlan, Subject, is_video, video_name
from vla.evaluation.recordings import write_episodes
from vla.evaluation.results_json import results_json, run_versions
from vla.evaluation.runner import episode_runner, resumable
from vla.evaluation.tables import failure_table, instruction_table, milestone_table, push_line, report_table
from vla.evaluation.task import EvalTask
from vla.files import atomic_path, run_lock
from vla.markdown import markdown_table


@dataclass(frozen=True)
class Evaluation:
    """An evaluation whose episodes have all ended, before and after its results are published."""

    plan: EvaluationPlan
    subject: Subject
    output_dir: Path
    facts: dict[str, Any]
    """About the policy and the run, for results.json."""
    episodes: list[EvaluatedEpisode]
    partial: PartialEpisodes
    """The same episodes on the disk, until the results are published."""

    def video_names(self) -> list[str | None]:
        """File name of each episode's video; None: it has none."""
        return [
            video_name(number) if episode.has_video else None for number, episode in enumerate(self.episodes, start=1)
        ]


def evaluate(plan: EvaluationPlan, subject: Subject, output_dir: Path) -> None:
    """Evaluate a policy, write the results into `output_dir`, and print them.

    A run that is stopped, by whatever, loses no finished episode: the same command continues. Older results in
    `output_dir` stay until the new ones are whole.

    Raises:
        MachineError: the machine failed.
        UserError: another run is writing into `output_dir`.
    """
    with run_lock(output_dir, shard=plan.shard), resumable():
        begun = run_episodes(plan, subject, output_dir)
        if plan.shard is not None:
            print(plan.shard.farewell("writes the results"))
            return
        evaluation = begun.ended()
        table = publish(evaluation)
        evaluation.partial.remove()
    print(f"\n{table}")
    for number, (episode, video) in enumerate(zip(evaluation.episodes, evaluation.video_names(), strict=True), start=1):
        result = episode.result
        shown = f"  {output_dir / video}" if video else ""
        kind = f"  [{result.failure_kind.replace('_', ' ')}]" if result.failure_kind else ""
        print(f"episode {number:3d}  seed {result.seed}  {result.steps:3d} steps  {result.verdict}{kind}{shown}")
    print(f"\nresults: {output_dir / 'results.json'}, with pictures: {output_dir / 'report.html'}")


@dataclass(frozen=True)
class BegunEvaluation:
    """An evaluation some of whose episodes may be missing; `begin` makes one."""

    plan: EvaluationPlan
    subject: Subject
    output_dir: Path
    facts: dict[str, Any]
    partial: PartialEpisodes
    tasks: list[EvalTask]
    finished: dict[int, EvaluatedEpisode]
    """By seed; those that an earlier run of the same question has finished, and those that were kept since."""

    def keep(self, episode: EvaluatedEpisode) -> None:
        """Add an episode; it is safe on the disk when this returns."""
        self.partial.save(episode)
        self.finished[episode.result.seed] = episode

    def missing(self) -> list[EvalTask]:
        """The episodes that have not ended, of the shard or of all."""
        return [task for task in self.plan.asked(self.tasks) if task.seed not in self.finished]

    def ended(self) -> Evaluation:
        """The evaluation, when no episode is missing."""
        episodes = [self.finished[task.seed] for task in self.tasks]
        return Evaluation(self.plan, self.subject, self.output_dir, self.facts, episodes, self.partial)


def begin(plan: EvaluationPlan, subject: Subject, output_dir: Path, run_facts: dict[str, Any]) -> BegunEvaluation:
    """Find the episodes that an earlier run of the same question has finished, and say so."""
    partial = PartialEpisodes(output_dir, plan.question(subject, run_facts))
    for line in partial.describe_others():
        print(line)
    tasks = plan.tasks(subject, partial.folder if plan.videos else None)
    finished = _with_videos(partial.load(), tasks)
    if finished:
        print(f"continuing: {len(finished)} of {len(tasks)} episodes are finished ({partial.folder})")
    facts = subject.facts | {"split": plan.split} | run_facts | {"machine": machine_facts()}
    if plan.scene.kind == "cubes":
        facts["skipped_seeds"] = plan.skipped_seeds()
    return BegunEvaluation(plan, subject, output_dir, facts, partial, tasks, finished)


def run_episodes(plan: EvaluationPlan, subject: Subject, output_dir: Path) -> BegunEvaluation:
    """Run the episodes that an earlier run of the same question has not finished; publish nothing yet."""
    with episode_runner(plan, subject) as runner:
        begun = begin(plan, subject, output_dir, runner.facts)
        if missing := begun.missing():
            finished = [episode.result.success for episode in begun.finished.values()]
            runner.run(missing, "evaluate", lambda _, episode: begun.keep(episode), finished)
    return begun


def _with_videos(finished: dict[int, EvaluatedEpisode], tasks: Sequence[EvalTask]) -> dict[int, EvaluatedEpisode]:
    """The finished episodes, by seed, without those whose video was deleted since: they are run again."""
    lost = {task.seed for task in tasks if task.video is not None and not task.video.exists()}
    return {seed: episode for seed, episode in finished.items() if not (episode.has_video and seed in lost)}


def publish(evaluation: Evaluation) -> str:
    """Write all results beside the old ones, then let them take their places; return the tables as Markdown."""
    folder, plan, episodes = evaluation.output_dir, evaluation.plan, evaluation.episodes
    results = [episode.result for episode in episodes]
    names = evaluation.video_names()
    videos = [None if name is None else folder / name for name in names]
    tables = _tables(evaluation)
    push = push_line(results) if plan.push_test else None
    options = plan.options | {"output_dir": folder}
    content = results_json(evaluation.facts, options, evaluation.subject.env, results, videos)
    done = f"{sum(result.success for result in results)} of {len(results)}"
    several = plan.scene.kind == "cubes"
    what = f"in the scene cubes: {done} as told" if several else f"on Lift: {done} truly lifted"
    with ExitStack() as stack:
        # Files take their places in reverse order: where results.json is new, everything beside it is new.
        path = {
            name: stack.enter_context(atomic_path(folder / name))
            for name in ("results.json", "results.md", "report.html", "episodes.csv", "episodes.hdf5")
        }
        path["results.json"].write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        path["results.md"].write_text(f"{tables}\n", encoding="utf-8")
        write_csv(path["episodes.csv"], results)
        write_episodes(path["episodes.hdf5"], evaluation.subject.env, episodes)
        more = _obedience_tables(evaluation) if several else {}
        title = f"{evaluation.facts['policy']} {what}"
        write_report(path["report.html"], title, _report_facts(evaluation), episodes, videos, push, more)
        _publish_videos(evaluation.partial.folder, folder, [name for name in names if name is not None])
    return f"{tables}\n"


def _tables(evaluation: Evaluation) -> str:
    """The content of results.md."""
    plan = evaluation.plan
    results = [episode.result for episode in evaluation.episodes]
    tables = [report_table(results)]
    if any(result.target is not None for result in results):
        tables.append(milestone_table(results))
    if plan.scene.kind == "cubes":
        tables += [markdown_table(rows[0], rows[1:]) for rows in _obedience_tables(evaluation).values()]
    elif len(plan.instructions) > 1:
        tables.append(instruction_table(results))
    if not all(result.success for result in results):
        tables.append(failure_table(results))
    if plan.push_test:
        tables.append(push_line(results))
    tables.append(f"{plan.describe()}, {plan.split} seeds {_seeds(plan)}; weights: {evaluation.facts['weights']}")
    if "stopping" in evaluation.facts:
        tables.append(evaluation.facts["stopping"])
    return "\n\n".join(tables)


def _report_facts(evaluation: Evaluation) -> dict[str, str]:
    """Names and values for the table of the run in report.html."""
    machine: dict[str, str] = evaluation.facts["machine"]
    facts = {name: value for name, value in evaluation.facts.items() if name != "machine"} | machine
    shown = {name.replace("_", " "): str(value) for name, value in facts.items()}
    return shown | {"instruction": evaluation.plan.describe(), "seeds": _seeds(evaluation.plan)} | run_versions()


def _obedience_tables(evaluation: Evaluation) -> dict[str, list[tuple[str, ...]]]:
    """Tables of the scene "cubes" by their headings, each with its head."""
    results = [episode.result for episode in evaluation.episodes]
    return {
        "Obedience": [OBEDIENCE, *obedience_rows(results)],
        "Kinds of instructions": [KINDS, *kind_rows(results, evaluation.plan.scene)],
    }


def _seeds(plan: EvaluationPlan) -> str:
    """The seeds, in words."""
    first, last = plan.seeds()
    skipped = plan.skipped_seeds()
    note = f" without {len(skipped)} whose scenes the instruction does not fit" if skipped else ""
    return f"{first}-{last}{note}"


def _publish_videos(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy the videos to their places, and remove those of the older evaluation.

    They stay in `source` until the results are published: a run that is killed here publishes again.
    """
    for name in names:
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
    for old in target.iterdir():
        if is_video(old) and old.name not in names:
            old.unlink(missing_ok=True)
