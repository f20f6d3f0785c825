"""Joins demonstrations into one file: the parts of a collection, or files that were collected apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from vla.demos.hdf5_checks import attribute_text
from vla.demos.index import read_seeds, write_index
from vla.demos.schema import SCHEMA_VERSION, checked_demos, collection_rounds, demo_names, open_demos
from vla.errors import UserError
from vla.files import atomic_path

VALID_FRACTION = 0.1
"""Share of each round's seeds whose demonstrations are kept for validation."""
MAX_NAMED = 3
"""Seeds that the error about duplicates names."""
Split = Literal["train", "valid"]


class JoinedFile:
    """A file of demonstrations that is being joined; `new_file` makes one."""

    def __init__(self, file: h5py.File) -> None:
        """`file` is a new one."""
        self._file = file
        self._data = file.create_group("data")
        self._masks: dict[Split, list[str]] = {"train": [], "valid": []}

    def __len__(self) -> int:
        return len(self._data)

    def add(self, demo: h5py.Group, split: Split) -> None:
        """Copy a demonstration behind the others, on this side of the split; its name becomes demo_N."""
        name = f"demo_{len(self)}"
        demo.file.copy(demo, self._data, name=name)
        self._masks[split].append(name)

    def begin(self, split: Split) -> h5py.Group:
        """An empty demonstration behind the others, on this side of the split; `num_samples` has to be set."""
        name = f"demo_{len(self)}"
        self._masks[split].append(name)
        return self._data.create_group(name)

    def add_file(self, source: h5py.File) -> None:
        """Copy all demonstrations of a file, in order; each stays on its side of the split."""
        valid = set(demo_names(source, "valid"))
        for name, demo in checked_demos(source, demo_names(source)):
            self.add(demo, "valid" if name in valid else "train")

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write the split masks, the attributes of the group `data`, and the index."""
        self._data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in self._data.values())
        self._data.attrs["schema_version"] = SCHEMA_VERSION
        self._data.attrs.update(attributes)
        for split, names in self._masks.items():
            self._file[f"mask/{split}"] = np.array(names, dtype="S16")
        write_index(self._file)


@contextlib.contextmanager
def new_file(output: Path) -> Iterator[JoinedFile]:
    """Make a file of demonstrations; `output` appears, or is replaced, when the context ends without an error."""
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as file:
        yield JoinedFile(file)


def merge(parts: Sequence[Path], output: Path, attributes: Mapping[str, Any], base: Path | None = None) -> None:
    """Copy the demonstrations of the parts into `output` as demo_0, demo_1, ..., and write the split masks.

    Args:
        parts: files that `vla.demos.recorder.record` wrote, with the demonstrations of one seed each.
        output: file to write; an existing one is replaced when the new one is whole.
        attributes: attributes of the group `data`.
        base: a file of demonstrations, which may be `output` itself; they come first and keep their split.
    """
    with new_file(output) as joined:
        if base is not None:
            with open_demos(base) as source:
                joined.add_file(source)
        for number, part in enumerate(parts):
            # The last tenth of the parts. Instructions alternate, so that both splits hold every wording of Lift's.
            split: Split = "train" if number < len(parts) - kept_back(len(parts)) else "valid"
            with h5py.File(part, "r") as source:
                for demo in source.values():
                    joined.add(demo, split)
        joined.finish(attributes)


def kept_back(parts: int) -> int:
    """Number of parts, the last ones, that are kept for validation. A part has all demonstrations of its seed."""
    return max(1, round(VALID_FRACTION * parts)) if parts > 1 else 0


def merge_files(paths: Sequence[Path], output: Path) -> int:
    """Copy the demonstrations of all files, in order, into a new one; returns how many there are.

    Every demonstration stays on its side of the split. The rounds of collection and the rejected episodes of all files
    are kept.

    Raises:
        UserError: a file cannot be used, two come from other scenes or simulators or hold the same seed, or `output`
            exists already.
    """
    refuse_existing(output)
    env_args = _check(paths)
    rounds, rejected = [], []
    with new_file(output) as joined:
        for path in paths:
            with open_demos(path) as source:
                joined.add_file(source)
                rounds += collection_rounds(source)
                rejected += json.loads(source["data"].attrs["rejected"])
        joined.finish({"env_args": env_args, "collection": json.dumps(rounds), "rejected": json.dumps(rejected)})
        return len(joined)


def refuse_existing(output: Path) -> None:
    """Check that there is no file yet at `output`.

    Raises:
        UserError: there is one.
    """
    if output.exists():
        raise UserError(f"{output} exists already, and is not replaced; give another --output")


def _check(paths: Sequence[Path]) -> str:
    """Check that the files belong together, before anything is copied; returns their common `env_args`."""
    env_args: dict[Path, str] = {}
    seeds: dict[int, Path] = {}
    for path in paths:
        with open_demos(path) as file:
            env_args[path] = attribute_text(file["data"].attrs["env_args"])
            here = set(read_seeds(file).values())
        if env_args[path] != env_args[paths[0]]:
            raise UserError(
                f"{paths[0]} and {path} come from different scenes, simulators or versions ({env_args[paths[0]]}; "
                f"{env_args[path]}); join only files of one simulator"
            )
        known = sorted(here & set(seeds))
        if known:
            named = ", ".join(map(str, known[:MAX_NAMED]))
            raise UserError(
                f"{seeds[known[0]]} and {path} share {len(known)} seeds, such as {named}; collect one of them with "
                "others: python 1_collect_demos.py --seed N --output NEW_FILE"
            )
        seeds.update(dict.fromkeys(here, path))
    return env_args[paths[0]]
