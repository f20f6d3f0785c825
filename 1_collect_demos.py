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
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from vla.demos.dataset_table import dataset_table
from vla.demos.index import read_seeds
from vla.demos.merging import merge
from vla.demos.options import ATTEMPTS_PER_SCENE, CollectOptions
from vla.demos.parts import prepare_parts, remove_parts, remove_parts_of
from vla.demos.recorder import RecordTask, record_in_worker
from vla.demos.rendering import render_file
from vla.demos.replay import print_replay
from vla.demos.schema import (
    checked_demo,
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
from vla.files import run_lock
from vla.policies.instructions import instruction_for
from vla.sim import gl
from vla.sim.config import TRAIN_SEEDS, EnvConfig, version_drift
from vla.sim.engines import simulator_workers

EXIT_CHANGED = 1


def main(options: CollectOptions) -> None:
    gl.select_backend()
    if options.replay is not None:
        _replay(options, options.replay)
        return
    if options.dagger is not None:
        from vla.policies.checkpoint import load_checkpoint  # the only use of torch: its import takes seconds

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
    if options.dagger is None and output.exists() and not is_collected(output):
        raise UserError(
            f"{output} was not written by 1_collect_demos.py, or it is broken, and it is never replaced; "
            f"name another --output, or move it away: {move_away_command(output)}"
        )
    if options.dagger is None and (options.overwrite or not output.exists()):
        return [], []
    with open_demos(output) as file:
        _check_images(file, options)
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


def _check_images(file: h5py.File, options: CollectOptions) -> None:
    """Check that a file has the images of this collection, and was not drawn anew from another one's states.

    Raises:
        UserError: it was.
    """
    stored, here = EnvConfig.from_env_args(file["data"].attrs["env_args"]), options.env()
    if (stored.camera, stored.image_size_px) != (here.camera, here.image_size_px):
        raise UserError(
            f"{options.file} was drawn anew, by {stored.camera} in {stored.image_size_px} pixels, and one file holds "
            "one camera's images; name the file that it was made from with --output, and draw that one anew"
        )


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
        first = len(file["data"]) // options.group
        used = set(read_seeds(file).values())
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
    workers = simulator_workers(
        options.engine, min(options.workers, len(tasks)), options.env(), loads_torch=options.dagger is not None
    )
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
        write_video(path, demo_frames(read_demo(checked_demo(file, names[number - 1]))))
        print(f"video: {path}")


if __name__ == "__main__":
    run_script(main, CollectOptions, __doc__, "run the same command again; it continues with what is recorded")
