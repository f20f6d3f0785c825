"""The parts of the language suite: in which scenes, on which seeds, what is said, and what a policy should reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.errors import UserError
from vla.evaluation import language_cases as cases
from vla.evaluation.asked_episodes import fitting_seeds
from vla.evaluation.language_cases import SWITCH_STEP, Ask, Case, Said, asked_episode
from vla.policies.wordings import Split
from vla.sim.config import Scene
from vla.sim.table import TableLayout

FIRST_OFFSET = 120_000
"""First seed of the suite, counted from the split's first: 2,120,000 of the test seeds. No other result of this
project uses a seed from there on. Those from 2,100,000 on are used up: what was measured on them changed the words of
training (LOG.md, 27 November 2026)."""
BLOCK_SEEDS = 1000
"""Seeds of a block."""
_STREAM = 7
"""Tells this module's random numbers from the others that an episode's seed decides."""


@dataclass(frozen=True)
class Block:
    """Scenes that parts share: an episode of the same seed begins in the same state, to the bit, in each of them."""

    number: int
    """Its seeds begin at FIRST_OFFSET + number * BLOCK_SEEDS."""
    scene: Scene


_TWO = Block(0, Scene("cubes", (2,)))
_THREE = Block(1, Scene("cubes", (3,)))
_FOUR = Block(2, Scene("cubes", (4,)))
_PLACES = Block(3, Scene("cubes"))
_TWINS = Block(4, Scene("cubes", same_colour_share=1.0))
_PAIRS = Block(5, Scene("cubes", same_colour_share=1.0))
_STILL = Block(6, Scene("cubes"))
_ABSENT = Block(7, Scene("cubes"))


@dataclass(frozen=True)
class Part:
    """One question of the suite."""

    what: str
    """What is said, in words."""
    block: Block
    seeds: int
    """How many; the next ones of the block whose scenes it fits."""
    ask: Ask
    goal: str = ""
    """What was set as the goal; empty: it is only reported."""
    reference: str | None = None
    """Name of the part with training's wordings of the same meanings, on the same seeds."""
    switch_step: int | None = None
    """Where something else is said first: the control step of the switch; None: at the grasp."""


def _reworded(reference: str, split: Split, what: str) -> Part:
    """A part of another, which must be defined before: its first instruction in words that training never has."""
    base = _NAMED[reference]
    return Part(
        f"{base.what}, {what}",
        base.block,
        min(100, base.seeds),
        cases.reworded(base.ask, split),
        "within 10 points of training's wordings",
        reference,
    )


_NAMED = {
    "two-cubes": Part(
        "each of two cubes by its colour",
        _TWO,
        200,
        cases.each_colour,
        "90% right, at most 2% wrong objects; both right in 85%",
    ),
    "three-cubes": Part("each of three cubes by its colour", _THREE, 100, cases.each_colour, "85%"),
    "four-cubes": Part("each of four cubes by its colour", _FOUR, 100, cases.each_colour, "85%"),
    "places": Part("two cubes by their places", _PLACES, 100, cases.two_places, "85%"),
    "same-colour": Part("both cubes of one colour by their places", _TWINS, 100, cases.each_twin, "85%"),
    "held-out-pairs": Part(
        "a colour and a place that training never names together", _PAIRS, 100, cases.held_out_pair, "75%"
    ),
    "negation": Part("one of two cubes by what it is not", _TWO, 100, cases.negation, "75%"),
    "do-nothing": Part("nothing is to be done", _STILL, 100, cases.do_nothing, "95%"),
    "absent": Part("a cube that is not there", _ABSENT, 100, cases.absent, "95%"),
}
PARTS: dict[str, Part] = {
    **_NAMED,
    "held-out-templates": _reworded("two-cubes", "template", "sentences never trained"),
    "held-out-verbs": _reworded("two-cubes", "verb", "verbs never trained"),
    "held-out-nouns": _reworded("two-cubes", "noun", "nouns never trained"),
    "held-out-colour-words": _reworded("two-cubes", "property", "words for colours never trained"),
    "held-out-every-word": _reworded("two-cubes", "every word", "verbs, nouns and words for colours never trained"),
    "held-out-place-words": _reworded("places", "property", "words for places never trained"),
    "held-out-do-nothing": _reworded("do-nothing", "template", "sentences never trained"),
    "blank": Part("not a word", _TWO, 100, cases.blank, reference="two-cubes"),
    "shuffled": Part("one of two cubes by its colour, words shuffled", _TWO, 100, cases.shuffled, "", "two-cubes"),
    "other-languages": Part(
        "one of two cubes by its colour, in German, French or Spanish", _TWO, 100, cases.other_language, "", "two-cubes"
    ),
    "switch-before-grasp": Part(
        f"another of two cubes, {SWITCH_STEP} control steps after the first",
        _TWO,
        50,
        cases.other_first,
        switch_step=SWITCH_STEP,
    ),
    "switch-after-grasp": Part("another of two cubes, as soon as the first is grasped", _TWO, 50, cases.other_first),
}
"""By name; each part shares its block's seeds with the other parts of the block."""
LARGEST = max(part.seeds for part in PARTS.values())
"""Seeds of the largest part."""


def part_cases(names: Sequence[str], split: range, num_seeds: int = LARGEST) -> list[Case]:
    """The episodes of these parts, in the order of PARTS.

    Args:
        names: names of parts, keys of PARTS.
        split: the seeds that the suite may use; it takes those from FIRST_OFFSET on.
        num_seeds: seeds of the largest part; the others have fewer in proportion.

    Raises:
        UserError: a block does not have so many seeds.
    """
    return [case for name in PARTS if name in names for case in _cases(name, split, num_seeds)]


def _cases(name: str, split: range, num_seeds: int) -> list[Case]:
    part = PARTS[name]
    count = math.ceil(part.seeds * num_seeds / LARGEST)
    first = split.start + FIRST_OFFSET + part.block.number * BLOCK_SEEDS

    def ask(layout: TableLayout, seed: int) -> list[Said]:
        return part.ask(layout, np.random.default_rng([seed, _STREAM]))

    found = fitting_seeds(part.block.scene, count, first, ask)
    if len(found) < count or found[-1][0] >= first + BLOCK_SEEDS:
        raise UserError(
            f"--num-episodes {num_seeds}: the part {name} needs {count} seeds, and of its {BLOCK_SEEDS} fewer fit; "
            f"give at most {LARGEST}"
        )
    return [
        Case(name, number, each, asked_episode(each, seed, part.block.scene, part.switch_step))
        for seed, said in found
        for number, each in enumerate(said)
    ]
