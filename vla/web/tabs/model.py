"""The tab "Model": the policy, its training, its latest evaluation and its demonstrations."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from vla.web.handlers import Handlers
from vla.web.picture import served
from vla.web.tabs.components import at_each_visit
from vla.web.training_facts import about_training, latest_evaluation, training_curves


def model_tab(handlers: Handlers, page: gr.Blocks) -> None:
    """Build the tab."""
    choices, archive = handlers.choices, handlers.archive

    def about() -> str:
        policy = choices.first()
        # It imports torch, as a policy does; the page is shown before.
        from vla.web.model_facts import about_model

        return about_model(policy, choices.broken())

    def curves() -> str | None:
        found = training_curves(choices)
        if found is None:
            return None
        with Image.open(found) as picture:
            return served(picture)

    at_each_visit(page, gr.Markdown(), about)
    gr.Markdown("## Training")
    at_each_visit(page, gr.Markdown(), lambda: about_training(choices))
    picture = gr.Image(
        label="Training curves",
        alt_text="Loss, learning rate and scores over the training's epochs",
        interactive=False,
        format="png",
        buttons=["fullscreen"],
        placeholder="No training curves yet",
    )
    at_each_visit(page, picture, curves)
    gr.Markdown("## Latest evaluation")
    at_each_visit(page, gr.Markdown(), lambda: latest_evaluation(archive.results))
    gr.Markdown("## Demonstrations")
    at_each_visit(page, gr.Markdown(), lambda: archive.demos.listing().about)
