"""The words of instructions: those of training, and those that are held out. Nothing held out is ever trained on.

Every sentence is a template around a verb and a phrase that names a cube. `vla.policies.grammar` puts them together.
A split says which of the parts come from the held-out lists; `tests/test_grammar.py` shows that no held-out word
occurs in training.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["training", "template", "verb", "noun", "property", "every word"]
Part = Literal["template", "verb", "noun", "property"]
Place = Literal["left", "right", "nearest", "farthest"]
"""nearest and farthest are meant from the robot."""
Words = dict[bool, tuple[str, ...]]
"""By whether they are held out."""

SPLITS: dict[Split, frozenset[Part]] = {
    "training": frozenset(),
    "template": frozenset({"template"}),
    "verb": frozenset({"verb"}),
    "noun": frozenset({"noun"}),
    "property": frozenset({"property"}),
    "every word": frozenset({"verb", "noun", "property"}),
}
"""The held-out parts of a sentence. A property is the colour or the place; `template` includes the phrase's form."""

TEMPLATES: Words = {
    False: (
        "{verb} {phrase}",
        "please {verb} {phrase}",
        "now {verb} {phrase}",
        "can you {verb} {phrase}",
        "the robot should {verb} {phrase}",
        "{verb} {phrase}, please",
        "I want you to {verb} {phrase}",
        "robot, {verb} {phrase}",
        "it is time to {verb} {phrase}",
    ),
    True: ("would you {verb} {phrase} for me", "go ahead and {verb} {phrase}", "your task is to {verb} {phrase}"),
}
VERBS: Words = {
    False: ("lift", "pick up", "grab", "raise", "take"),
    True: ("hoist", "fetch", "elevate"),
}
NOUNS: Words = {
    False: ("cube", "object", "one"),
    True: ("block", "box", "brick"),
}
COLOURS: dict[str, Words] = {
    "red": {
        False: ("red", "scarlet", "ruby", "cherry", "vermilion", "tomato red", "bright red", "dark red", "blood red"),
        True: ("crimson",),
    },
    "green": {
        False: ("green", "emerald", "jade", "mint", "moss", "grass green", "bright green", "dark green", "leaf green"),
        True: ("lime",),
    },
    "blue": {
        False: (
            "blue",
            "navy",
            "cobalt",
            "sapphire",
            "ultramarine",
            "sky blue",
            "bright blue",
            "dark blue",
            "sea blue",
        ),
        True: ("azure",),
    },
    "yellow": {
        False: (
            *("yellow", "lemon", "canary", "mustard", "honey"),
            *("sunny yellow", "bright yellow", "pale yellow", "corn yellow"),
        ),
        True: ("golden",),
    },
}
"""Words for the colours that cubes have. More of them help with new ones, a little (LOG.md, 27 November 2026)."""
ABSENT_COLOURS: Words = {
    False: (
        *("orange", "white", "black", "brown", "grey", "violet", "magenta", "lilac", "lavender", "mauve"),
        *("plum", "fuchsia", "salmon", "peach", "beige", "ivory", "charcoal", "chocolate"),
    ),
    True: ("purple", "pink"),
}
"""Colours that no cube has: nothing may move. The held-out words are new, but training knows hues beside theirs."""
PLACES: dict[Place, Words] = {
    "left": {
        False: ("{thing} on the left", "left {thing}", "left-hand {thing}", "{thing} on the left side"),
        True: ("leftmost {thing}",),
    },
    "right": {
        False: ("{thing} on the right", "right {thing}", "right-hand {thing}", "{thing} on the right side"),
        True: ("rightmost {thing}",),
    },
    "nearest": {
        False: ("{thing} nearest to the robot", "{thing} next to the robot", "{thing} near the robot arm"),
        True: ("{thing} closest to the robot",),
    },
    "farthest": {
        False: (
            "{thing} farthest from the robot",
            "{thing} far away from the robot",
            "{thing} far off from the robot arm",
        ),
        True: ("{thing} most distant from the robot", "{thing} furthest from the robot"),
    },
}
"""Around a `thing`, which is a noun with or without a colour."""
COLOUR_PHRASES: Words = {
    False: (
        "the {colour} {noun}",
        "the {noun} which is {colour}",
        "the {noun} painted {colour}",
        "the {colour} coloured {noun}",
    ),
    True: ("the {noun} that is {colour}", "the {noun} of {colour} colour"),
}
NOT_COLOUR_PHRASES: Words = {
    False: (
        "the {noun} that is not {colour}",
        "the other {noun}, not the {colour} one",
        "not the {colour} {noun} but the other one",
        "the {noun} that was not painted {colour}",
        "any {noun} except the {colour} one",
    ),
    True: ("the {noun} which isn't {colour}", "anything but the {colour} {noun}"),
}
NOTHING: Words = {
    False: (
        "do nothing",
        "do not move",
        "stay where you are",
        "leave the {nouns} alone",
        "do not touch the {nouns}",
        "leave all {nouns} where they are",
        "let every {noun} lie",
        "nothing is to be lifted",
        "lift nothing",
        "no {noun} should be touched",
        "wait",
        "stop, and stay there",
        "keep your fingers off the {nouns}",
    ),
    True: ("don't move", "keep still", "hands off the {nouns}", "no {noun} is to be lifted"),
}
"""Whole sentences."""
NOTHING_NOUNS: dict[bool, tuple[tuple[str, str], ...]] = {
    False: (("cube", "cubes"), ("object", "objects")),
    True: (("block", "blocks"), ("box", "boxes"), ("brick", "bricks")),
}
"""Singular and plural."""

HELD_OUT_PAIRS: tuple[tuple[str, Place], ...] = (
    ("red", "left"),
    ("green", "right"),
    ("blue", "nearest"),
    ("yellow", "farthest"),
)
"""Colours and places that training never names together, although it names each of them with three of the others."""
HELD_OUT_WORDS = frozenset(
    {
        *("hoist", "fetch", "elevate"),
        *("block", "blocks", "box", "boxes", "brick", "bricks"),
        *("crimson", "lime", "azure", "golden", "purple", "pink"),
        *("leftmost", "rightmost", "closest", "distant", "furthest"),
    }
)
"""Words that stand for what the policy knows, and that no instruction of training has."""
