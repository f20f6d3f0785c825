"""What a visitor may ask for, and the errors that say why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gradio as gr

from vla.errors import UserError
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import TEST_SEEDS, Placement

MAX_INSTRUCTION_CHARS = 200
MAX_STEPS = 400
"""Control steps of an episode at most."""
PLACEMENT_RANGE_M = 0.12
"""How far from the table's middle a visitor can put the cube, along x and along y."""
MAX_YAW_DEG = 45
"""How far a visitor can turn the cube; it looks the same after a quarter turn."""


def checked_instruction(text: str | None) -> str:
    """Return the instruction without blanks around it.

    Raises:
        PageError: it is empty, too long or not printable.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not text or not text.isprintable():
        raise PageError(f"the instruction is empty or not plain text; say what to do, such as “{INSTRUCTIONS[0]}”")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise PageError(
            f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} are allowed; shorten it"
        )
    return text


def checked_seed(seed: float | None) -> int:
    """Return the seed as an integer.

    Raises:
        PageError: it is no whole number, or out of range.
    """
    if not isinstance(seed, (int, float)) or not 0 <= seed < TEST_SEEDS.stop or seed != int(seed):
        raise PageError(f"the seed must be a whole number from 0 to {TEST_SEEDS.stop - 1}, got {seed}")
    return int(seed)


def checked_placement(x_cm: float | None, y_cm: float | None, yaw_deg: float | None) -> Placement:
    """Return where the cube is to lie.

    Raises:
        PageError: a number is missing or out of range.
    """
    limit_cm = 100 * PLACEMENT_RANGE_M
    if (
        not isinstance(x_cm, (int, float))
        or not isinstance(y_cm, (int, float))
        or not isinstance(yaw_deg, (int, float))
        or not (abs(x_cm) <= limit_cm and abs(y_cm) <= limit_cm and abs(yaw_deg) <= MAX_YAW_DEG)
    ):
        raise PageError(
            f"the cube can lie within {limit_cm:.0f} cm of the middle, turned by up to {MAX_YAW_DEG} degrees"
        )
    return Placement(x_cm / 100, y_cm / 100, yaw_deg)


class PageError(gr.Error):
    """An error that the visitor reads and the log does not."""

    def __init__(self, message: str) -> None:
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        """Return the message without quotes: Gradio sends this text when a request is refused before it waits."""
        return str(self.message)


@contextlib.contextmanager
def user_errors_shown() -> Iterator[None]:
    """Show a `UserError` to the visitor."""
    try:
        yield
    except UserError as error:
        raise PageError(str(error)) from None
