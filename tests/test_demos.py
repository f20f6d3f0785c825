"""The HDF5 file: the report's layout, robomimic's, and what is said of broken ones."""

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


def _broken(demo_file: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "broken.hdf5"
    shutil.copy(demo_file, copy)
    return copy


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no demonstrations at .*1_collect_demos"), open_demos(tmp_path / "none.hdf5"):
        pass


def test_truncated_file(demo_file: Path, tmp_path: Path) -> None:
    path = _broken(demo_file, tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="not a whole HDF5 file"), open_demos(path):
        pass


def test_other_schema(demo_file: Path, tmp_path: Path) -> None:
    path = _broken(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        file["data"].attrs["schema_version"] = 99
    with pytest.raises(UserError, match="schema version 99"), open_demos(path):
        pass


def test_no_episodes(demo_file: Path, tmp_path: Path) -> None:
    path = _broken(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        for name in list(file["data"]):
            del file["data"][name]
    with pytest.raises(UserError, match="holds no episodes"), open_demos(path):
        pass


def test_lengths_that_disagree(demo_file: Path, tmp_path: Path) -> None:
    path = _broken(demo_file, tmp_path)
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["episode_length"] = 3
    with pytest.raises(UserError, match="demo_1 says 3 steps"), open_demos(path):
        pass
