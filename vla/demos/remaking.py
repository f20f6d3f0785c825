"""Makes a file of demonstrations from another one: workers make each demonstration anew, in parts that are joined.

The file is written whole or not at all, and the other one is only read. After an interruption, the same command
continues with the parts that are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vla.demos.index import read_seeds
from vla.demos.merging import Split, new_file, refuse_existing
from vla.demos.parts import prepare_parts, remove_parts
from vla.demos.schema import demo_names
from vla.errors import MachineError, UserError
from vla.files import run_lock, sha256
from vla.sim.config import EnvConfig
from vla.sim.workers import SimulatorWorkers

LEFT_OUT = "left_out"
"""Attribute of a part: why it has no demonstration; "" where it has one."""


@dataclass(frozen=True)
class RemakeTask:
    """A demonstration to be made anew."""

    path: Path
    """A file that `open_demos` has opened."""
    name: str
    part: Path
    """File to write, atomically: the demonstration's group, or none, and the attribute `LEFT_OUT`."""


def remake(
    source: h5py.File,
    output: Path,
    make: Callable[[RemakeTask], None],
    env: EnvConfig,
    settings: Mapping[str, Any],
    workers: int,
) -> dict[str, str]:
    """Make every demonstration of `source` anew; returns the names of those that were left out, and why.

    They keep their order and their side of the split. Those that were left out are noted among the rejected episodes.

    Args:
        source: an open file of demonstrations that has been checked.
        output: file to write.
        make: makes one demonstration in a worker.
        env: the workers' simulator, which renders, and that of the new file.
        settings: what decides, beside `source`, what is made, as JSON types.
        workers: simulator processes.

    Raises:
        UserError: `output` exists already, or nothing is left.
        MachineError: a simulator cannot start, or died twice at one demonstration.
    """
    refuse_existing(output)
    path = Path(source.filename)
    names = demo_names(source)
    with run_lock(output, is_file=True):
        numbered = prepare_parts(output, {**settings, "source": sha256(path)}, range(len(names)), overwrite=None)
        parts = {name: numbered[number] for number, name in enumerate(names)}
        tasks = [RemakeTask(path, name, part) for name, part in parts.items()]
        try:
            _make_parts(tasks, make, env, workers)
        except UserError:
            remove_parts(output)  # such as a camera that is not there: nothing to continue
            raise
        left_out = _join(source, parts, output, env)
        remove_parts(output)
    return left_out


def _make_parts(tasks: list[RemakeTask], make: Callable[[RemakeTask], None], env: EnvConfig, workers: int) -> None:
    missing = [task for task in tasks if not task.part.exists()]
    if missing:
        with (
            tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="demo", desc="make") as bar,
            SimulatorWorkers(min(workers, len(missing)), env, loads_torch=False) as pool,
        ):
            pool.run(make, missing, done=lambda *_: bar.update())
    dead = [task.name for task in tasks if not task.part.exists()]
    if dead:
        raise MachineError(
            f"the worker process of {dead[0]} died, twice (out of memory?); the other demonstrations are kept: run the "
            "same command again with fewer --workers"
        )


def _join(source: h5py.File, parts: Mapping[str, Path], output: Path, env: EnvConfig) -> dict[str, str]:
    valid = set(demo_names(source, "valid"))
    left_out: dict[str, str] = {}
    seeds = read_seeds(source)
    rejected: list[tuple[int, str]] = json.loads(source["data"].attrs["rejected"])
    with new_file(output) as joined:
        for name, part in parts.items():
            split: Split = "valid" if name in valid else "train"
            with h5py.File(part, "r") as file:
                for demo in file.values():
                    joined.add(demo, split)
                reason = str(file.attrs[LEFT_OUT])
            if reason:
                left_out[name] = reason
                rejected.append((seeds[name], f"{name} was left out: {reason}"))
        if not len(joined):
            name, reason = next(iter(left_out.items()))
            remove_parts(output)
            raise UserError(f"{source.filename}: none of its {len(parts)} demonstrations is left; {name}: {reason}")
        collection = source["data"].attrs["collection"]
        joined.finish({"env_args": env.to_env_args(), "collection": collection, "rejected": json.dumps(rejected)})
    return left_out
