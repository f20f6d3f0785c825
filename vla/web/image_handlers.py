"""The events that show still images: the table from above, first images, and the tab "Single image".

Images are returned as paths (`vla.web.picture`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from vla.errors import UserError
from vla.sim.config import Placement
from vla.web import image_answers, table_view
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.checks import PageError, checked_instruction, checked_placement, checked_seed, user_errors_shown
from vla.web.goals import Said, layout_of
from vla.web.known_views import KnownViews
from vla.web.live_view import heard_words
from vla.web.picture import served
from vla.web.second_simulator import SecondSimulator
from vla.web.uploads import read_square

if TYPE_CHECKING:  # see vla.web.known_views
    from vla.web.loaded_policy import LoadedPolicy


class ImageHandlers:
    """Answers with images, without an episode."""

    def __init__(self, choices: CheckpointChoices, simulator: SecondSimulator) -> None:
        self._choices = choices
        self._simulator = simulator
        self._views = KnownViews()
        self.examples = self._views.examples
        """File and description of each example image."""

    def table(self, by_hand: bool, x_cm: float, y_cm: float, yaw_deg: float, seed: int | None, driver: str) -> str:
        """Draw the table from above, with the cube where the visitor or else the seed puts it, or with all cubes."""
        return served(self._table(by_hand, (x_cm, y_cm, yaw_deg), seed, driver))

    def _table(self, by_hand: bool, place: tuple[float, float, float], seed: int | None, driver: str) -> Image.Image:
        env = self._choices.env(str(driver))
        if by_hand and env.scene.kind == "lift":
            return table_view.draw_table(checked_placement(*place))
        try:
            if env.scene.kind == "cubes":
                return table_view.draw_cubes(layout_of(env, checked_seed(seed)))
            view = self._simulator.start_view(env, checked_seed(seed))
        except (UserError, gr.Error):  # the visitor reads the error when the episode is asked for
            return table_view.draw_table(None)
        return table_view.draw_table(Placement(float(view.cube_pos[0]), float(view.cube_pos[1]), view.cube_yaw_deg))

    def table_clicked(self, driver: str, event: gr.SelectData) -> Any:
        """Return that the cube is placed by hand, and the x and y of the click in centimetres.

        In the scene "cubes", nothing changes: the seed places them all.
        """
        if self._choices.env(str(driver)).scene.kind == "cubes":
            return gr.skip(), gr.skip(), gr.skip()
        x_m, y_m = table_view.position_of_click(*event.index)
        return True, round(100 * x_m, 1), round(100 * y_m, 1)

    def first_image(self, seed: int | None, driver: str | None = None) -> str:
        """Return the image at the start of an episode, (224, 224, 3) uint8.

        It comes from the simulator that `driver` acts in; None: the first of all drivers.
        """
        env = self._choices.env(str(driver or self._choices.drivers()[0]))
        with user_errors_shown():
            view = self._simulator.start_view(env, checked_seed(seed))
        self._views.keep(view)
        return served(view.image)

    def predict_actions(
        self, upload: dict[str, Any] | None, instruction: str, name: str
    ) -> tuple[list[list[float]], str, str, str]:
        """Predict the next K actions of the policy `name`; returns (rows, planned path, heat map, note)."""
        with user_errors_shown():
            image = read_square(_uploaded_file(upload))
            instruction = checked_instruction(instruction)
            policy = self._choices[str(name)]
            known = self._views.find(image)
            viewpoint = known or self._views.home
            action_chunk = policy.action_chunk(image, instruction, viewpoint.eef_pos)
            (heat,) = policy.where_it_looks(image, [instruction], viewpoint.eef_pos)
            note = self._note(policy, image, instruction, known is not None)
        plan = served(image_answers.draw_plan(image, action_chunk, viewpoint))
        return image_answers.action_rows(action_chunk), plan, served(image_answers.draw_heat(image, heat)), note

    def compare_looks(
        self, upload: dict[str, Any] | None, instruction: str, other: str, name: str
    ) -> tuple[str, str, str]:
        """Show where the policy `name` looks in one image under two instructions; returns (heat map of each, note)."""
        with user_errors_shown():
            image = read_square(_uploaded_file(upload))
            said = checked_instruction(instruction), checked_instruction(other)
            policy = self._choices[str(name)]
            viewpoint = self._views.find(image) or self._views.home
            one, two = policy.where_it_looks(image, said, viewpoint.eef_pos)
            first, second = (policy.action_chunk(image, text, viewpoint.eef_pos)[0] for text in said)
        note = image_answers.difference_note(first, second)
        return served(image_answers.draw_heat(image, one)), served(image_answers.draw_heat(image, two)), note

    def _note(self, policy: LoadedPolicy, image: np.ndarray, instruction: str, viewpoint_known: bool) -> str:
        """Return what a visitor should know about the answer, as Markdown."""
        # The familiar frames show the one red cube, and were kept without an instruction and the arm's state.
        config = policy.network.config
        if policy.env.scene.kind == "cubes" or config.encodes_language or config.proprioception:
            heard = heard_words(Said(instruction, heard=policy.heard(instruction)))
            where = image_answers.viewpoint_note(viewpoint_known, config.proprioception)
            return f"The policy heard: {heard}.\n\n{where}".strip()
        share, strangeness = self._views.familiar_share(image), self._views.strangeness(policy, image)
        return image_answers.note(share, strangeness, viewpoint_known)


def _uploaded_file(upload: dict[str, Any] | None) -> Path:
    """Return the path of an upload.

    Raises:
        PageError: there is none, or it is not among the uploads.
    """
    if not isinstance(upload, dict) or not isinstance(upload.get("path"), str):
        raise PageError("there is no image yet; upload one, or use a frame from the simulator")
    path = Path(upload["path"])
    # Gradio does not check this where a hand-made request leaves out its "meta" field.
    if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise PageError("only an uploaded image is read; upload one")
    return path
