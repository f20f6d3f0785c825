"""Files of demonstrations that are joined: nothing is lost, changed or doubled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import assert_user_error
from vla import stages
from vla.demos.merging import merge_files
from vla.demos.schema import collection_rounds, demo_names, open_demos
from vla.errors import UserError


def _with_seeds(demo_file: Path, path: Path, first: int) -> Path:
    """A copy whose demonstrations have other seeds."""
    shutil.copy(demo_file, path)
    with h5py.File(path, "a") as file:
        del file["index"]
        for index, demo in enumerate(file["data"].values()):
            demo.attrs["seed"] = first + index
    return path


def _contents(demo: h5py.Group) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()]).tobytes()

    demo.visititems(note)
    return {**found, **{f"attribute {name}": str(value).encode() for name, value in demo.attrs.items()}}


def test_nothing_is_lost_or_changed_and_each_stays_on_its_side(demo_file: Path, tmp_path: Path) -> None:
    paths = [_with_seeds(demo_file, tmp_path / f"{first}.hdf5", first) for first in (100, 200)]
    output = tmp_path / "both.hdf5"
    assert merge_files(paths, output) == 6
    with open_demos(output) as both:
        position = 0
        for path in paths:
            with open_demos(path) as source:
                for name in demo_names(source):
                    joined = f"demo_{position}"
                    assert _contents(both["data"][joined]) == _contents(source["data"][name])
                    for split in ("train", "valid"):
                        assert (joined in demo_names(both, split)) == (name in demo_names(source, split))
                    position += 1
                assert both["data"].attrs["env_args"] == source["data"].attrs["env_args"]
                total = source["data"].attrs["total"]
        assert both["data"].attrs["total"] == 2 * total
        with open_demos(paths[0]) as source:
            assert collection_rounds(both) == 2 * collection_rounds(source)
            assert json.loads(both["data"].attrs["rejected"]) == 2 * json.loads(source["data"].attrs["rejected"])


def test_files_that_do_not_belong_together_are_refused(demo_file: Path, tmp_path: Path) -> None:
    other = _with_seeds(demo_file, tmp_path / "other.hdf5", 100)
    output = tmp_path / "both.hdf5"
    with pytest.raises(UserError, match="share 3 seeds, such as"):
        merge_files([demo_file, demo_file], output)
    with h5py.File(other, "a") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        file["data"].attrs["env_args"] = json.dumps({**env_args, "env_version": "1.4.1"})
    with pytest.raises(UserError, match="different scenes, simulators or versions"):
        merge_files([demo_file, other], output)
    assert not list(tmp_path.glob("*both*"))
    output.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        merge_files([demo_file, other], output)
    assert output.read_text() == "mine"


@pytest.mark.slow
def test_the_command_joins_files_that_training_can_read(demo_file: Path, tmp_path: Path) -> None:
    other, output = _with_seeds(demo_file, tmp_path / "other.hdf5", 100), tmp_path / "both.hdf5"
    files = ("--merge", str(demo_file), str(other), "--output", str(output))
    done = subprocess.run(
        [sys.executable, "2_dataset_loader.py", *files], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{output}: 6 demonstrations of 2 files"
    loader = stages.dataset_loader()
    with open_demos(output) as file:
        names = demo_names(file, "train")
    assert len(loader.LiftDataset(output, names, observation_horizon=1)) > len(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--merge", "a.hdf5", "--output", "c.hdf5"],
        ["--merge", "a.hdf5", "b.hdf5"],
        ["--output", "c.hdf5"],
        ["--merge"],
        ["--merge", "--output", "c.hdf5"],
    ],
    ids=["one file", "no output", "nothing to join", "no file", "no file, but an output"],
)
def test_half_a_command_is_one_clear_line(arguments: list[str]) -> None:
    command = [sys.executable, "2_dataset_loader.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert_user_error(done, "--merge needs at least two files, and --output a new one")
