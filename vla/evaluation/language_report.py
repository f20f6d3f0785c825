"""The language suite as pictures and as a page: the heat map of what was said and what was lifted, `language.html`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vla.evaluation.language_tables import UNITS, suite_tables
from vla.files import atomic_path, write_text

HEAT_MAP = "language.png"
_TEMPLATE = "language_report.html.j2"


def write_heat_map(path: Path, content: Mapping[str, Any]) -> None:
    """Draw what was said (rows) and what was lifted (columns) as PNG: shares of a row by colour, counts in words."""
    from matplotlib.figure import Figure

    matrix = content["said_x_lifted"]
    counts = np.array(matrix["counts"], dtype=float)  # (said, lifted)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.2, 1.6 + 0.5 * len(counts)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else "black" if count else "#999999"
        axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(matrix["lifted"])), matrix["lifted"])
    axes.set_yticks(range(len(matrix["said"])), matrix["said"])
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("lifted")
    axes.set_ylabel("said")
    axes.set_xticks(np.arange(1, counts.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, counts.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    figure.colorbar(image, ax=axes, label="share of the row", ticks=[0, 0.5, 1])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def write_language_page(
    path: Path, title: str, facts: Mapping[str, str], content: Mapping[str, Any], heat_map: Path | None
) -> None:
    """Write the page: tables, the picture `heat_map` and `facts` about the run."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(Path(__file__).parent)
    )
    picture = None if heat_map is None else base64.b64encode(heat_map.read_bytes()).decode()
    page = environment.get_template(_TEMPLATE).render(
        title=title,
        units=UNITS,
        tables=suite_tables(content),
        facts=facts,
        heat_map=picture,
    )
    write_text(path, page)
