"""Collect demonstrations of the Lift task with the scripted expert (report sec. 3).

Reads nothing. Writes the HDF5 file of demonstrations and a video with an overlay. Only episodes that
pass the verdict are kept; the rest are counted, with their reasons. Stopped half-way, the same command
goes on where it stopped. With --dagger, adds episodes to the file in which a trained policy acts first and the expert
labels what it meets.

    python 1_collect_demos.py
    python 1_collect_demos.py --num-episodes 50 --dagger checkpoints/best_model.pth
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vla.demos.dataset_table import dataset_table
from vla.demos.recorder import RecordTask, record_in_worker
from vla.demos.schema import SCHEMA_VERSION, collection_rounds, demo_names, merge, open_demos, read_demo
from vla.errors import UserError, run_script
from vla.evaluation.video import demo_frames, write_video
from vla.experts.scripted import ExpertConfig
from vla.files import sha256, write_text
from vla.policies.checkpoint import load_checkpoint
from vla.policies.instructions import instruction_for
from vla.sim import gl
from vla.sim.config import TRAIN_SEEDS, EnvConfig, installed_versions, version_drift
from vla.sim.workers import simulator_pool

ATTEMPTS_PER_DEMO = 5
ROTATION_NOISE = ExpertConfig.rotation_noise_std / ExpertConfig.noise_std
"""Rotation noise for each unit of position noise."""
DETOURS, SLIPS = 3, 1
"""Deliberate mistakes in a recovery demonstration, at most."""


@dataclass(frozen=True)
class CollectOptions:
    """Options of the collection."""

    output: Path = Path("data/lift_demos.hdf5")
    """HDF5 file to write."""
    num_episodes: int = 150
    """Demonstrations to keep: three times the report's 50, because they are cheap and each shows other mistakes."""
    seed: int = 0
    """First episode seed; demonstration i tries seed + 5 i and up to four seeds after it."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode has failed."""
    noise_std: float = ExpertConfig.noise_std
    """Noise on the executed position action before the grasp, in action units (1.0 = 5 cm); 0 = none.
    The recorded label stays clean (DART)."""
    recovery_fraction: float = 1.0
    """Share of episodes with deliberate mistakes: up to three detours to a random place around the cube, some with
    closed fingers, and a slip. The labels show the way back."""
    dagger: Path | None = None
    """Checkpoint of a policy that acts for the first 20-99 steps of each episode while the expert labels, and then
    takes over; the episodes are added to OUTPUT."""
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
        if not 0 <= self.recovery_fraction <= 1:
            raise UserError(f"--recovery-fraction must lie in [0, 1], got {self.recovery_fraction}")
        if self.dagger is not None and self.recovery_fraction != 1:
            raise UserError("--recovery-fraction: with --dagger the policy makes mistakes of its own; leave it out")
        last = self.seeds(range(self.num_episodes))[-1]
        if self.seed not in TRAIN_SEEDS or last not in TRAIN_SEEDS:
            raise UserError(
                f"--seed {self.seed} with {self.num_episodes} episodes needs seeds up to {last}, outside the "
                f"training range {TRAIN_SEEDS.start}-{TRAIN_SEEDS.stop - 1} (others are kept for evaluation)"
            )

    def seeds(self, demos: range) -> range:
        """Those that demonstrations of these numbers may try."""
        first, end = (self.seed + ATTEMPTS_PER_DEMO * number for number in (demos.start, demos.stop))
        return range(first, end)

    def settings(self) -> dict[str, Any]:
        """What decides the content of the file, as JSON types."""
        return {
            "num_episodes": self.num_episodes,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "noise_std": self.noise_std,
            "recovery_fraction": self.recovery_fraction,
            "dagger": None if self.dagger is None else sha256(self.dagger),
        }

    def expert(self, index: int) -> ExpertConfig:
        """The expert of demonstration `index`; those with mistakes are spread evenly."""
        fraction = self.recovery_fraction
        # A policy makes mistakes of its own.
        recovers = self.dagger is None and math.floor((index + 1) * fraction) > math.floor(index * fraction)
        return ExpertConfig(
            noise_std=self.noise_std,
            rotation_noise_std=ROTATION_NOISE * self.noise_std,
            detours=DETOURS if recovers else 0,
            slips=SLIPS if recovers else 0,
        )


def main(options: CollectOptions) -> None:
    gl.select_backend()
    if options.dagger is not None:
        load_checkpoint(options.dagger)  # what is wrong with it is told here, in one line, not by a worker
    rounds, rejected = _rounds(options)
    if options.settings() not in rounds:
        env = EnvConfig(horizon_steps=options.max_steps)
        base = options.output if rounds else None
        parts = _prepare_parts(options, first=0 if base is None else _first_of_round(options, base))
        reasons = _collect(options, env, parts)
        attributes = {
            "env_args": env.to_env_args(),
            "collection": json.dumps([*rounds, options.settings()]),
            "rejected": json.dumps(rejected + _rejections(parts, reasons)),
        }
        merge(list(parts.values()), options.output, attributes, base)
        shutil.rmtree(_parts_dir(options))
    with open_demos(options.output) as file:
        print(dataset_table(file, options.output))
        _write_videos(file, options)


