"""Stills: what they show, what they say of every cube, how they are collected, and what training makes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

from vla import stages
from vla.demos import still_collection
from vla.demos.merging import merge
from vla.demos.recorder import RecordTask, record
from vla.demos.schema import open_demos
from vla.demos.still_collection import StillsTask, collect_stills, stills_file
from vla.demos.still_recorder import StillTask, record_stills
from vla.demos.stills import Stills, merge_stills, read_stills, write_stills
from vla.errors import UserError
from vla.experts.idle import idle_action
from vla.experts.scripted import ExpertConfig
from vla.policies.asked import target_of
from vla.policies.asking import Asker, training_wordings
from vla.policies.grammar import meaning_of
from vla.policies.located import LOCATED
from vla.policies.network import model_architecture
from vla.shards import Shard
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN, EnvConfig, Scene
from vla.sim.env import Simulator
from vla.sim.table import APART_M, TableCube, TableLayout
from vla.training.recipes import RECIPES
from vla.training.still_dataset import StillDataset

ENV = EnvConfig(scene=Scene("cubes", (2, 3)))
loader: Any = stages.dataset_loader()


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of two scenes, one of them for training."""
    folder = tmp_path_factory.mktemp("stills")
    sim = Simulator(ENV, render_images=False)
    parts = [folder / f"{seed}.hdf5" for seed in (0, 6)]
    for part in parts:
        task = RecordTask(part, None, (int(part.stem),), 200, ExpertConfig(noise_std=0), demos_per_seed=3)
        assert record(sim, task) == []
    sim.close()
    attributes = {"env_args": ENV.to_env_args(), "collection": json.dumps([]), "rejected": json.dumps([])}
    merge(parts, folder / "few_demos.hdf5", attributes)
    return folder / "few_demos.hdf5"


@pytest.fixture(scope="module")
def stills(demos: Path) -> Stills:
    """Some stills, whose pictures are black."""
    sim = Simulator(ENV, render_images=False)
    part = demos.with_name("part.hdf5")
    assert record_stills(sim, StillTask(part, demos, seed=0, number=0, count=60)) == 60
    again = demos.with_name("again.hdf5")
    record_stills(sim, StillTask(again, demos, seed=0, number=0, count=60))
    assert part.read_bytes() == again.read_bytes()
    sim.close()
    return read_stills(part)


def _made_up(count: int) -> Stills:
    """Stills of two cubes, whose expert goes for the one or the other."""
    cubes = (TableCube("cube", "red", -0.05, -0.08, 0.0), TableCube("cube2", "green", 0.05, 0.08, 0.0))
    actions = np.zeros((count, 4, 7), dtype=np.float32)
    actions[:, 0, 0], actions[:, 1, 0] = -1.0, 1.0
    places = np.zeros((count, 4, 3))
    places[:, 0], places[:, 1] = (-0.05, -0.08, 0.82), (0.05, 0.08, 0.82)
    return Stills(
        images=np.random.default_rng(0).integers(0, 255, (count, 224, 224, 3), dtype=np.uint8),
        layouts=[TableLayout(cubes)] * count,
        cubes_pos=places,
        eef_pos=np.tile([0.0, 0.0, 1.0], (count, 1)),
        gripper_qpos=np.tile([0.04, -0.04], (count, 1)),
        expert_actions=actions,
    )


def _dataset(path: Path) -> Any:
    return StillDataset(
        path, ENV.to_env_args(), Asker(training_wordings(8)), 1, 10, RECIPES["language"].image, 1, "both"
    )


@pytest.mark.slow
def test_the_expert_of_a_still_goes_for_whichever_cube_is_named(stills: Stills) -> None:
    held = 0
    for row, layout in enumerate(stills.layouts):
        count = len(layout.cubes)
        places, actions = stills.cubes_pos[row, :count], stills.expert_actions[row]
        distances = np.linalg.norm(places[:, None, :2] - places[None, :, :2], axis=2)[np.triu_indices(count, 1)]
        assert distances.min() > APART_M - 1e-3
        assert not actions[count:].any()
        assert not stills.cubes_pos[row, count:].any()
        for cube, action in enumerate(actions[:count]):
            offset = places[cube] - stills.eef_pos[row]
            if np.abs(offset[:2]).min() > 0.02 and np.abs(action[:2]).min() > 0.01:
                assert (np.sign(action[:2]) == np.sign(offset[:2])).all()
            if action[-1] == GRIPPER_CLOSE:  # only at the cube
                assert np.linalg.norm(offset) < 0.03
        lifted = places[:, 2] > 0.84
        held += int(lifted.any())
        if lifted.any():  # the hand goes on lifting what it holds, and lets go of it where another cube is named
            (number,) = np.flatnonzero(lifted)
            others = [cube for cube in range(count) if cube != number]
            assert actions[number, -1] == GRIPPER_CLOSE
            assert (actions[others, -1] == GRIPPER_OPEN).all()
    assert held >= 2
    assert {len(layout.cubes) for layout in stills.layouts} == {2, 3}


def test_a_still_is_asked_for_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "stills.hdf5"
    write_stills(path, _made_up(3), {"settings": "{}", "env_args": ENV.to_env_args()})
    dataset, meanings = _dataset(path), set()
    for _ in range(60):
        segment = dataset[1]
        (text,), (action,), (named,) = segment.instructions, segment.actions, segment.named
        meanings.add(meaning_of(text))
        target = target_of(text, read_stills(path).layouts[1])
        assert segment.mask.tolist() == [[True] + [False] * 9]
        assert bool(named[3]) == (target is not None)
        if target is None:
            assert np.array_equal(action[0].numpy(), idle_action())
        else:
            assert action[0, 0] == (-1.0, 1.0)[target]
            assert named[:2].tolist() == pytest.approx(([-0.5, -0.8], [0.5, 0.8])[target])
    assert len(meanings) > 10
    assert dataset[0].positions.shape == (1, 3 * len(LOCATED) + 1)


