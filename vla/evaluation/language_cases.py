"""What the language suite says of a scene: the same start under several instructions, and in other words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vla.evaluation.asked_episodes import AskedEpisode, Switch, fits
from vla.policies.grammar import CUBE_COLOURS, PLACES, Meaning, meanings_for, resolve, wordings
from vla.policies.wordings import ABSENT_COLOURS, HELD_OUT_PAIRS, Split
from vla.sim.config import Scene
from vla.sim.table import TableLayout, table_layout

SWITCH_STEP = 12
"""Control step of another instruction before the grasp: the hand is on its way, 0.6 s after the start."""
OTHER_LANGUAGES: dict[str, dict[str, str]] = {
    "German": {
        "red": "Hebe den roten Würfel hoch",
        "green": "Hebe den grünen Würfel hoch",
        "blue": "Hebe den blauen Würfel hoch",
        "yellow": "Hebe den gelben Würfel hoch",
    },
    "French": {
        "red": "Soulève le cube rouge",
        "green": "Soulève le cube vert",
        "blue": "Soulève le cube bleu",
        "yellow": "Soulève le cube jaune",
    },
    "Spanish": {
        "red": "Levanta el cubo rojo",
        "green": "Levanta el cubo verde",
        "blue": "Levanta el cubo azul",
        "yellow": "Levanta el cubo amarillo",
    },
}
"""Sentences by language and colour. Training has English only."""


@dataclass(frozen=True)
class Said:
    """An instruction for one scene, and what it means there."""

    meaning: Meaning
    text: str
    target: int | None
    """Number of the cube that it names; None: nothing may move."""
    detail: str
    """What it is counted under within its part, such as the colour or the place."""
    before: Said | None = None
    """What was said first, where this is said on the way."""


Ask = Callable[[TableLayout, np.random.Generator], list[Said]]
"""Returns what is said of a scene, each in an episode of its own; nothing where the scene does not fit.

