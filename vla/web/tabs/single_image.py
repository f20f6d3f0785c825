"""The tab "Single image": what the policy would do next, from one image."""

from __future__ import annotations

import gradio as gr

from vla.web.handlers import Handlers
from vla.web.tabs.components import instruction_box, seed_box
from vla.web.waiting_lines import FIRST_IMAGES, PREDICTIONS

ACTION_COLUMNS = ("step", "move x", "move y", "move z", "turn x", "turn y", "turn z", "gripper")
ABOUT = (
    "What would the policy do next if it had seen nothing but this image? The image fills the whole observation "
    "buffer, as at the start of an episode; no dataset is involved. It is cropped to its central square and resized "
    "to 224 x 224."
)
ABOUT_ACTIONS = (
    "The yellow line is the path that the arm would take (it covers about a quarter of each commanded step); the row "
    "below it shows the gripper. Bright spots are where the network looks: hiding them changes its first action "
    "most.\n\n"
    "Row *i* is for the *i*-th step of 50 ms from now. All numbers are in [-1, 1]: 1.0 is 5 cm along an axis, or "
    "0.5 rad about it (axis-angle); the gripper closes above 0."
)


def single_image_tab(handlers: Handlers, first_seed: int) -> gr.Dropdown:
    """Build the tab; returns its choice of a policy."""
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = gr.Image(label="Image", format="png", sources=["upload", "clipboard"], height=300)
            gr.Examples(
                [[str(path)] for path, _ in handlers.images.examples],
                image,
                example_labels=[what for _, what in handlers.images.examples],
                label="Examples: click one",
                api_visibility="private",
            )
            seed = seed_box(first_seed)
            from_simulator = gr.Button("Use the first frame of this seed")
            instruction = instruction_box()
            names = handlers.choices.names()
            first = handlers.runner.first_driver
            policy = gr.Dropdown(names, value=first if first in names else None, label="Policy")
            predict = gr.Button("Predict", variant="primary")
        with gr.Column(scale=4, min_width=320):
            note = gr.Markdown()
            with gr.Row():
                plan = _answer_image("What it would do", "The image with the planned path; the table has its numbers")
                heat = _answer_image(
                    "Where it looks", "The image, bright where hiding it changes the first action most"
                )
            actions = gr.Dataframe(
                label="The next actions",
                headers=list(ACTION_COLUMNS),
                datatype="number",
                column_count=len(ACTION_COLUMNS),
                interactive=False,
            )
            gr.Markdown(ABOUT_ACTIONS)
    from_simulator.click(
        handlers.images.first_image, seed, image, api_name="first_image", **handlers.lines.joined(FIRST_IMAGES)
    )
    # The handler opens the upload itself: Gradio's own preprocessing answers a broken file with a bare "Error".
    predict.click(
        handlers.images.predict_actions,
        [image, instruction, policy],
        [actions, plan, heat, note],
        api_name="predict_actions",
        preprocess=False,
        **handlers.lines.joined(PREDICTIONS),
    )
    return policy


def _answer_image(label: str, alt: str) -> gr.Image:
    return gr.Image(label=label, alt_text=alt, format="png", interactive=False, buttons=["fullscreen"])
