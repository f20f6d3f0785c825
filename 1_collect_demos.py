"""Collect demonstrations of the Lift task with the scripted expert (report sec. 3).

Reads nothing. Writes the HDF5 file of demonstrations, and videos of some of them. Only episodes that pass the verdict
are kept; the others are counted, with their reasons. After an interruption, the same command continues where the first
one stopped. With --dagger, the script adds episodes to the file in which a trained policy acts first, and the expert
labels the states that it leads to. In the scene "cubes", several cubes lie on the table: each scene is demonstrated
under several instructions that make sense there, so that nothing but the instruction tells what to do.

--replay simulates the demonstrations of a file again, and says which of them changed (exit code 1 if any did); with
--render-size or --camera it draws them anew, from their states, into another file.

    python 1_collect_demos.py
    python 1_collect_demos.py --num-episodes 50 --dagger checkpoints/best_model.pth
    python 1_collect_demos.py --scene cubes --num-episodes 320 --stills 20000
    python 1_collect_demos.py --replay data/lift_demos.hdf5
    python 1_collect_demos.py --replay data/lift_demos.hdf5 --camera sideview --output data/side.hdf5
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vla.demos.dataset_table import dataset_table
from vla.demos.merging import merge
from vla.demos.parts import prepare_parts, remove_parts, remove_parts_of
from vla.demos.recorder import RecordTask, record_in_worker
from vla.demos.rendering import render_file
from vla.demos.replay import print_replay
from vla.demos.schema import (
    DEMO_FILES,
    collection_rounds,
    demo_names,
    is_collected,
    move_away_command,
    open_demos,
    read_demo,
)
from vla.demos.still_collection import StillsTask, collect_stills
from vla.errors import UserError, run_script
from vla.evaluation.video import demo_frames, write_video
from vla.experts.scripted import ExpertConfig
from vla.files import run_lock, sha256
from vla.policies.checkpoint import load_checkpoint
from vla.policies.instructions import instruction_for
from vla.shards import Shard
from vla.sim import gl
from vla.sim.config import TRAIN_SEEDS, EnvConfig, Scene, SceneKind, version_drift
from vla.sim.engines import Engine, simulator_workers

ATTEMPTS_PER_SCENE = 5
"""Seeds that are tried until the demonstrations of one succeed."""
ROTATION_NOISE = ExpertConfig.rotation_noise_std / ExpertConfig.noise_std
"""Rotation noise for each unit of position noise."""
DETOURS, SLIPS = 3, 1
"""Largest number of deliberate mistakes in a demonstration of recovery."""
EXIT_CHANGED = 1
RENDER_SIZES_PX = range(32, 1025)


@dataclass(frozen=True)
class CollectOptions:
    """Options of the collection."""

    output: Path | None = None
    """HDF5 file to write; by default data/lift_demos.hdf5, or data/cubes_demos.hdf5 for the scene cubes."""
    scene: SceneKind = "lift"
    """lift: the report's, with one red cube. cubes: several cubes, of which the instruction names one, or none."""
    num_episodes: int = 150
    """Demonstrations to keep. The default is three times the report's 50: they are cheap, and each shows other
    mistakes."""
    cubes: tuple[int, ...] = Scene.counts
    """In the scene cubes: the numbers of cubes on the table, equally likely."""
    same_colour_share: float = 0.25
    """In the scene cubes: share of the scenes in which two cubes have the same colour."""
    demos_per_seed: int = 2
    """In the scene cubes: demonstrations that begin in one scene, under instructions of different meaning."""
    stills: int = 0
    """In the scene cubes: stills to collect beside the demonstrations, in a file of their own: single moments, each on
    another table, with the expert's action for every cube."""
    seed: int = 0
    """Seed of the first scene; the i-th tries seed + 5 i and up to four seeds after it. In the scene lift, each
    demonstration begins in a scene of its own."""
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Simulator processes."""
    engine: Engine = "local"
    """Where they run: on this machine, or as tasks of a Ray cluster, which --workers does not limit (docs/scale.md)."""
    shard: str | None = None
    """Record only a part of the demonstrations, such as 3/16, in each of several jobs with one shared --output; then
    the same command without it writes the file (docs/scale.md)."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode counts as failed."""
    noise_std: float = ExpertConfig.noise_std
    """Noise on the executed position action before the grasp, in action units (1.0 = 5 cm); 0 switches it off.
    The recorded label has no noise (DART)."""
    recovery_fraction: float = 1.0
    """Share of episodes with deliberate mistakes: up to three detours to a random place around the cube, some with
    closed fingers, and a slip. The labels show the way back."""
    dagger: Path | None = None
    """Checkpoint of a policy that acts for the first 20-99 steps of each episode while the expert labels; then the
    expert takes over. The episodes are added to OUTPUT."""
    videos_dir: Path = Path("videos")
    """Folder of the videos."""
    video_episodes: tuple[int, ...] = (10,)
    """Demonstrations, counted from 1, to make a video of. Without a value, the option means none."""
    overwrite: bool = False
    """Replace an existing file of demonstrations, and discard an interrupted collection that had other options. A file
    that this script did not write is never replaced."""

    replay: Path | None = None
    """File of demonstrations to replay instead of collecting: its actions are simulated again, every state is compared
    with the stored one, and the present verdict judges anew."""
    render_size: int | None = None
    """With --replay: draw the stored states anew into --output, with images of this height and width in pixels."""
    camera: str | None = None
    """With --replay: draw the stored states anew into --output, with this camera of robosuite, such as frontview."""

    def __post_init__(self) -> None:
        self._check_replay()
        if self.num_episodes < 1:
            raise UserError(f"--num-episodes must be at least 1, got {self.num_episodes}")
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")
        if self.max_steps < 1:
            raise UserError(f"--max-steps must be at least 1, got {self.max_steps}")
        if self.shard is not None and self.overwrite:
            raise UserError("--shard: other shards' demonstrations would be given up; leave --overwrite out")
        self.part()
        if self.stills < 0 or (self.stills and self.scene != "cubes"):
            raise UserError(f"--stills must be at least 0, and needs --scene cubes, got {self.stills}")
        if not 0 <= self.noise_std <= 1:
            raise UserError(f"--noise-std must lie in [0, 1], got {self.noise_std}")
        if not 0 <= self.recovery_fraction <= 1:
            raise UserError(f"--recovery-fraction must lie in [0, 1], got {self.recovery_fraction}")
        if self.dagger is not None and self.recovery_fraction != 1:
            raise UserError("--recovery-fraction: with --dagger the policy makes mistakes of its own; leave it out")
        if self.demos_per_seed < 1 or self.num_episodes % self.group:
            raise UserError(
                f"--num-episodes must be a multiple of --demos-per-seed, which must be at least 1, got "
                f"{self.num_episodes} and {self.demos_per_seed}"
            )
        self.env()  # checks the scene
        last = self.seeds(range(self.num_episodes // self.group))[-1]
        if self.seed not in TRAIN_SEEDS or last not in TRAIN_SEEDS:
            raise UserError(
                f"--seed {self.seed} with {self.num_episodes} episodes needs seeds up to {last}, outside the "
                f"training range {TRAIN_SEEDS.start}-{TRAIN_SEEDS.stop - 1} (others are kept for evaluation)"
            )

    def _check_replay(self) -> None:
        if self.draws_anew and (self.replay is None or self.output is None):
            raise UserError("--render-size and --camera need --replay with a file, and --output with a new one")
        if self.replay is not None and self.output is not None and not self.draws_anew:
            raise UserError("--replay with --output needs --render-size or --camera; a replay alone writes nothing")
        if self.render_size is not None and self.render_size not in RENDER_SIZES_PX:
            smallest, largest = RENDER_SIZES_PX[0], RENDER_SIZES_PX[-1]
            raise UserError(f"--render-size must be {smallest} to {largest} pixels, got {self.render_size}")

    @property
    def draws_anew(self) -> bool:
        """Whether stored demonstrations get other images."""
        return self.render_size is not None or self.camera is not None

    @property
    def file(self) -> Path:
        """The HDF5 file to write."""
        return self.output or DEMO_FILES[self.scene]

    def part(self) -> Shard | None:
        """The part of the demonstrations to record; None: all, into the file."""
        return None if self.shard is None else Shard.parse(self.shard)

    @property
    def group(self) -> int:
        """Demonstrations of one scene."""
        return 1 if self.scene == "lift" else self.demos_per_seed

    def env(self) -> EnvConfig:
        """The simulator of the demonstrations."""
        scene = Scene() if self.scene == "lift" else Scene(self.scene, self.cubes, self.same_colour_share)
        return EnvConfig(horizon_steps=self.max_steps, scene=scene)

    def seeds(self, scenes: range) -> range:
        """Seeds that the scenes of these numbers may try."""
        return range(self.seed + ATTEMPTS_PER_SCENE * scenes.start, self.seed + ATTEMPTS_PER_SCENE * scenes.stop)

    def settings(self) -> dict[str, Any]:
        """The options that decide the content of the file, as JSON types."""
        settings: dict[str, Any] = {
            "num_episodes": self.num_episodes,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "noise_std": self.noise_std,
            "recovery_fraction": self.recovery_fraction,
            "dagger": None if self.dagger is None else sha256(self.dagger),
        }
        if self.scene == "cubes":
            settings |= {"scene": self.env().scene.to_json_types(), "demos_per_seed": self.demos_per_seed}
        return settings

    def expert(self, index: int) -> ExpertConfig:
        """The expert's configuration in scene `index`; demonstrations with mistakes are spread evenly."""
        fraction = self.recovery_fraction
        recovers = math.floor((index + 1) * fraction) > math.floor(index * fraction)
        if self.dagger is not None:  # the policy makes mistakes of its own
            recovers = False
        return ExpertConfig(
            noise_std=self.noise_std,
            rotation_noise_std=ROTATION_NOISE * self.noise_std,
            detours=DETOURS if recovers else 0,
            slips=SLIPS if recovers else 0,
        )


def main(options: CollectOptions) -> None:
    gl.select_backend()
    if options.replay is not None:
        _replay(options, options.replay)
        return
    if options.dagger is not None:
        load_checkpoint(options.dagger)  # a broken checkpoint is reported here, in one line, not by a worker
    if options.file.is_dir():
        raise UserError(f"--output {options.file} is a folder; name a file in it")
    with run_lock(options.file, is_file=True, shard=options.part()):
        rounds, rejected = _collected_rounds(options)
        if options.settings() not in rounds:
            parts = _recorded_parts(options)
            if (shard := options.part()) is not None:
                print(shard.farewell(f"writes {options.file}"))
                return
            _join(options, rounds, rejected, parts)
        with open_demos(options.file) as file:
            print(dataset_table(file, options.file))
            _write_videos(file, options)
    if options.stills:
        task = StillsTask(options.file, options.env(), options.stills, options.seed)
        collect_stills(task, options.engine, options.workers, options.overwrite, options.part())


def _replay(options: CollectOptions, path: Path) -> None:
    """Replay the demonstrations at `path`, or draw them anew."""
    if options.output is not None:
        env = render_file(path, options.output, options.camera, options.render_size, options.workers)
        size_px = env.image_size_px
        print(f"{options.output}: the demonstrations of {path}, seen by {env.camera} in {size_px} x {size_px} pixels")
        return
    try:
        unchanged = print_replay(path, options.workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again; a replay starts over") from None
    if not unchanged:
        sys.exit(EXIT_CHANGED)


def _collected_rounds(options: CollectOptions) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The rounds that the file holds, and their rejected episodes; both empty where a new file is to be written.

    Raises:
        UserError: the file must not be replaced, or cannot be added to.
    """
    output = options.file
    if output.exists() and not is_collected(output):
        raise UserError(
            f"{output} was not written by 1_collect_demos.py, or it is broken, and it is never replaced; "
            f"name another --output, or move it away: {move_away_command(output)}"
        )
    if options.dagger is None and (options.overwrite or not output.exists()):
        return [], []
    with open_demos(output) as file:
        rounds = collection_rounds(file)
        rejected: list[tuple[int, str]] = json.loads(file["data"].attrs["rejected"])
        demos = len(file["data"])
    if options.settings() in rounds:
        # An earlier run may have been killed between its last two steps. Another round's parts stay.
        remove_parts_of(output, options.settings())
        # A round of DAgger builds on the rounds before it: another one can follow, but it cannot be repeated.
        more = "--overwrite collects it again" if options.dagger is None else "another --seed adds another round"
        if options.dagger is None and len(rounds) > 1:
            more = "another --output collects it again; --overwrite would give up the DAgger rounds in it too"
        print(f"{output} is already complete with these settings ({more})")
    elif options.dagger is None:
        raise UserError(
            f"{output} was collected with {rounds}, asked for {options.settings()}; "
            f"name another --output (or give up its {demos} demonstrations with --overwrite)"
        )
    return rounds, rejected


def _recorded_parts(options: CollectOptions) -> dict[int, Path]:
    """Record the demonstrations that are asked for, or the shard's part of them; returns the path of every part."""
    first = 0 if options.dagger is None else _first_of_round(options, options.file)
    numbers = range(first, first + options.num_episodes // options.group)
    parts = prepare_parts(options.file, options.settings(), numbers, options.overwrite)
    shard = options.part()
    _record_parts(options, parts if shard is None else dict(shard.part(list(parts.items()))))
    return parts


def _join(
    options: CollectOptions, rounds: list[dict[str, Any]], rejected: list[tuple[int, str]], parts: dict[int, Path]
) -> None:
    """Write the parts to the file, after the demonstrations of earlier rounds."""
    attributes = {
        "env_args": options.env().to_env_args(),
        "collection": json.dumps([*rounds, options.settings()]),
        "rejected": json.dumps(rejected + _rejections(parts)),
    }
    merge(list(parts.values()), options.file, attributes, None if options.dagger is None else options.file)
    remove_parts(options.file)


def _first_of_round(options: CollectOptions, base: Path) -> int:
    """Number of the first scene whose demonstrations are added to `base`.

    Raises:
        UserError: the file was recorded with another simulator, or holds episodes of the same seeds.
    """
    with open_demos(base) as file:
        stored = EnvConfig.from_env_args(file["data"].attrs["env_args"])
        if stored.scene != options.env().scene:
            raise UserError(
                f"{base} holds the scene {stored.scene}, asked for {options.env().scene}, and one file holds one "
                "scene; repeat its --scene, --cubes and --same-colour-share, or name its file with --output"
            )
        drift = version_drift(file["data"].attrs["env_args"])
        if drift:
            raise UserError(
                f"{base} was collected with other versions ({drift}), and one file holds one simulator's episodes; "
                "collect demonstrations with these versions into another --output first, without --dagger"
            )
        if (stored.camera, stored.image_size_px) != (options.env().camera, options.env().image_size_px):
            raise UserError(
                f"{base} was drawn anew, by {stored.camera} in {stored.image_size_px} pixels, and one file holds one "
                "camera's images; add to the file that it was made from, and draw that one anew"
            )
        first = len(file["data"]) // options.group
        used = {int(demo.attrs["seed"]) for demo in file["data"].values()}
    last = first + options.num_episodes // options.group
    seeds = options.seeds(range(first, last))
    if seeds[-1] not in TRAIN_SEEDS or used.intersection(seeds):
        raise UserError(
            f"--seed {options.seed} needs the seeds {seeds[0]}-{seeds[-1]} for the scenes {first} to {last - 1}, "
            f"which {base} holds in part or which are no training seeds; "
            "give another --seed"
        )
    return first


def _record_parts(options: CollectOptions, parts: dict[int, Path]) -> None:
    """Record every part that does not exist yet.

    Raises:
        UserError: all seeds of a scene were rejected.
    """
    tasks = [
        RecordTask(
            part=part,
            instruction=instruction_for(index) if options.scene == "lift" else None,
            seeds=tuple(options.seeds(range(index, index + 1))),
            max_steps=options.max_steps,
            expert=options.expert(index),
            policy=options.dagger,
            demos_per_seed=options.group,
        )
        for index, part in parts.items()
        if not part.exists()
    ]
    total, done = options.group * len(parts), options.group * (len(parts) - len(tasks))
    if done:
        print(f"continuing: {done} of {total} demonstrations are already recorded")
    if not tasks:
        return
    workers = simulator_workers(options.engine, min(options.workers, len(tasks)), options.env())
    with tqdm(total=total, initial=done, unit="demo", desc="collect") as bar, workers:
        results = workers.run_all(record_in_worker, tasks, lambda _: bar.update(options.group))
    failed = [task.part.stem for task in tasks if not task.part.exists()]
    if failed:
        reasons = Counter(reason for result in results for _, reason in result)
        raise UserError(
            f"{len(failed)} scenes failed with all of their {ATTEMPTS_PER_SCENE} seeds, such as {failed[0]}: "
            f"{reasons.most_common(1)[0][0]}; "
            "give a smaller --noise-std or a larger --max-steps, and another --output (or give up the "
            f"demonstrations of {len(parts) - len(failed)} scenes with --overwrite)"
        )


def _rejections(parts: dict[int, Path]) -> list[tuple[int, str]]:
    """Seed and reason of every rejected episode, read from the parts."""
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
