"""Imports a LeRobotDataset v3 of this task into a file of demonstrations: what was seen and what was done.

The dataset has the features that `export.py` writes (`vla/demos/lerobot_layout.py`); a dataset of your own needs the
same names. It has no evidence, so the demonstrations stay unjudged, and training goes without the auxiliary loss.
Reads the dataset's folder. Writes an HDF5 file. `make lerobot` makes the environment in which this runs.

    runs/lerobot/.venv/bin/python integrations/lerobot/import.py --data runs/lerobot/lift_demos
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))

from vla.demos.importing import write_imported
from vla.demos.lerobot_layout import ACTION_KEY, IMAGE_KEY, STATE_KEY, TASK_KEY, features, observations_of
from vla.demos.merging import Split, kept_back, refuse_existing
from vla.demos.schema import BareDemo
from vla.demos.source import Source
from vla.errors import UserError, run_script
from vla.files import sha256
from vla.sim.config import EnvConfig

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset


@dataclass(frozen=True)
class ImportOptions:
    """Options of the import."""

    data: Path = Path("runs/lerobot/lift_demos")
    """Folder of the dataset. Its last tenth of episodes is for validation."""
    output: Path = Path("data/imported.hdf5")
    """New file for the demonstrations."""
    instruction: str | None = None
    """Instruction of all demonstrations; None: the task that each has in the dataset."""


def main(options: ImportOptions) -> None:
    try:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError:
        raise UserError("LeRobot is not installed here; make its environment with: make lerobot") from None
    refuse_existing(options.output)
    check_dataset(options.data)
    dataset = LeRobotDataset(f"local/{options.data.name}", root=options.data)
    source = Source("LeRobot", options.data.name, folder_sha256(options.data))
    print(write_imported(options.output, source, None, demos(dataset, options.instruction)))


def check_dataset(folder: Path) -> None:
    """Check that a folder holds a dataset v3 with the features of this task.

    Raises:
        UserError: it does not.
    """
    try:
        info: dict[str, Any] = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))
        version, fps, found = info["codebase_version"], info["fps"], info["features"]
        shapes = {key: (tuple(feature["shape"]), feature.get("names")) for key, feature in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--data {folder} is no LeRobotDataset: it has no meta/info.json with features") from None
    wanted = features(0)
    is_ours = (
        set(wanted) <= set(shapes)
        and shapes[STATE_KEY] == (wanted[STATE_KEY]["shape"], wanted[STATE_KEY]["names"])
        and shapes[ACTION_KEY][0] == wanted[ACTION_KEY]["shape"]
    )
    if not is_ours:
        raise UserError(
            f"--data {folder} has the features {', '.join(sorted(shapes))}; needed are {IMAGE_KEY}, {STATE_KEY} with "
            f"{', '.join(wanted[STATE_KEY]['names'])}, and {ACTION_KEY} with 7 numbers (docs/lerobot.md)"
        )
    here = EnvConfig().control_freq_hz
    if (version, fps) != ("v3.0", here):
        raise UserError(
            f"--data {folder} is a dataset {version} with {fps} frames per second; v3.0 with {here} is needed"
        )


def demos(dataset: LeRobotDataset, instruction: str | None) -> Iterator[tuple[str, BareDemo, Split]]:
    """The name, the demonstration and its side of the split, for every episode of a dataset."""
    count = dataset.num_episodes
    for episode in tqdm(range(count), unit="demo", desc="import"):
        about = dataset.meta.episodes[episode]
        rows = [dataset[index] for index in range(about["dataset_from_index"], about["dataset_to_index"])]
        pictures = [255 * row[IMAGE_KEY].permute(1, 2, 0).numpy() for row in rows]  # (H, W, 3) in [0, 255]
        demo = BareDemo(
            instruction=instruction or rows[0][TASK_KEY],
            images=np.stack(pictures).round().astype(np.uint8),
            actions=np.stack([row[ACTION_KEY].numpy() for row in rows]),
            observations=observations_of(np.stack([row[STATE_KEY].numpy() for row in rows])),
        )
        yield f"episode {episode}", demo, "train" if episode < count - kept_back(count) else "valid"


def folder_sha256(folder: Path) -> str:
    """Hex digest of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    run_script(main, ImportOptions, __doc__)
