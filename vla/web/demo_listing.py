"""The recorded demonstrations: what the file holds, a row for each, and one of them whole."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.demos.dataset_table import dataset_table
from vla.demos.schema import Demo, checked_demo, checked_demos, demo_array, demo_names, open_demos, read_demo
from vla.errors import UserError
from vla.files import FileVersion, file_version
from vla.judging.evidence import Evidence


@dataclass(frozen=True)
class Listing:
    """What the page shows of a file of demonstrations before one is chosen."""

    about: str
    """Table 2 of the report, or what is wrong with the file, as Markdown."""
    rows: list[list[Any]]
    """For each demonstration: name, seed, instruction, steps, share of steps that the expert chose."""


class DemoFile:
    """A file of demonstrations, which is checked once and again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._listed: tuple[FileVersion, Listing] | None = None

    def listing(self) -> Listing:
        """Return what the file holds now."""
        with self._lock:  # a visit asks several times at once
            version = file_version(self.path)
            if self._listed is None or self._listed[0] != version:
                self._listed = version, _read_listing(self.path)
            return self._listed[1]

    def read(self, name: str) -> Demo:
        """Return the demonstration of that name.

        Raises:
            UserError: there is none.
        """
        with open_demos(self.path) as file:
            if name not in demo_names(file):
                raise UserError("there is no demonstration of that name; choose one from the list")
            return read_demo(checked_demo(file, name))


def demo_evidence(demo: Demo) -> tuple[Sequence[Evidence], Sequence[bool]]:
    """Return the evidence after each step, and whether every condition of the verdict held there."""
    rows = [Evidence(**{name: column[row] for name, column in demo.evidence.items()}) for row in range(len(demo))]
    return rows, [all(judge.now.values()) for judge in demo.judges()]


def _read_listing(path: Path) -> Listing:
    try:
        with open_demos(path) as file:
            rows = []
            for name, demo in checked_demos(file, demo_names(file)):
                rows.append(
                    [
                        name,
                        int(demo.attrs["seed"]),
                        str(demo.attrs["language_instruction"]),
                        int(demo.attrs["episode_length"]),
                        round(float(np.mean(demo_array(demo, "sources") == b"expert")), 2),
                    ]
                )
            return Listing(f"`{path}`\n\n{dataset_table(file, path)}", rows)
    except UserError as error:
        return Listing(str(error), [])
