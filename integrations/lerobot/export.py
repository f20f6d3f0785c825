"""Exports demonstrations to a LeRobotDataset v3, and reads it back with LeRobot's own loader.

A frame has the camera's picture (as video), the robot's state, the expert's clean action and the instruction. Evidence,
simulator states and the executed actions stay behind: they have no place there. Reads the HDF5 file of demonstrations.
Writes the dataset, with `readback.json` in it: the largest differences between what was given and what is read.
`make lerobot` makes the environment in which this runs.

    runs/lerobot/.venv/bin/python integrations/lerobot/export.py --num-demos 5 --output runs/lerobot/lift_demos
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))

from vla.demos.hdf5_checks import attribute_text
from vla.demos.lerobot_layout import ACTION_KEY, IMAGE_KEY, STATE_KEY, TASK_KEY, features, frames
from vla.demos.schema import checked_demos, demo_names, open_demos, read_demo
from vla.errors import UserError, run_script
from vla.files import new_folder
from vla.sim.config import EnvConfig

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

ROBOT = "panda"
WORST_PSNR_DB = 30.0
"""A picture below this was spoilt, not only compressed: its root-mean-square error is over 3% of the range."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of the export."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    output: Path = Path("runs/lerobot/lift_demos")
    """New folder for the dataset."""
    num_demos: int | None = None
    """Demonstrations to export, the first ones; None: all."""
    split: Literal["train", "valid"] | None = None
    """Only those of this side of the split; None: both."""
    repo_id: str = "local/lift_demos"
    """Name of the dataset on the hub. Nothing is uploaded."""

    def __post_init__(self) -> None:
        if self.num_demos is not None and self.num_demos < 1:
            raise UserError(f"--num-demos must be at least 1, got {self.num_demos}")


def main(options: ExportOptions) -> None:
    try:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError:
        raise UserError("LeRobot is not installed here; make its environment with: make lerobot") from None
    with open_demos(options.data) as file, new_folder(options.output) as folder:
        names = demo_names(file, options.split)[: options.num_demos]
        env = EnvConfig.from_env_args(attribute_text(file["data"].attrs["env_args"]))
        dataset = LeRobotDataset.create(
            options.repo_id, env.control_freq_hz, features(env.image_size_px), root=folder, robot_type=ROBOT
        )
        for _, demo in tqdm(checked_demos(file, names), total=len(names), unit="demo", desc="export"):
            for frame in frames(read_demo(demo)):
                dataset.add_frame(frame)
            dataset.save_episode()
        dataset.finalize()  # without it, the parquet files have no end and cannot be read
        differences = read_back(LeRobotDataset(options.repo_id, root=folder), file, names)
        (folder / "readback.json").write_text(json.dumps(differences, indent=1), encoding="utf-8")
    print(
        f"{options.output}: {differences['episodes']} demonstrations, {differences['frames']} frames; read back: state "
        f"and action to the bit, pictures with {differences['image_psnr_db_worst']:.1f} dB or more "
        f"({differences['image_psnr_db_mean']:.1f} dB on average)"
    )


def read_back(dataset: LeRobotDataset, file: h5py.File, names: list[str]) -> dict[str, float]:
    """Compare every frame of a dataset with the demonstrations that it was made from.

    Returns:
        Largest differences of state and action; peak signal-to-noise ratio of the pictures in dB, the worst and on
        average, and their mean absolute difference in levels of 255.

    Raises:
        UserError: a frame, number or instruction is another than what was written, or a picture was spoilt.
    """
    found = {"state": 0.0, "action": 0.0}
    psnrs, levels = [], []
    given = list(_given(file, names))
    if len(dataset) != len(given) or dataset.num_episodes != len(names):
        raise UserError(f"the dataset holds {len(dataset)} frames, {len(given)} were written; export it again")
    for index, (episode, frame) in enumerate(tqdm(given, unit="frame", desc="read back")):
        read = dataset[index]
        if read[TASK_KEY] != frame[TASK_KEY] or int(read["episode_index"]) != episode:
            raise UserError(f"frame {index} came back as another episode's, or with another task; export it again")
        for name, key in (("state", STATE_KEY), ("action", ACTION_KEY)):
            found[name] = max(found[name], float(np.abs(read[key].numpy() - frame[key]).max()))
        image = 255 * read[IMAGE_KEY].permute(1, 2, 0).numpy()  # (H, W, 3)
        error = image - frame[IMAGE_KEY].astype(np.float32)
        psnrs.append(float(10 * np.log10(255**2 / max(np.mean(error**2), 1e-9))))
        levels.append(float(np.abs(error).mean()))
    if found["state"] or found["action"] or min(psnrs) < WORST_PSNR_DB:
        raise UserError(
            f"the dataset differs from the demonstrations: state by {found['state']:g}, action by {found['action']:g} "
            f"(0 expected), the worst picture has {min(psnrs):.1f} dB (at least {WORST_PSNR_DB:g} expected)"
        )
    return {
        "episodes": len(names),
        "frames": len(given),
        "state_max_difference": found["state"],
        "action_max_difference": found["action"],
        "image_psnr_db_worst": min(psnrs),
        "image_psnr_db_mean": float(np.mean(psnrs)),
        "image_mean_difference_levels": float(np.mean(levels)),
    }


def _given(file: h5py.File, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of the episode, and the frame, for every frame that was written."""
    for episode, (_, demo) in enumerate(checked_demos(file, names)):
        for frame in frames(read_demo(demo)):
            yield episode, frame


if __name__ == "__main__":
    run_script(main, ExportOptions, __doc__)
