"""`report.html`: one evaluation on one page that opens from disk, failures first."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from vla.evaluation.episode import EpisodeResult, EvaluatedEpisode
from vla.evaluation.tables import (
    FAILURES,
    MILESTONES,
    TABLE_4,
    failure_rows,
    milestone_rows,
    rate_rows,
    report_rows,
)
from vla.files import write_text

_TEMPLATE = Path(__file__).with_name("html_report.html.j2")


def write_report(
    path: Path,
    title: str,
    facts: dict[str, str],
    episodes: Sequence[EvaluatedEpisode],
    videos: Sequence[Path | None],
    push: str | None = None,
    more_tables: Mapping[str, list[tuple[str, ...]]] | None = None,
) -> None:
    """Write the page: tables, `facts` about the run, plots, and every episode with its frames.

    Args:
        path: HTML file.
        title: the page's title.
        facts: names and values for the table of the run.
        episodes: at least one.
        videos: one for each episode; None: it has no video.
        push: what the push test found; None: it was not asked for.
        more_tables: further tables by their headings, each with its head.
    """
    results = [episode.result for episode in episodes]
    any_named = any(result.target is not None for result in results)
    tables: dict[str, list[tuple[str, ...]]] = {
        **(more_tables or {}),
        "Milestones": [MILESTONES, *milestone_rows(results)],
        "Failures": [FAILURES, *failure_rows(results)],
        "Table 4 of the report": [TABLE_4, *report_rows(results)],
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(
        path,
        template.render(
            title=title,
            facts=facts,
            plots=[("Where the cube lay", _data_url(_start_plot(results), "image/png"))] if any_named else [],
            rows=_episode_rows(path.parent, episodes, videos),
            table=rate_rows(results),
            tables={name: rows for name, rows in tables.items() if len(rows) > 1},
            push=push,
        ),
    )


def _episode_rows(
    folder: Path, episodes: Sequence[EvaluatedEpisode], videos: Sequence[Path | None]
) -> list[dict[str, Any]]:
    """What the template shows of each episode, failures first; videos relative to `folder`, which can be moved."""
    rows: list[dict[str, Any]] = []
    for number, (episode, video) in enumerate(zip(episodes, videos, strict=True), start=1):
        strip = episode.recording.strip
        rows.append(
            {
                "number": number,
                "result": episode.result,
                "strip": None if strip is None else _data_url(_jpeg(strip), "image/jpeg"),
                "video": None if video is None else os.path.relpath(video, folder),
            }
        )
    return sorted(rows, key=lambda row: (row["result"].success, row["number"]))


def _start_plot(results: Sequence[EpisodeResult]) -> bytes:
    """Where the named cube lay and how it was turned when the episodes began, where that is known, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    place, angle = figure.subplots(1, 2)
    for success, colour, label in ((True, "#2a9d5c", "lifted"), (False, "#c0392b", "failed")):
        chosen = [result for result in results if result.success == success and result.target is not None]
        known = [(r.cube_x_m, r.cube_y_m) for r in chosen if r.cube_x_m is not None and r.cube_y_m is not None]
        turned = [(r.cube_yaw_deg, r.steps) for r in chosen if r.cube_yaw_deg is not None]
        x, y = [100 * x_m for x_m, _ in known], [100 * y_m for _, y_m in known]
        place.scatter(x, y, s=18, color=colour, label=f"{label}: {len(chosen)}")
        angle.scatter([yaw_deg for yaw_deg, _ in turned], [steps for _, steps in turned], s=18, color=colour)
    place.set_xlabel("x (cm)")
    place.set_ylabel("y (cm)")
    place.set_aspect("equal")
    place.margins(0.15)
    place.legend(fontsize=8)
    angle.set_xlabel("cube's angle (degrees)")
    angle.set_ylabel("steps")
    angle.set_xlim(-45, 45)
    angle.set_ylim(0, None)
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
