"""The tab "Full simulation": one episode, live."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vla.policies.instructions import INSTRUCTIONS
from vla.sim.perturbations import parse_perturbations
from vla.web.checks import MAX_INSTRUCTION_CHARS, MAX_YAW_DEG, PLACEMENT_RANGE_M
from vla.web.episode_runner import NO_PERTURBATION
from vla.web.handlers import Handlers
from vla.web.live_view import notice_html
from vla.web.tabs.components import ANNOUNCED, OfScene, curves_image, driver_box, seed_box, steps_slider
from vla.web.tabs.instruction import connect_cubes, cube_buttons, instruction_input
from vla.web.waiting_lines import EPISODES, FIRST_IMAGES

ABOUT = (
    "Give an instruction, press **Run**, and watch. The yellow line is the path that the policy plans. A condition of "
    "the verdict lights up while it holds; all of them together for one second are a success. While the arm moves you "
    "can change the instruction or push the cube. One episode runs at a time; other visitors wait in a queue."
)


def simulation_tab(handlers: Handlers, first_seed: int, page: gr.Blocks) -> OfScene:
    """Build the tab; returns what belongs to a scene."""
    gr.Markdown(ABOUT)
    with gr.Row(elem_classes="picture-first"):
        with gr.Column(scale=4, min_width=320):
            view = gr.HTML(notice_html("Press Run."), elem_id="live")
            verdict = gr.HTML(elem_id="verdict", js_on_load=ANNOUNCED)
        with gr.Column(scale=2, min_width=300):
            instruction = instruction_input(handlers, first_seed)
            driver = driver_box(handlers, "Who drives the arm")
            with gr.Row():
                run = gr.Button("Run", variant="primary", min_width=120)
                stop = gr.Button("Stop", variant="stop", min_width=120)
            with gr.Group():
                new_instruction = gr.Textbox(
                    label="While it runs: another instruction",
                    placeholder=INSTRUCTIONS[-1],
                    max_length=MAX_INSTRUCTION_CHARS,
                    submit_btn="Send",
                )
                told = cube_buttons(handlers.scene, handlers.choices.first_driver(), first_seed)
                push = gr.Button("Push the cube")
            seed = seed_box(first_seed)
    instruction.connect(driver, seed)
    of_scene = OfScene([driver], boxes=[(instruction.box, seed, 0)])
    *placement, perturbation, max_steps = _options(handlers, driver, seed, page, of_scene)
    with gr.Row():
        with gr.Column(min_width=320):
            video = gr.Video(label="Video of the episode", interactive=False, buttons=["download"], elem_id="video")
        with gr.Column(min_width=320):
            curves = curves_image()
    with gr.Accordion("In numbers (what the API answers)", open=False):
        facts = gr.JSON(show_label=False)
    run.click(
        handlers.episodes.simulate,
        [instruction.box, driver, seed, max_steps, *placement, perturbation],
        [view, verdict, curves, video, facts],
        api_name="simulate",
        show_progress="minimal",
        show_progress_on=[view],
        **handlers.lines.joined(EPISODES),
    )
    stop.click(handlers.episodes.stop, api_name="stop", queue=False)
    push.click(handlers.episodes.push, api_name="push", queue=False)
    new_instruction.submit(handlers.episodes.set_instruction, new_instruction, api_name="set_instruction", queue=False)
    for written in connect_cubes(handlers.scene, told, new_instruction, driver, seed):
        written.success(handlers.episodes.set_instruction, new_instruction, api_visibility="private", queue=False)
    return of_scene


def _options(
    handlers: Handlers, driver: gr.Dropdown, seed: gr.Number, page: gr.Blocks, of_scene: OfScene
) -> list[gr.components.Component]:
    """Build the options of an episode; returns by_hand, x, y, yaw, perturbation and max_steps."""
    with gr.Accordion("Where the cube lies, what is changed, how long", open=False), gr.Row():
        with gr.Column(scale=1, min_width=300):
            table = gr.Image(
                label="The table from above",
                alt_text="The table from above, with the cube; the sliders move it too",
                show_label=False,
                format="png",
                interactive=False,
                buttons=[],
                elem_classes="table-view",
            )
        with gr.Column(scale=2, min_width=300):
            with gr.Column(visible=handlers.scene.first_scene() == "lift") as by_visitor:
                by_hand = gr.Checkbox(False, label="Place the cube by hand: move a slider, or click the table")
                x = _placement_slider("x", "down")
                y = _placement_slider("y", "to the right")
                yaw = gr.Slider(-MAX_YAW_DEG, MAX_YAW_DEG, 0, step=1, label="turned by (degrees)")
            perturbation = gr.Dropdown(
                [NO_PERTURBATION, *(str(change) for change in parse_perturbations("all"))],
                value=NO_PERTURBATION,
                label="What is changed (axis:level, as in 5_evaluate.py --perturb)",
            )
            max_steps = steps_slider()
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    drawing: dict[str, Any] = {
        "fn": handlers.images.table,
        "inputs": [by_hand, x, y, yaw, seed, driver],
        "outputs": table,
        "preprocess": False,  # as in vla.web.tabs.instruction
        **handlers.lines.joined(FIRST_IMAGES),
        **hidden,
    }
    for slider in (x, y, yaw):
        slider.input(lambda: True, None, by_hand, queue=False, **hidden)
    for component in (x, y, yaw, by_hand, seed, driver):
        component.change(trigger_mode="always_last", **drawing)
    page.load(**drawing)
    table.select(handlers.images.table_clicked, driver, [by_hand, x, y], queue=False, preprocess=False, **hidden)
    of_scene.only_lift.append(by_visitor)
    of_scene.switches.append(by_hand)
    return [by_hand, x, y, yaw, perturbation, max_steps]


def _placement_slider(axis: str, direction: str) -> gr.Slider:
    limit_cm = 100 * PLACEMENT_RANGE_M
    return gr.Slider(-limit_cm, limit_cm, 0, step=0.1, label=f"{axis} (cm, {direction} in the picture)")
