"""The page: its head and its tabs."""

from __future__ import annotations

import gradio as gr

from vla.web.checkpoint_choices import EXPERT
from vla.web.handlers import Handlers
from vla.web.tabs.archive import demonstrations_tab, evaluations_tab
from vla.web.tabs.model import model_tab
from vla.web.tabs.scene import OPENING_TAB, connect_scene, scene_choice
from vla.web.tabs.side_by_side import side_by_side_tab
from vla.web.tabs.simulation import simulation_tab
from vla.web.tabs.single_image import single_image_tab


def empty_page() -> gr.Blocks:
    """Return a page without content. Its queue exists already, and the handlers are built upon that."""
    return gr.Blocks(title="Lift VLA", analytics_enabled=False)


def fill_page(page: gr.Blocks, handlers: Handlers, seed: int) -> None:
    """Put the tabs into the page; `seed` is the one that they offer first."""
    with page:
        gr.Markdown("# Lift VLA\nA robot arm, a camera and a sentence: a policy learned from demonstrations.")
        if handlers.choices.first_driver() == EXPERT:
            gr.Markdown(f"**Only the scripted expert can run here:** {handlers.choices.missing()}.")
        choice, hint = scene_choice(handlers)
        with gr.Tabs(selected=OPENING_TAB[handlers.scene.first_scene()]) as tabs:
            with gr.Tab("Full simulation", id="simulation"):
                content = [simulation_tab(handlers, seed, page)]
            with gr.Tab("Single image", id="single_image"):
                content.append(single_image_tab(handlers, seed))
            with gr.Tab("Side by side", id="side_by_side"):
                content.append(side_by_side_tab(handlers, seed))
            with gr.Tab("Evaluations", id="evaluations"):
                evaluations_tab(handlers, page)
            with gr.Tab("Demonstrations", id="demonstrations"):
                demonstrations_tab(handlers, page)
            with gr.Tab("Model", id="model"):
                model_tab(handlers, page)
        connect_scene(handlers, page, choice, hint, tabs, content)
