"""What episodes of the scene "cubes" did to the cube that was named, and to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vla.evaluation.episode import EpisodeResult
from vla.evaluation.statistics import rate, success_interval
from vla.judging.bystanders import MOVED_M
from vla.policies.grammar import category, meaning_of
from vla.sim.config import Scene
from vla.sim.table import table_layout

OBEDIENCE = ("obedience", "episodes [95%]")
STILL_COUNTS = "In the scene cubes, standing still counts as lifted where nothing was to be moved."
"""What tables of lifted cubes mean there."""
KINDS = ("kind of instruction", "success by the verdict")


class Followed(Protocol):
    """What is known of an episode's cubes; `vla.evaluation.episode.EpisodeResult` says more."""

    @property
    def success(self) -> bool: ...

    @property
    def invalid_reason(self) -> str | None: ...

    @property
    def target(self) -> int | None: ...

    @property
    def first_touched(self) -> int | None: ...

    @property
    def cubes_moved_m(self) -> Sequence[float]: ...

    @property
    def cubes_lifted(self) -> Sequence[int]: ...


def wrong_object(episode: Followed) -> bool:
    """A cube was lifted by more than 8 cm that was not named."""
    return any(number != episode.target for number in episode.cubes_lifted)


def went_where_told(episode: Followed) -> bool:
    """The cube that a finger touched first was the named one."""
    return episode.target is not None and episode.first_touched == episode.target


def left_others_alone(episode: Followed) -> bool:
    """No cube but the named one moved by more than 2 cm; not known of an INVALID episode, which counts as failed."""
    moved = [number for number, moved_m in enumerate(episode.cubes_moved_m) if moved_m > MOVED_M]
    return episode.invalid_reason is None and all(number == episode.target for number in moved)


def obedience_counts(results: Sequence[Followed]) -> dict[str, tuple[int, int]]:
    """How many episodes obeyed, and of how many, in words; without what no episode was asked for."""
    named = [result for result in results if result.target is not None]
    still = [result for result in results if result.target is None]
    counts: dict[str, tuple[int, int]] = {}
    if named:
        counts = {
            "named cube truly lifted, and no other": (sum(result.success for result in named), len(named)),
            "wrong object lifted": (sum(wrong_object(result) for result in named), len(named)),
            "named cube touched first": (sum(went_where_told(result) for result in named), len(named)),
            "no other cube moved by 2 cm": (sum(left_others_alone(result) for result in named), len(named)),
        }
    if still:
        counts["no cube moved, where none was to be"] = (sum(result.success for result in still), len(still))
    return counts


def obedience_rows(results: Sequence[Followed]) -> list[tuple[str, str]]:
    """`obedience_counts` with exact 95% intervals."""
    return [(what, rate(met, count)) for what, (met, count) in obedience_counts(results).items()]


def obedience_json(results: Sequence[Followed]) -> dict[str, Any]:
    """`obedience_counts` as JSON types, with exact 95% intervals."""
    return {
        what: {"count": met, "episodes": count, "rate": met / count, "interval_95": success_interval(met, count)}
        for what, (met, count) in obedience_counts(results).items()
    }


def kind_rows(results: Sequence[EpisodeResult], scene: Scene) -> list[tuple[str, str]]:
    """Success by the verdict for each kind of instruction (`vla.policies.grammar.Category`), with exact intervals."""
    groups: dict[str, list[bool]] = {}
    for result in results:
        meaning = meaning_of(result.instruction)
        kind = "other" if meaning is None else category(meaning, table_layout(scene, result.seed).cubes)
        groups.setdefault(kind, []).append(result.success)
    return [(kind, rate(sum(met), len(met))) for kind, met in sorted(groups.items())]