The first is the one that stands for the scene where one episode of each counts: which cube it names is drawn."""


@dataclass(frozen=True)
class Case:
    """One episode of the language suite."""

    part: str
    number: int
    """Number of the instruction among those of its seed in this part; 0: the one that stands for the seed."""
    said: Said
    episode: AskedEpisode

    def layout(self) -> TableLayout:
        """What lies on the table."""
        assert self.episode.scene is not None, "the suite's episodes have scenes of their own"
        return table_layout(self.episode.scene, self.episode.seed)

    @property
    def row(self) -> str | None:
        """Row of the matrix of said and lifted; None: it belongs to none, because it names no colour."""
        meaning = self.said.meaning
        if not self.said.text:
            return "(blank)"
        if meaning.kind == "nothing":
            return "nothing"
        if meaning.kind != "colour":
            return None
        return meaning.colour if self.said.target is not None else "absent colour"


def asked_episode(said: Said, seed: int, scene: Scene, switch_step: int | None) -> AskedEpisode:
    """The episode in which this is said; `switch_step` is that of a `Switch`, where something else is said first."""
    first = said.before
    if first is None:
        return AskedEpisode(seed, said.text, said.target, scene)
    assert first.target is not None, "a switch leads from one cube to another"
    return AskedEpisode(seed, first.text, said.target, scene, Switch(said.text, first.target, switch_step))


def each_colour(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """Each cube by its colour, in random order."""
    numbers = rng.permutation(len(layout.cubes))
    return [_said(Meaning("colour", layout.cubes[number].colour), layout, rng) for number in numbers]


def two_places(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """Two cubes by their places; no scene in which only one cube has a clear place."""
    drawn = [Meaning("place", place=PLACES[number]) for number in rng.permutation(len(PLACES))]
    clear = [_said(meaning, layout, rng) for meaning in drawn if fits(meaning, layout)]
    others = [said for said in clear[1:] if said.target != clear[0].target]
    return [clear[0], others[0]] if others else []


def each_twin(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """Both cubes of the colour that two cubes have, by a place with or without the colour."""
    meanings = [meaning for meaning in meanings_for(layout.cubes) if meaning.place is not None and not meaning.held_out]
    numbers = [number for number in rng.permutation(len(layout.cubes)) if _colour_count(layout, number) == 2]
    asked = []
    for number in numbers:
        naming = [meaning for meaning in meanings if resolve(meaning, layout.cubes) == number]
        if not naming:
            return []
        meaning = naming[rng.integers(len(naming))]
        asked.append(replace(_said(meaning, layout, rng), detail=meaning.kind))
    return asked


def held_out_pair(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """A cube of the colour that two cubes have, by the place that training never names with this colour."""
    for colour, place in HELD_OUT_PAIRS:
        meaning = Meaning("colour and place", colour, place)
        if sum(cube.colour == colour for cube in layout.cubes) == 2 and fits(meaning, layout):
            return [_said(meaning, layout, rng)]
    return []


def negation(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """One of two cubes by what it is not."""
    cube = layout.cubes[rng.integers(2)]
    return [_said(Meaning("not colour", cube.colour), layout, rng)]


def do_nothing(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """That nothing is to be done."""
    return [_said(Meaning("nothing"), layout, rng)]


def absent(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """A cube that is not there. Half of the time, where there is one, it has a cube's colour that is not on this table;
    else it has a colour that no cube has, held out half of the time."""
    there = {cube.colour for cube in layout.cubes}
    missing = [colour for colour in CUBE_COLOURS if colour not in there]
    never_there = ABSENT_COLOURS[rng.random() < 0.5]
    pool = missing if missing and rng.random() < 0.5 else never_there
    colour = pool[rng.integers(len(pool))]
    meaning = Meaning("colour", colour)
    other = "held-out colour" if meaning.held_out else "colour that no cube has"
    return [replace(_said(meaning, layout, rng), detail="colour of other cubes" if colour in missing else other)]


def reworded(ask: Ask, split: Split) -> Ask:
    """The first of what `ask` says, in a wording of another split."""

    def reword(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
        return [replace(said, text=_draw(wordings(said.meaning, split), rng)) for said in ask(layout, rng)[:1]]

    return reword


def blank(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """The first of `each_colour`, without a word."""
    return [replace(each_colour(layout, rng)[0], text="")]


def shuffled(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """The first of `each_colour`, its words in another order."""
    said = each_colour(layout, rng)[0]
    words = mixed = said.text.lower().split()
    while mixed == words:
        mixed = [str(word) for word in rng.permutation(words)]
    return [replace(said, text=" ".join(mixed))]


def other_language(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """The first of `each_colour`, in a language that training does not have."""
    said = each_colour(layout, rng)[0]
    language = list(OTHER_LANGUAGES)[rng.integers(len(OTHER_LANGUAGES))]
    assert said.meaning.colour is not None
    return [replace(said, text=OTHER_LANGUAGES[language][said.meaning.colour], detail=language)]


def other_first(layout: TableLayout, rng: np.random.Generator) -> list[Said]:
    """The first of `each_colour`, after the second of them was said."""
    last, first = each_colour(layout, rng)[:2]
    return [replace(last, before=first)]


def _said(meaning: Meaning, layout: TableLayout, rng: np.random.Generator) -> Said:
    """A meaning in a wording of training."""
    detail = " ".join(word for word in (meaning.colour, meaning.place) if word is not None) or meaning.kind
    return Said(meaning, _draw(wordings(meaning, "training"), rng), resolve(meaning, layout.cubes), detail)


def _draw(texts: tuple[str, ...], rng: np.random.Generator) -> str:
    return texts[rng.integers(len(texts))]


def _colour_count(layout: TableLayout, number: int) -> int:
    return sum(cube.colour == layout.cubes[number].colour for cube in layout.cubes)
