"""Demonstrations, the shipped policy and the task in LeRobot. What needs LeRobot runs where `make lerobot` has run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import vla
from tests.conftest import ROOT, assert_user_error, run_script
from vla.demos.lerobot_layout import (
    ACTION_KEY,
    IMAGE_KEY,
    STATE_KEY,
    TASK_KEY,
    eef_pos_of,
    features,
    frames,
    gripper_qpos_of,
)
from vla.demos.schema import demo_names, open_demos, read_demo
from vla.errors import UserError
from vla.evaluation.episode import run_episode
from vla.files import SHIPPED, new_folder
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import instruction_embeddings, load_policy
from vla.sim.env import Simulator

INTEGRATION = ROOT / "integrations/lerobot"
LEROBOT = ROOT / "runs/lerobot/.venv/bin"
SEED = 2_005_002
needs_lerobot = pytest.mark.skipif(
    not (LEROBOT / "lerobot-eval").exists(), reason="LeRobot is not here; make its environment with: make lerobot"
)

AS_OUR_POLICY = f"""
import sys
import numpy as np, torch
from lerobot_policy_lift_vla import LiftVlaPolicy
torch.set_num_threads(1)
folder, images, again = sys.argv[1:]
policy = LiftVlaPolicy.from_pretrained(folder)
policy.save_pretrained(again)
tasks = ["Pick up the cube", "Lift the red cube"]
for policy in (policy, LiftVlaPolicy.from_pretrained(again)):
    policy.reset()
    for pair in torch.from_numpy(np.load(images)):  # (2, H, H, 3)
        batch = {{"{IMAGE_KEY}": pair.permute(0, 3, 1, 2).float() / 255, "task": tasks}}
        chunks = policy.predict_action_chunk(batch)
        policy.reset()
        actions = policy.select_action(batch)
        assert torch.equal(actions, chunks[:, 0])
