"""Past evaluations and the dataset, for looking at: what was run, what became of it, failures first."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.demos.dataset_table import dataset_table
from vla.demos.schema import Demo, demo_names, open_demos, read_demo
from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult
from vla.evaluation.html_report import rate_rows
from vla.judging.verdict import Evidence
from vla.markdown import markdown_table

MEASURED = Path(__file__).resolve().parents[2] / "docs/results"
"""Evaluations that come with the repository; without videos."""
MAX_EVALUATIONS = 100


@dataclass(frozen=True)
class Evaluation:
    """One `results.json`."""

    path: Path
    facts: dict[str, Any]
    episodes: list[EpisodeResult]
    """Failures first."""
    videos: list[Path | None]
    """Beside them; None where there is none."""


def find_evaluations(folder: Path) -> dict[str, Path]:
    """Result files by the name that a visitor sees: below `folder`, newest first, then those of the repository."""
    return {name: path for name, path in _found(folder).items() if _why_not(path, _written_ns(path)) is None}


def hidden_evaluations(folder: Path) -> str:
    """Those that cannot be shown, and why, as Markdown; empty where there are none."""
    reasons = {name: _why_not(path, _written_ns(path)) for name, path in _found(folder).items()}
    lines = [f"- `{name}`: {reason}" for name, reason in reasons.items() if reason is not None]
    return "\n".join(["Not shown:", *lines]) if lines else ""


def latest_evaluation(folder: Path) -> Evaluation | None:
    """The newest below `folder`, else that of the shipped policy."""
    path = next(iter(find_evaluations(folder).values()), None)
    shipped = MEASURED / "shipped.json"
    if path is None or path.parent == MEASURED:
        path = shipped if shipped.is_file() and _why_not(shipped, _written_ns(shipped)) is None else path
    return None if path is None else read_evaluation(path)


def read_evaluation(path: Path) -> Evaluation:
    """Read one result file.

    Raises:
        UserError: damaged, or of another version.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        episodes = stored.pop("episodes")
        names = [episode.pop("video") for episode in episodes]
        results = [EpisodeResult(**episode, inference_ms=[]) for episode in episodes]
        _about(stored, results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no evaluation of this version; run one with: python 5_evaluate.py") from None
    # Of a video's path only the file's name is believed: the folder may have been moved.
    videos = [path.parent / Path(name).name if name else None for name in names]
    order = sorted(range(len(results)), key=lambda index: (results[index].success, index))
    return Evaluation(
        path,
        stored,
        [results[index] for index in order],
        [video if (video := videos[index]) is not None and video.is_file() else None for index in order],
    )


def about_evaluation(evaluation: Evaluation) -> str:
    """Who was evaluated, how, as Markdown."""
    return markdown_table(("evaluated", ""), _about(evaluation.facts, evaluation.episodes))


def _about(facts: dict[str, Any], episodes: Sequence[EpisodeResult]) -> list[tuple[str, str]]:
    options, seeds = facts["options"], [episode.seed for episode in episodes]
    told = "each of the eight instructions" if options["every_instruction"] else f"“{options['instruction']}”"
    return [
        ("policy", str(facts["policy"])),
        ("weights", str(facts["weights"])),
        ("told", told + (", shown black pictures" if options["blind"] else "")),
        ("seeds", f"{min(seeds)} to {max(seeds)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
    ]


def rates(evaluation: Evaluation) -> str:
    """Rates with exact 95% intervals, as Markdown."""
    return markdown_table(("", "episodes", "95% interval"), rate_rows(evaluation.episodes))


def episode_rows(evaluation: Evaluation) -> list[list[Any]]:
    """A row for each episode: outcome, seed, instruction, furthest phase, steps, failed condition."""
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


def about_episode(result: EpisodeResult) -> str:
    """An episode in words, as Markdown."""
    times = ", ".join(f"{phase} {time:.2f} s" for phase, time in result.phase_times_s.items()) or "none of the phases"
    return (
        f"### Seed {result.seed}: {result.verdict}\n\n"
        f"“{result.instruction}”. Reached: {times}. {result.steps} steps, {result.gripper_closures} closures, "
        f"{result.regrasps} regrasps, {result.drops} drops, path {result.path_m:.2f} m; the cube lay at "
        f"({100 * result.cube_x_m:.1f}, {100 * result.cube_y_m:.1f}) cm, turned by {result.cube_yaw_deg:.0f} degrees. "
        f"The report would have claimed: **{'success' if result.reported_success else 'no success'}**."
    )


def about_dataset(data: Path) -> str:
    """Table 2 of the report for the demonstrations, or what is missing, as Markdown."""
    try:
        with open_demos(data) as file:
            return f"`{data}`\n\n{dataset_table(file, data)}"
    except UserError as error:
        return f"{error}"


def demo_rows(data: Path) -> list[list[Any]]:
    """A row for each demonstration: name, seed, instruction, steps, share of steps that the expert chose."""
    try:
        with open_demos(data) as file:
            return [
                [
                    name,
                    int(file["data"][name].attrs["seed"]),
                    str(file["data"][name].attrs["language_instruction"]),
                    int(file["data"][name].attrs["episode_length"]),
                    round(float(np.mean(file["data"][name]["sources"][:] == b"expert")), 2),
                ]
                for name in demo_names(file)
            ]
    except UserError:
        return []


def read_one_demo(data: Path, name: str) -> Demo:
    """The demonstration of that name.

    Raises:
        UserError: there is none.
    """
    with open_demos(data) as file:
        if name not in demo_names(file):
            raise UserError("there is no demonstration of that name; choose one from the list")
        return read_demo(file["data"][name])


def demo_curves(demo: Demo) -> tuple[Sequence[Evidence], Sequence[bool]]:
    """What `vla.web.live_view.curves` draws of a demonstration."""
    rows = [Evidence(**{name: column[row] for name, column in demo.evidence.items()}) for row in range(len(demo))]
    return rows, [all(judge.now.values()) for judge in demo.judges()]


def _found(folder: Path) -> dict[str, Path]:
    """Result files of evaluations, of whatever version, by the name that a visitor sees."""
    found = [(_written_ns(path), path) for path in folder.glob("**/results.json") if _version(path)]
    own = {str(path): path for _, path in sorted(found, reverse=True)}
    measured = {f"docs/results/{path.name}": path for path in sorted(MEASURED.glob("*.json")) if _version(path)}
    return dict([*own.items(), *measured.items()][:MAX_EVALUATIONS])


def _version(path: Path) -> str | None:
    """By its head: of the repository's results, some are tables of other things."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        match = re.search(rb'"results_version": (\d+)', file.read(200))
        return match[1].decode() if match else None
    return None


@functools.lru_cache(maxsize=2 * MAX_EVALUATIONS)
def _why_not(path: Path, written_ns: int) -> str | None:
    """Why the evaluation cannot be shown; None where it can."""
    try:
        read_evaluation(path)
    except UserError:
        return f"damaged, or of another version of `5_evaluate.py` (its results have version {_version(path)})"
    return None


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
