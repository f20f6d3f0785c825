"""Joins files of demonstrations that were collected apart, such as halves of one collection on two machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from vla.demos.schema import collection_rounds, demo_names, open_demos
from vla.errors import UserError
from vla.files import atomic_path

MAX_NAMED = 3
"""Seeds that the error about duplicates names."""


def merge_files(paths: Sequence[Path], output: Path) -> int:
    """Copy the demonstrations of all files, in order, into a new one; returns how many there are.

    Every demonstration stays on its side of the split. The rounds of collection and the rejected episodes of all files
    are kept.

    Raises:
        UserError: a file cannot be used, two come from other scenes or simulators or hold the same seed, or `output`
            exists already.
    """
    if output.exists():
        raise UserError(f"{output} exists already, and is not replaced; give another --output")
    _check(paths)
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        masks: dict[str, list[bytes]] = {"train": [], "valid": []}
        rounds, rejected = [], []
        for path in paths:
            with open_demos(path) as source:
                new_names = {name: f"demo_{len(data) + index}" for index, name in enumerate(demo_names(source))}
                for name, new_name in new_names.items():
                    source.copy(source["data"][name], data, name=new_name)
                for split, mask in masks.items():
                    mask.extend(new_names[name].encode() for name in demo_names(source, split))
                rounds += collection_rounds(source)
                rejected += json.loads(source["data"].attrs["rejected"])
                attributes = {name: source["data"].attrs[name] for name in ("env_args", "schema_version")}
        data.attrs.update(attributes)
        data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())
        data.attrs["collection"] = json.dumps(rounds)
        data.attrs["rejected"] = json.dumps(rejected)
        for split, mask in masks.items():
            file[f"mask/{split}"] = np.array(mask, dtype="S16")
        return len(data)


def _check(paths: Sequence[Path]) -> None:
    """Check that the files belong together, before anything is copied."""
    env_args: dict[Path, str] = {}
    seeds: dict[int, Path] = {}
    for path in paths:
        with open_demos(path) as file:
            env_args[path] = str(file["data"].attrs["env_args"])
            here = {int(demo.attrs["seed"]) for demo in file["data"].values()}
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