np.save(images, chunks.numpy())
"""


def run_lerobot(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of LeRobot's environment, with one computing thread."""
    command = [str(LEROBOT / program), *(str(argument) for argument in arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped policy as LeRobot's."""
    folder = tmp_path_factory.mktemp("lerobot") / "policy"
    done = run_lerobot("python", INTEGRATION / "convert.py", "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, as a worker of 5_evaluate.py does: more of them round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Without LeRobot


def test_a_frame_holds_what_the_demonstration_holds(demo_file: Path) -> None:
    with open_demos(demo_file) as file:
        demo = read_demo(file["data"][demo_names(file)[0]])
    written = list(frames(demo))
    assert len(written) == len(demo)
    described = features(demo.images.shape[1])
    for step in (0, len(demo) - 1):
        frame = written[step]
        assert frame.pop(TASK_KEY) == demo.instruction
        assert set(frame) == set(described)
        for name, feature in described.items():
            assert frame[name].shape == feature["shape"]
            assert len(feature["names"]) == (3 if name == IMAGE_KEY else len(frame[name]))
        assert np.array_equal(frame[IMAGE_KEY], demo.images[step])
        assert np.array_equal(frame[ACTION_KEY], demo.actions[step])
        assert frame[ACTION_KEY].dtype == frame[STATE_KEY].dtype == np.float32
        state = frame[STATE_KEY].astype(np.float64)
        assert np.abs(eef_pos_of(state) - demo.observations["robot0_eef_pos"][step]).max() < 1e-6
        assert np.abs(gripper_qpos_of(state) - demo.observations["robot0_gripper_qpos"][step]).max() < 1e-6
        assert np.linalg.norm(state[3:7]) == pytest.approx(1, abs=1e-5)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    wanted = tmp_path / "made/dataset"

    def write(text: str) -> None:
        with new_folder(wanted) as folder:
            folder.mkdir()
            (folder / "file").write_text(text)
            assert not wanted.exists()
            assert text != "half"

    with pytest.raises(AssertionError):
        write("half")
    assert list(wanted.parent.iterdir()) == []
    write("whole")
    assert [path.name for path in wanted.parent.iterdir()] == ["dataset"]
    with pytest.raises(UserError, match="nothing is overwritten"):
        write("other")
    assert (wanted / "file").read_text() == "whole"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["export.py", "convert.py", "import.py"])
def test_without_lerobot_the_error_says_how_it_is_had(script: str, tmp_path: Path) -> None:
    done = run_script(INTEGRATION / script, "--output", tmp_path / "new")
    assert_user_error(done, "LeRobot is not installed here", "make lerobot")
    assert not (tmp_path / "new").exists()


# With LeRobot


@needs_lerobot
@pytest.mark.slow
def test_an_exported_dataset_reads_back_and_can_be_imported(demo_file: Path, tmp_path: Path) -> None:
    command = (
        *("python", INTEGRATION / "export.py", "--data", demo_file),
        *("--num-demos", 2, "--output", tmp_path / "demos"),
    )
    done = run_lerobot(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "demos/readback.json").read_text())
    with open_demos(demo_file) as file:
        lengths = [int(file["data"][name].attrs["episode_length"]) for name in demo_names(file)[:2]]
    assert (found["episodes"], found["frames"]) == (2, sum(lengths))
    assert found["state_max_difference"] == found["action_max_difference"] == 0
    assert found["image_psnr_db_worst"] > 30
    assert json.loads((tmp_path / "demos/meta/info.json").read_text())["codebase_version"] == "v3.0"
    assert_user_error(run_lerobot(*command), "nothing is overwritten")

    output = tmp_path / "imported.hdf5"
    importing = ("python", INTEGRATION / "import.py", "--data", tmp_path / "demos", "--output", output)
    done = run_lerobot(*importing)
    assert done.returncode == 0, done.stderr
    assert "2 demonstrations (1 for training, 1 for validation)" in done.stdout
    with open_demos(output, imported=True) as file, open_demos(demo_file) as given:
        for name, demo in file["data"].items():
            recorded = given["data"][name]
            assert demo.attrs["language_instruction"] == recorded.attrs["language_instruction"]
            assert np.array_equal(demo["actions"], recorded["actions"])
            for key in ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos"):
                assert np.abs(demo[key][:] - recorded[key][:]).max() < 1e-6
            assert np.abs(demo["images"][:].astype(int) - recorded["images"][:]).mean() < 4
    assert_user_error(run_lerobot(*importing), "exists already")


@needs_lerobot
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_converted_policy_acts_as_ours_does_in_a_batch_too(converted: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 224, 224, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    done = run_lerobot("python", "-c", AS_OUR_POLICY, converted, tmp_path / "images.npy", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    chunks = np.load(tmp_path / "images.npy")  # of the last pair
    policy = vla.load_policy(ROOT / SHIPPED, device="cpu")
    for image, instruction, chunk in zip(images[-1], ("Pick up the cube", "Lift the red cube"), chunks, strict=True):
        policy.reset(instruction)
        policy.select_action(image)
        assert np.array_equal(policy.action_chunk, chunk)


@needs_lerobot
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_lerobot_eval_runs_the_episode_that_our_evaluation_runs(
    converted: Path, sim: Simulator, tmp_path: Path
) -> None:
    instruction = "Lift the red cube"
    done = run_lerobot(
        *("lerobot-eval", f"--policy.path={converted}", "--env.type=lift_vla", f"--env.instruction={instruction}"),
        *("--eval.batch_size=1", "--eval.n_episodes=1", f"--seed={SEED}", f"--output_dir={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    (task,) = json.loads((tmp_path / "eval_info.json").read_text())["per_task"]
    network, checkpoint = load_policy(ROOT / SHIPPED, torch.device("cpu"))
    actor = PolicyActor(network, instruction_embeddings(checkpoint, "none"), torch.device("cpu"))
    ours = run_episode(sim, actor, instruction, SEED, 200).result
    assert task["metrics"]["successes"] == [ours.success]
    assert task["metrics"]["sum_rewards"] == [pytest.approx(ours.reward, abs=1e-9)]