def _rounds(options: CollectOptions) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The rounds that the file's content stands for, and their rejected episodes; none where it is to be replaced."""
    if options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder; name a file in it")
    if options.dagger is None and (options.overwrite or not options.output.exists()):
        return [], []
    with open_demos(options.output) as file:
        rounds = collection_rounds(file)
        rejected: list[tuple[int, str]] = json.loads(file["data"].attrs["rejected"])
    if options.settings() in rounds:
        shutil.rmtree(_parts_dir(options), ignore_errors=True)  # left by a kill between the last two steps
        # A round of DAgger stands on those before it: it can be followed by another, not collected again.
        more = "--overwrite collects it again" if options.dagger is None else "another --seed adds another round"
        print(f"{options.output} is already complete with these settings ({more})")
    elif options.dagger is None:
        raise UserError(
            f"{options.output} was collected with {rounds}, asked for {options.settings()}; "
            "add --overwrite to replace it, or name another --output"
        )
    return rounds, rejected


def _first_of_round(options: CollectOptions, base: Path) -> int:
    """The number of the first demonstration that is added to `base`.

    Raises:
        UserError: the file is of another simulator, or the new episodes would be no new ones.
    """
    with open_demos(base) as file:
        drift = version_drift(file["data"].attrs["env_args"])
        if drift:
            raise UserError(
                f"{base} was collected with other versions ({drift}), and one file holds one simulator's episodes; "
                "name another --output, or collect anew with --overwrite"
            )
        first = len(file["data"])
        used = {int(demo.attrs["seed"]) for demo in file["data"].values()}
    seeds = options.seeds(range(first, first + options.num_episodes))
    if seeds[-1] not in TRAIN_SEEDS or used.intersection(seeds):
        raise UserError(
            f"--seed {options.seed} needs the seeds {seeds[0]}-{seeds[-1]} for demonstrations {first} to "
            f"{first + options.num_episodes - 1}, which {base} holds in part or which are no training seeds; "
            "give another --seed"
        )
    return first


def _parts_dir(options: CollectOptions) -> Path:
    return options.output.with_name(f"{options.output.name}.parts")


def _prepare_parts(options: CollectOptions, first: int) -> dict[int, Path]:
    """A path for each demonstration from number `first` on, in a folder that remembers the settings of an interrupted
    collection."""
    folder = _parts_dir(options)
    settings = folder / "settings.json"
    asked = {**options.settings(), "versions": installed_versions(), "schema_version": SCHEMA_VERSION}
    begun = json.loads(settings.read_text()) if settings.exists() else asked
    if begun != asked:
        if not options.overwrite:
            there, here = (
                {name: side.get(name) for name in asked if begun.get(name) != asked[name]} for side in (begun, asked)
            )
            raise UserError(
                f"{folder} holds an interrupted collection with {there}, this one has {here}; "
                "finish it with that command and those versions, or add --overwrite to forget it"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(settings, json.dumps(asked))
    return {index: folder / f"demo_{index:05d}.hdf5" for index in range(first, first + options.num_episodes)}


def _collect(options: CollectOptions, env: EnvConfig, parts: dict[int, Path]) -> list[str]:
    """Record every part that is not there yet; return why episodes were rejected on the way."""
    tasks = [
        RecordTask(
            part=part,
            instruction=instruction_for(index),
            seeds=tuple(options.seeds(range(index, index + 1))),
            max_steps=options.max_steps,
            expert=options.expert(index),
            policy=options.dagger,
        )
        for index, part in parts.items()
        if not part.exists()
    ]
    done = len(parts) - len(tasks)
    if done:
        print(f"continuing: {done} of {len(parts)} demonstrations are already recorded")
    workers = min(options.workers, len(tasks)) or 1
    with tqdm(total=len(parts), initial=done, unit="demo", desc="collect") as bar, simulator_pool(workers, env) as pool:
        futures: list[Future[list[tuple[int, str]]]] = [pool.submit(record_in_worker, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()  # a full disk ends the collection at the first demonstration that meets it
                bar.update()
            return [reason for future in futures for _, reason in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _rejections(parts: dict[int, Path], reasons: list[str]) -> list[tuple[int, str]]:
    """(seed, reason) of every rejected episode; `reasons` are those of this run.

    Raises:
        UserError: a demonstration that no seed could give.
    """
    missing = [part.stem for part in parts.values() if not part.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} demonstrations failed on all of their {ATTEMPTS_PER_DEMO} seeds, such as {missing[0]}: "
            f"{Counter(reasons).most_common(1)[0][0]}; "
            "use a smaller --noise-std or a larger --max-steps, with --overwrite"
        )
    rejected: list[tuple[int, str]] = []
    for part in parts.values():
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
