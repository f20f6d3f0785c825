"""What an instruction means, apart from how it is worded (`vla.policies.wordings`).

Left and right are a person's who looks at the camera's picture. The camera "agentview" stands opposite the robot and
looks back at it: world y points to the right of the picture, and world x away from the robot, down the picture.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vla.policies import wordings as words
from vla.policies.wordings import SPLITS, Place, Split
from vla.sim.table import TableCube

Kind = Literal["colour", "place", "colour and place", "not colour", "nothing"]
Category = Literal["colour", "place", "colour and place", "not colour", "nothing", "absent"]
"""A kind; or "absent", where the instruction names a colour that no cube on the table has."""

PLACES: tuple[Place, ...] = get_args(Place)
CUBE_COLOURS = tuple(words.COLOURS)
PLACE_MARGIN_M = 0.03
"""A cube is the left one only if it is so by this much. So it is in the picture, too, in spite of perspective, and the
nearest by x is the nearest to the robot's base (both within `vla.sim.table.HALF_AREA_M`)."""
IDLE_SHARE = 0.2
"""Share of the instructions in `counterfactuals` that ask for nothing to be moved."""
MAX_TABLES = 32768
"""Tables whose meanings are kept in memory; more than a training has."""
RARE_KIND_WEIGHT = 2.0
"""How much more often `counterfactuals` draws the kinds that few scenes allow, where they do: negation needs two cubes
of different colours, colour and place several cubes of one."""

_AXES: dict[Place, tuple[str, int]] = {
    "left": ("y_m", -1),
    "right": ("y_m", 1),
    "nearest": ("x_m", -1),
    "farthest": ("x_m", 1),
}
"""A place's coordinate, and whether the cube with its largest (1) or smallest (-1) value is meant."""


