"""Collects the file of stills with several simulator workers; an interrupted collection continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

from tqdm import tqdm

from vla.demos.parts import prepare_parts, remove_parts
from vla.demos.schema import move_away_command
from vla.demos.still_recorder import StillTask, record_stills_in_worker
from vla.demos.stills import merge_stills, stills_settings
from vla.errors import UserError
from vla.files import run_lock, sha256
from vla.sim.config import EnvConfig
from vla.sim.workers import simulator_pool

STILLS_PER_PART = 250


def stills_file(demos: Path) -> Path:
    """The file of stills that belongs to a file of demonstrations: data/cubes_stills.hdf5 to data/cubes_demos.hdf5."""
    return demos.with_name(f"{demos.stem.removesuffix('_demos')}_stills.hdf5")


def collect_stills(demos: Path, env: EnvConfig, count: int, seed: int, workers: int, overwrite: bool) -> Path:
    """Collect `count` stills with the poses of the arm in `demos`; returns their file.

    Raises:
        UserError: the file is there, with other settings, and must not be replaced.
    """
    output = stills_file(demos)
    settings = {"stills": count, "seed": seed, "demos_sha256": sha256(demos), "scene": env.scene.to_json_types()}
    with run_lock(output, is_file=True):
        if output.exists() and not overwrite:
            found = stills_settings(output)
            if found == settings:
                print(f"{output} is already complete with these settings (--overwrite collects it again)")
                return output
            raise UserError(
                f"{output} was collected with {found}, asked for {settings}; move it away "
                f"({move_away_command(output)}), or give it up with --overwrite"
            )
        parts = prepare_parts(output, settings, range(-(-count // STILLS_PER_PART)), overwrite)
        _record(_tasks(parts, demos, count, seed), env, count, workers)
        attributes = {"settings": json.dumps(settings), "env_args": env.to_env_args()}
        merge_stills(list(parts.values()), output, attributes)
        remove_parts(output)
    print(f"{output}: {count} stills, {output.stat().st_size / 1e6:.0f} MB")
    return output


def _tasks(parts: dict[int, Path], demos: Path, count: int, seed: int) -> list[StillTask]:
    return [
        StillTask(part, demos, seed, number, min(STILLS_PER_PART, count - number * STILLS_PER_PART))
        for number, part in parts.items()
    ]


def _record(tasks: Sequence[StillTask], env: EnvConfig, count: int, workers: int) -> None:
    """Record every part that does not exist yet."""
    missing = [task for task in tasks if not task.part.exists()]
    done = count - sum(task.count for task in missing)
    progress = tqdm(total=count, initial=done, unit="still", desc="stills")
    with progress as bar, simulator_pool(min(workers, len(missing)) or 1, env) as pool:
        futures = [pool.submit(record_stills_in_worker, task) for task in missing]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
