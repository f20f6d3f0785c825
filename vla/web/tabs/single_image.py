"""The tab "Single image": what the policy would do next, from one image."""

from __future__ import annotations

import gradio as gr

from vla.web.handlers import Handlers
from vla.web.tabs.components import OfScene, seed_box
from vla.web.tabs.instruction import InstructionInput, instruction_input
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
ABOUT_TWO = (
    "## Where it looks, under two instructions\nThe same image, the same hidden spots, two instructions. A policy that "
    "does what it is told looks at what each instruction names."
)


def single_image_tab(handlers: Handlers, first_seed: int) -> OfScene:
    """Build the tab; returns what belongs to a scene."""
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = gr.Image(label="Image", format="png", sources=["upload", "clipboard"], height=300)
            with gr.Column(visible=handlers.scene.first_scene() == "lift") as examples:
                gr.Examples(
                    [[str(path)] for path, _ in handlers.images.examples],
                    image,
                    example_labels=[what for _, what in handlers.images.examples],
                    label="Examples: click one",
                    api_visibility="private",
                )
            seed = seed_box(first_seed)
            from_simulator = gr.Button("Use the first frame of this seed")
            instruction = instruction_input(handlers, first_seed)
            names = handlers.choices.names()
            first = handlers.choices.first_driver()
            # As with `driver_box`, a list that grows shorter must not be open.
            policy = gr.Dropdown(names, value=first if first in names else None, label="Policy", interactive=False)
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
    instruction.connect(policy, seed)
    first_images = handlers.lines.joined(FIRST_IMAGES)
    from_simulator.click(handlers.images.first_image, [seed, policy], image, api_name="first_image_of", **first_images)
    # For programs that ask for the first driver's scene by the seed alone.
    by_seed = gr.Button(visible=False)
    by_seed.click(handlers.images.first_image, seed, image, api_name="first_image", **first_images)
    # The handler opens the upload itself: Gradio's own preprocessing answers a broken file with a bare "Error".
    predict.click(
        handlers.images.predict_actions,
        [image, instruction.box, policy],
        [actions, plan, heat, note],
        api_name="predict_actions",
        preprocess=False,
        **handlers.lines.joined(PREDICTIONS),
    )
    other = _two_instructions(handlers, first_seed, image, instruction.box, policy)
    other.connect(policy, seed)
    boxes = [(said.box, seed, said.index) for said in (instruction, other)]
    return OfScene(policies=[policy], boxes=boxes, only_lift=[examples])


def _two_instructions(
    handlers: Handlers, first_seed: int, image: gr.Image, instruction: gr.Textbox, policy: gr.Dropdown
) -> InstructionInput:
    """Build the comparison of where the policy looks under two instructions; returns the second one."""
    gr.Markdown(ABOUT_TWO)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            other = instruction_input(handlers, first_seed, "Another instruction, for the same image", 1)
            compare = gr.Button("Compare where it looks")
        with gr.Column(scale=4, min_width=320):
            note = gr.Markdown(elem_id="compared")
            with gr.Row():
                maps = [
                    _answer_image(f"Under the {which} instruction", f"Where it looks under the {which} instruction")
                    for which in ("first", "other")
                ]
    compare.click(
        handlers.images.compare_looks,
        [image, instruction, other.box, policy],
        [*maps, note],
        api_name="compare_looks",
        preprocess=False,
        **handlers.lines.joined(PREDICTIONS),
    )
    return other


def _answer_image(label: str, alt: str) -> gr.Image:
    return gr.Image(label=label, alt_text=alt, format="png", interactive=False, buttons=["fullscreen"])