def test_stills_of_another_scene_than_the_demonstrations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stills.hdf5"
    two = EnvConfig(scene=Scene("cubes", (2,)))
    assert two.to_env_args() != ENV.to_env_args()
    write_stills(path, _made_up(1), {"settings": "{}", "env_args": two.to_env_args()})
    with pytest.raises(UserError, match=r"different scenes or simulators; .*--stills 20000"):
        _dataset(path)


def _collect(demos: Path, count: int, overwrite: bool = False, shard: Shard | None = None) -> None:
    collect_stills(StillsTask(demos, ENV, count, seed=0), "local", 1, overwrite, shard)


@pytest.mark.slow
def test_an_interrupted_collection_continues_with_the_same_stills(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still_collection, "STILLS_PER_PART", 3)
    whole = tmp_path / "whole_demos.hdf5"
    shutil.copy(demos, whole)
    _collect(whole, 7)
    broken = tmp_path / "broken_demos.hdf5"
    shutil.copy(demos, broken)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(still_collection, "merge_stills", stopped)
        with pytest.raises(KeyboardInterrupt):
            _collect(broken, 7)
    parts = sorted((tmp_path / "broken_stills.hdf5.parts").glob("*.hdf5"))
    assert len(parts) == 3
    parts[1].unlink()  # as if the collection had been stopped before this one was whole
    kept = parts[0].stat().st_mtime_ns
    monkeypatch.setattr(still_collection, "remove_parts", lambda _: None)
    _collect(broken, 7)
    assert parts[0].stat().st_mtime_ns == kept
    again, first = read_stills(stills_file(broken)), read_stills(stills_file(whole))
    assert again.layouts == first.layouts
    for name in ("images", "expert_actions", "eef_pos"):
        assert np.array_equal(getattr(again, name), getattr(first, name))


@pytest.mark.slow
def test_stills_and_demonstrations_go_through_the_network_together(demos: Path, tmp_path: Path) -> None:
    path = tmp_path / "stills.hdf5"
    write_stills(path, _made_up(3), {"settings": "{}", "env_args": ENV.to_env_args()})
    with open_demos(demos) as file:
        names = list(file["data"])[:1]
    windows = loader.LiftDataset(demos, names, 20, 1, 1, image=RECIPES["language"].image, margin_px=1, locates="both")
    joined: ConcatDataset[Any] = ConcatDataset([windows, _dataset(path)])
    (batch,) = loader.make_loader(joined, len(joined))
    assert len(batch.frames) == len(windows) + 3
    assert len(batch.windows) == len(batch.instructions) == len(batch.named) == len(windows) + 3
    config = model_architecture().ModelConfig.from_dict(
        {"image": {"size_px": 32}, "observation_horizon": 1, "located_cubes": len(LOCATED), "locates_named": True}
    )
    network = model_architecture().VLA(config)
    images = torch.rand(len(batch.frames), 3, 32, 32)
    prediction, auxiliary = network(images, batch.windows, torch.randn(len(batch.windows), 512))
    losses = model_architecture().compute_losses(prediction, auxiliary, batch, RECIPES["language"])
    assert torch.isfinite(losses.total)
    changed = batch.actions.clone()
    changed[-1, 1:] = 5.0  # masked
    other = model_architecture().compute_losses(
        prediction, auxiliary, batch._replace(actions=changed), RECIPES["language"]
    )
    assert float(losses.total) == float(other.total)


@pytest.mark.slow
def test_finished_stills_stay_and_are_collected_the_same_again(demos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = stills_file(demos)
    assert output.name == "few_stills.hdf5"
    _collect(demos, 8)
    first = read_stills(output)
    assert len(first) == 8
    _collect(demos, 8)
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="collected with"):
        _collect(demos, 9)
    _collect(demos, 8, overwrite=True)
    assert np.array_equal(read_stills(output).images, first.images)


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    attributes = {"settings": "{}", "env_args": ENV.to_env_args()}
    for number, count in enumerate((3, 2)):
        write_stills(tmp_path / f"{number}.hdf5", _made_up(count), attributes)
    merge_stills([tmp_path / "0.hdf5", tmp_path / "1.hdf5"], tmp_path / "all.hdf5", attributes)
    joined = read_stills(tmp_path / "all.hdf5")
    assert np.array_equal(joined.images, np.concatenate([_made_up(3).images, _made_up(2).images]))
    assert joined.layouts == [*_made_up(3).layouts, *_made_up(2).layouts]


def test_what_is_no_file_of_stills_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "stills.hdf5"
    with pytest.raises(UserError, match="--stills 20000"):
        read_stills(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"not a whole HDF5 file .*mv -n"):
        read_stills(path)
    with h5py.File(path, "w") as file:
        file["data"] = [1]
    with pytest.raises(UserError, match="no file of stills"):
        read_stills(path)
    write_stills(path, _made_up(2), {"settings": "{}", "env_args": ""})
    with h5py.File(path, "a") as file:
        del file["eef_pos"]
    with pytest.raises(UserError, match=r"broken stills; .*mv -n .*--stills 20000"):
        read_stills(path)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["1_collect_demos.py", "--stills", "10"], "--stills must be at least 0, and needs --scene cubes"),
        (["4_train.py", "--stills", "none.hdf5"], "--stills needs words"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(command: list[str], found: str) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert found in line
