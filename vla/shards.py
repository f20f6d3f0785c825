"""Shards: equal parts of a run's tasks, which machines that know nothing of each other can work on at the same time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from vla.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th task of a run, beginning with number `number`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read --shard, such as "3/16".

        Raises:
            UserError: it is no shard.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise UserError(f"--shard {text}: give a number and how many shards there are, from 1/16 to 16/16, say")
        return cls(number, count)

    def part(self, items: Sequence[Item]) -> list[Item]:
        """The tasks of this shard among all tasks of the run."""
        return list(items[self.number - 1 :: self.count])

    def farewell(self, joined: str) -> str:
        """What a run says when its shard is done; `joined` is what the whole run does then."""
        return (
            f"shard {self} is done; when all {self.count} are, the same command without --shard {joined} "
            "(and runs what is missing)"
        )

    def __str__(self) -> str:
        return f"{self.number} of {self.count}"
