"""What `kills.py` kills: the command of each kind of run, what it acknowledges, and what it leaves when it ends."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

import h5py
import imageio.v2 as imageio
import numpy as np
from scripts import ROOT

from vla.demos.demo_checks import check_demo
from vla.demos.schema import open_demos, read_demo
from vla.evaluation.recordings import open_episodes
from vla.files import SHIPPED, is_temporary
from vla.policies.checkpoint import build_model, load_checkpoint
from vla.sim.config import TEST_SEEDS

EPISODES = 6
"""Demonstrations of a collection, and of an evaluation the episodes; a DAgger round has half of them."""
EPOCHS = 6
BY_THE_EXPERT = ("--workers", "1", "--video-episodes")


@dataclass(frozen=True)
class Inputs:
    """Files of demonstrations that runs read; they share no seed."""

    demos: Path
    others: Path


class Kind(ABC):
    """A kind of run. Each run has a folder of its own, in which its command is started."""

    says: str
    """Regular expression of what the command prints when an item is safe; its group counts them."""
    first = 0
    """Number of the first item that the command adds."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def begin(self, folder: Path) -> None:
        """Make the folder of a new run."""
        folder.mkdir(parents=True)

    @abstractmethod
    def command(self, folder: Path) -> list[str] | None:
        """The script and its arguments, which begin the run and continue it; None: nothing is left to do."""

    @abstractmethod
    def items(self, folder: Path) -> dict[int, str]:
        """Digests of the items on the disk, by their numbers."""

    @abstractmethod
    def outcome(self, folder: Path) -> dict[str, str]:
        """Digests of what a run has left at its end, without times; equal for equal runs."""


class Collecting(Kind):
    """Demonstrations, in parts and then in one file."""

    says = r"collect: .*?(\d+)/\d+ \["

    def command(self, folder: Path) -> list[str] | None:
        return ["1_collect_demos.py", "--output", "demos.hdf5", "--num-episodes", str(EPISODES), *BY_THE_EXPERT]

    def items(self, folder: Path) -> dict[int, str]:
        found = {}
        for part in folder.glob("demos.hdf5.parts/demo_*.hdf5"):
            with h5py.File(part, "r") as file:
                found[int(part.stem.removeprefix("demo_"))] = _group_digest(file["demo_0"])
        return found | _demos(folder / "demos.hdf5")

    def outcome(self, folder: Path) -> dict[str, str]:
        return _file_outcome(folder / "demos.hdf5")


class Dagger(Collecting):
    """A round of DAgger, which adds to a file of demonstrations."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.first = len(_demos(inputs.demos))

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        shutil.copy(self.inputs.demos, folder / "demos.hdf5")

    def command(self, folder: Path) -> list[str] | None:
        arguments = ("--num-episodes", str(EPISODES // 2), "--dagger", str(ROOT / SHIPPED), *BY_THE_EXPERT)
        return ["1_collect_demos.py", "--output", "demos.hdf5", *arguments]


class Merging(Kind):
    """Two files joined into one, which is there with all of its demonstrations or not at all."""

    says = r"both.hdf5: (\d+) demonstrations of"

    def command(self, folder: Path) -> list[str] | None:
        if (folder / "both.hdf5").exists():
            return None  # the script would refuse to replace it
        files = (str(self.inputs.demos), str(self.inputs.others))
        return ["2_dataset_loader.py", "--merge", *files, "--output", "both.hdf5"]

    def items(self, folder: Path) -> dict[int, str]:
        return _demos(folder / "both.hdf5")

    def outcome(self, folder: Path) -> dict[str, str]:
        return _file_outcome(folder / "both.hdf5")


class Training(Kind):
    """Epochs. The record of one holds its duration, so that a repeated epoch is not the same item."""

    says = r"^epoch (\d+)/"

    def command(self, folder: Path) -> list[str] | None:
        where = ("--data", str(self.inputs.demos), "--output-dir", "out", "--log-dir", "log", "--resume")
        small = ("--epochs", str(EPOCHS), "--max-steps", "2", "--batch-windows", "8", "--rollout-episodes", "0")
        how = ("--device", "cpu", "--text-encoder", "deaf", "--set", "checkpoint_every=3")
        return ["4_train.py", *where, *small, *how]

    def items(self, folder: Path) -> dict[int, str]:
        last = folder / "out/last.pth"
        history = load_checkpoint(last)["training"]["history"] if last.exists() else []
        return {number: _digest(record) for number, record in enumerate(history)}

    def outcome(self, folder: Path) -> dict[str, str]:
        found = {}
        # A kill leaves its temporary file behind; that of another process would look the same for an hour.
        for path in filterfalse(is_temporary, folder.glob("out/*.pth")):
            content = load_checkpoint(path)
            history = [{**record, "seconds": None} for record in content["training"]["history"]]
            found[f"history of {path.name}"] = _digest(history)
            for name, value in content["model"].items():
                found[f"{name} of {path.name}"] = _digest(str(value.dtype), value.numpy())
        return found


class Evaluating(Kind):
    """Episodes of the scripted expert, in parts and then in the results."""

    says = r"evaluate: .*?(\d+)/\d+ \["

    def command(self, folder: Path) -> list[str] | None:
        arguments = ("--num-episodes", str(EPISODES), "--workers", "1", "--no-videos", "--output-dir", "out")
        return ["5_evaluate.py", "--policy", "expert", *arguments]

    def items(self, folder: Path) -> dict[int, str]:
        found: dict[int, str] = {}
        for path in folder.glob("out/partial-*/episode_*.npz"):
            with np.load(path, allow_pickle=False) as stored:
                row = json.loads(str(stored["result"]))
                found |= _episode(row, stored["states"], stored["actions"])
        if (folder / "out/results.json").exists():
            with open_episodes(folder / "out/episodes.hdf5") as file:
                for number, row in enumerate(self._results(folder)["episodes"], start=1):
                    episode = file[f"episode_{number}"]
                    found |= _episode(row, episode["states"][:], episode["actions"][:])
        return found

    def outcome(self, folder: Path) -> dict[str, str]:
        content = {name: _digest(value) for name, value in self._results(folder).items() if name != "timing"}
        return content | {f"episode {number}": item for number, item in self.items(folder).items()}

    def _results(self, folder: Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folder / "out/results.json").read_text(encoding="utf-8"))
        return content


KINDS: Mapping[str, type[Kind]] = {
    "collecting": Collecting,
    "training": Training,
    "evaluating": Evaluating,
    "dagger": Dagger,
    "merging": Merging,
}


def lasting_files(folder: Path) -> list[str]:
    """The files below a run's folder, as paths in it.

    Temporary files and locks are left out: nobody reads them. TensorBoard's logs are, too: they are appended to, and
    read up to the last whole record.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_temporary(path)]
    kept = [path for path in paths if not path.name.endswith(".lock") and not path.name.startswith("events.out")]
    return sorted(str(path.relative_to(folder)) for path in kept)


