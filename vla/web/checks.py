"""What a visitor may ask for, and the errors that say why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gradio as gr

from vla.errors import UserError
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import TEST_SEEDS, Placement
from vla.web import table

MAX_INSTRUCTION_CHARS = 200
MAX_STEPS = 400


def checked_instruction(text: str | None) -> str:
    """The instruction without blanks around it, or the reason why it cannot be one."""
    text = text.strip() if isinstance(text, str) else ""
    if not text or not text.isprintable():
        raise page_error(f"the instruction is empty, or no plain text; say what to do, such as “{INSTRUCTIONS[0]}”")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise page_error(f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} fit; shorten it")
    return text


def checked_seed(seed: float | None) -> int:
    """The seed, or the reason why it cannot be one."""
    if seed is None or not 0 <= seed < TEST_SEEDS.stop or seed != int(seed):
        raise page_error(f"the seed must be a whole number from 0 to {TEST_SEEDS.stop - 1}, got {seed}")
    return int(seed)


def checked_placement(x_cm: float | None, y_cm: float | None, yaw_deg: float | None) -> Placement:
    """Where the cube is to lie, or the reason why it cannot lie there."""
    limit = 100 * table.RANGE_M
    given = None not in (x_cm, y_cm, yaw_deg)
    if not given or not (abs(x_cm) <= limit and abs(y_cm) <= limit and abs(yaw_deg) <= 45):  # type: ignore[arg-type]
        raise page_error(f"the cube can lie within {limit:.0f} cm of the middle, turned by up to 45 degrees")
    return Placement(x_cm / 100, y_cm / 100, yaw_deg)  # type: ignore[operator, arg-type]


def page_error(message: str) -> gr.Error:
    """What the visitor reads, and the log does not."""
    return gr.Error(message, print_exception=False)


@contextlib.contextmanager
def told_to_visitor() -> Iterator[None]:
    """A mistake that someone can mend is the visitor's to read."""
    try:
        yield
    except UserError as error:
        raise page_error(str(error)) from None
