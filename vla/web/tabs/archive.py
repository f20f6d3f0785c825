"""The tabs "Evaluations" and "Demonstrations": what was recorded earlier."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vla.web.checks import MAX_INSTRUCTION_CHARS
from vla.web.handlers import Handlers
from vla.web.tabs.components import at_each_visit, curves_image, on_row, rows_table
from vla.web.waiting_lines import LOOKUPS, REPLAYS

EPISODE_COLUMNS = ("outcome", "seed", "instruction", "furthest phase", "steps", "failed condition", "video")
DEMO_COLUMNS = ("name", "seed", "instruction", "steps", "expert's share")


def evaluations_tab(handlers: Handlers, page: gr.Blocks) -> None:
    """Build the tab of past evaluations."""
    archive = handlers.archive
    gr.Markdown("Every evaluation that `5_evaluate.py` has written, failures first. Select a row to see its episode.")
    name = gr.Dropdown(archive.evaluation_names(), label="Evaluation")
    reload = gr.Button("Look again for new ones", size="sm")
    not_shown = gr.Markdown()
    with gr.Row():
        with gr.Column(min_width=320):
            rates = gr.Markdown()
        with gr.Column(min_width=320):
            about = gr.Markdown()
    rows = rows_table("Episodes", EPISODE_COLUMNS)
    with gr.Row():
        seed = gr.Number(None, label="Seed", precision=0)
        instruction = gr.Textbox(label="Instruction", max_length=MAX_INSTRUCTION_CHARS)
    show = gr.Button("Show this episode")
    with gr.Row():
        with gr.Column(min_width=320):
            words = gr.Markdown(elem_id="evaluated")
        with gr.Column(min_width=320):
            video = gr.Video(label="Its video", interactive=False, buttons=["download"])
    lookup = handlers.lines.joined(LOOKUPS)
    name.change(archive.evaluation, name, [about, rates, rows], api_name="evaluation", **lookup)
    page.load(archive.evaluation, name, [about, rates, rows], api_visibility="private", **lookup)
    reload.click(archive.evaluations, None, [name, not_shown], api_visibility="private", **lookup)
    page.load(archive.evaluations, None, [name, not_shown], api_visibility="private", **lookup)
    showing: dict[str, Any] = {
        "fn": archive.evaluated_episode,
        "inputs": [name, seed, instruction],
        "outputs": [words, video],
        **handlers.lines.joined(REPLAYS),
    }
    show.click(api_name="evaluated_episode", **showing)
    on_row(rows, (1, 2), [seed, instruction]).then(api_visibility="private", **showing)


def demonstrations_tab(handlers: Handlers, page: gr.Blocks) -> None:
    """Build the tab of the demonstrations."""
    archive = handlers.archive
    at_each_visit(page, gr.Markdown(), lambda: archive.demos.listing().about)
    rows = rows_table("Demonstrations", DEMO_COLUMNS)
    at_each_visit(page, rows, lambda: archive.demos.listing().rows)
    name = gr.Textbox("demo_0", label="Demonstration", max_length=20)
    show = gr.Button("Show this demonstration")
    with gr.Row():
        with gr.Column(min_width=320):
            words = gr.Markdown(elem_id="demonstration")
            video = gr.Video(label="Its video", interactive=False, buttons=["download"])
        with gr.Column(min_width=320):
            curves = curves_image()
    showing: dict[str, Any] = {
        "fn": archive.demonstration,
        "inputs": name,
        "outputs": [words, curves, video],
        **handlers.lines.joined(REPLAYS),
    }
    show.click(api_name="demonstration", **showing)
    on_row(rows, (0,), [name]).then(api_visibility="private", **showing)
