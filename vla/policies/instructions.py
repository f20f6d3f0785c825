"""The eight instructions of report sec. 3.3, and which episode gets which."""

from __future__ import annotations

INSTRUCTIONS = (
    "Pick up the cube",
    "Lift the red cube",
    "Grasp the cube and lift it up",
    "Move the cube upward",
    "Grab the object and raise it",
    "Pick the cube from the table",
    "Lift the object above the table",
    "Grasp and elevate the cube",
)


def instruction_for(index: int) -> str:
    """The instruction of episode `index`: the eight in turn, so that they are spread evenly."""
    return INSTRUCTIONS[index % len(INSTRUCTIONS)]
