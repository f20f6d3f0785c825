"""What is kept of the language suite's episodes: a row for each, in a file that grows while the suite runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.evaluation.episode import EvaluatedEpisode
from vla.evaluation.identity import Question, digest
from vla.evaluation.language_cases import Case
from vla.files import write_text
from vla.shards import Shard

RowKey = tuple[str, int, int]
"""Part, seed and number: no two rows share them."""


@dataclass(frozen=True)
class Row:
    """One episode of the suite; `vla.evaluation.episode.EpisodeResult` says more of the fields that have its names."""

    part: str
    seed: int
    number: int
    """Number of the instruction among those of its seed in this part; 0: the one that stands for the seed."""
    instruction: str
    then: str | None
    """What was said on the way; None: nothing."""
    detail: str
    said: str | None
    """Row of the matrix of said and lifted (`vla.evaluation.language_cases.Case.row`)."""
    target: int | None
    cube_colours: list[str]
    first_touched: int | None
    cubes_moved_m: list[float]
    """Rounded to 0.1 mm."""
    cubes_lifted: list[int]
    success: bool
    failure_kind: str | None
    invalid_reason: str | None
    steps: int
    switched_step: int | None
    judges_agree: bool | None
    start: str | None
    """12 hex digits of the SHA-256 of the first state; None where the worker process died."""

    @classmethod
    def of(cls, case: Case, episode: EvaluatedEpisode) -> Row:
        """The row of an episode that has ended."""
        result, switch, states = episode.result, case.episode.switch, episode.recording.states
        return cls(
            part=case.part,
            seed=result.seed,
            number=case.number,
            instruction=case.episode.instruction,
            then=None if switch is None else switch.instruction,
            detail=case.said.detail,
            said=case.row,
            target=result.target,
            cube_colours=result.cube_colours or [cube.colour for cube in case.layout().cubes],
            first_touched=result.first_touched,
            cubes_moved_m=[round(moved_m, 4) for moved_m in result.cubes_moved_m],
            cubes_lifted=result.cubes_lifted,
            success=result.success,
            failure_kind=result.failure_kind,
            invalid_reason=result.invalid_reason,
            steps=result.steps,
            switched_step=episode.switched_step,
            judges_agree=result.judges_agree,
            start=hashlib.sha256(states[0].tobytes()).hexdigest()[:12] if len(states) else None,
        )

    @property
    def key(self) -> RowKey:
        """The row's key."""
        return self.part, self.seed, self.number

    @property
    def lifted_colours(self) -> str:
        """Column of the matrix of said and lifted: a colour, "nothing" or "several"."""
        colours = [self.cube_colours[number] for number in self.cubes_lifted]
        return colours[0] if len(colours) == 1 else "several" if colours else "nothing"


def different_starts(rows: Sequence[Row]) -> list[int]:
    """Seeds whose episodes did not all begin in the same state; there should be none."""
    starts: dict[int, set[str]] = {}
    for row in rows:
        if row.start is not None:
            starts.setdefault(row.seed, set()).add(row.start)
    return [seed for seed, found in starts.items() if len(found) > 1]


class RowsFile:
    """The rows of a suite that has not ended: `partial-language-<digest of the question>.jsonl`, a line for each.

    The same command finds the same file. Each shard writes a file of its own beside it, and reads them all. A line
    that a killed run wrote in part is dropped.
    """

    def __init__(self, output_dir: Path, question: Question, shard: Shard | None = None) -> None:
        self._stem = f"partial-language-{digest(question)}"
        suffix = "" if shard is None else f"-shard-{shard.number}-of-{shard.count}"
        self.path = output_dir / f"{self._stem}{suffix}.jsonl"
        """The file that rows are added to."""

    def load(self) -> list[Row]:
        """The rows of the episodes that have finished."""
        own, others = _read(self.path), [_read(path) for path in self._all() if path != self.path]
        if own:
            write_text(self.path, "".join(f"{_line(row)}\n" for row in own))
        return own + [row for rows in others for row in rows]

    def add(self, row: Row) -> None:
        """Append a row; it is safe on the disk when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{_line(row)}\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file, and those of all shards."""
        for path in self._all():
            path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self._stem}*.jsonl"))


def _read(path: Path) -> list[Row]:
    """The rows of a file; none where it is missing."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            rows.append(Row(**json.loads(line)))
        except (TypeError, ValueError):
            print(f"WARNING: line {number} of {path} is damaged; its episode is run again")
    return rows


def as_json_lines(head: dict[str, Any], rows: Sequence[Row]) -> str:
    """JSON of `head` with the rows under the key "episodes", one in a line."""
    text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
    return f'{text},\n "episodes": [\n' + ",\n".join(f"  {_line(row)}" for row in rows) + "\n ]\n}\n"


def _line(row: Row) -> str:
    return json.dumps(dataclasses.asdict(row), ensure_ascii=False)
