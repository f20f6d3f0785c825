"""What an episode of the scene "cubes" is asked for: instructions that make sense of what lies on its table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.errors import UserError
from vla.policies.grammar import Meaning, counterfactuals, meaning_of, resolve, wordings
from vla.sim.table import TableLayout

_STREAM = 4
"""Tells this module's random numbers from the others that an episode's seed decides."""


@dataclass(frozen=True)
class Asked:
    """An instruction, and the cube that it names in one scene."""

    instruction: str
    target: int | None
    """Number of the cube in the `TableLayout`; None: nothing may move."""


def ask_counterfactuals(layout: TableLayout, seed: int, count: int) -> list[Asked]:
    """Draw `count` instructions of different meaning for the scene of `seed`, in wordings of training.

    Nothing but the instruction tells the episodes apart that begin in this scene. Wording and meaning are drawn from a
    stream of their own, so the same seed is always asked for the same.

    Raises:
        ValueError: the scene has fewer meanings than are asked for.
    """
    rng = np.random.default_rng([seed, _STREAM])
    asked = []
    for meaning in counterfactuals(layout.cubes, rng, count):
        texts = wordings(meaning, "training")
        asked.append(Asked(texts[rng.integers(len(texts))], resolve(meaning, layout.cubes)))
    return asked


def understood(instruction: str) -> Meaning:
    """The meaning of an instruction of the grammar.

    Raises:
        UserError: it is not a wording of the grammar, so nobody could say what success would be.
    """
    meaning = meaning_of(instruction)
    if meaning is None:
        raise UserError(
            f'"{instruction}" is no instruction of the scene cubes, so no verdict could tell whether it was followed; '
            'say for example "Lift the green cube", "Lift the cube on the left" or "Do nothing"'
        )
    return meaning


def target_of(instruction: str, layout: TableLayout) -> int | None:
    """Number of the cube that an instruction of the grammar names in this scene; None: nothing may move.

    Raises:
        UserError: it is no instruction of the grammar, or it does not tell which of these cubes is meant.
    """
    try:
        return resolve(understood(instruction), layout.cubes)
    except ValueError as error:
        cubes = ", ".join(layout.describe(number) for number in range(len(layout.cubes)))
        raise UserError(f"{error}; on the table are {cubes}") from None
