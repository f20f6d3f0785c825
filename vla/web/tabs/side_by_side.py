"""The tab "Side by side": two episodes of the same seed at the same time."""

from __future__ import annotations

import gradio as gr

from vla.policies.instructions import INSTRUCTIONS
from vla.web.handlers import Handlers
from vla.web.live_view import notice_html
from vla.web.tabs.components import ANNOUNCED, driver_box, instruction_box, seed_box, steps_slider
from vla.web.waiting_lines import EPISODES

ABOUT = (
    "The same seed twice, at the same time: two instructions, two checkpoints, or a policy and the expert. With one "
    "red cube on the table, another wording should change nothing."
)


def side_by_side_tab(handlers: Handlers, first_seed: int) -> list[gr.Dropdown]:
    """Build the tab; returns its choices of a driver."""
    gr.Markdown(ABOUT)
    inputs: list[gr.components.Component] = []
    outputs: list[gr.components.Component] = []
    drivers: list[gr.Dropdown] = []
    with gr.Row():
        for side, example in (("A", INSTRUCTIONS[0]), ("B", INSTRUCTIONS[1])):
            with gr.Column(min_width=320):
                instruction = instruction_box(f"Instruction {side}", example)
                driver = driver_box(handlers, f"Who drives {side}")
                inputs += [instruction, driver]
                drivers.append(driver)
    with gr.Row():
        inputs += [seed_box(first_seed), steps_slider()]
    with gr.Row():
        run = gr.Button("Run both", variant="primary")
        stop = gr.Button("Stop", variant="stop")
    with gr.Row():
        for _ in ("A", "B"):
            with gr.Column(min_width=320):
                outputs += [gr.HTML(notice_html("Press Run both.")), gr.HTML(js_on_load=ANNOUNCED)]
    with gr.Accordion("In numbers (what the API answers)", open=False):
        facts = gr.JSON(show_label=False)
    run.click(
        handlers.episodes.compare,
        inputs,
        [*outputs, facts],
        api_name="compare",
        show_progress="minimal",
        show_progress_on=[outputs[0]],
        **handlers.lines.joined(EPISODES),
    )
    stop.click(handlers.episodes.stop, api_visibility="private", queue=False)
    return drivers
