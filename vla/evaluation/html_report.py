"""`report.html`: one evaluation on one page that opens from disk, failures first."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from PIL import Image

from vla.evaluation.episode import FAILURES, PHASES, TABLE_4, EpisodeResult, failure_rows, report_rows
from vla.evaluation.statistics import percent_bounds, share
from vla.files import write_text

_TEMPLATE = Path(__file__).with_name("html_report.html.j2")


def write_report(
    path: Path,
    title: str,
    facts: dict[str, str],
    results: Sequence[EpisodeResult],
    strips: Sequence[np.ndarray],
    videos: Sequence[Path | None],
    push: str | None = None,
) -> None:
    """Write the page: `facts` (name, value) in its head, then tables, plots, and every episode with its frames."""
    rows: list[dict[str, Any]] = [
        {
            "number": number,
            "result": result,
            "strip": _data_url(_jpeg(strip), "image/jpeg"),
            # Relative, so that the folder can be moved.
            "video": None if video is None else os.path.relpath(video, path.parent),
        }
        for number, (result, strip, video) in enumerate(zip(results, strips, videos, strict=True), start=1)
    ]
    rows.sort(key=lambda row: (row["result"].success, row["number"]))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    plots = [("How far the episodes came", _funnel(results)), ("Where the cube lay", _map(results))]
    write_text(
        path,
        template.render(
            title=title,
            facts=facts,
            plots=[(name, _data_url(picture, "image/png")) for name, picture in plots],
            rows=rows,
            table=rate_rows(results),
            table_4=[TABLE_4, *report_rows(results)],
            failures=[FAILURES, *failure_rows(results)] if not all(result.success for result in results) else [],
            push=push,
        ),
    )


def rate_rows(results: Sequence[EpisodeResult]) -> list[tuple[str, str, str]]:
    """What, share of the episodes, exact 95% interval."""
    count = len(results)

    def line(what: str, met: Sequence[bool]) -> tuple[str, str, str]:
        return what, share(sum(met), count), " to ".join(percent_bounds(sum(met), count))

    return [
        line("true success, by the verdict", [r.success for r in results]),
        line("success by the report's rule", [r.reported_success for r in results]),
        line("grasped", [r.grasped for r in results]),
        line("lifted", [r.lifted for r in results]),
        line("with a drop", [r.drops > 0 for r in results]),
        line("with more than one grasp", [r.regrasps > 0 for r in results]),
        line("invalid (counted as failures)", [r.invalid_reason is not None for r in results]),
    ]


def _funnel(results: Sequence[EpisodeResult]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    matplotlib.use("agg")
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    counts = [sum(phase in result.phase_times_s for result in results) for phase in PHASES]
    bars = axis.barh(PHASES[::-1], counts[::-1], color="#3b6ea5")
    axis.bar_label(bars, padding=3)
    axis.set_xlim(0, len(results) * 1.1)
    axis.set_xlabel(f"of {len(results)} episodes")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def _map(results: Sequence[EpisodeResult]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    place, angle = figure.subplots(1, 2)
    for success, colour, label in ((True, "#2a9d5c", "lifted"), (False, "#c0392b", "failed")):
        chosen = [result for result in results if result.success == success]
        x, y = [100 * r.cube_x_m for r in chosen], [100 * r.cube_y_m for r in chosen]
        place.scatter(x, y, s=18, color=colour, label=f"{label}: {len(chosen)}")
        angle.scatter([r.cube_yaw_deg for r in chosen], [r.steps for r in chosen], s=18, color=colour)
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
