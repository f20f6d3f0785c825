"""The episodes of an evaluation: the seed of each, what is asked in it, and the cube that this names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vla.errors import UserError
from vla.policies.asked import Asked, ask_counterfactuals, understood
from vla.policies.grammar import CUBE_COLOURS, Meaning, resolve
from vla.sim.config import Scene
from vla.sim.table import TableLayout, table_layout

Said = TypeVar("Said")

STILL_STEPS = 60
"""Control steps of an episode in which nothing is to be moved: 3 s, in which the expert has lifted any cube."""
MOST_UNFIT_SEEDS = 1000
"""Seeds in a row whose scenes an instruction does not fit, after which the search ends."""


@dataclass(frozen=True)
class Switch:
    """Another instruction on the way."""

    instruction: str
    """What is said then."""
    first_target: int
    """Number of the cube that was named before."""
    step: int | None
    """Control step at which it is said; None: as soon as the first target is grasped, by the verdict's conditions."""


@dataclass(frozen=True)
class AskedEpisode:
    """One episode: nothing else decides how it begins, and what is right in it."""

    seed: int
    instruction: str
    """What the policy is told when it begins."""
    target: int | None = 0
    """Number of the cube that the last instruction names; None: nothing may move."""
    scene: Scene | None = None
    """What may lie on the table; None: what the evaluation's scene says."""
    switch: Switch | None = None

    @property
    def instructions(self) -> tuple[str, ...]:
        """Everything that is said in the episode."""
        return (self.instruction,) if self.switch is None else (self.instruction, self.switch.instruction)


def lift_episodes(instructions: Sequence[str], num_episodes: int, first_seed: int) -> tuple[AskedEpisode, ...]:
    """Episodes of the scene "lift": `num_episodes` with each instruction.

    Each has a seed of its own, so that all are independent trials.
    """
    spoken = [instruction for instruction in instructions for _ in range(num_episodes)]
    return tuple(AskedEpisode(first_seed + index, instruction) for index, instruction in enumerate(spoken))


def cubes_episodes(
    scene: Scene, num_episodes: int, first_seed: int, instruction: str | None
) -> tuple[AskedEpisode, ...]:
    """Episodes of the scene "cubes", of the next seeds whose scenes the instruction fits.

    Args:
        scene: what may lie on the table.
        num_episodes: how many.
        first_seed: where the search for them begins.
        instruction: what is asked in each; None: each seed has an instruction of its own, which fits its scene.

    Raises:
        UserError: the instruction is not of the grammar, or fits none of 1000 scenes in a row.
    """
    if instruction is None:

        def own(layout: TableLayout, seed: int) -> list[Asked]:
            return ask_counterfactuals(layout, seed, 1)

        found = fitting_seeds(scene, num_episodes, first_seed, own)
        return tuple(AskedEpisode(seed, asked.instruction, asked.target) for seed, (asked,) in found)
    meaning = understood(instruction)

    def the_same(layout: TableLayout, _: int) -> list[Asked]:
        return [Asked(instruction, resolve(meaning, layout.cubes))] if fits(meaning, layout) else []

    found = fitting_seeds(scene, num_episodes, first_seed, the_same)
    if len(found) < num_episodes:
        raise UserError(
            f'"{instruction}" fits none of {MOST_UNFIT_SEEDS} scenes of {_counts(scene)} cubes; give other numbers, '
            "such as --cubes 2, or --same-colour-share 0"
        )
    return tuple(AskedEpisode(seed, asked.instruction, asked.target) for seed, (asked,) in found)


def fits(meaning: Meaning, layout: TableLayout) -> bool:
    """Whether a meaning tells what to do with these cubes. One that names a cube's colour needs such a cube."""
    if meaning.colour in CUBE_COLOURS and all(cube.colour != meaning.colour for cube in layout.cubes):
        return False
    try:
        resolve(meaning, layout.cubes)
    except ValueError:
        return False
    return True


def fitting_seeds(
    scene: Scene, count: int, first_seed: int, ask: Callable[[TableLayout, int], list[Said]]
) -> list[tuple[int, list[Said]]]:
    """The next `count` seeds for whose scenes `ask` has something to say, with what it says.

    There are fewer where MOST_UNFIT_SEEDS in a row do not fit.
    """
    found: list[tuple[int, list[Said]]] = []
    seed, unfit = first_seed, 0
    while len(found) < count and unfit < MOST_UNFIT_SEEDS:
        said = ask(table_layout(scene, seed), seed)
        if said:
            found.append((seed, said))
        unfit = 0 if said else unfit + 1
        seed += 1
    return found


def _counts(scene: Scene) -> str:
    return " or ".join(str(count) for count in scene.counts)
