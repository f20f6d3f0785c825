"""An instruction: its box, buttons that name the cubes on the table, examples, and what it asks for there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vla.web.checks import MAX_INSTRUCTION_CHARS
from vla.web.handlers import Handlers
from vla.web.scene_handlers import SceneHandlers

# Without preprocessing: a choice of another scene takes drivers out of the list while the browser still sends them.
_HIDDEN: dict[str, Any] = {
    "api_visibility": "private",
    "queue": False,
    "show_progress": "hidden",
    "preprocess": False,
}


@dataclass(frozen=True)
class InstructionInput:
    """The components of one instruction, before they are connected."""

    box: gr.Textbox
    cubes: list[gr.Button]
    examples: gr.Dataset
    asks: gr.HTML
    index: int
    """0 or 1: which of two first instructions it shows."""
    scene: SceneHandlers

    def connect(self, driver: gr.Dropdown, seed: gr.Number) -> None:
        """Let all of it follow who drives, and the seed."""
        connect_cubes(self.scene, self.cubes, self.box, driver, seed)
        self.examples.click(self.scene.example, [self.examples, driver, seed], self.box, **_HIDDEN)
        gr.on(
            [driver.change, seed.change],
            lambda *table: gr.Dataset(samples=[[text] for text in self.scene.examples(*table)]),
            [driver, seed],
            self.examples,
            **_HIDDEN,
        )
        gr.on(
            [self.box.change, driver.change, seed.change],
            lambda *said: _shown(self.scene.asks(*said)),
            [self.box, driver, seed],
            self.asks,
            trigger_mode="always_last",
            **_HIDDEN,
        )


def instruction_input(handlers: Handlers, seed: int, label: str = "Instruction", index: int = 0) -> InstructionInput:
    """Show an instruction; `seed` is the one that the page offers first."""
    scene, driver = handlers.scene, handlers.choices.first_driver()
    value = scene.first_instructions(driver, seed)[index]
    box = gr.Textbox(value, label=label, max_length=MAX_INSTRUCTION_CHARS)
    asks = _shown(scene.asks(value, driver, seed))
    cubes = cube_buttons(scene, driver, seed)
    samples = [[text] for text in scene.examples(driver, seed)]
    examples = gr.Dataset(components=[box], samples=samples, label="Examples: click one", type="index")
    return InstructionInput(box, cubes, examples, asks, index, scene)


def _shown(html: str) -> gr.HTML:
    """What an instruction asks for; blank, it takes no room."""
    return gr.HTML(html, visible=bool(html), padding=False)


def cube_buttons(scene: SceneHandlers, driver: str, seed: int) -> list[gr.Button]:
    """Show a button for each cube on the table, in its colour."""
    with gr.Row(elem_classes="cube-buttons"):
        return [gr.Button(size="sm", min_width=80, **options) for options in scene.cube_buttons(driver, seed)]


def connect_cubes(
    scene: SceneHandlers, buttons: list[gr.Button], box: gr.Textbox, driver: gr.Dropdown, seed: gr.Number
) -> list[Any]:
    """Let the buttons follow driver and seed, and write into the box; returns their clicks, for what is to follow."""
    gr.on(
        [driver.change, seed.change],
        lambda *table: [gr.Button(**options) for options in scene.cube_buttons(*table)],
        [driver, seed],
        buttons,
        **_HIDDEN,
    )
    return [
        button.click(functools.partial(scene.instruction_of_button, number), [driver, seed], box, **_HIDDEN)
        for number, button in enumerate(buttons)
    ]
