"""Past evaluations: which there are, and what was run in them with which outcome."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.tables import failure_table, milestone_table, rate_rows
from vla.files import FileVersion, file_version
from vla.markdown import markdown_table

MEASURED = Path(__file__).resolve().parents[2] / "docs/results"
"""Evaluations that come with the repository, without videos."""
MAX_EVALUATIONS = 100
"""Evaluations that are listed at most."""


@dataclass(frozen=True)
class Evaluation:
    """The content of one `results.json`."""

    path: Path
    facts: dict[str, Any]
    """Everything but the episodes."""
    episodes: list[EpisodeResult]
    """The episodes, failures first."""
    videos: list[Path | None]
    """The video of each episode; None where there is none."""


def find_evaluations(folder: Path) -> dict[str, Path]:
    """Return the result files that can be shown, by displayed name: those below `folder`, newest first, then the
    repository's."""
    return {name: path for name, path in _result_files(folder).items() if _fault(path) is None}


def hidden_evaluations(folder: Path) -> str:
    """Return the result files that cannot be shown, with reasons, as Markdown; empty if there are none."""
    faults = {name: _fault(path) for name, path in _result_files(folder).items()}
    lines = [f"- `{name}`: {fault}" for name, fault in faults.items() if fault is not None]
    return "\n".join(["Not shown:", *lines]) if lines else ""


def latest_evaluation(folder: Path) -> Evaluation | None:
    """Return the newest evaluation below `folder`, or else the shipped policy's."""
    path = next(iter(find_evaluations(folder).values()), None)
    shipped = MEASURED / "shipped.json"
    if (path is None or path.parent == MEASURED) and shipped.is_file() and _fault(shipped) is None:
        path = shipped
    return None if path is None else read_evaluation(path)


def read_evaluation(path: Path) -> Evaluation:
    """Read one result file.

    Raises:
        UserError: it is damaged or of another version.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        episodes = stored.pop("episodes")
        video_names = [episode.pop("video") for episode in episodes]
        results = [EpisodeResult(**episode, inference_ms=[]) for episode in episodes]
        _description_rows(stored, results)  # raises where something is missing
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no evaluation of this version; run one with: python 5_evaluate.py") from None
    order = sorted(range(len(results)), key=lambda index: (results[index].success, index))
    return Evaluation(
        path,
        facts=stored,
        episodes=[results[index] for index in order],
        videos=[_video(path.parent, video_names[index]) for index in order],
    )


def _video(folder: Path, name: str | None) -> Path | None:
    """Return a video's path; only the last part of `name` is used, because the folder may have been moved."""
    if not name:
        return None
    path = folder / Path(name).name
    return path if path.is_file() else None


def description(evaluation: Evaluation) -> str:
    """Return what was evaluated and how, as Markdown."""
    return markdown_table(("evaluated", ""), _description_rows(evaluation.facts, evaluation.episodes))


def _description_rows(facts: dict[str, Any], episodes: Sequence[EpisodeResult]) -> list[tuple[str, str]]:
    options, seeds = facts["options"], [episode.seed for episode in episodes]
    instruction = "each of the eight" if options["every_instruction"] else f"“{options['instruction']}”"
    if options["instruction"] is None:
        instruction = "one of its own for each seed"
    return [
        ("policy", str(facts["policy"])),
        ("weights", str(facts["weights"])),
        ("instruction", instruction + (", with black images" if options["blind"] else "")),
        ("seeds", f"{min(seeds)} to {max(seeds)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
    ]


def rates(evaluation: Evaluation) -> str:
    """Return rates with exact 95% intervals, the milestones, and the kinds of failure, as Markdown."""
    episodes = evaluation.episodes
    tables = [markdown_table(("", "episodes", "95% interval"), rate_rows(episodes)), milestone_table(episodes)]
    if not all(episode.success for episode in episodes):
        tables.append(failure_table(episodes))
    return "\n\n".join(tables)


def episode_rows(evaluation: Evaluation) -> list[list[Any]]:
    """Return a row for each episode: outcome, seed, instruction, furthest phase, steps, failed condition, video."""
    return [
        [
            "lifted" if result.success else "FAILED",
            result.seed,
            result.instruction,
            result.phase,
            result.steps,
            (result.failed or "").replace("_", " "),
            "yes" if video else "",
        ]
        for result, video in zip(evaluation.episodes, evaluation.videos, strict=True)
    ]


def episode_description(result: EpisodeResult) -> str:
    """Return an episode in words, as Markdown."""
    times = ", ".join(f"{phase} {time:.2f} s" for phase, time in result.phase_times_s.items()) or "none of the phases"
    return (
        f"### Seed {result.seed}: {result.verdict}\n\n"
        f"“{result.instruction}”. Reached: {times}. {result.steps} steps, {result.gripper_closures} closures, "
        f"{result.regrasps} regrasps, {result.drops} drops, path {result.path_m:.2f} m; the cube lay "
        f"{result.cube_start()}. "
        f"The report would have claimed: **{'success' if result.reported_success else 'no success'}**."
    )


def _result_files(folder: Path) -> dict[str, Path]:
    """Return the result files of evaluations, of any version, by displayed name."""
    found = [(file_version(path), path) for path in folder.glob("**/results.json") if _results_version(path)]
    own = {str(path): path for _, path in sorted(found, reverse=True)}
    measured = {f"docs/results/{path.name}": path for path in sorted(MEASURED.glob("*.json")) if _results_version(path)}
    return dict([*own.items(), *measured.items()][:MAX_EVALUATIONS])


def _results_version(path: Path) -> str | None:
    """Return the version that stands in the file's head; None if it holds no evaluation, but other results."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        match = re.search(rb'"results_version": (\d+)', file.read(200))
        return match[1].decode() if match else None
    return None


def _fault(path: Path) -> str | None:
    """Return why an evaluation cannot be shown; None if it can."""
    return _fault_of_version(path, file_version(path))


@functools.lru_cache(maxsize=2 * MAX_EVALUATIONS)
def _fault_of_version(path: Path, version: FileVersion) -> str | None:
    try:
        read_evaluation(path)
    except UserError:
        stated = _results_version(path)
        return f"damaged, or of another version of `5_evaluate.py` (its results have version {stated})"
    return None
