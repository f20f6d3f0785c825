"""The HDF5 file of demonstrations: the report's layout, robomimic's, and the errors for broken files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla.demos.schema import demo_names, open_demos, read_demo
from vla.errors import UserError
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import EnvConfig


def test_layout_of_the_report_by_plain_h5py(demo_file: Path) -> None:
    with h5py.File(demo_file) as file:
        assert set(file["data"]) == {"demo_0", "demo_1", "demo_2"}
        for index in range(3):
            demo = file[f"data/demo_{index}"]
            length = demo.attrs["episode_length"]
            assert demo["images"].shape == (length, 224, 224, 3)
            assert demo["images"].dtype == np.uint8
            assert demo["actions"].shape == (length, 7)
            assert demo["rewards"].shape == (length,)
            assert demo.attrs["language_instruction"] == INSTRUCTIONS[index]
            assert demo.attrs["success"]
            assert np.abs(demo["actions"][:]).max() <= 1


def test_superset_of_robomimics_layout(demo_file: Path) -> None:
    with h5py.File(demo_file) as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        assert {"env_name", "env_version", "type", "env_kwargs"} <= set(env_args)
        lengths = []
        for demo in file["data"].values():
            length = demo.attrs["num_samples"]
            lengths.append(length)
            assert "<mujoco" in demo.attrs["model_file"]
            assert demo["states"].shape == (length, 1 + 16 + 15)
            assert demo["dones"][-1] == 1
            assert demo["dones"][:].sum() == 1
            assert demo["obs/agentview_image"] == demo["images"]  # the same dataset, linked
        assert file["data"].attrs["total"] == sum(lengths)
        train, valid = demo_names(file, "train"), demo_names(file, "valid")
        assert sorted(train + valid) == ["demo_0", "demo_1", "demo_2"]
        assert valid


def test_labels_hold_when_judged_again_from_the_file(demo_file: Path) -> None:
    with open_demos(demo_file) as file:
        for name in demo_names(file):
            demo = read_demo(file["data"][name])
            *_, judge = demo.judges()
            assert judge.success
            assert len(demo.images) == len(demo)


def test_image_compression_is_worth_it(demo_file: Path) -> None:
    with h5py.File(demo_file) as file:
        stored = sum(demo["images"].id.get_storage_size() for demo in file["data"].values())
        raw = sum(demo["images"].size for demo in file["data"].values())
    assert stored < 0.12 * raw


def test_environment_is_rebuilt_from_the_file(demo_file: Path) -> None:
    with open_demos(demo_file) as file:
        assert EnvConfig.from_env_args(file["data"].attrs["env_args"]) == EnvConfig()


def _copy(demo_file: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy.hdf5"
    shutil.copy(demo_file, copy)
    return copy


def _refusal(path: Path) -> str:
    """The error for a file that cannot be opened; it never suggests overwriting the file."""
    with pytest.raises(UserError) as refused, open_demos(path):
        pass
    message = str(refused.value)
    assert "\n" not in message
    assert "1_collect_demos.py --output" in message
    assert "--overwrite" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.hdf5"
    assert f"no demonstrations at {path}" in _refusal(path)
    with pytest.raises(UserError, match="is a folder"), open_demos(tmp_path):
        pass


def test_truncated_file(demo_file: Path, tmp_path: Path) -> None:
    path = _copy(demo_file, tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    message = _refusal(path)
    assert "not a whole HDF5 file" in message
    assert f"mv -n {path} {path}.old" in message


def test_a_file_of_another_project(tmp_path: Path) -> None:
    """Such as robomimic's, whose layout ours extends: the remedy writes to another file."""
    path = tmp_path / "robomimic.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((5, 7))
        file["data"].attrs["total"] = 5
    message = _refusal(path)
    assert "not a file of 1_collect_demos.py" in message
    assert f"--output {path}" not in message


def test_other_schema(demo_file: Path, tmp_path: Path) -> None:
    path = _copy(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        file["data"].attrs["schema_version"] = 99
    assert "schema version 99" in _refusal(path)


def test_no_episodes(demo_file: Path, tmp_path: Path) -> None:
    path = _copy(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        for name in list(file["data"]):
            del file["data"][name]
    assert "holds no episodes" in _refusal(path)


def test_lengths_that_disagree(demo_file: Path, tmp_path: Path) -> None:
    path = _copy(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["episode_length"] = 3
        del file["index"]  # without it, demonstrations are checked when the file is opened
    assert "demo_1 says 3 steps" in _refusal(path)
