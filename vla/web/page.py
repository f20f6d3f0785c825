"""The page's tabs, and what each of their buttons calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import TEST_SEEDS
from vla.sim.perturbations import parse_perturbations
from vla.web import browse
from vla.web.about import about_model, about_training, latest_evaluation, training_curves
from vla.web.checks import MAX_INSTRUCTION_CHARS, MAX_STEPS
from vla.web.handlers import NOTHING, Handlers
from vla.web.live_view import STEPS_PER_S, notice_html
from vla.web.table import RANGE_M
from vla.web.waiting_line import SIMULATOR, Line

ANNOUNCED = "element.setAttribute('aria-live', 'polite')"
"""What changes in this element is read to those who do not see it; it must be there before."""
STEPS_LABEL = f"Steps at most ({STEPS_PER_S} per second)"
ACTION_COLUMNS = ("step", "move x", "move y", "move z", "turn x", "turn y", "turn z", "gripper")
EPISODE_COLUMNS = ("outcome", "seed", "instruction", "came as far as", "steps", "failed condition", "video")
DEMO_COLUMNS = ("name", "seed", "instruction", "steps", "expert's share")
ABOUT_SIMULATION = (
    "Say what to do, press **Run**, and watch. The yellow line is where the policy means to go; a condition of the "
    "verdict lights up while it holds, and all of them together for one second are a success. While the arm moves you "
    "can tell it something else, or push the cube. One episode runs at a time; other visitors wait in a queue."
)
ABOUT_IMAGE = (
    "What would the policy do next if this picture were all that it had ever seen? The single picture fills its whole "
    "buffer, as at the start of an episode; no dataset is involved. A picture is cropped to its central square and "
    "resized to 224 x 224."
)
ABOUT_ACTIONS = (
    "The yellow line is where the arm would go (it covers about a quarter of each commanded step), the row below it "
    "the gripper. Bright spots are where the network looks: hidden, they change its first action most.\n\n"
    "Row *i* is for the *i*-th step of 50 ms from now. All numbers are in [-1, 1]: 1.0 is 5 cm along an axis, or "
    "0.5 rad about it (axis-angle); the gripper closes above 0."
)
ABOUT_COMPARE = (
    "The same seed twice, at the same time: two instructions, two checkpoints, or a policy and the expert. With one "
    "red cube on the table, another wording should change nothing."
)


def build_page(handlers: Handlers, seed: int) -> gr.Blocks:
    """The page; `seed` is the one that it offers first."""
    page: gr.Blocks
    with gr.Blocks(title="Lift VLA", analytics_enabled=False) as page:
        gr.Markdown("# Lift VLA\nA robot arm, a camera and a sentence: a policy learned from demonstrations.")
        if handlers.first_driver == "expert":
            gr.Markdown(f"**Only the scripted expert can run here:** {handlers.no_policy}.")
        with gr.Tab("Full simulation"):
            drivers = _simulation_tab(handlers, seed, page)
        with gr.Tab("Single image"):
            policy = _image_tab(handlers, seed)
        with gr.Tab("Side by side"):
            drivers += _compare_tab(handlers, seed)
        with gr.Tab("Evaluations"):
            _evaluations_tab(handlers, page)
        with gr.Tab("Demonstrations"):
            _demonstrations_tab(handlers, page)
        with gr.Tab("Model"):
            _model_tab(handlers, page)

        def choices_now() -> list[Any]:
            return [*(gr.Dropdown(handlers.drivers()) for _ in drivers), gr.Dropdown(handlers.policies.names())]

        page.load(choices_now, None, [*drivers, policy], api_visibility="private", queue=False)
    handlers.line = Line(page)
    return page


def _simulation_tab(handlers: Handlers, first_seed: int, page: gr.Blocks) -> list[gr.Dropdown]:
    gr.Markdown(ABOUT_SIMULATION)
    with gr.Row(elem_classes="picture-first"):
        with gr.Column(scale=4, min_width=320):
            view = gr.HTML(notice_html("Press Run."), elem_id="live")
            verdict = gr.HTML(elem_id="verdict", js_on_load=ANNOUNCED)
        with gr.Column(scale=2, min_width=300):
            instruction = _instruction_box()
            driver = _driver_box(handlers, "Who drives the arm")
            with gr.Row():
                run = gr.Button("Run", variant="primary", min_width=120)
                stop = gr.Button("Stop", variant="stop", min_width=120)
            with gr.Group():
                said = gr.Textbox(
                    label="While it runs: tell it something else",
                    placeholder=INSTRUCTIONS[-1],
                    max_length=MAX_INSTRUCTION_CHARS,
                    submit_btn="Tell",
                )
                push = gr.Button("Push the cube")
            seed = _seed_box(first_seed)
    with gr.Accordion("Where the cube lies, what is changed, how long", open=False), gr.Row():
        with gr.Column(scale=1, min_width=300):
            above = gr.Image(
                label="The table from above",
                alt_text="The table from above, with the cube; the sliders move it too",
                show_label=False,
                format="png",
                interactive=False,
                buttons=[],
                elem_classes="table-view",
            )
        with gr.Column(scale=2, min_width=300):
            by_hand = gr.Checkbox(False, label="Place the cube by hand: move a slider, or click the table")
            x, y = (_placement_slider(axis, hint) for axis, hint in (("x", "down"), ("y", "to the right")))
            yaw = gr.Slider(-45, 45, 0, step=1, label="turned by (degrees)")
            perturbation = gr.Dropdown(
                [NOTHING, *(str(change) for change in parse_perturbations("all"))],
                value=NOTHING,
                label="What is changed (axis:level, as in 5_evaluate.py --perturb)",
            )
            max_steps = gr.Slider(20, MAX_STEPS, 200, step=10, label=STEPS_LABEL)
    with gr.Row():
        with gr.Column(min_width=320):
            video = gr.Video(label="Video of the episode", interactive=False, buttons=["download"], elem_id="video")
        with gr.Column(min_width=320):
            curves = _curves_image()
    with gr.Accordion("In numbers (what the API answers)", open=False):
        facts = gr.JSON(show_label=False)
    run.click(
        handlers.simulate,
        [instruction, driver, seed, max_steps, by_hand, x, y, yaw, perturbation],
        [view, verdict, curves, video, facts],
        api_name="simulate",
        show_progress="minimal",
        show_progress_on=[view],
        concurrency_limit=1,
        concurrency_id=SIMULATOR,
        validator=handlers.admit,
    )
    stop.click(handlers.stop, api_name="stop", queue=False)
    push.click(handlers.push, api_name="push", queue=False)
    said.submit(handlers.tell, said, api_name="tell", queue=False)
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    place = [by_hand, x, y, yaw, seed]
    for slider in (x, y, yaw):
        slider.input(lambda: True, None, by_hand, queue=False, **hidden)
        slider.change(handlers.above, place, above, trigger_mode="always_last", concurrency_id="above", **hidden)
    for choice in (by_hand, seed):
        choice.change(handlers.above, place, above, trigger_mode="always_last", concurrency_id="above", **hidden)
    page.load(handlers.above, place, above, concurrency_id="above", **hidden)
    above.select(handlers.table_clicked, None, [by_hand, x, y], queue=False, **hidden)
    return [driver]


def _image_tab(handlers: Handlers, first_seed: int) -> gr.Dropdown:
    gr.Markdown(ABOUT_IMAGE)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(label="Image", format="png", sources=["upload", "clipboard"], height=300)
            examples = handlers.views.examples
            gr.Examples(
                [[str(path)] for path, _ in examples],
                picture,
                example_labels=[what for _, what in examples],
                label="Examples: click one",
                api_visibility="private",
            )
            seed = _seed_box(first_seed)
            from_simulator = gr.Button("Use the first frame of this seed")
            instruction = _instruction_box()
            names = handlers.policies.names()
            first = handlers.first_driver
            policy = gr.Dropdown(names, value=first if first in names else None, label="Policy")
            predict = gr.Button("Predict", variant="primary")
        with gr.Column(scale=4, min_width=320):
            note = gr.Markdown()
            with gr.Row():
                plan = _answer_image("What it would do", "The picture with the planned path; the table has its numbers")
                heat = _answer_image(
                    "Where it looks", "The picture, bright where hiding it changes the first action most"
                )
            actions = gr.Dataframe(
                label="The next actions",
                headers=list(ACTION_COLUMNS),
                datatype="number",
                column_count=len(ACTION_COLUMNS),
                interactive=False,
            )
            gr.Markdown(ABOUT_ACTIONS)
    from_simulator.click(handlers.first_image, seed, picture, api_name="first_image")
    # The handler opens the upload itself: Gradio's reading answers a broken file with a bare "Error".
    predict.click(
        handlers.predict_actions,
        [picture, instruction, policy],
        [actions, plan, heat, note],
        api_name="predict_actions",
        preprocess=False,
        concurrency_limit=1,
    )
    return policy


def _compare_tab(handlers: Handlers, first_seed: int) -> list[gr.Dropdown]:
    gr.Markdown(ABOUT_COMPARE)
    asked: list[gr.components.Component] = []
    shown: list[gr.components.Component] = []
    drivers: list[gr.Dropdown] = []
    with gr.Row():
        for side, said in zip("AB", INSTRUCTIONS, strict=False):
            with gr.Column(min_width=320):
                instruction = _instruction_box(f"Instruction {side}", said)
                driver = _driver_box(handlers, f"Who drives {side}")
                asked += [instruction, driver]
                drivers.append(driver)
    with gr.Row():
        seed = _seed_box(first_seed)
        max_steps = gr.Slider(20, MAX_STEPS, 200, step=10, label=STEPS_LABEL)
    with gr.Row():
        run = gr.Button("Run both", variant="primary")
        stop = gr.Button("Stop", variant="stop")
    with gr.Row():
        for _ in "AB":
            with gr.Column(min_width=320):
                shown += [gr.HTML(notice_html("Press Run both.")), gr.HTML(js_on_load=ANNOUNCED)]
    with gr.Accordion("In numbers (what the API answers)", open=False):
        facts = gr.JSON(show_label=False)
    run.click(
        handlers.compare,
        [*asked, seed, max_steps],
        [*shown, facts],
        api_name="compare",
        show_progress="minimal",
        show_progress_on=[shown[0]],
        concurrency_limit=1,
        concurrency_id=SIMULATOR,
        validator=handlers.admit,
    )
    stop.click(handlers.stop, api_visibility="private", queue=False)
    return drivers


def _evaluations_tab(handlers: Handlers, page: gr.Blocks) -> None:
    gr.Markdown("Every evaluation that `5_evaluate.py` has written, failures first. Select a row to see its episode.")
    name = gr.Dropdown(list(handlers.evaluations()), label="Evaluation")
    reload = gr.Button("Look again for new ones", size="sm")
    hidden = gr.Markdown()
    with gr.Row():
        with gr.Column(min_width=320):
            rates = gr.Markdown()
        with gr.Column(min_width=320):
            about = gr.Markdown()
    rows = _rows("Episodes", EPISODE_COLUMNS)
    with gr.Row():
        seed = gr.Number(None, label="Seed", precision=0)
        told = gr.Textbox(label="Instruction", max_length=MAX_INSTRUCTION_CHARS)
    show = gr.Button("Show this episode")
    with gr.Row():
        with gr.Column(min_width=320):
            words = gr.Markdown(elem_id="evaluated")
        with gr.Column(min_width=320):
            video = gr.Video(label="Its video", interactive=False, buttons=["download"])
    name.change(handlers.evaluation, name, [about, rates, rows], api_name="evaluation")
    page.load(handlers.evaluation, name, [about, rates, rows], api_visibility="private")
    reload.click(handlers.evaluations_now, None, [name, hidden], api_visibility="private")
    page.load(handlers.evaluations_now, None, [name, hidden], api_visibility="private")
    show.click(handlers.evaluated_episode, [name, seed, told], [words, video], api_name="evaluated_episode")
    _on_row(rows, (1, 2), [seed, told]).then(
        handlers.evaluated_episode, [name, seed, told], [words, video], api_visibility="private"
    )


def _demonstrations_tab(handlers: Handlers, page: gr.Blocks) -> None:
    _at_each_visit(page, gr.Markdown(), lambda: browse.about_dataset(handlers.data))
    rows = _rows("Demonstrations", DEMO_COLUMNS)
    _at_each_visit(page, rows, lambda: browse.demo_rows(handlers.data))
    name = gr.Textbox("demo_0", label="Demonstration", max_length=20)
    show = gr.Button("Show this demonstration")
    with gr.Row():
        with gr.Column(min_width=320):
            words = gr.Markdown(elem_id="demonstration")
            video = gr.Video(label="Its video", interactive=False, buttons=["download"])
        with gr.Column(min_width=320):
            curves = _curves_image()
    show.click(handlers.demonstration, name, [words, curves, video], api_name="demonstration", concurrency_limit=1)
    _on_row(rows, (0,), [name]).then(
        handlers.demonstration, name, [words, curves, video], api_visibility="private", concurrency_limit=1
    )


def _model_tab(handlers: Handlers, page: gr.Blocks) -> None:
    def curves() -> Image.Image | None:
        found = training_curves(handlers.policies)
        return None if found is None else Image.open(found)

    _at_each_visit(page, gr.Markdown(), lambda: about_model(handlers.policies))
    gr.Markdown("## Training")
    _at_each_visit(page, gr.Markdown(), lambda: about_training(handlers.policies))
    picture = gr.Image(
        label="Training curves",
        alt_text="Loss, learning rate and scores over the training's epochs",
        interactive=False,
        format="png",
        buttons=["fullscreen"],
        placeholder="No training curves yet",
    )
    _at_each_visit(page, picture, curves)
    gr.Markdown("## Latest evaluation")
    _at_each_visit(page, gr.Markdown(), lambda: latest_evaluation(handlers.results))
    gr.Markdown("## Demonstrations")
    _at_each_visit(page, gr.Markdown(), lambda: browse.about_dataset(handlers.data))


def _at_each_visit(page: gr.Blocks, shown: gr.components.Component, ask: Callable[[], Any]) -> None:
    """Fill it when the page is loaded, so that a training or an evaluation of today is seen; no endpoint of the API."""
    page.load(ask, None, shown, api_visibility="private", queue=False, show_progress="hidden")


def _answer_image(label: str, alt: str) -> gr.Image:
    return gr.Image(label=label, alt_text=alt, format="png", interactive=False, buttons=["fullscreen"])


def _instruction_box(label: str = "Instruction", value: str = INSTRUCTIONS[0]) -> gr.Textbox:
    box = gr.Textbox(value, label=label, max_length=MAX_INSTRUCTION_CHARS)
    gr.Examples([[text] for text in INSTRUCTIONS], box, label="Examples: click one", api_visibility="private")
    return box


def _curves_image() -> gr.Image:
    return gr.Image(
        label="What the verdict was judged from",
        show_label=False,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        placeholder="What the verdict is judged from",
        alt_text="Height, finger opening, forces and relative velocity over time, with the verdict's thresholds",
    )


def _driver_box(handlers: Handlers, label: str) -> gr.Dropdown:
    return gr.Dropdown(
        handlers.drivers(),
        value=handlers.first_driver,
        label=f"{label}: checkpoint, expert or control",
    )


def _seed_box(first_seed: int) -> gr.Number:
    return gr.Number(first_seed, label=f"Seed (0 to {TEST_SEEDS.stop - 1})", precision=0)


def _placement_slider(axis: str, direction: str) -> gr.Slider:
    limit_cm = 100 * RANGE_M
    return gr.Slider(-limit_cm, limit_cm, 0, step=0.1, label=f"{axis} (cm, {direction} in the picture)")


def _rows(label: str, columns: tuple[str, ...]) -> gr.Dataframe:
    return gr.Dataframe(
        [],
        label=label,
        headers=list(columns),
        column_count=len(columns),
        interactive=False,
        max_height=360,
        wrap=True,
    )


def _on_row(rows: gr.Dataframe, columns: tuple[int, ...], fields: list[gr.components.Component]) -> Any:
    """Copy these columns of a selected row into `fields`."""

    def copied(event: gr.SelectData) -> Any:
        values = [event.row_value[column] for column in columns]
        return values if len(values) > 1 else values[0]

    return rows.select(copied, None, fields, api_visibility="private", queue=False)