def unreadable(folder: Path) -> list[str]:
    """The files in a run's folder that cannot be read, each with the reason."""
    found = []
    for name in lasting_files(folder):
        try:
            _read_whole(folder / name)
        except Exception as error:  # readers raise various types for damaged files
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _read_whole(path: Path) -> None:
    """Read a file to its end, by the reader that its users have."""
    if path.name == "episodes.hdf5":
        with open_episodes(path) as file:
            _group_digest(file)
    elif path.suffix == ".hdf5":
        is_part = path.parent.suffix == ".parts"
        with h5py.File(path, "r") if is_part else open_demos(path) as file:
            for demo in (file if is_part else file["data"]).values():
                check_demo(demo)
                read_demo(demo)
    elif path.suffix == ".pth":
        build_model(load_checkpoint(path), path)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            json.loads(str(stored["result"]))
            [stored[name] for name in stored.files]
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".png":
        imageio.imread(path)
    elif path.suffix == ".csv":
        list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    elif path.suffix in (".md", ".html"):
        if not path.read_text(encoding="utf-8").strip():
            raise ValueError("it is empty")
    else:
        raise ValueError("nothing here reads such a file")


def _demos(path: Path) -> dict[int, str]:
    """Digests of the demonstrations in a file, by number; none where it is missing."""
    if not path.exists():
        return {}
    with open_demos(path) as file:
        return {int(name.removeprefix("demo_")): _group_digest(demo) for name, demo in file["data"].items()}


def _file_outcome(path: Path) -> dict[str, str]:
    with open_demos(path) as file:
        head = {"split": _group_digest(file["mask"]), **_attributes(file["data"])}
    return head | {f"demo_{number}": item for number, item in _demos(path).items()}


def _episode(row: dict[str, Any], states: np.ndarray, actions: np.ndarray) -> dict[int, str]:
    """An evaluated episode as an item: its row without times and video, and its recording."""
    lasting = {name: value for name, value in row.items() if name not in ("inference_ms", "video")}
    return {row["seed"] - TEST_SEEDS.start: _digest(lasting, states, actions)}


def _group_digest(group: h5py.Group) -> str:
    """Digest of all arrays and attributes below a group of an HDF5 file."""
    found: list[object] = [_attributes(group)]

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        found.extend((name, _attributes(item)))
        if isinstance(item, h5py.Dataset):
            found.append(np.asarray(item[()]))

    group.visititems(note)
    return _digest(*found)


def _attributes(item: h5py.Dataset | h5py.Group) -> dict[str, str]:
    return {name: str(value) for name, value in item.attrs.items()}


def _digest(*contents: object) -> str:
    """Hex digest of arrays and of JSON types."""
    found = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            found.update(f"{content.dtype} {content.shape}".encode() + content.tobytes())
        else:
            found.update(json.dumps(content, sort_keys=True).encode())
    return found.hexdigest()
