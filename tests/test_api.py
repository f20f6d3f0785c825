"""The package as a user's program uses it: a policy and an environment from Python."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vla
from tests.conftest import ROOT
from vla.errors import UserError
from vla.sim import gl
from vla.sim.gym_env import LiftEnv

SHIPPED = ROOT / "checkpoints/lift.pth"
SEED = 2_000_000


@pytest.fixture(scope="module")
def env() -> Iterator[LiftEnv]:
    made = gymnasium.make("LiftVLA/Lift-v0", render_mode="rgb_array")
    assert isinstance(made.unwrapped, LiftEnv)
    yield made.unwrapped
    made.close()


def test_a_policy_lifts_the_cube_in_the_gymnasium_environment(env: LiftEnv) -> None:
    policy = vla.load_policy(SHIPPED)
    policy.reset("Pick up the cube")
    obs, _ = env.reset(seed=SEED)
    for _ in range(200):
        obs, _, terminated, truncated, info = env.step(policy.select_action(obs["agentview_image"]))
        assert policy.action_chunk.shape == (policy.config.chunk_size, 7)
        if terminated or truncated:
            break
    assert terminated
    assert not truncated
    assert info["success"]
    assert info["evidence"]["height_m"] > 0.08


def test_gymnasium_accepts_the_environment(env: LiftEnv) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.slow
def test_an_episode_is_truncated_at_the_horizon_and_repeats_itself(env: LiftEnv) -> None:
    first, _ = env.reset(seed=5)
    still = np.zeros(7, dtype=np.float32)
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(still)
    assert truncated
    assert not terminated
    assert not info["success"]
    again, _ = env.reset(seed=5)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert env.render() is not None


def test_an_action_that_is_not_a_number_ends_the_episode_as_invalid(env: LiftEnv) -> None:
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(np.full(7, np.nan, dtype=np.float32))
    assert terminated
    assert not info["success"]
    assert "finite" in info["invalid_reason"]


def test_an_image_that_is_flipped_or_read_only_is_taken() -> None:
    policy = vla.load_policy(SHIPPED)
    upside_down = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    policy.reset("Pick up the cube")
    expected = policy.select_action(np.ascontiguousarray(upside_down[::-1]))
    flipped = upside_down[::-1]
    flipped.flags.writeable = False
    policy.reset("Pick up the cube")
    assert np.array_equal(policy.select_action(flipped), expected)


def test_an_action_of_another_shape_and_a_closed_environment_are_mistakes(env: LiftEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(UserError, match="shape"):
        env.step(np.zeros((1, 7), dtype=np.float32))
    env.step(np.zeros(7, dtype=np.float32))  # the episode goes on


def test_a_forked_process_is_refused_instead_of_hanging(env: LiftEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "_process_with_context", 1)  # what a process forked from another one finds
    with pytest.raises(UserError, match="spawn"):
        vla.make_env("lift")


def test_mistakes_of_a_program_raise_user_errors() -> None:
    policy = vla.load_policy(SHIPPED)
    with pytest.raises(UserError, match=r"policy\.reset"):
        policy.select_action(np.zeros((224, 224, 3), dtype=np.uint8))
    policy.reset("Pick up the cube")
    with pytest.raises(UserError, match="uint8"):
        policy.select_action(np.zeros((224, 224, 3), dtype=np.float32))
    with pytest.raises(UserError, match="numpy array"):
        policy.select_action([[0]])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="sentence"):
        policy.reset("  ")
    with pytest.raises(UserError, match="give auto, cpu or cuda"):
        vla.load_policy(SHIPPED, device="gpu")
    with pytest.raises(UserError, match="no checkpoint at"):
        vla.load_policy("nowhere.pth")
    with pytest.raises(UserError, match="no task 'stack'"):
        vla.make_env("stack")


@pytest.mark.slow
def test_the_package_works_from_another_folder(tmp_path: Path) -> None:
    """An environment first, a policy after it: torchvision must not be loaded after the GL libraries."""
    # As in an editable installation, only the package is found, and not the scripts beside it.
    (tmp_path / "vla").symlink_to(ROOT / "vla", target_is_directory=True)
    program = (
        "import vla\n"
        "env = vla.make_env('lift')\n"
        "obs, info = env.reset(seed=0)\n"
        f"policy = vla.load_policy({str(SHIPPED)!r})\n"
        "policy.reset('Pick up the cube')\n"
        "print(policy.select_action(obs['agentview_image']).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "(7,)\n", done.stderr
    assert done.stderr == ""
