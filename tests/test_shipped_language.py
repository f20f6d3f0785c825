"""The shipped policy of the scene "cubes": it does what it is told, and looks at the cube that is named."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from vla.evaluation.asked_episodes import STILL_STEPS
from vla.evaluation.episode import run_episode
from vla.files import SHIPPED_LANGUAGE
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import instruction_embeddings, load_checkpoint, load_policy
from vla.sim.config import EnvConfig, Scene
from vla.sim.env import Simulator
from vla.web.loaded_policy import LoadedPolicy, TextEncoders

SEED = 2_100_000


@pytest.fixture(scope="module")
def two_cubes() -> Iterator[Simulator]:
    simulator = Simulator(EnvConfig(scene=Scene("cubes", (2,))))
    yield simulator
    simulator.close()


def test_it_is_small_enough_and_says_what_was_pretrained() -> None:
    assert (ROOT / SHIPPED_LANGUAGE).stat().st_size < 50e6
    checkpoint = load_checkpoint(ROOT / SHIPPED_LANGUAGE)
    assert sum(weight.numel() for weight in checkpoint["model"].values()) < 25e6
    assert checkpoint["text_identity"]["encoder"] == "minilm"
    assert checkpoint["text_identity"]["pretrained"]
    assert not checkpoint["vision_identity"]["pretrained"]


@pytest.mark.slow
def test_from_one_start_it_does_what_it_is_told(two_cubes: Simulator) -> None:
    network, checkpoint = load_policy(ROOT / SHIPPED_LANGUAGE, torch.device("cpu"))
    actor = PolicyActor(network, instruction_embeddings(checkpoint, "none"), torch.device("cpu"))
    two_cubes.reset(SEED)
    for number, cube in enumerate(two_cubes.layout.cubes):
        two_cubes.target = number
        result = run_episode(two_cubes, actor, f"Lift the {cube.colour} cube", SEED, 100).result
        assert result.success
        assert result.judges_agree
    two_cubes.target = None
    assert run_episode(two_cubes, actor, "Do nothing", SEED, STILL_STEPS).result.success


@pytest.mark.slow
def test_it_looks_at_the_cube_that_is_named(two_cubes: Simulator) -> None:
    policy = LoadedPolicy.load(ROOT / SHIPPED_LANGUAGE, TextEncoders("none"))
    two_cubes.target = 0
    seen = two_cubes.reset(SEED)
    said = [f"Lift the {cube.colour} cube" for cube in two_cubes.layout.cubes]
    maps = policy.where_it_looks(seen.image, said, seen.eef_pos)
    shares = np.column_stack([seen.cubes.pos, np.ones(2)]) @ two_cubes.camera_matrix().T
    columns, rows = (224 * shares[:, :2] / shares[:, 2:]).astype(int).T
    at_cubes = maps[:, rows, columns]  # (instruction, cube)
    assert at_cubes[0, 0] > at_cubes[0, 1]
    assert at_cubes[1, 1] > at_cubes[1, 0]
    moves = [policy.action_chunk(seen.image, text, seen.eef_pos)[0, :2] for text in said]
    for move, pos in zip(moves, seen.cubes.pos, strict=True):
        offset = (pos - seen.eef_pos)[:2]
        assert float(move @ offset) > 0
