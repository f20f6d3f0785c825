"""The index of a demonstration file: what choosing demonstrations needs to know of them, so that none is opened for it.

It is the group `index`, with a row for every demonstration: row N is of demo_N. It repeats attributes of the
demonstrations, which must be equal when one is read. A file without it is as good, but slower to open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np

from vla.demos.demo_checks import MOST_INSTRUCTION, MOST_STEPS
from vla.demos.hdf5_checks import UnsafeFileError, attribute_text, check_links, read
from vla.demos.source import IMPORTED

INDEX = "index"
_COLUMNS = ("episode_length", "instruction")
_RECORDED_COLUMNS = ("seed", "success")
"""Columns that the index of imported demonstrations lacks, as these lack the attributes."""
_INSTRUCTIONS = "instructions"
"""The different instructions, as UTF-8; the column `instruction` has their numbers in this list."""
_MOST_BYTES = 4 * MOST_INSTRUCTION
_ENCODING = ("utf-8", "surrogateescape")
"""Encoding of an instruction, and what becomes of bytes that are none: h5py reads an attribute in this way, too."""


@dataclass(frozen=True)
class DemoRow:
    """What the index says of a demonstration."""

    seed: int | None
    """None: it was not recorded here."""
    success: bool
    """The label; an imported demonstration has none, and counts as a success."""
    length: int
    """Control steps."""
    instruction: str

    @classmethod
    def of(cls, demo: h5py.Group) -> DemoRow:
        """What the attributes of a demonstration say."""
        seed = demo.attrs.get("seed")
        return cls(
            seed=None if seed is None else int(seed),
            success=bool(demo.attrs.get("success", True)),
            length=int(demo.attrs["episode_length"]),
            instruction=attribute_text(demo.attrs["language_instruction"]),
        )


def write_index(file: h5py.File) -> None:
    """Write the index of a file whose demonstrations, demo_0, demo_1, ..., are complete."""
    data = file["data"]
    rows = [DemoRow.of(data[name]) for name in _names(len(data))]
    instructions = sorted({row.instruction for row in rows})
    numbers = {instruction: number for number, instruction in enumerate(instructions)}
    index = file.create_group(INDEX)
    index[_INSTRUCTIONS] = np.array([instruction.encode(*_ENCODING) for instruction in instructions], dtype="S")
    index["instruction"] = np.array([numbers[row.instruction] for row in rows], dtype=np.int64)
    index["episode_length"] = np.array([row.length for row in rows], dtype=np.int64)
    if IMPORTED not in data.attrs:
        index["seed"] = np.array([row.seed for row in rows], dtype=np.int64)
        index["success"] = np.array([row.success for row in rows], dtype=bool)


def read_index(file: h5py.File) -> dict[str, DemoRow]:
    """What choosing needs to know of every demonstration, by name; without an index, their attributes say it."""
    if INDEX not in file:
        return {name: DemoRow.of(demo) for name, demo in file["data"].items()}
    index = file[INDEX]
    texts = [text.decode(*_ENCODING) for text in index[_INSTRUCTIONS][:]]
    columns = {name: index[name][:].tolist() for name in _columns(file)}
    numbers = columns["instruction"]
    seeds, successes = columns.get("seed", [None] * len(numbers)), columns.get("success", [True] * len(numbers))
    rows = zip(seeds, successes, columns["episode_length"], numbers, strict=True)
    return {
        f"demo_{place}": DemoRow(seed, bool(success), length, texts[number])
        for place, (seed, success, length, number) in enumerate(rows)
    }


def read_seeds(file: h5py.File) -> dict[str, int]:
    """Seed of every demonstration of a file that was recorded here, by name."""
    return {name: row.seed for name, row in read_index(file).items() if row.seed is not None}


def check_index(file: h5py.File) -> None:
    """Check that the index of a file is one, and has a row for each demonstration.

    Raises:
        UnsafeFileError: it is not.
    """
    data, index = file["data"], file[INDEX]
    if not isinstance(index, h5py.Group) or set(data) != set(_names(len(data))):
        raise _refusal(file, "is not of its demonstrations")
    check_links(index)
    texts = read(index, _INSTRUCTIONS, (None,))
    if texts.dtype.kind != "S" or texts.dtype.itemsize > _MOST_BYTES or len(texts) > len(data):
        raise _refusal(file, "has no list of instructions")
    columns = {name: read(index, name, (len(data),)) for name in _columns(file)}
    if any(column.dtype.kind not in "iub" for column in columns.values()):
        raise _refusal(file, "has a column that holds no whole numbers")
    numbers, lengths = columns["instruction"], columns["episode_length"]
    if not 0 <= numbers.min() <= numbers.max() < len(texts):
        raise _refusal(file, "names an instruction that it does not hold")
    if not 0 < lengths.min() <= lengths.max() <= MOST_STEPS:
        raise _refusal(file, "has a length that no demonstration has")


def check_row(demo: h5py.Group, name: str, rows: Mapping[str, DemoRow]) -> None:
    """Check that a demonstration, whose attributes have been checked, is what `read_index` says.

    Raises:
        UnsafeFileError: it is another one.
    """
    if rows[name] != DemoRow.of(demo):
        raise _refusal(demo.file, f"is not of its demonstrations: {name} has another seed, label, length or text")


def _columns(file: h5py.File) -> tuple[str, ...]:
    return _COLUMNS if IMPORTED in file["data"].attrs else _COLUMNS + _RECORDED_COLUMNS


def _names(count: int) -> list[str]:
    return [f"demo_{number}" for number in range(count)]


def _refusal(file: h5py.File, what: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{file.filename}: its group {INDEX} {what}; if the file was changed by hand, delete that group, which is not "
        "needed"
    )
