"""Components that several tabs use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from vla.sim.config import TEST_SEEDS
from vla.web.checks import MAX_STEPS
from vla.web.handlers import Handlers
from vla.web.live_view import STEPS_PER_S

ANNOUNCED = "element.setAttribute('aria-live', 'polite')"
"""Script of an element whose changes a screen reader announces. The element must exist before its first change."""


@dataclass
class OfScene:
    """Components whose content or choices belong to a scene."""

    drivers: list[gr.Dropdown] = field(default_factory=list)
    policies: list[gr.Dropdown] = field(default_factory=list)
    """Choices of a checkpoint."""
    boxes: list[tuple[gr.Textbox, gr.Number, int]] = field(default_factory=list)
    """An instruction, its seed, and which of two first instructions it shows."""
    only_lift: list[gr.Column] = field(default_factory=list)
    """What is shown in the scene "lift" only."""
    switches: list[gr.Checkbox] = field(default_factory=list)
    """Choices in `only_lift`, which another scene switches off."""


def driver_box(handlers: Handlers, label: str) -> gr.Dropdown:
    """The choice of who drives the arm; it opens once `connect_scene` has left the drivers of the scene in it.

    Were it open while its list grows shorter, Gradio's script would look for what is no longer there.
    """
    return gr.Dropdown(
        handlers.choices.drivers(),
        value=handlers.choices.first_driver(),
        label=f"{label}: checkpoint, expert or control",
        interactive=False,
    )


def seed_box(first_seed: int) -> gr.Number:
    """An episode's seed."""
    return gr.Number(first_seed, label=f"Seed (0 to {TEST_SEEDS.stop - 1})", precision=0)


def steps_slider() -> gr.Slider:
    """An episode's largest number of steps."""
    return gr.Slider(20, MAX_STEPS, 200, step=10, label=f"Steps at most ({STEPS_PER_S} per second)")


def curves_image() -> gr.Image:
    """The curves that a verdict was judged from."""
    return gr.Image(
        label="What the verdict was judged from",
        show_label=False,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        placeholder="What the verdict is judged from",
        alt_text="Height, finger opening, forces and relative velocity over time, with the verdict's thresholds",
    )


def rows_table(label: str, columns: tuple[str, ...]) -> gr.Dataframe:
    """A list whose rows can be selected."""
    return gr.Dataframe(
        [],
        label=label,
        headers=list(columns),
        column_count=len(columns),
        interactive=False,
        max_height=360,
        wrap=True,
    )


def on_row(rows: gr.Dataframe, columns: tuple[int, ...], fields: list[gr.components.Component]) -> Any:
    """Copy these columns of a selected row into `fields`; returns the event, for what is to follow."""

    def copied(event: gr.SelectData) -> Any:
        values = [event.row_value[column] for column in columns]
        return values if len(values) > 1 else values[0]

    return rows.select(copied, None, fields, api_visibility="private", queue=False)


def at_each_visit(page: gr.Blocks, shown: gr.components.Component, ask: Callable[[], Any]) -> None:
    """Fill a component whenever the page is loaded, so that it shows the latest files; this is no API endpoint."""
    page.load(ask, None, shown, api_visibility="private", queue=False, show_progress="hidden")
