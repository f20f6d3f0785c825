"""Demonstrations from elsewhere: what is taken over, what is said to be missing, and what works without it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.robomimic_file import ENV_KWARGS, write_robomimic_file
from vla import stages
from vla.demos.importing import import_robomimic
from vla.demos.merging import merge_files
from vla.demos.migration import migrate_file
from vla.demos.options import CollectOptions
from vla.demos.rendering import render_file
from vla.demos.replay import replay_file
from vla.demos.schema import demo_names, missing_parts, open_demos
from vla.demos.source import IMPORTED_KEYS, Source
from vla.errors import UserError
from vla.files import SHIPPED, sha256
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig, version_drift
from vla.training.options import TrainOptions

train = importlib.import_module("4_train").main


@pytest.fixture(scope="module")
def robomimic(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robomimic_file(demo_file, tmp_path_factory.mktemp("robomimic") / "image_84.hdf5")


@pytest.fixture(scope="module")
def imported(robomimic: Path) -> Path:
    output = robomimic.with_name("imported.hdf5")
    import_robomimic(robomimic, output, "Lift the red cube")
    return output


def test_what_was_seen_and_done_is_taken_over_and_the_rest_is_named(robomimic: Path, tmp_path: Path) -> None:
    output = tmp_path / "imported.hdf5"
    said = import_robomimic(robomimic, output, "Lift the red cube")
    assert "3 demonstrations (2 for training, 1 for validation), images of 84 px" in said
    assert "evidence" in said
    assert "unjudged" in said
    with open_demos(output, imported=True) as file, h5py.File(robomimic) as source:
        assert Source.of(file) == Source("robomimic", "image_84.hdf5", sha256(robomimic))
        assert (demo_names(file, "train"), demo_names(file, "valid")) == (["demo_0", "demo_2"], ["demo_1"])
        for name, demo in file["data"].items():
            theirs = source["data"][name]
            assert np.array_equal(demo["images"], theirs["obs/agentview_image"])
            assert np.array_equal(demo["actions"], theirs["actions"][:].astype(np.float32))
            for key in IMPORTED_KEYS[2:]:
                assert np.array_equal(demo[key], theirs[key])
            assert demo.attrs["language_instruction"] == "Lift the red cube"
            assert not any(key in demo or key in demo.attrs for key in missing_parts())
        env_args = file["data"].attrs["env_args"]
    assert EnvConfig.from_env_args(env_args) == EnvConfig(image_size_px=84)
    assert "robosuite 1.4.1 there" in (version_drift(env_args) or "")
    before = output.read_bytes()
    with pytest.raises(UserError, match="exists already, and is not replaced"):
        import_robomimic(robomimic, output, "Pick up the cube")
    assert output.read_bytes() == before


def _with_env(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {**ENV_KWARGS, name: value}}
        file["data"].attrs["env_args"] = json.dumps({**env_args, **({name: value} if name == "env_name" else {})})

    return change


def _replace(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def replace(file: h5py.File) -> None:
        values = change(file[f"data/demo_2/{key}"][:])
        del file[f"data/demo_2/{key}"]
        file[f"data/demo_2/{key}"] = values

    return replace


def _remove_images(file: h5py.File) -> None:
    for demo in file["data"].values():
        del demo["obs/agentview_image"]


def _remove_env_args(file: h5py.File) -> None:
    del file["data"].attrs["env_args"]


UNUSABLE: list[tuple[Callable[[h5py.File], None], str]] = [
    (_remove_images, "demo_0 lacks obs/agentview_image; .*dataset_states_to_obs"),
    (_remove_env_args, "is no file of robomimic"),
    (lambda file: file["data"].attrs.update(env_args="[]"), "env_args that are not robomimic's"),
    (lambda file: file["data"].create_group("other"), "it holds other"),
    (_with_env("env_name", "NutAssembly"), r"the environment NutAssembly \(here: Lift\)"),
    (_with_env("robots", ["Sawyer"]), r"the robot Sawyer \(here: Panda\)"),
    (_with_env("control_freq", 10), r"the control frequency 10 \(here: 20\)"),
    (_with_env("controller_configs", {"type": "JOINT_POSITION"}), "the controller JOINT_POSITION"),
    (_with_env("controller_configs", {"type": "OSC_POSE", "control_delta": False}), "actions absolute"),
    (_with_env("controller_configs", {"body_parts": {"right": {"input_type": "absolute"}}}), "actions absolute"),
    (_replace("actions", lambda actions: 2 * actions), "demo_2 has actions up to 2"),
    (_replace("actions", lambda actions: actions[:, :6]), "demo_2 has actions .* are needed"),
    (_replace("actions", lambda actions: np.full_like(actions, np.nan)), "not finite; import another one"),
    (_replace("obs/agentview_image", lambda images: images[:, :42]), "demo_2 has images .* square"),
    (_replace("obs/agentview_image", lambda images: images[:-1]), "one for each action"),
    (_replace("obs/agentview_image", lambda images: images[:, ::2, ::2]), "42 px, and those before it 84 px"),
]


@pytest.mark.parametrize(("change", "message"), UNUSABLE)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    change: Callable[[h5py.File], None], message: str, robomimic: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.hdf5"
    path.write_bytes(robomimic.read_bytes())
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(UserError, match=message):
        import_robomimic(path, tmp_path / "imported.hdf5", "Pick up the cube")
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(demo_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "imported.hdf5"
    with pytest.raises(UserError, match="a file of this project already"):
        import_robomimic(demo_file, output, "Pick up the cube")
    with pytest.raises(UserError, match="no such file"):
        import_robomimic(tmp_path / "none.hdf5", output, "Pick up the cube")
    text = tmp_path / "text.hdf5"
    text.write_text("nothing")
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        import_robomimic(text, output, "Pick up the cube")
    assert not output.exists()


def test_without_masks_the_last_ones_are_for_validation(robomimic: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "other.hdf5", tmp_path / "imported.hdf5"
    path.write_bytes(robomimic.read_bytes())
    with h5py.File(path, "a") as file:
        del file["mask"]
    import_robomimic(path, output, "Pick up the cube")
    with open_demos(output, imported=True) as file:
        assert (demo_names(file, "train"), demo_names(file, "valid")) == (["demo_0", "demo_1"], ["demo_2"])


def test_what_needs_more_than_an_imported_file_holds_says_what_is_missing(imported: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.hdf5"
    collect = importlib.import_module("1_collect_demos")
    for command in (
        lambda: collect._collected_rounds(CollectOptions(output=imported, dagger=SHIPPED)),
        lambda: replay_file(imported, 1),
        lambda: render_file(imported, output, "sideview", None, 1),
        lambda: merge_files([imported, imported], output),
    ):
        with pytest.raises(UserError, match=r"was imported \(robomimic: .* lacks what this needs: executed_actions.*"):
            command()
    with pytest.raises(UserError, match="it needs no migration"):
        migrate_file(imported, output, 1)
    assert not output.exists()
    with pytest.raises(UserError, match="it is never replaced"):
        collect._collected_rounds(CollectOptions(output=imported, overwrite=True))


def test_training_goes_without_the_auxiliary_loss_and_says_so(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(
        data=imported,
        output_dir=tmp_path / "checkpoints",
        log_dir=tmp_path / "log",
        epochs=1,
        max_steps=2,
        batch_windows=4,
        rollout_episodes=0,
        clip_weights="none",
        device="cpu",
    )
    train(options)
    printed = capsys.readouterr().out
    assert "nothing says where the cube is: the auxiliary loss is off" in printed
    assert "aux " not in printed
    checkpoint = load_checkpoint(tmp_path / "checkpoints/best_model.pth")
    assert checkpoint["training"]["identity"]["recipe"]["auxiliary_weight"] == 0
    (record,) = checkpoint["training"]["history"]
    assert not any("auxiliary" in key or "position" in key for key in record)
    assert record["valid/total"] == pytest.approx(record["valid/motion"] + 0.3 * record["valid/gripper"])
    assert EnvConfig.from_env_args(checkpoint["env_args"]).image_size_px == 84


def test_inspection_shows_it_as_unjudged(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loader = stages.dataset_loader()
    loader.main(loader.InspectOptions(data=imported, output_dir=tmp_path))
    printed = capsys.readouterr().out
    assert "3 episodes, unjudged: imported (robomimic: image_84.hdf5" in printed
    assert "all labels hold" not in printed
    assert "100%" not in printed.replace("50 (100%)", "")
    (page,) = tmp_path.iterdir()
    assert page.name == "index.html"
    assert "unjudged: imported, without evidence" in page.read_text()


def test_import_needs_a_new_file() -> None:
    options = stages.dataset_loader().InspectOptions
    with pytest.raises(UserError, match="--import needs --output"):
        options(import_=Path("a.hdf5"))
