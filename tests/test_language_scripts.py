"""The scripts in the scene "cubes", as a user runs them: collect, inspect, train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT, assert_user_error, run_script
from vla.errors import UserError
from vla.policies.checkpoint import load_checkpoint
from vla.policies.grammar import meaning_of
from vla.policies.minilm import MiniLM
from vla.sim.config import EnvConfig

TRAIN = ("--epochs", "1", "--max-steps", "1", "--rollout-episodes", "1", "--rollout-steps", "5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four demonstrations of two scenes, where the script puts them."""
    folder = tmp_path_factory.mktemp("language")
    arguments = ("--scene", "cubes", "--num-episodes", "4", "--cubes", "2", "--video-episodes")
    done = run_script(ROOT / "1_collect_demos.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_demonstrations_are_inspected_as_those_of_lift(folder: Path) -> None:
    done = run_script(ROOT / "2_dataset_loader.py", "--data", "data/cubes_demos.hdf5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "4 episodes, each judged again from its evidence: all labels hold" in done.stdout


@pytest.mark.slow
def test_a_policy_of_several_cubes_is_trained(folder: Path) -> None:
    try:
        MiniLM.load()
    except UserError as error:
        pytest.skip(str(error))
    done = run_script(ROOT / "4_train.py", "--recipe", "language", *TRAIN, "--output-dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "text pretrained (all-MiniLM-L6-v2" in done.stdout
    checkpoint = load_checkpoint(folder / "run/best_model.pth")
    assert EnvConfig.from_env_args(checkpoint["env_args"]).scene.counts == (2,)
    assert checkpoint["text_identity"]["encoder"] == "minilm"
    meanings = {meaning_of(text) for text in checkpoint["language"]["texts"]}
    assert None not in meanings
    assert len(checkpoint["language"]["texts"]) > 900
    other = run_script(
        ROOT / "4_train.py",
        "--recipe",
        "language",
        *TRAIN,
        "--output-dir",
        "run",
        "--resume",
        "--wordings",
        "3",
        cwd=folder,
    )
    assert_user_error(other, "a finished run with other settings", "language.wordings 64 then, 3 now")


@pytest.mark.slow
def test_the_recipe_of_several_cubes_refuses_demonstrations_of_one(demo_file: Path, tmp_path: Path) -> None:
    done = run_script(ROOT / "4_train.py", "--recipe", "language", *TRAIN, "--data", demo_file, cwd=tmp_path)
    assert_user_error(done, "holds the scene lift", "1_collect_demos.py --scene cubes")
