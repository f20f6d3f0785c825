"""The tab "Side by side": two episodes of the same seed at the same time."""

from __future__ import annotations

import gradio as gr

from vla.web.handlers import Handlers
from vla.web.live_view import notice_html
from vla.web.tabs.components import ANNOUNCED, OfScene, driver_box, seed_box, steps_slider
from vla.web.tabs.instruction import instruction_input
from vla.web.waiting_lines import EPISODES

ABOUT = (
    "The same seed twice, at the same time: two instructions, two checkpoints, or a policy and the expert. With one "
    "red cube on the table, another wording should change nothing; with several cubes, nothing but the instruction "
    "tells the two apart."
)


def side_by_side_tab(handlers: Handlers, first_seed: int) -> OfScene:
    """Build the tab; returns what belongs to a scene."""
    gr.Markdown(ABOUT)
    inputs: list[gr.components.Component] = []
    outputs: list[gr.components.Component] = []
    of_scene = OfScene()
    instructions = []
    with gr.Row():
        for index, side in enumerate("AB"):
            with gr.Column(min_width=320):
                instruction = instruction_input(handlers, first_seed, f"Instruction {side}", index)
                driver = driver_box(handlers, f"Who drives {side}")
                inputs += [instruction.box, driver]
                instructions.append(instruction)
                of_scene.drivers.append(driver)
    with gr.Row():
        seed = seed_box(first_seed)
        inputs += [seed, steps_slider()]
    for instruction, driver in zip(instructions, of_scene.drivers, strict=True):
        instruction.connect(driver, seed)
        of_scene.boxes.append((instruction.box, seed, instruction.index))
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
    return of_scene
