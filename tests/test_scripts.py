"""The scripts as commands, in the real simulator: inspect, train, resume, evaluate; and what they say of mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import h5py
import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from tests.conftest import ROOT, assert_user_error, run_script, wait_for
from vla.demos.schema import demo_names
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.files import sha256
from vla.policies.checkpoint import load_checkpoint, save_checkpoint
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.env import Simulator

pytestmark = pytest.mark.slow  # every test runs scripts as commands

QUICK_TRAINING = (
    "--recipe",
    "cpu",
    "--epochs",
    "2",
    "--max-steps",
    "2",
    "--batch-windows",
    "8",
    "--rollout-episodes",
    "1",
    "--rollout-steps",
    "5",
    "--vision-weights",
    "none",
    "--clip-weights",
    "none",
)


@pytest.fixture(scope="module")
def workspace(collected: Path) -> Path:
    """The folder of the collection, in which training ran too, on a tiny budget."""
    folder = collected
    trained = run_script(ROOT / "4_train.py", *QUICK_TRAINING, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    (folder / "train.txt").write_text(trained.stdout)
    return folder


def test_dagger_adds_episodes_in_which_the_policy_acts_first(workspace: Path, tmp_path: Path, sim: Simulator) -> None:
    data = tmp_path / "demos.hdf5"
    shutil.copy(workspace / "data/lift_demos.hdf5", data)
    # After a few steps of training, a policy may lead the hand so far astray that no expert finds back.
    content = load_checkpoint(workspace / "checkpoints/best_model.pth")
    for name in ("decoder.motion.weight", "decoder.motion.bias"):
        content["model"][name] *= 0.05
    save_checkpoint(tmp_path / "timid.pth", content)
    arguments = (
        *("--output", data, "--num-episodes", "2", "--video-episodes"),
        *("--dagger", tmp_path / "timid.pth"),
    )
    done = run_script(ROOT / "1_collect_demos.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(data) as file, h5py.File(workspace / "data/lift_demos.hdf5") as before:
        assert sorted(file["data"]) == [f"demo_{index}" for index in range(5)]
        np.testing.assert_array_equal(file["data/demo_2/images"], before["data/demo_2/images"])
        assert demo_names(file, "valid") == [*demo_names(before, "valid"), "demo_4"]
        assert [made["num_episodes"] for made in json.loads(file["data"].attrs["collection"])] == [3, 2]
        for name in ("demo_3", "demo_4"):
            demo = file["data"][name]
            sources = list(demo["sources"][:])
            handover = sources.index(next(source for source in sources if source != b"policy"))
            assert 20 <= handover < 100
            assert b"policy" not in sources[handover:]
            # The labels are the expert's, also where the policy acted.
            assert not np.array_equal(demo["actions"][:handover], demo["executed_actions"][:handover])
            seen = sim.reset(int(demo.attrs["seed"]))
            np.testing.assert_array_equal(demo["actions"][0], ExpertActor(ExpertConfig()).select_action(seen).label)
            assert demo.attrs["success"]
    again = run_script(ROOT / "1_collect_demos.py", *arguments, cwd=tmp_path)
    assert "already complete" in again.stdout
    missing = ("--dagger", tmp_path / "none.pth", "--output", data)
    assert_user_error(run_script(ROOT / "1_collect_demos.py", *missing, cwd=tmp_path), "none.pth", "4_train.py")
    # The new demonstrations are numbered from the end of the file: their seeds would be those of the validation.
    beyond = run_script(ROOT / "1_collect_demos.py", *arguments, "--seed", "999980", cwd=tmp_path)
    assert_user_error(beyond, "--seed 999980", "give another --seed")


def test_every_instruction_is_run_and_reported_and_the_report_says_blind(workspace: Path, tmp_path: Path) -> None:
    done = run_script(
        ROOT / "5_evaluate.py",
        *("--checkpoint", workspace / "checkpoints/best_model.pth", "--num-episodes", "1", "--max-steps", "3"),
        *("--every-instruction", "--blind", "--no-videos", "--output-dir", tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [episode["instruction"] for episode in results["episodes"]] == list(INSTRUCTIONS)
    assert [episode["seed"] for episode in results["episodes"]] == list(range(2_000_000, 2_000_008))
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {instruction} " in table for instruction in INSTRUCTIONS)
    assert "BLIND" in table


def test_training_goes_on_from_a_checkpoint(workspace: Path, tmp_path: Path) -> None:
    parent = workspace / "checkpoints/best_model.pth"
    arguments = (*QUICK_TRAINING, "--data", workspace / "data/lift_demos.hdf5", "--init", parent, "--epochs", "1")
    done = run_script(ROOT / "4_train.py", *arguments, "--learning-rate", "1e-6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    child = torch.load(tmp_path / "checkpoints/last.pth", weights_only=True)
    before = torch.load(parent, weights_only=True)
    assert child["training"]["identity"]["init_sha256"] == sha256(parent)
    for name in ("vision.layer4.0.conv1.weight", "decoder.queries"):
        torch.testing.assert_close(child["model"][name], before["model"][name], rtol=0, atol=1e-5)
    other = run_script(ROOT / "4_train.py", *arguments, "--pooling", "average", "--overwrite", cwd=tmp_path)
    assert_user_error(other, "--init", "average")
    resumed = run_script(
        *(ROOT / "4_train.py", *QUICK_TRAINING, "--data", workspace / "data/lift_demos.hdf5", "--epochs", "1"),
        *("--learning-rate", "1e-6", "--resume"),
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr
    own = run_script(ROOT / "4_train.py", "--init", "checkpoints/best_model.pth", "--overwrite", cwd=tmp_path)
    assert_user_error(own, "would be replaced")
    many = run_script(
        ROOT / "4_train.py",
        "--data",
        workspace / "data/lift_demos.hdf5",
        "--num-demos",
        "9",
        "--overwrite",
        cwd=tmp_path,
    )
    assert_user_error(many, "--num-demos 9", "has 2")


def test_a_diverging_run_stops_before_its_weights_are_spoilt(workspace: Path, tmp_path: Path) -> None:
    arguments = (*QUICK_TRAINING, "--data", workspace / "data/lift_demos.hdf5")
    shutil.copytree(workspace / "checkpoints", tmp_path / "checkpoints")
    done = run_script(ROOT / "4_train.py", *arguments, "--learning-rate", "1e30", "--overwrite", cwd=tmp_path)
    assert_user_error(done, "the loss became", "--learning-rate", "--overwrite")
    # The run that was to be replaced must not look like one that --resume could finish.
    assert not (tmp_path / "checkpoints/last.pth").exists()


def test_exported_policy_is_half_the_size_and_runs(workspace: Path, tmp_path: Path) -> None:
    target = tmp_path / "lift.pth"
    done = run_script(ROOT / "4_train.py", *QUICK_TRAINING, "--resume", "--export", target, cwd=workspace)
    assert done.returncode == 0, done.stderr
    whole = torch.load(workspace / "checkpoints/best_model.pth", weights_only=True)["model"]
    half = torch.load(target, weights_only=True)["model"]
    assert target.stat().st_size < 50e6
    # An export needs no demonstrations: --dagger may have added some to the file since the run was finished.
    grown = tmp_path / "grown.hdf5"
    shutil.copy(workspace / "data/lift_demos.hdf5", grown)
    with h5py.File(grown, "a") as file:
        file.attrs["grown"] = True
    arguments = ("--data", grown, "--resume", "--export", tmp_path / "again.pth")
    again = run_script(ROOT / "4_train.py", *QUICK_TRAINING, *arguments, cwd=workspace)
    assert again.returncode == 0, again.stderr
    fewer = run_script(ROOT / "4_train.py", *QUICK_TRAINING, "--resume", "--num-demos", "1", cwd=workspace)
    assert_user_error(fewer, "train demonstrations: 2 then, 1 now", "--output-dir")
    for name, value in whole.items():
        torch.testing.assert_close(half[name].float(), value.float(), rtol=1e-3, atol=1e-4)
    evaluated = run_script(
        ROOT / "5_evaluate.py", "--checkpoint", target, "--num-episodes", "1", "--max-steps", "3", cwd=tmp_path
    )
    assert evaluated.returncode == 0, evaluated.stderr


def test_inspection_writes_the_page(workspace: Path) -> None:
    done = run_script(ROOT / "2_dataset_loader.py", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "all labels hold" in done.stdout
    page = (workspace / "data/inspection/index.html").read_text(encoding="utf-8")
    assert all(f'"name": "demo_{number}"' in page for number in range(3))


def test_training_leaves_its_records(workspace: Path) -> None:
    folder = workspace / "checkpoints"
    history = json.loads((folder / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2]
    assert {"train/total", "valid/total", "learning_rate", "train/gripper"} <= set(history[0])
    assert "rollout/success" in history[-1]
    assert (folder / "training_curves.png").stat().st_size > 10_000
    assert list((workspace / "runs/checkpoints").glob("events.*"))
    text = (workspace / "train.txt").read_text()
    assert "UNTRAINED" in text
    best = torch.load(folder / "best_model.pth", weights_only=True)
    assert best["vision_identity"]["pretrained"] is False
    assert best["text_identity"]["sha256"]
    assert "optimizer" not in best


def test_resumed_training_equals_unbroken_training(workspace: Path, tmp_path: Path) -> None:
    """Killed after the first epoch and resumed, the run ends in the same weights, to the bit."""
    data = ("--data", workspace / "data/lift_demos.hdf5")
    command = [sys.executable, str(ROOT / "4_train.py"), *map(str, data), *QUICK_TRAINING]
    victim = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    last = tmp_path / "checkpoints/last.pth"
    wait_for(last.exists)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert torch.load(last, weights_only=True)["training"]["epoch"] == 1

    refused = run_script(ROOT / "4_train.py", *data, *QUICK_TRAINING, cwd=tmp_path)
    assert_user_error(refused, "1 of 2 epochs", "--resume")
    resumed = run_script(ROOT / "4_train.py", *data, *QUICK_TRAINING, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 1 of 2" in resumed.stdout
    unbroken = torch.load(workspace / "checkpoints/last.pth", weights_only=True)
    continued = torch.load(last, weights_only=True)
    for name, value in unbroken["model"].items():
        assert torch.equal(value, continued["model"][name]), name
    changed = run_script(ROOT / "4_train.py", *data, *QUICK_TRAINING, "--resume", "--seed", "9", cwd=tmp_path)
    assert_user_error(changed, "seed")


def test_evaluation_prints_table_4_and_saves_everything(workspace: Path) -> None:
    arguments = ("--num-episodes", "2", "--max-steps", "8")
    done = run_script(ROOT / "5_evaluate.py", *arguments, "--workers", "2", "--output-dir", "two", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "Table 4" in done.stdout
    assert "UNTRAINED" in done.stdout
    results = json.loads((workspace / "two/results.json").read_text())
    assert [episode["seed"] for episode in results["episodes"]] == [2_000_000, 2_000_001]
    for episode in results["episodes"]:
        assert episode["instruction"] == "Pick up the cube"
        assert episode["steps"] == 8
        assert episode["success"] is False  # eight steps are not enough for anybody
        assert episode["reported_success"] is True  # and yet the report's rule is content
        assert len(imageio.mimread(workspace / episode["video"], memtest=False)) == 8
    assert results["success_interval_95"][0] == 0
    assert "Table 4" in (workspace / "two/results.md").read_text()

    run_script(
        ROOT / "5_evaluate.py", *arguments, "--workers", "1", "--output-dir", "one", "--no-videos", cwd=workspace
    )
    alone = json.loads((workspace / "one/results.json").read_text())
    for a, b in zip(results["episodes"], alone["episodes"], strict=True):
        assert {**a, "video": None} == b


def test_evaluation_of_an_instruction_that_training_never_saw(workspace: Path) -> None:
    done = run_script(
        ROOT / "5_evaluate.py",
        "--num-episodes",
        "1",
        "--max-steps",
        "3",
        "--instruction",
        "Raise the block",
        "--output-dir",
        "other",
        cwd=workspace,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((workspace / "other/results.json").read_text())["episodes"][0]["instruction"] == "Raise the block"


MISTAKES: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("1_collect_demos.py", ("--num-episodes", "0"), ("--num-episodes",)),
    ("1_collect_demos.py", ("--num-episodes", "many"), ("--num-episodes",)),
    ("1_collect_demos.py", ("--seed", "2000000"), ("--seed", "training range")),
    ("1_collect_demos.py", ("--noise-std", "-1"), ("--noise-std",)),
    ("1_collect_demos.py", ("--recovery-fraction", "2"), ("--recovery-fraction",)),
    ("1_collect_demos.py", ("--recovery-fraction", "0", "--dagger", "a.pth"), ("--recovery-fraction", "--dagger")),
    ("1_collect_demos.py", ("--no-such-option", "1"), ("--no-such-option",)),
    ("2_dataset_loader.py", ("--data", "none.hdf5"), ("none.hdf5", "1_collect_demos.py")),
    ("3_model_architecture.py", ("--clip-weights", "none", "--vision-weights", "nowhere"), ("IMAGENET1K_V1",)),
    ("3_model_architecture.py", ("--checkpoint", "a.pth"), ("a.pth", "--export")),
    ("4_train.py", ("--data", "none.hdf5"), ("none.hdf5", "1_collect_demos.py")),
    ("4_train.py", ("--epochs", "0"), ("--epochs",)),
    ("4_train.py", ("--set", "colour=red"), ("colour=red", "auxiliary_weight")),
    ("4_train.py", ("--set", "stride=one"), ("stride=one", "name=value")),
    ("4_train.py", ("--set", "gripper_loss=l1"), ("gripper_loss",)),
    ("4_train.py", ("--set", "max_gradient_norm=-1"), ("max_gradient_norm",)),
    ("4_train.py", ("--resume", "--overwrite"), ("contradict",)),
    ("4_train.py", ("--init", "none.pth"), ("none.pth", "4_train.py")),
    ("5_evaluate.py", ("--checkpoint", "none.pth"), ("none.pth", "4_train.py")),
    ("5_evaluate.py", ("--num-episodes", "0"), ("--num-episodes",)),
    ("5_evaluate.py", ("--seed", "5"), ("--seed",)),
    ("5_evaluate.py", ("--seed", "1000000"), ("--split test", "2000000-2999999")),
    ("5_evaluate.py", ("--split", "validation", "--seed", "2000000"), ("--split validation", "1000000-1999999")),
    ("5_evaluate.py", ("--every-instruction", "--seed", "2999990"), ("2999990-3000069",)),
    ("5_evaluate.py", ("--instruction", " "), ("--instruction",)),
    ("5_evaluate.py", ("--policy", "zero", "--blind"), ("--policy zero", "--blind")),
    ("5_evaluate.py", ("--perturb", "gravity"), ("gravity", "camera-position")),
    ("5_evaluate.py", ("--perturb", "snatch:4"), ("snatch:4", "1 to 3")),
    ("5_evaluate.py", ("--perturb", "snatch", "--rejudge", "e.hdf5"), ("--perturb and --rejudge", "one of them")),
    ("5_evaluate.py", ("--rejudge", "none.hdf5"), ("none.hdf5", "5_evaluate.py")),
    ("5_evaluate.py", ("--compare", "a.pth", "b.pth"), ("a.pth", "4_train.py")),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[CompletedProcess[str], Path]]:
    """Result of each of MISTAKES, and the folder it was made in. Two run at a time: most of their time is imports."""

    def make(mistake: tuple[str, tuple[str, ...], tuple[str, ...]]) -> tuple[CompletedProcess[str], Path]:
        script, arguments, _ = mistake
        folder = tmp_path_factory.mktemp("mistake")
        return run_script(ROOT / script, *arguments, cwd=folder), folder

    with ThreadPoolExecutor(max_workers=2) as threads:
        made = list(threads.map(make, MISTAKES))
    return {(script, *arguments): found for (script, arguments, _), found in zip(MISTAKES, made, strict=True)}


@pytest.mark.parametrize(("script", "arguments", "words"), MISTAKES)
def test_mistakes_get_one_line(
    script: str,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    mistaken: dict[tuple[str, ...], tuple[CompletedProcess[str], Path]],
) -> None:
    done, folder = mistaken[(script, *arguments)]
    assert_user_error(done, *words)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("1_collect_demos.py", ("--output", "folder")),
        ("5_evaluate.py", ("--output-dir", "file")),
        ("4_train.py", ("--output-dir", "file")),
    ],
)
def test_places_that_cannot_be_written_get_one_line(
    script: str, arguments: tuple[str, ...], workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("data", "checkpoints"):
        (tmp_path / name).symlink_to(workspace / name)
    assert_user_error(run_script(ROOT / script, *arguments, cwd=tmp_path), arguments[1])


def test_broken_files_get_one_line(workspace: Path, tmp_path: Path) -> None:
    data = tmp_path / "short.hdf5"
    data.write_bytes((workspace / "data/lift_demos.hdf5").read_bytes()[:10_000])
    assert_user_error(run_script(ROOT / "2_dataset_loader.py", "--data", data, cwd=tmp_path), "not a whole HDF5 file")
    assert_user_error(run_script(ROOT / "4_train.py", "--data", data, cwd=tmp_path), "not a whole HDF5 file")

    stored = torch.load(workspace / "checkpoints/best_model.pth", weights_only=True)
    other = tmp_path / "other.pth"
    torch.save({**stored, "model_config": {**stored["model_config"], "decoder_layers": 2}}, other)
    assert_user_error(run_script(ROOT / "5_evaluate.py", "--checkpoint", other, cwd=tmp_path), "another architecture")
    torch.save({**stored, "model_config": {"layers": 4}}, other)
    assert_user_error(run_script(ROOT / "5_evaluate.py", "--checkpoint", other, cwd=tmp_path), "another architecture")
    other.write_bytes(b"nothing")
    assert_user_error(run_script(ROOT / "5_evaluate.py", "--checkpoint", other, cwd=tmp_path), "not a whole checkpoint")


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("1_collect_demos.py", ("--output", "--num-episodes", "--seed", "--workers", "--noise-std", "--overwrite")),
        ("2_dataset_loader.py", ("--data", "--output-dir", "--exclude")),
        ("3_model_architecture.py", ("--clip-weights", "--vision-weights", "--export", "--checkpoint")),
        ("4_train.py", ("--data", "--recipe", "--epochs", "--learning-rate", "--seed", "--device", "--resume")),
        ("5_evaluate.py", ("--checkpoint", "--num-episodes", "--instruction", "--max-steps", "--seed", "--workers")),
    ],
)
def test_help_names_the_options(script: str, options: tuple[str, ...], tmp_path: Path) -> None:
    done = run_script(ROOT / script, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in options:
        assert option in done.stdout
    assert "default" in done.stdout
