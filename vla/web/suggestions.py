"""Instructions that a visitor can choose by a click: those that make sense of what lies on the table."""

from __future__ import annotations

from dataclasses import dataclass

from vla.policies.grammar import ABSENT_COLOURS, Kind, Meaning, meanings_for, resolve
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.table import TableLayout

_BY_PREFERENCE: tuple[Kind, ...] = ("colour", "colour and place", "place", "not colour")
"""How a cube is named, if it can be."""
_OTHER_KINDS: tuple[Kind, ...] = ("place", "not colour", "nothing")


@dataclass(frozen=True)
class NamedCube:
    """A cube, and the instruction that names it."""

    colour: str
    label: str
    """Such as "the red cube on the left"."""
    instruction: str


def named_cubes(layout: TableLayout) -> list[NamedCube]:
    """Return an instruction for each cube on the table; a cube that no instruction names clearly is left out."""
    meanings = sorted(meanings_for(layout.cubes), key=_preference)
    named = []
    for number, cube in enumerate(layout.cubes):
        for meaning in meanings:
            if meaning.kind in _BY_PREFERENCE and resolve(meaning, layout.cubes) == number:
                named.append(NamedCube(cube.colour, str(meaning).removeprefix("Lift "), str(meaning)))
                break
    return named


def examples(layout: TableLayout) -> list[str]:
    """Return other instructions to try: places, negation, doing nothing, a colour that is not there.

    For an empty layout, the scene "lift", these are the report's eight.
    """
    if not layout.cubes:
        return list(INSTRUCTIONS)
    others = [str(meaning) for meaning in meanings_for(layout.cubes) if meaning.kind in _OTHER_KINDS]
    return [*others, str(Meaning("colour", ABSENT_COLOURS[0]))]


def first_instructions(layout: TableLayout) -> tuple[str, str]:
    """Return two instructions to begin with; in the scene "cubes" they name two different cubes."""
    if not layout.cubes:
        return INSTRUCTIONS[0], INSTRUCTIONS[1]
    first, *others = named_cubes(layout)
    return first.instruction, others[0].instruction if others else str(Meaning("nothing"))


def _preference(meaning: Meaning) -> int:
    return _BY_PREFERENCE.index(meaning.kind) if meaning.kind in _BY_PREFERENCE else len(_BY_PREFERENCE)
