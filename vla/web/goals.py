"""What an instruction asks for on a table, and what a visitor must know before believing the verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vla.errors import UserError
from vla.policies import wordings as words
from vla.policies.asked import target_of, understood
from vla.policies.grammar import category, meaning_of
from vla.policies.listener import Heard
from vla.sim.config import EnvConfig
from vla.sim.table import TableLayout, table_layout

_ELSEWHERE = frozenset(
    {
        *(word for colour, by_split in words.COLOURS.items() if colour != "red" for word in sum(by_split.values(), ())),
        *sum(words.ABSENT_COLOURS.values(), ()),
        *("left", "leftmost", "left-hand", "rightmost", "right-hand", "nearest", "closest"),
        *("farthest", "furthest", "distant"),
        *("not", "don't", "nothing", "never", "no", "isn't", "except", "other"),
    }
)
"""Words for other colours than red, for places among several cubes, and of negation."""
_RIGHT_SIDE = re.compile(r"\bthe right\b|\bright (?:cube|object|one|block|box|brick|side)\b")
"""The place "right", which other sentences say too ("right now")."""


@dataclass(frozen=True)
class Goal:
    """What the verdict is about."""

    target: int | None = 0
    """Number of the cube in the `TableLayout`; None: nothing may move, or nobody can say what is meant."""
    asks_for: str = "the red cube"
    """In words, for people."""
    colour: str | None = None
    """Colour of the target, in the scene "cubes"."""
    no_verdict: str | None = None
    """Why no verdict can be given; None: it can."""
    note: str | None = None
    """What the verdict does not tell; None: nothing needs to be said."""


@dataclass(frozen=True)
class Said:
    """An instruction, what it asks for, and what the policy heard."""

    instruction: str
    goal: Goal = field(default_factory=Goal)
    heard: Heard | None = None
    """None in the scene "lift", and for a control, which hears nothing."""


def layout_of(env: EnvConfig, seed: int) -> TableLayout:
    """Return what lies on the table of a seed; empty in the scene "lift", where only the simulator knows."""
    return table_layout(env.scene, seed) if env.scene.kind == "cubes" else TableLayout(())


def goal_of(instruction: str, layout: TableLayout, follows: bool) -> Goal:
    """Return what an instruction asks for.

    Args:
        instruction: any text.
        layout: of the scene "cubes"; empty in the scene "lift".
        follows: whether a policy drives, which hears the instruction.
    """
    if not layout.cubes:
        return Goal(note=lift_note(instruction, follows))
    try:
        target = target_of(instruction, layout)
    except UserError as error:
        return Goal(None, "nobody can say what", no_verdict=str(error))
    if target is not None:
        return Goal(target, layout.describe(target), layout.cubes[target].colour)
    meaning = understood(instruction)
    absent = category(meaning, layout.cubes) == "absent"
    return Goal(None, f"nothing: no cube here is {meaning.colour}" if absent else "nothing is to be moved")


def lift_note(instruction: str, follows: bool) -> str | None:
    """Return a line for an instruction that names what is not in the scene "lift"; None: it names nothing of the kind.

    The one cube there is red, and no instruction changes what is done with it.
    """
    named = _named_elsewhere(instruction)
    if named is None:
        return None
    known = "This policy knows one red cube and lifts it whatever is said: the" if follows else "The"
    return f"{known} verdict is about the red cube, not about “{named}”."


def _named_elsewhere(instruction: str) -> str | None:
    """Return what an instruction names that is not the one red cube; of free text, a word that gives it away."""
    meaning = meaning_of(instruction)
    if meaning is not None:
        if meaning.kind == "colour" and meaning.colour == "red":
            return None
        return str(meaning).removeprefix("Lift ")
    text = instruction.casefold().replace("’", "'")
    found = next((word for word in re.findall(r"[a-z]+(?:['-][a-z]+)*", text) if word in _ELSEWHERE), None)
    if found is None and _RIGHT_SIDE.search(text):
        return "right"
    return found
