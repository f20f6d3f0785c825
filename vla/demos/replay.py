"""Replays a file of demonstrations: each is simulated again from its actions, compared with its states, judged anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
from tqdm import tqdm

from vla.demos.hdf5_checks import attribute_text
from vla.demos.index import read_seeds
from vla.demos.resimulation import Recorded, resimulate
from vla.demos.schema import checked_demo, demo_names, open_demos
from vla.markdown import markdown_table
from vla.sim.config import EnvConfig, warn_of_version_drift
from vla.sim.workers import SimulatorWorkers, simulator


@dataclass(frozen=True)
class ReplayTask:
    """A demonstration to be replayed."""

    path: Path
    """A file that `open_demos` has opened."""
    name: str


@dataclass(frozen=True)
class Replayed:
    """What became of a demonstration."""

    name: str
    seed: int
    state_error: float
    """Largest difference between a number of a state and the stored one."""
    repeats: bool
    """The simulator, given the seed and the actions, reaches the stored states."""
    passes: bool
    """It passes the present verdict."""
    second: bool
    """It passes the second judge."""
    change: str | None
    """What differs from the stored demonstration, in words; None: nothing."""


def replay_in_worker(task: ReplayTask) -> Replayed:
    """Replay a demonstration with this worker's simulator."""
    with h5py.File(task.path, "r") as file:
        recorded = Recorded.read(checked_demo(file, task.name))
    again = resimulate(simulator(), recorded)
    return Replayed(
        name=task.name,
        seed=recorded.seed,
        state_error=again.state_error,
        repeats=again.strayed is None,
        passes=again.rejected is None,
        second=again.second.success,
        change=again.change,
    )


def replay_file(path: Path, workers: int) -> list[Replayed]:
    """Replay every demonstration of a file, in order; shows the progress.

    Raises:
        UserError: the file cannot be used.
        MachineError: a simulator cannot start.
    """
    with open_demos(path) as file:
        env_args = attribute_text(file["data"].attrs["env_args"])
        warn_of_version_drift(env_args, str(path))
        tasks = [ReplayTask(path, name) for name in demo_names(file)]
        seeds = read_seeds(file)
        count = min(workers, len(tasks))
        with (
            tqdm(total=len(tasks), unit="demo", desc="replay") as bar,
            SimulatorWorkers(count, EnvConfig.from_env_args(env_args), render_images=False) as pool,
        ):
            results = pool.run(replay_in_worker, tasks, done=lambda *_: bar.update())
    return [
        result
        or Replayed(task.name, seeds[task.name], float("nan"), False, False, False, "its worker process died, twice")
        for task, result in zip(tasks, results, strict=True)
    ]


def print_replay(path: Path, workers: int) -> bool:
    """Replay every demonstration of a file, and print what changed; returns whether nothing did."""
    replayed = replay_file(path, workers)
    total = len(replayed)
    worst = max(replayed, key=lambda each: each.state_error)
    counts = [sum(getattr(each, name) for each in replayed) for name in ("repeats", "passes", "second")]
    repeats, passes, second = (f"{count} of {total}" for count in counts)
    changed = [each for each in replayed if each.change is not None]
    rows = [
        ("Demonstrations", str(total)),
        ("Largest error of a state (s, m, rad, and these per second)", f"{worst.state_error:.1g} ({worst.name})"),
        ("States follow from the actions", repeats),
        ("Pass the present verdict", passes),
        ("Pass the second judge", second),
        ("Changed", str(len(changed))),
    ]
    print(markdown_table((f"Replay of {path}", ""), rows))
    for each in changed:
        print(f"{each.name}, seed {each.seed}: {each.change}")
    return not changed
