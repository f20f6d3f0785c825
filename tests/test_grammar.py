"""The grammar: which cube an instruction means, what is held out, and how instructions are drawn for a scene."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest

from vla.policies.grammar import (
    ABSENT_COLOURS,
    CUBE_COLOURS,
    IDLE_SHARE,
    MEANINGS,
    PLACE_MARGIN_M,
    PLACES,
    Kind,
    Meaning,
    category,
    counterfactuals,
    meaning_of,
    meanings_for,
    resolve,
    wordings,
)
from vla.policies.listener import Listener
from vla.policies.wordings import HELD_OUT_PAIRS, HELD_OUT_WORDS, SPLITS
from vla.sim.config import Scene
from vla.sim.env import Simulator
from vla.sim.table import COLOURS, HALF_AREA_M, TableCube, table_layout

TRAINED = [meaning for meaning in MEANINGS if not meaning.held_out]
TRAINING_TEXTS = {text for meaning in TRAINED for text in wordings(meaning, "training")}


def _cubes(*cubes: tuple[str, float, float]) -> list[TableCube]:
    """Cubes by colour, x and y in metres."""
    return [TableCube(f"cube{number}", colour, x, y, 0.0) for number, (colour, x, y) in enumerate(cubes)]


TWO = _cubes(("red", -0.05, 0.06), ("green", 0.05, -0.06))
TWINS = _cubes(("red", 0.0, 0.08), ("blue", 0.0, -0.08), ("red", 0.05, 0.0))


def _tokens(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.casefold()))


def test_left_and_right_are_those_of_the_picture(sim: Simulator) -> None:
    """And "farthest from the robot" is lower in the picture; of cubes that the margin tells apart, within the area."""
    matrix, base_xy = sim.camera_matrix(), sim.data.body("robot0_base").xpos[:2]
    rng = np.random.default_rng(0)
    places = rng.uniform(-np.array(HALF_AREA_M), HALF_AREA_M, (2000, 2, 2))  # (scenes, cubes, xy)
    points = np.concatenate([places, np.full((2000, 2, 1), 0.82), np.ones((2000, 2, 1))], axis=-1)
    projected = points @ matrix.T
    across, down = projected[..., 0] / projected[..., 2], projected[..., 1] / projected[..., 2]
    distance = np.linalg.norm(places - base_xy, axis=-1)
    for (first, second), u, v, away in zip(places, across, down, distance, strict=True):
        cubes = _cubes(("red", *first), ("green", *second))
        for meaning in meanings_for(cubes):
            if meaning.kind == "place":
                order = {"left": -u, "right": u, "nearest": -away, "farthest": away}[str(meaning.place)]
                assert resolve(meaning, cubes) == int(np.argmax(order))
                if meaning.place in ("nearest", "farthest"):
                    assert resolve(meaning, cubes) == int(np.argmax(v if meaning.place == "farthest" else -v))


@pytest.mark.parametrize(
    ("meaning", "cubes", "number"),
    [
        (Meaning("colour", "green"), TWO, 1),
        (Meaning("place", place="left"), TWO, 1),
        (Meaning("place", place="right"), TWO, 0),
        (Meaning("place", place="nearest"), TWO, 0),
        (Meaning("place", place="farthest"), TWO, 1),
        (Meaning("not colour", "red"), TWO, 1),
        (Meaning("nothing"), TWO, None),
        (Meaning("colour", "purple"), TWO, None),
        (Meaning("colour", "blue"), TWO, None),
        (Meaning("colour and place", "blue", "left"), TWO, None),
        (Meaning("colour and place", "red", "left"), TWINS, 2),  # the left one of the red ones, not of all
        (Meaning("colour and place", "red", "right"), TWINS, 0),
        (Meaning("colour and place", "red", "right"), TWO, 0),
        (Meaning("place", place="left"), TWINS, 1),
    ],
    ids=lambda value: str(value) if isinstance(value, Meaning) else None,
)
def test_an_instruction_means_one_cube_or_none(meaning: Meaning, cubes: list[TableCube], number: int | None) -> None:
    assert resolve(meaning, cubes) == number


@pytest.mark.parametrize(
    ("meaning", "cubes"),
    [
        (Meaning("colour", "red"), TWINS),
        (Meaning("place", place="left"), _cubes(("red", 0.0, 0.0), ("green", 0.09, 0.9 * PLACE_MARGIN_M))),
        (Meaning("place", place="left"), _cubes(("red", 0.0, 0.0))),
        (Meaning("colour and place", "red", "left"), TWO),  # the red one is on the right
        (Meaning("not colour", "red"), TWINS),
        (Meaning("not colour", "blue"), TWO),
    ],
    ids=str,
)
def test_what_does_not_tell_which_cube_is_refused(meaning: Meaning, cubes: list[TableCube]) -> None:
    with pytest.raises(ValueError, match=re.escape(str(meaning))):
        resolve(meaning, cubes)
    assert meaning not in meanings_for(cubes)


def test_a_meaning_has_what_its_kind_needs() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"kind": "colour"},
        {"kind": "place", "colour": "red", "place": "left"},
        {"kind": "nothing", "colour": "red"},
        {"kind": "colour", "colour": "puce"},
        {"kind": "place", "place": "middle"},
        {"kind": "throw"},
    )
    for fields in wrong:
        with pytest.raises(ValueError, match=r"no kind|does not go with|no colour|no place"):
            Meaning(**fields)


def test_the_grammar_names_the_colours_that_cubes_have() -> None:
    assert set(CUBE_COLOURS) == set(COLOURS)
    assert not set(ABSENT_COLOURS) & set(COLOURS)


def test_no_held_out_word_or_sentence_occurs_in_training() -> None:
    vocabulary = set().union(*map(_tokens, TRAINING_TEXTS))
    assert not HELD_OUT_WORDS & vocabulary
    for meaning, split in itertools.product(TRAINED, SPLITS):
        if split == "training":
            continue
        for text in wordings(meaning, split):
            assert text not in TRAINING_TEXTS
            if split != "template":
                assert HELD_OUT_WORDS & _tokens(text), f"nothing in {text!r} is held out"


def test_held_out_pairs_are_never_named_together_but_each_alone() -> None:
    for colour, place in HELD_OUT_PAIRS:
        held_out = Meaning("colour and place", colour, place)
        assert held_out.held_out
        assert not TRAINING_TEXTS & set(wordings(held_out, "training"))
    for colour in CUBE_COLOURS:
        assert sum(meaning.kind == "colour and place" and meaning.colour == colour for meaning in TRAINED) == 3
    for place in PLACES:
        assert sum(meaning.kind == "colour and place" and meaning.place == place for meaning in TRAINED) == 3


def test_a_wording_has_one_meaning() -> None:
    texts = [
        (text, meaning) for meaning, split in itertools.product(MEANINGS, SPLITS) for text in wordings(meaning, split)
    ]
    assert all(meaning_of(text) == meaning for text, meaning in texts)
    assert meaning_of(" lift  the RED cube. ") == Meaning("colour", "red")
    assert meaning_of("Hoist the green block") == meaning_of("fetch the lime cube") == Meaning("colour", "green")
    assert meaning_of("Make me a sandwich") is None
    for meaning in MEANINGS:
        assert len(set(wordings(meaning, "training"))) == len(wordings(meaning, "training")) >= 10


def test_a_scene_lists_what_can_be_said_of_it() -> None:
    listed = meanings_for(TWINS)
    assert {meaning for meaning in listed if meaning.kind == "colour and place"} == {
        Meaning("colour and place", "red", place) for place in PLACES
    }
    assert [meaning for meaning in listed if category(meaning, TWINS) == "colour"] == [Meaning("colour", "blue")]
    assert {meaning.colour for meaning in listed if category(meaning, TWINS) == "absent"} == {
        "green",
        "yellow",
        *ABSENT_COLOURS,
    }
    assert not any(meaning.kind == "not colour" for meaning in listed)


def test_counterfactuals_differ_and_name_different_cubes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        chosen = counterfactuals(TWO, rng, 4, idle_share=0)
        assert len(set(chosen)) == 4
        assert Counter(resolve(meaning, TWO) for meaning in chosen) == {0: 2, 1: 2}
        assert not any(meaning.held_out for meaning in counterfactuals(TWINS, rng, 6))
    with pytest.raises(ValueError, match="this scene has no 60 meanings"):
        counterfactuals(TWO, rng, 60)
    assert counterfactuals(TWO, np.random.default_rng(1), 3) == counterfactuals(TWO, np.random.default_rng(1), 3)


def test_no_colour_place_or_cube_is_preferred() -> None:
    """Over many scenes of two and three cubes, every other one with two of a colour."""
    scene = Scene("cubes", counts=(2, 3), same_colour_share=0.5)
    rng = np.random.default_rng(0)
    categories: Counter[str] = Counter()
    targets: Counter[int] = Counter()
    colours: dict[str, Counter[Any]] = {kind: Counter() for kind in get_args(Kind)}
    places: dict[str, Counter[Any]] = {kind: Counter() for kind in get_args(Kind)}
    scenes = 1500
    for seed in range(scenes):
        cubes = table_layout(scene, seed).cubes
        for meaning in counterfactuals(cubes, rng, 3):
            drawn, number = category(meaning, cubes), resolve(meaning, cubes)
            categories[drawn] += 1
            if number is not None:
                targets[number if len(cubes) == 2 else -1] += 1
                colours[meaning.kind][meaning.colour] += 1
                places[meaning.kind][meaning.place] += 1
    idle = categories["nothing"] + categories["absent"]
    assert idle / (3 * scenes) == pytest.approx(IDLE_SHARE, abs=0.015)
    assert categories["nothing"] / idle == pytest.approx(0.5, abs=0.05)
    assert min(categories[kind] for kind in get_args(Kind)) / (3 * scenes) > 0.08
    _assert_even(targets[0], targets[1])
    for kind in ("colour", "colour and place", "not colour"):
        _assert_even(*(colours[kind][colour] for colour in CUBE_COLOURS))
    for kind in (
        "place",
        "colour and place",
    ):  # the area is wider than deep, so that left and right are clear more often
        _assert_even(places[kind]["left"], places[kind]["right"])
        _assert_even(places[kind]["nearest"], places[kind]["farthest"])


def _assert_even(*counts: int) -> None:
    """Counts that differ by no more than five standard deviations of chance."""
    mean = sum(counts) / len(counts)
    assert max(abs(count - mean) for count in counts) < 5 * np.sqrt(mean), counts


def test_the_nearest_wording_of_training_is_heard() -> None:
    """Verbs lie far apart here (first number), colours near to each other (second): the colour decides."""
    texts = ["Lift the red cube", "Grab the red cube", "Lift the green cube", "Grab the green cube"]
    listener = Listener(texts, np.array([[4.0, 0.1], [-4.0, 0.1], [4.0, -0.1], [-4.0, -0.1]]))
    said = np.array([0.5, -0.1])
    heard = listener.hear(said)
    assert (heard.wording, heard.meaning) == ("Lift the green cube", Meaning("colour", "green"))
    assert listener.hear(np.array([4.0, 0.1])).similarity == pytest.approx(1)
    assert -1 <= listener.hear(np.array([0.0, 3.0])).similarity < 1


def test_wordings_without_a_meaning_are_heard_too() -> None:
    """As the eight of the scene "lift"."""
    listener = Listener(["Pick up the cube", "Lift the object above the table"], np.array([[1.0, 0.0], [0.0, 1.0]]))
    heard = listener.hear(np.array([0.9, 0.2]))
    assert (heard.wording, heard.meaning) == ("Pick up the cube", None)
