"""The choice of the scene, which decides who can drive and what can be said in all tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vla.web.handlers import Handlers
from vla.web.tabs.components import OfScene

OPENING_TAB = {"lift": "simulation", "cubes": "side_by_side"}
"""The tab that a scene opens with. Of several cubes, two instructions from the same seed say most."""


def scene_choice(handlers: Handlers) -> tuple[gr.Radio, gr.Markdown]:
    """Show the choice of a scene, and what to do for one that cannot be chosen."""
    scene = handlers.scene
    choice = gr.Radio(scene.scenes(), value=scene.first_scene(), label="Scene")
    return choice, gr.Markdown(scene.hint())


def connect_scene(
    handlers: Handlers, page: gr.Blocks, choice: gr.Radio, hint: gr.Markdown, tabs: gr.Tabs, content: list[OfScene]
) -> None:
    """Let the tabs' `content` follow the chosen scene."""
    scene = handlers.scene
    drivers = [component for part in content for component in part.drivers]
    policies = [component for part in content for component in part.policies]
    boxes = [box for part in content for box in part.boxes]
    only_lift = [component for part in content for component in part.only_lift]
    switches = [component for part in content for component in part.switches]

    built_with = handlers.choices.first_driver()

    def who(chosen: str) -> list[Any]:
        # A checkpoint may have turned out to be broken since the page was built; else the chosen value stays.
        renewed = handlers.choices.first_driver() != built_with
        shown: list[Any] = []
        for names, count in ((scene.drivers(chosen), len(drivers)), (scene.policies(chosen), len(policies))):
            first = next(iter(names), None)
            shown += [
                gr.Dropdown(names, value=first, interactive=True) if renewed else gr.Dropdown(names, interactive=True)
                for _ in range(count)
            ]
        return shown

    def at_load(chosen: str) -> list[Any]:
        return [gr.Radio(scene.scenes()), scene.hint(), *who(chosen)]

    def at_choice(chosen: str, *seeds: float | None) -> list[Any]:
        driver, names = scene.drivers(chosen)[0], scene.policies(chosen)
        policy = names[0] if names else None
        return [
            gr.Tabs(selected=OPENING_TAB[chosen]),
            *(gr.Dropdown(scene.drivers(chosen), value=driver) for _ in drivers),
            *(gr.Dropdown(names, value=policy) for _ in policies),
            *(scene.first_instructions(driver, seed)[index] for seed, (_, _, index) in zip(seeds, boxes, strict=True)),
            *(gr.Column(visible=chosen == "lift") for _ in only_lift),
            *(False for _ in switches),
        ]

    hidden: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    page.load(at_load, choice, [choice, hint, *drivers, *policies], **hidden)
    outputs = [tabs, *drivers, *policies, *(box for box, _, _ in boxes), *only_lift, *switches]
    choice.input(at_choice, [choice, *(seed for _, seed, _ in boxes)], outputs, **hidden)
