"""The events that follow from the scene that a visitor chose, and from what lies on its table."""

from __future__ import annotations

from typing import Any

from vla.sim.config import CUBES, SceneKind
from vla.sim.table import TableLayout
from vla.web.checkpoint_choices import CheckpointChoices, control_of
from vla.web.checks import PageError, checked_seed
from vla.web.goals import goal_of, layout_of
from vla.web.live_view import asks_html
from vla.web.suggestions import examples, first_instructions, named_cubes

SCENES: dict[SceneKind, str] = {"lift": "One red cube", "cubes": "Several cubes"}
"""The scenes, in words."""
NO_CUBES = (
    "There is no policy yet of the scene of several cubes, where the instruction decides which one is lifted; make one "
    "with: `make demo-language`"
)


class SceneHandlers:
    """What can be said and who can drive, by scene and seed."""

    def __init__(self, choices: CheckpointChoices) -> None:
        self._choices = choices

    def first_scene(self) -> SceneKind:
        """Return the scene that the page opens with."""
        return self._choices.env(self._choices.first_driver()).scene.kind

    def scenes(self) -> list[tuple[str, str]]:
        """Return label and name of each scene that can be shown."""
        return [(SCENES[kind], kind) for kind in self._choices.scenes()]

    def hint(self) -> str:
        """Return what to do for a scene that cannot be shown; "" where all can."""
        return "" if "cubes" in self._choices.scenes() else NO_CUBES

    def drivers(self, scene: str) -> list[str]:
        """Return who can drive in a scene, the one that is offered first at the first place."""
        known = self._choices.scenes()
        drivers = next((found for kind, found in known.items() if kind == scene), known["lift"])
        first = [driver for driver in drivers if driver == self._choices.first_driver()]
        return [*first, *(driver for driver in drivers if driver not in first)]

    def policies(self, scene: str) -> list[str]:
        """Return the checkpoints of a scene, likewise."""
        return [driver for driver in self.drivers(scene) if control_of(driver) is None]

    def first_instructions(self, driver: str | None, seed: float | None) -> tuple[str, str]:
        """Return two instructions to begin with (see `vla.web.suggestions`)."""
        return first_instructions(self._layout(driver, seed))

    def cube_buttons(self, driver: str | None, seed: float | None) -> list[dict[str, Any]]:
        """Return the options of the buttons that name a cube, one for each that may lie on the table."""
        named = named_cubes(self._layout(driver, seed))
        shown = [{"value": cube.label, "visible": True, "elem_classes": ["cube-button", cube.colour]} for cube in named]
        return [*shown, *[{"visible": False}] * (len(CUBES) - len(shown))]

    def examples(self, driver: str | None, seed: float | None) -> list[str]:
        """Return other instructions to try."""
        return examples(self._layout(driver, seed))

    def example(self, number: int, driver: str | None, seed: float | None) -> str:
        """Return one of `examples`.

        Raises:
            PageError: there is no such one any more, because scene or seed have just changed.
        """
        return _chosen(self.examples(driver, seed), number)

    def instruction_of_button(self, number: int, driver: str | None, seed: float | None) -> str:
        """Return the instruction that a button of `cube_buttons` writes.

        Raises:
            PageError: as `example`.
        """
        return _chosen([cube.instruction for cube in named_cubes(self._layout(driver, seed))], number)

    def asks(self, instruction: str | None, driver: str | None, seed: float | None) -> str:
        """Return what an instruction asks for on the table of a seed, as HTML; "" where that goes without saying."""
        text = instruction.strip() if isinstance(instruction, str) else ""
        if not text or driver is None:
            return ""
        return asks_html(goal_of(text, self._layout(driver, seed), control_of(driver) is None))

    def _layout(self, driver: str | None, seed: float | None) -> TableLayout:
        """Return what lies on the table; empty in the scene "lift", and for a seed that there is not."""
        if not isinstance(driver, str):
            return TableLayout(())
        try:
            return layout_of(self._choices.env(driver), checked_seed(seed))
        except PageError:  # the visitor reads it when the episode is asked for
            return TableLayout(())


def _chosen(texts: list[str], number: int) -> str:
    if not isinstance(number, int) or not 0 <= number < len(texts):
        raise PageError("the table has just changed; choose again")
    return texts[number]