@dataclass(frozen=True)
class Meaning:
    """What is to be done, with which cube.

    Raises:
        ValueError: `colour` or `place` do not belong to `kind`, or there are no such.
    """

    kind: Kind
    """colour: lift the cube of the colour. place: the cube at the place. not colour: the other one of two cubes.
    nothing: move nothing."""
    colour: str | None = None
    """A cube's colour, or one that no cube has; of the kinds with "colour" in their name."""
    place: Place | None = None
    """The cube's place, for the kinds with "place" in their name."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no kind of instruction: {self.kind!r}")
        if ("colour" in self.kind) != (self.colour is not None) or ("place" in self.kind) != (self.place is not None):
            raise ValueError(f"{self.kind!r} does not go with the colour {self.colour} and the place {self.place}")
        if self.colour not in (None, *CUBE_COLOURS, *ABSENT_COLOURS):
            raise ValueError(f"no colour of the grammar: {self.colour!r}")
        if self.place not in (None, *PLACES):
            raise ValueError(f"no place of the grammar: {self.place!r}")

    def __str__(self) -> str:
        """The shortest wording."""
        return wordings(self, "training")[0]

    @property
    def held_out(self) -> bool:
        """Whether training never asks for this, in any wording."""
        return (self.colour, self.place) in words.HELD_OUT_PAIRS or self.colour in words.ABSENT_COLOURS[True]


ABSENT_COLOURS = (*words.ABSENT_COLOURS[False], *words.ABSENT_COLOURS[True])
"""Colours that an instruction may name, but that no cube has."""
MEANINGS = (
    *(Meaning("colour", colour) for colour in (*CUBE_COLOURS, *ABSENT_COLOURS)),
    *(Meaning("place", place=place) for place in PLACES),
    *(Meaning("colour and place", colour, place) for colour, place in itertools.product(CUBE_COLOURS, PLACES)),
    *(Meaning("not colour", colour) for colour in CUBE_COLOURS),
    Meaning("nothing"),
)
"""All meanings of the grammar that have wordings."""


def resolve(meaning: Meaning, cubes: Sequence[TableCube]) -> int | None:
    """Number of the cube that is to be lifted; None: nothing may move.

    Raises:
        ValueError: the meaning does not tell which cube, or says of a cube what is not so.
    """
    if meaning.kind == "nothing":
        return None
    named = [number for number, cube in enumerate(cubes) if meaning.colour in (None, cube.colour)]
    if meaning.kind == "not colour":
        if len(cubes) != 2 or len(named) != 1:
            raise ValueError(f'"{meaning}" needs two cubes, one of which is {meaning.colour}')
        return 1 - named[0]
    if not named:
        return None
    if meaning.place is None:
        if len(named) > 1:
            raise ValueError(f'"{meaning}" is ambiguous: there are {len(named)} such cubes')
        return named[0]
    # Of a single red cube, "the red cube on the left" says that it is the left one of all.
    found = _at_place(meaning.place, cubes, named if len(named) > 1 else range(len(cubes)))
    if found not in named:
        raise ValueError(
            f'"{meaning}" is not clear: no {meaning.colour or "cube"} is {meaning.place} by {PLACE_MARGIN_M} m'
        )
    return found


def category(meaning: Meaning, cubes: Sequence[TableCube]) -> Category:
    """The kind of an instruction on this table: "absent" where it names a colour that no cube has."""
    named = meaning.colour is None or any(cube.colour == meaning.colour for cube in cubes)
    return meaning.kind if named else "absent"


def meanings_for(cubes: Sequence[TableCube]) -> list[Meaning]:
    """All meanings that a person could want to say of these cubes: they are clear, and say no more than they need.

    Colour and place go together only where there are several cubes of the colour. Held-out meanings are among them.
    """
    listed = []
    for meaning in MEANINGS:
        if meaning.kind == "colour and place" and sum(cube.colour == meaning.colour for cube in cubes) < 2:
            continue
        try:
            resolve(meaning, cubes)
        except ValueError:
            continue
        listed.append(meaning)
    return listed


def counterfactuals(
    cubes: Sequence[TableCube], rng: np.random.Generator, count: int, idle_share: float = IDLE_SHARE
) -> list[Meaning]:
    """Draw `count` different meanings for one scene; held-out ones are not among them.

    As long as there are cubes that none of them names, the next one names such a cube. Its kind is drawn among those
    that the scene allows (see RARE_KIND_WEIGHT), then the meaning evenly among those of the kind. So no colour and no
    place is preferred. On average, `idle_share` of them ask for nothing to be moved: half of these say so, the others
    name an absent colour.

    Raises:
        ValueError: the scene has fewer meanings than are asked for.
    """
    by_target = {target: list(meanings) for target, meanings in _trained_meanings(tuple(cubes)).items()}
    idle_count = int(count * idle_share + rng.random())
    chosen = [_take(by_target[None], cubes, rng) for _ in range(min(idle_count, len(by_target[None])))]
    named = dict.fromkeys(range(len(cubes)), 0)
    while len(chosen) < count:
        left = [number for number in named if by_target.get(number)]
        if not left:
            raise ValueError(f"this scene has no {count} meanings (found {len(chosen)}, with those that move nothing)")
        least = min(named[number] for number in left)
        pool = [meaning for number in left if named[number] == least for meaning in by_target[number]]
        meaning = _take(pool, cubes, rng)
        number = resolve(meaning, cubes)
        assert number is not None
        by_target[number].remove(meaning)
        named[number] += 1
        chosen.append(meaning)
    return chosen


def another_meaning(cubes: Sequence[TableCube], target: int | None, rng: np.random.Generator) -> Meaning:
    """Draw a meaning that names the cube `target`, or none where that is None, as `counterfactuals` would."""
    return _take(list(_trained_meanings(tuple(cubes))[target]), cubes, rng)


@functools.lru_cache(maxsize=MAX_TABLES)
def _trained_meanings(cubes: tuple[TableCube, ...]) -> dict[int | None, tuple[Meaning, ...]]:
    """What training may say of these cubes, by the cube that is meant.

    Cached, because training asks for the same tables in every epoch.
    """
    by_target: dict[int | None, tuple[Meaning, ...]] = {}
    for meaning in meanings_for(cubes):
        if not meaning.held_out:
            target = resolve(meaning, cubes)
            by_target[target] = (*by_target.get(target, ()), meaning)
    return by_target


@functools.cache
def wordings(meaning: Meaning, split: Split) -> tuple[str, ...]:
    """All wordings of a meaning in a split; none where the split changes nothing, as a verb does for "do nothing"."""
    return tuple(text[0].upper() + text[1:] for text in _texts(meaning, SPLITS[split]))


def meaning_of(text: str) -> Meaning | None:
    """The meaning of a wording of the grammar, whatever its case and its full stop; None: it is no such wording.

    Words of training and held-out ones may stand together.
    """
    plain = _plain(text)
    by_phrase, idle = _meanings_by_phrase()
    for reworded, before, after in _frames():
        if plain.startswith(before) and plain.endswith(after):
            phrase = plain[len(before) : len(plain) - len(after)]
            if (reworded, phrase) in by_phrase:
                return by_phrase[reworded, phrase]
    return idle.get(plain)


@functools.cache
def grammar_sha256() -> str:
    """Hash of all wordings of all meanings, for results that depend on them."""
    digest = hashlib.sha256()
    for meaning, split in itertools.product(MEANINGS, SPLITS):
        digest.update("\n".join((repr(meaning), split, *wordings(meaning, split))).encode())
    return digest.hexdigest()


def _texts(meaning: Meaning, out: frozenset[words.Part]) -> list[str]:
    """All wordings of a meaning; `out` has the parts that come from the held-out lists."""
    if meaning.kind == "nothing":
        return _nothing(out)
    return [
        template.format(verb=verb, phrase=phrase)
        for phrase, template, verb in itertools.product(
            _phrases(meaning, out), words.TEMPLATES["template" in out], words.VERBS["verb" in out]
        )
    ]


def _at_place(place: Place, cubes: Sequence[TableCube], among: Sequence[int]) -> int | None:
    """The cube that is farthest to a side, among several; None: there is none, or by less than the margin."""
    coordinate, sign = _AXES[place]
    ranked = sorted(among, key=lambda number: sign * getattr(cubes[number], coordinate), reverse=True)
    first, *others = (sign * getattr(cubes[number], coordinate) for number in ranked)
    return ranked[0] if others and first - others[0] >= PLACE_MARGIN_M else None


def _take(pool: list[Meaning], cubes: Sequence[TableCube], rng: np.random.Generator) -> Meaning:
    """Take a meaning out of the pool: first a category is drawn, then one of its meanings."""
    categories = sorted({category(meaning, cubes) for meaning in pool})
    weights = np.array([RARE_KIND_WEIGHT if name in ("colour and place", "not colour") else 1.0 for name in categories])
    drawn = categories[rng.choice(len(categories), p=weights / weights.sum())]
    members = [meaning for meaning in pool if category(meaning, cubes) == drawn]
    meaning = members[rng.integers(len(members))]
    pool.remove(meaning)
    return meaning


def _phrases(meaning: Meaning, out: frozenset[words.Part]) -> list[str]:
    """The phrases that name the cube, such as "the red cube"; `out` has the held-out parts."""
    nouns, reworded = words.NOUNS["noun" in out], "template" in out
    colours = _colour_words(meaning.colour, "property" in out)
    if meaning.place is None:
        forms = (words.NOT_COLOUR_PHRASES if meaning.kind == "not colour" else words.COLOUR_PHRASES)[reworded]
        return [
            form.format(noun=noun, colour=colour) for form, colour, noun in itertools.product(forms, colours, nouns)
        ]
    places = words.PLACES[meaning.place]["property" in out]
    things = [f"{colour} {noun}" for colour, noun in itertools.product(colours, nouns)] if meaning.colour else nouns
    return ["the " + place.format(thing=thing) for place, thing in itertools.product(places, things)]


def _colour_words(colour: str | None, held_out: bool) -> tuple[str, ...]:
    """Words for a colour; a colour that no cube has is only called by its name."""
    if colour in words.COLOURS:
        return words.COLOURS[colour][held_out]
    return () if held_out or colour is None else (colour,)


def _nothing(out: frozenset[words.Part]) -> list[str]:
    """Wordings of "do nothing"; of the held-out words it can have a noun only."""
    if out - {"template", "noun"}:
        return []
    nouns = words.NOTHING_NOUNS["noun" in out]
    sentences = words.NOTHING["template" in out]
    if "noun" in out:
        sentences = tuple(sentence for sentence in sentences if "{" in sentence)
    texts = [
        sentence.format(noun=noun, nouns=plural) for sentence, (noun, plural) in itertools.product(sentences, nouns)
    ]
    return list(dict.fromkeys(texts))


@functools.cache
def _meanings_by_phrase() -> tuple[dict[tuple[bool, str], Meaning], dict[str, Meaning]]:
    """The meanings by whether the template is held out, and the phrase; and those of "do nothing", by the whole text.

    A sentence that names a cube is one of some hundred frames around a phrase. All sentences are half a million.
    """
    parts = get_args(words.Part)
    mixed = [frozenset(out) for size in range(len(parts) + 1) for out in itertools.combinations(parts, size)]
    named = [meaning for meaning in MEANINGS if meaning.kind != "nothing"]
    by_phrase = {
        ("template" in out, _plain(phrase)): meaning
        for meaning, out in itertools.product(named, mixed)
        for phrase in _phrases(meaning, out)
    }
    return by_phrase, {_plain(text): Meaning("nothing") for out in mixed for text in _nothing(out)}


@functools.cache
def _frames() -> list[tuple[bool, str, str]]:
    """What stands before and after the phrase, for each template and verb, with whether the template is held out."""
    frames = []
    for reworded, templates in words.TEMPLATES.items():
        for template, verb in itertools.product(templates, sum(words.VERBS.values(), ())):
            before, after = _plain(template.format(verb=verb, phrase="\0")).split("\0")
            frames.append((reworded, before, after))
    return frames


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".! ")
