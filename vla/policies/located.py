"""The cubes that the network learns to locate: those that a colour, a place, or both name.

Which of several cubes is meant cannot be seen in a picture. So features that are made before the instruction is known
must tell where each of them is (docs/language.md).
"""

from __future__ import annotations

from vla.policies.grammar import CUBE_COLOURS, MEANINGS, resolve
from vla.sim.table import TableLayout

LOCATED = tuple(
    meaning
    for meaning in MEANINGS
    if meaning.kind in ("colour", "place", "colour and place")
    and meaning.colour in (None, *CUBE_COLOURS)
    and not meaning.held_out
)
"""What is located, by how it can be said. Pairs of colour and place that are held out are held out here, too."""


def located_numbers(layout: TableLayout) -> list[int | None]:
    """Number of the cube that each of LOCATED names in this scene; None: none, or not clearly one."""
    numbers = []
    for meaning in LOCATED:
        try:
            numbers.append(resolve(meaning, layout.cubes))
        except ValueError:
            numbers.append(None)
    return numbers
