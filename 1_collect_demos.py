"""Collect demonstrations of the Lift task with the scripted expert (report sec. 3).

Reads nothing. Writes the HDF5 file of demonstrations and a video with an overlay. Only episodes that
pass the verdict are kept; the rest are counted, with their reasons. Stopped half-way, the same command
goes on where it stopped.

    python 1_collect_demos.py --num-episodes 50
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vla import gl
from vla.demos import collection_settings, demo_names, merge, open_demos, read_demo
from vla.env import TRAIN_SEEDS, EnvConfig
from vla.errors import UserError, run_script
from vla.expert import ExpertConfig
from vla.files import write_text
from vla.instructions import instruction_for
from vla.recorder import RecordTask, record_in_worker
from vla.stats import dataset_table
from vla.video import demo_frames, write_video
from vla.workers import simulator_pool

ATTEMPTS_PER_DEMO = 5
ROTATION_NOISE = ExpertConfig.rotation_noise_std / ExpertConfig.noise_std
"""Rotation noise for each unit of position noise."""


@dataclass(frozen=True)
class CollectOptions:
    """Options of the collection."""

    output: Path = Path("data/lift_demos.hdf5")
    """HDF5 file to write."""
    num_episodes: int = 50
    """Demonstrations to keep."""
    seed: int = 0
    """First episode seed; demonstration i tries seed + 5 i and up to four seeds after it."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    noise_std: float = ExpertConfig.noise_std
    """Noise on the executed position action before the grasp, in action units (1.0 = 5 cm); 0 = none.
    The recorded label stays clean (DART)."""
    videos_dir: Path = Path("videos")
    """Folder of the videos."""
    video_episodes: tuple[int, ...] = (10,)
    """Demonstrations, counted from 1, to make a video of; none: give the option without a value."""
    overwrite: bool = False
    """Replace an existing file, and forget a collection that was interrupted with other options."""

    def __post_init__(self) -> None:
        if self.num_episodes < 1:
            raise UserError(f"--num-episodes must be at least 1, got {self.num_episodes}")
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")
        if self.max_steps < 1:
            raise UserError(f"--max-steps must be at least 1, got {self.max_steps}")
        if not 0 <= self.noise_std <= 1:
            raise UserError(f"--noise-std must lie in [0, 1], got {self.noise_std}")
        last = self.seed + ATTEMPTS_PER_DEMO * self.num_episodes - 1
        if self.seed not in TRAIN_SEEDS or last not in TRAIN_SEEDS:
            raise UserError(
                f"--seed {self.seed} with {self.num_episodes} episodes needs seeds up to {last}, outside the "
                f"training range {TRAIN_SEEDS.start}-{TRAIN_SEEDS.stop - 1} (others are kept for evaluation)"
            )

    def settings(self) -> dict[str, Any]:
        """What decides the content of the file, as JSON types."""
        return {
            "num_episodes": self.num_episodes,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "noise_std": self.noise_std,
        }


def main(options: CollectOptions) -> None:
    gl.select_backend()
    env = EnvConfig(horizon_steps=options.max_steps)
    if not _is_complete(options):
        parts = _prepare_parts(options)
        reasons = _collect(options, env, parts)
        rejected = _rejections(parts, reasons)
        attributes = {
            "env_args": env.to_env_args(),
            "collection": json.dumps(options.settings()),
            "rejected": json.dumps(rejected),
        }
        merge(parts, options.output, attributes)
        shutil.rmtree(_parts_dir(options))
    with open_demos(options.output) as file:
        print(dataset_table(file, options.output))
        _write_videos(file, options)


def _is_complete(options: CollectOptions) -> bool:
    """Whether the file is already there with these settings; with `--overwrite` it is replaced in the end."""
    if options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder; name a file in it")
    if options.overwrite or not options.output.exists():
        return False
    with open_demos(options.output) as file:
        found = collection_settings(file)
    if found != options.settings():
        raise UserError(
            f"{options.output} was collected with {found}, asked for {options.settings()}; "
            "add --overwrite to replace it, or name another --output"
        )
    shutil.rmtree(_parts_dir(options), ignore_errors=True)  # left by a kill between the last two steps
    print(f"{options.output} is already complete with these settings (--overwrite collects it again)")
    return True


def _parts_dir(options: CollectOptions) -> Path:
    return options.output.with_name(f"{options.output.name}.parts")


def _prepare_parts(options: CollectOptions) -> list[Path]:
    """One path per demonstration, in a folder that remembers the settings of an interrupted collection."""
    folder = _parts_dir(options)
    settings = folder / "settings.json"
    if settings.exists() and json.loads(settings.read_text()) != options.settings():
        if not options.overwrite:
            raise UserError(
                f"{folder} holds an interrupted collection with {json.loads(settings.read_text())}, asked for "
                f"{options.settings()}; repeat that command to finish it, or add --overwrite to forget it"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(settings, json.dumps(options.settings()))
    return [folder / f"demo_{index:05d}.hdf5" for index in range(options.num_episodes)]


def _collect(options: CollectOptions, env: EnvConfig, parts: list[Path]) -> list[str]:
    """Record every part that is not there yet; return why episodes were rejected on the way."""
    expert = ExpertConfig(noise_std=options.noise_std, rotation_noise_std=ROTATION_NOISE * options.noise_std)
    tasks = [
        RecordTask(
            part=part,
            instruction=instruction_for(index),
            seeds=tuple(options.seed + ATTEMPTS_PER_DEMO * index + attempt for attempt in range(ATTEMPTS_PER_DEMO)),
            max_steps=options.max_steps,
            expert=expert,
        )
        for index, part in enumerate(parts)
        if not part.exists()
    ]
    done = len(parts) - len(tasks)
    if done:
        print(f"continuing: {done} of {len(parts)} demonstrations are already recorded")
    workers = min(options.workers, len(tasks)) or 1
    with tqdm(total=len(parts), initial=done, unit="demo", desc="collect") as bar, simulator_pool(workers, env) as pool:
        futures: list[Future[list[tuple[int, str]]]] = [pool.submit(record_in_worker, task) for task in tasks]
        try:
            for _ in as_completed(futures):
                bar.update()
            return [reason for future in futures for _, reason in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _rejections(parts: list[Path], reasons: list[str]) -> list[tuple[int, str]]:
    """(seed, reason) of every rejected episode; `reasons` are those of this run.

    Raises:
        UserError: a demonstration that no seed could give.
    """
    missing = [part.stem for part in parts if not part.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} demonstrations failed on all of their {ATTEMPTS_PER_DEMO} seeds, such as {missing[0]}: "
            f"{Counter(reasons).most_common(1)[0][0]}; "
            "use a smaller --noise-std or a larger --max-steps, with --overwrite"
        )
    rejected: list[tuple[int, str]] = []
    for part in parts:
        with h5py.File(part, "r") as file:
            rejected += [(seed, reason) for seed, reason in json.loads(file.attrs["rejected"])]
    for reason, count in Counter(reason for _, reason in rejected).most_common():
        print(f"rejected {count}: {reason}")
    return rejected


def _write_videos(file: h5py.File, options: CollectOptions) -> None:
    names = demo_names(file)
    for number in options.video_episodes:
        if not 1 <= number <= len(names):
            print(f"no video of episode {number}: the file holds {len(names)}")
            continue
        path = options.videos_dir / f"data_demo_ep{number}.mp4"
        write_video(path, demo_frames(read_demo(file["data"][names[number - 1]])))
        print(f"video: {path}")


if __name__ == "__main__":
    run_script(main, CollectOptions, __doc__, "run the same command again; it continues with what is recorded")
