"""Collects the file of stills with several simulator workers; an interrupted collection continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.demos.parts import prepare_parts, remove_parts
from vla.demos.schema import move_away_command
from vla.demos.still_recorder import StillTask, record_stills_in_worker
from vla.demos.stills import merge_stills, stills_settings
from vla.errors import UserError
from vla.files import run_lock, sha256
from vla.shards import Shard
from vla.sim.config import EnvConfig
from vla.sim.engines import Engine, simulator_workers

STILLS_PER_PART = 250


def stills_file(demos: Path) -> Path:
    """The file of stills that belongs to a file of demonstrations: data/cubes_stills.hdf5 to data/cubes_demos.hdf5."""
    return demos.with_name(f"{demos.stem.removesuffix('_demos')}_stills.hdf5")


@dataclass(frozen=True)
class StillsTask:
    """What stills are collected."""

    demos: Path
    """File of demonstrations whose poses of the arm they have."""
    env: EnvConfig
    count: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """What decides their file, as JSON types."""
        scene = self.env.scene.to_json_types()
        return {"stills": self.count, "seed": self.seed, "demos_sha256": sha256(self.demos), "scene": scene}

    def recordings(self, parts: dict[int, Path]) -> list[StillTask]:
        """A task for each part."""
        return [
            StillTask(part, self.demos, self.seed, number, min(STILLS_PER_PART, self.count - number * STILLS_PER_PART))
            for number, part in parts.items()
        ]


def collect_stills(task: StillsTask, engine: Engine, workers: int, overwrite: bool, shard: Shard | None) -> None:
    """Collect the stills that are asked for, or a shard's part of them, which is not joined.

    Raises:
        UserError: the file is there, with other settings, and must not be replaced.
    """
    output, settings = stills_file(task.demos), task.settings()
    with run_lock(output, is_file=True, shard=shard):
        if output.exists() and not overwrite:
            found = stills_settings(output)
            if found == settings:
                print(f"{output} is already complete with these settings (--overwrite collects it again)")
                return
            raise UserError(
                f"{output} was collected with {found}, asked for {settings}; move it away "
                f"({move_away_command(output)}), or give it up with --overwrite"
            )
        parts = prepare_parts(output, settings, range(-(-task.count // STILLS_PER_PART)), overwrite)
        recordings = task.recordings(parts)
        _record(recordings if shard is None else shard.part(recordings), task.env, engine, workers)
        if shard is not None:
            print(shard.farewell(f"writes {output}"))
            return
        attributes = {"settings": json.dumps(settings), "env_args": task.env.to_env_args()}
        merge_stills(list(parts.values()), output, attributes)
        remove_parts(output)
    print(f"{output}: {task.count} stills, {output.stat().st_size / 1e6:.0f} MB")


def _record(tasks: Sequence[StillTask], env: EnvConfig, engine: Engine, workers: int) -> None:
    """Record every part that does not exist yet."""
    missing = [task for task in tasks if not task.part.exists()]
    if not missing:
        return
    total = sum(task.count for task in tasks)
    progress = tqdm(total=total, initial=total - sum(task.count for task in missing), unit="still", desc="stills")
    with progress as bar, simulator_workers(engine, min(workers, len(missing)), env, loads_torch=False) as pool:
        pool.run_all(record_stills_in_worker, missing, bar.update)
