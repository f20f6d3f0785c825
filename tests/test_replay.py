"""Stored demonstrations that are simulated again: replayed, drawn anew, and migrated from an older schema."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT, run_script
from vla import stages
from vla.demos import migration, remaking, replay
from vla.demos.merging import merge
from vla.demos.migration import MORE_STEPS, migrate_file
from vla.demos.recorder import RecordTask, record
from vla.demos.rendering import render_file
from vla.demos.replay import print_replay
from vla.demos.resimulation import REPEATED, Recorded, Resimulation, resimulate
from vla.demos.schema import demo_names, open_demos
from vla.errors import UserError
from vla.experts.scripted import ExpertConfig
from vla.files import sha256
from vla.sim import workers
from vla.sim.config import EnvConfig, Scene
from vla.sim.env import Simulator

COLLECT = ROOT / "1_collect_demos.py"
NAMES = ("demo_0", "demo_1", "demo_2")


class _InThisProcess:
    """Runs the tasks of `SimulatorWorkers` in this process, with the simulator of the tests."""

    def __init__(self, count: int, config: EnvConfig, render_images: bool = True, loads_torch: bool = True) -> None:
        pass

    def __enter__(self) -> _InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], done: Callable[..., None]) -> list[Any]:
        return [function(task) for task in tasks]


@pytest.fixture
def in_this_process(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_simulator", sim)
    for module in (replay, remaking):
        monkeypatch.setattr(module, "SimulatorWorkers", _InThisProcess)


def _recorded(path: Path, name: str) -> Recorded:
    with open_demos(path) as file:
        return Recorded.read(file["data"][name])


def _cut(recorded: Recorded, rows: slice | list[int]) -> Recorded:
    arrays = ("actions", "executed_actions", "states", "phases", "sources")
    return dataclasses.replace(recorded, **{name: getattr(recorded, name)[rows] for name in arrays})


def _differences(one: h5py.Group, other: h5py.Group) -> set[str]:
    """Names of the arrays that differ, by a bit or more."""
    found: set[str] = set()

    def compare(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not (name in other and np.array_equal(item[()], other[name][()])):
            found.add(name)

    one.visititems(compare)
    return found


def _older(demo_file: Path, path: Path, version: int) -> Path:
    """Write the demonstrations as the collection wrote them in an older schema: without their last step."""
    shutil.copy(demo_file, path)
    with h5py.File(path, "a") as file:
        del file["index"]
        file["data"].attrs["schema_version"] = version
        for demo in file["data"].values():
            length = int(demo.attrs["episode_length"]) - 1
            for name in ("images", "actions", "executed_actions", "rewards", "states", "phases", "sources"):
                values = demo[name][:length]
                del demo[name]
                demo[name] = values
            del demo["evidence"], demo["start_evidence"]
            demo.attrs["episode_length"] = demo.attrs["num_samples"] = length
    return path


def _spoil(path: Path, name: str) -> None:
    """Change an action of a demonstration in the middle."""
    with h5py.File(path, "a") as file:
        actions = file["data"][name]["executed_actions"]
        actions[20] = -actions[20]


def _keep_first(path: Path) -> None:
    """Delete all demonstrations but demo_0."""
    with h5py.File(path, "a") as file:
        for name in ("data/demo_1", "data/demo_2", "mask", "index"):
            if name in file:
                del file[name]
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([], dtype="S16")


def test_the_stored_actions_lead_to_the_stored_states_and_images(demo_file: Path, sim: Simulator) -> None:
    recorded = _recorded(demo_file, "demo_0")
    again = resimulate(sim, recorded)
    assert (again.state_error, again.change, len(again.steps)) == (0.0, None, len(recorded))
    assert again.second.success
    with open_demos(demo_file) as file:
        images = file["data/demo_0/images"][:]
    for row in (0, 1, len(recorded) // 2, len(recorded) - 1):
        np.testing.assert_array_equal(sim.render_state(recorded.states[row]), images[row])


def test_what_changed_is_said(demo_file: Path, sim: Simulator) -> None:
    recorded = _recorded(demo_file, "demo_1")

    def again(**changes: Any) -> Resimulation:
        return resimulate(sim, dataclasses.replace(recorded, **changes))

    actions = recorded.executed_actions.copy()
    actions[30, :3] += 0.5
    spoilt = again(executed_actions=actions)
    assert spoilt.change is not None
    assert spoilt.change.startswith("the state after step 31 differs by ")
    assert spoilt.state_error > 1e-3
    other_start = again(seed=recorded.seed + 7).change
    assert other_start is not None
    assert other_start.startswith("it did not begin as its seed begins")
    other_scene = again(states=recorded.states[:, :-6])
    assert other_scene.change is not None
    assert other_scene.change.startswith("its states hold 26 numbers, this simulator's 32")
    rows = [*range(len(recorded)), -1]
    longer = resimulate(sim, _cut(recorded, rows)).change
    assert longer == f"it passes after {len(recorded)} of {len(recorded) + 1} steps already"


def test_a_hold_that_is_one_state_too_short_is_completed_by_its_last_action(demo_file: Path, sim: Simulator) -> None:
    recorded = _recorded(demo_file, "demo_1")
    shorter = _cut(recorded, slice(0, -1))
    assert resimulate(sim, shorter).change == "FAILURE: the episode ended after 19 of 20 steps of holding"
    again = resimulate(sim, shorter, MORE_STEPS)
    assert (again.fault, len(again.steps)) == (None, len(recorded))
    assert [step.decision.source for step in again.steps[-2:]] == ["expert", REPEATED]
    assert resimulate(sim, _cut(recorded, slice(0, -2)), MORE_STEPS).fault is not None


@pytest.mark.usefixtures("in_this_process")
def test_a_replay_names_the_changed(demo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demos.hdf5"
    shutil.copy(demo_file, path)
    _spoil(path, "demo_1")
    assert not print_replay(path, 1)
    lines = capsys.readouterr().out.splitlines()
    cells = {row[1].strip(): row[2].strip() for line in lines if len(row := line.split("|")) == 4}
    assert cells["Demonstrations"] == "3"
    assert cells["States follow from the actions"] == "2 of 3"
    assert cells["Changed"] == "1"
    assert lines[-1].startswith("demo_1, seed 1: the state after step 21 differs")


@pytest.mark.usefixtures("in_this_process")
def test_a_migrated_file_is_the_one_that_todays_collection_would_write(
    demo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = _older(demo_file, tmp_path / "old.hdf5", 4), tmp_path / "new.hdf5"
    before = sha256(old)
    with pytest.raises(UserError, match=f"schema version 4, 5 is needed.*--migrate {old} --output"):
        open_demos(old).__enter__()
    dataset = stages.dataset_loader()
    dataset.main(dataset.InspectOptions(migrate=old, output=new))
    assert "3 of 3 demonstrations migrated from schema 4 to 5; 3 hold one more" in capsys.readouterr().out
    with open_demos(new) as migrated, open_demos(demo_file) as source:
        for name in NAMES:
            demo, original = migrated["data"][name], source["data"][name]
            assert _differences(demo, original) == {"sources"}
            assert np.array_equal(demo["sources"][:-1], original["sources"][:-1])
            assert demo["sources"][-1] == REPEATED.encode()
            assert (demo.attrs["migrated_from"], demo.attrs["recorded_steps"]) == (4, len(demo["actions"]) - 1)
        assert demo_names(migrated, "valid") == demo_names(source, "valid")
        assert migrated["data"].attrs["collection"] == source["data"].attrs["collection"]
    assert sha256(old) == before
    assert {path.name for path in tmp_path.iterdir()} - {".new.hdf5.lock"} == {"old.hdf5", "new.hdf5"}
    with pytest.raises(UserError, match="exists already"):
        migrate_file(old, new, 1)
    with pytest.raises(UserError, match="it needs no migration"):
        migrate_file(new, tmp_path / "newer.hdf5", 1)


@pytest.mark.usefixtures("in_this_process")
def test_what_does_not_repeat_is_left_out_and_named(
    demo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = _older(demo_file, tmp_path / "old.hdf5", 3), tmp_path / "new.hdf5"
    _spoil(old, "demo_0")
    migrate_file(old, new, 1)
    printed = capsys.readouterr().out
    assert "left out demo_0: the state after step 21 differs" in printed
    assert "2 of 3 demonstrations migrated from schema 3" in printed
    with open_demos(new) as file:
        ((seed, reason),) = json.loads(file["data"].attrs["rejected"])
        assert seed == 0
        assert reason.startswith("demo_0 was left out: the state after step 21")
        assert [int(file["data"][name].attrs["seed"]) for name in demo_names(file)] == [1, 2]
        assert demo_names(file, "valid") == ["demo_1"]
        assert file["data"].attrs["total"] == sum(len(demo["actions"]) for demo in file["data"].values())
    _keep_first(old)
    none = tmp_path / "none.hdf5"
    with pytest.raises(UserError, match="none of its 1 demonstrations is left; demo_0: the state after step 21"):
        migrate_file(old, none, 1)
    assert not list(tmp_path.glob("none*"))


@pytest.mark.usefixtures("in_this_process")
def test_an_interrupted_migration_continues(demo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _older(demo_file, tmp_path / "old.hdf5", 4), tmp_path / "new.hdf5"
    made: list[str] = []

    def interrupted(recorded_as: Callable[[Any], None], after: int) -> Callable[[Any], None]:
        def make(task: Any) -> None:
            if len(made) == after:
                raise KeyboardInterrupt
            made.append(task.name)
            recorded_as(task)

        return make

    whole = migration.migrate_in_worker
    monkeypatch.setattr(migration, "migrate_in_worker", interrupted(whole, after=2))
    with pytest.raises(KeyboardInterrupt):
        migrate_file(old, new, 1)
    assert not new.exists()
    monkeypatch.setattr(migration, "migrate_in_worker", interrupted(whole, after=3))
    migrate_file(old, new, 1)
    assert tuple(made) == NAMES
    with open_demos(new) as file:
        assert len(file["data"]) == 3


@pytest.mark.usefixtures("in_this_process")
def test_images_that_are_drawn_anew_by_the_same_camera_are_the_same(demo_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "same.hdf5"
    before = sha256(demo_file)
    assert render_file(demo_file, output, None, 224, 1) == EnvConfig()
    assert sha256(demo_file) == before
    with open_demos(output) as drawn, open_demos(demo_file) as source:
        for name in NAMES:
            demo = drawn["data"][name]
            assert not _differences(source["data"][name], demo)
            assert dict(demo.attrs) == dict(source["data"][name].attrs)
            assert demo["obs/agentview_image"] == demo["images"]
        assert dict(drawn["data"].attrs) == dict(source["data"].attrs)
        assert demo_names(drawn, "valid") == demo_names(source, "valid")


def test_a_camera_that_is_not_there_leaves_nothing_behind(
    demo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Starting(_InThisProcess):
        def __init__(self, count: int, config: EnvConfig, render_images: bool = True, loads_torch: bool = True) -> None:
            Simulator(config, render_images)

    monkeypatch.setattr(remaking, "SimulatorWorkers", Starting)
    with pytest.raises(UserError, match="the scene has no camera 'topview'; it has frontview"):
        render_file(demo_file, tmp_path / "top.hdf5", "topview", None, 1)
    assert not list(tmp_path.glob("top*"))


@pytest.mark.slow
def test_the_scene_with_several_cubes_replays(tmp_path: Path) -> None:
    """Two demonstrations of lifting and one of doing nothing, from one seed."""
    env = EnvConfig(scene=Scene("cubes", (2,)))
    sim = Simulator(env)
    path = tmp_path / "cubes.hdf5"
    task = RecordTask(tmp_path / "part.hdf5", None, (0,), 200, ExpertConfig(), demos_per_seed=3)
    assert record(sim, task) == []
    attributes = {"env_args": env.to_env_args(), "collection": json.dumps([]), "rejected": json.dumps([])}
    merge([task.part], path, attributes)
    demos = [_recorded(path, name) for name in NAMES]
    assert {demo.target for demo in demos} == {0, 1, None}
    for name, demo in zip(NAMES, demos, strict=True):
        again = resimulate(sim, demo)
        assert (again.state_error, again.change) == (0.0, None)
        with open_demos(path) as file:
            image = file["data"][name]["images"][len(demo) // 2]
        np.testing.assert_array_equal(sim.render_state(demo.states[len(demo) // 2]), image)
    lifted = next(demo for demo in demos if demo.target == 0)
    wrong = resimulate(sim, dataclasses.replace(lifted, target=1))
    assert wrong.strayed is None
    assert wrong.change is not None
    assert "wrong object" in wrong.change
    sim.close()


@pytest.mark.slow
def test_the_commands_draw_and_replay(demo_file: Path, tmp_path: Path) -> None:
    path, side = tmp_path / "one.hdf5", tmp_path / "side.hdf5"
    shutil.copy(demo_file, path)
    _keep_first(path)
    drawing = ("--replay", path, "--workers", "1", "--render-size", "64", "--output", side)
    drawn = run_script(COLLECT, *drawing, "--camera", "sideview")
    assert drawn.returncode == 0, drawn.stderr
    with open_demos(side) as file, open_demos(path) as source:
        env = EnvConfig.from_env_args(str(file["data"].attrs["env_args"]))
        assert (env.camera, env.image_size_px) == ("sideview", 64)
        demo = file["data/demo_0"]
        assert demo["images"].shape == (len(demo["actions"]), 64, 64, 3)
        assert demo["obs/sideview_image"] == demo["images"]
        assert _differences(source["data/demo_0"], demo) == {"images"}
        assert "agentview_image" not in demo["obs"]
        assert demo["images"][0].std() > 10
    assert len(stages.dataset_loader().LiftDataset(side, ["demo_0"], observation_horizon=1)) > 3
    _spoil(side, "demo_0")
    changed = run_script(COLLECT, "--replay", side, "--workers", "1")
    assert changed.returncode == 1
    assert "demo_0, seed 0: the state after step 21 differs" in changed.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replay": Path("a"), "output": Path("b")}, "needs --render-size or --camera"),
        ({"replay": Path("a"), "camera": "sideview"}, "need --replay with a file, and --output"),
        ({"output": Path("b"), "render_size": 64}, "need --replay with a file, and --output"),
        ({"replay": Path("a"), "output": Path("b"), "render_size": 8}, "must be 32 to 1024 pixels, got 8"),
    ],
)
def test_half_a_replay_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        importlib.import_module("1_collect_demos").CollectOptions(**options)


@pytest.mark.parametrize("options", [{"migrate": Path("a")}, {"migrate": Path("a"), "merge": (Path("b"), Path("c"))}])
def test_half_a_migration_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--migrate needs --output, a new file"):
        stages.dataset_loader().InspectOptions(**options)


def test_nothing_is_collected_into_a_file_that_was_drawn_anew(demo_file: Path, tmp_path: Path) -> None:
    """New images would be of another camera, or of another size."""
    collection, path = importlib.import_module("1_collect_demos"), tmp_path / "small.hdf5"
    shutil.copy(demo_file, path)
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = EnvConfig(image_size_px=128).to_env_args()
    for dagger in (Path("policy.pth"), None):
        options = collection.CollectOptions(output=path, dagger=dagger, seed=500)
        with pytest.raises(UserError, match="was drawn anew, by agentview in 128 pixels"):
            collection._collected_rounds(options)


def test_a_file_of_other_versions_is_not_drawn(demo_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    shutil.copy(demo_file, path)
    with h5py.File(path, "a") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["versions"]["mujoco"] = "3.3.7"
        file["data"].attrs["env_args"] = json.dumps(env_args)
    with pytest.raises(UserError, match=r"made with other versions \(mujoco 3.3.7 there"):
        render_file(path, tmp_path / "new.hdf5", "sideview", None, 1)
