"""The tables of the language suite, out of what `language.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla.evaluation.failures import FAILURE_KINDS
from vla.evaluation.statistics import rate, share
from vla.markdown import markdown_table

Table = list[tuple[str, ...]]
"""Its head, and its rows."""
UNITS = (
    "Right: the named cube truly lifted, and no other; where nothing was to be moved, no cube moved by 2 cm. The unit "
    "is the seed: intervals are exact, of the one instruction of each seed that was drawn beforehand to stand for it, "
    "or of seeds whose every instruction was followed from the same start. If words meant nothing: what a policy would "
    "reach that lifts any cube, whatever is said."
)
_PARTS = (
    *("part", "said", "seeds", "right [95%]", "every instruction right [95%]", "seeds with a wrong object [95%]"),
    *("named cube touched first [95%]", "others left alone [95%]", "episodes right", "if words meant nothing", "goal"),
)


def suite_tables(content: Mapping[str, Any]) -> dict[str, Table]:
    """All tables that have rows, by their headings."""
    tables = {
        "Parts": parts_table(content),
        "The same meanings in other words": wordings_table(content),
        "Said and lifted, in episodes": matrix_table(content),
        "What was named": details_table(content),
        "Another cube named when the first was grasped": after_grasp_table(content),
        "Failures": failures_table(content),
    }
    return {name: table for name, table in tables.items() if len(table) > 1}


def suite_markdown(content: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    blocks = [UNITS]
    for name, (head, *rows) in suite_tables(content).items():
        blocks += [f"## {name}", markdown_table(head, rows)]
    return "\n\n".join(blocks)


def parts_table(content: Mapping[str, Any]) -> Table:
    """A row for each part."""
    return [_PARTS, *(_part_row(name, part) for name, part in content["parts"].items())]


def _part_row(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    measures = part["measures"]
    seeds, several = len(part["seeds"]), part["episodes"] > len(part["seeds"])
    episodes = measures["right"]["episodes"]
    return (
        name,
        part["what"],
        str(seeds),
        _rate(measures["right"]["one_each"]),
        _rate(measures["right"]["all_of_seed"]) if several else "-",
        _rate(measures["wrong_object"]["any_of_seed"]),
        _rate(measures["named_first"]["one_each"]) if "named_first" in measures else "-",
        _rate(measures["others_left_alone"]["one_each"]) if "others_left_alone" in measures else "-",
        share(episodes["count"], episodes["of"]),
        f"{100 * part['chance']:.0f}%",
        part["goal"] or "reported",
    )


def wordings_table(content: Mapping[str, Any]) -> Table:
    """A row for each part whose episodes were also run in training's words."""
    head = ("part", "right", "in training's words", "points", "only here, only there right", "McNemar p")
    return [
        head,
        *(
            (
                name,
                share(pair["right"], pair["pairs"]),
                f"{share(pair['reference_right'], pair['pairs'])} ({pair['reference']})",
                f"{100 * (pair['right'] - pair['reference_right']) / pair['pairs']:+.0f}",
                f"{pair['only_here']}, {pair['only_reference']}",
                f"{pair['mcnemar_exact_p']:.2g}",
            )
            for name, pair in content["wordings"].items()
        ),
    ]


def matrix_table(content: Mapping[str, Any]) -> Table:
    """Counts of episodes: a row for what was said, a column for what was lifted."""
    matrix = content["said_x_lifted"]
    rows = zip(matrix["said"], matrix["counts"], strict=True)
    return [
        ("said", *(f"lifted: {name}" for name in matrix["lifted"])),
        *((said, *map(str, counts)) for said, counts in rows),
    ]


def details_table(content: Mapping[str, Any]) -> Table:
    """Episodes that were right, by what was named, for parts with several such groups."""
    rows = [
        (name, detail, _rate(found))
        for name, part in content["parts"].items()
        if len(part["details"]) > 1
        for detail, found in part["details"].items()
    ]
    return [("part", "named", "right [95%]"), *rows]


def after_grasp_table(content: Mapping[str, Any]) -> Table:
    """What was lifted then; no rows where the part was not run."""
    found = content["after_grasp"] or {}
    return [("episodes", "number"), *((name, str(count)) for name, count in found.items())]


def failures_table(content: Mapping[str, Any]) -> Table:
    """Episodes by kind of failure (`vla.evaluation.failures`), for parts with any."""
    rows = [
        (name, kind.replace("_", " "), str(part["failures"][kind]), FAILURE_KINDS[kind])
        for name, part in content["parts"].items()
        for kind in part["failures"]
    ]
    return [("part", "failure", "episodes", "meaning"), *rows]


def _rate(found: Mapping[str, Any]) -> str:
    return rate(found["count"], found["of"])
