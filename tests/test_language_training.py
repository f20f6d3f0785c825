"""What training makes of demonstrations with several cubes: wordings, cubes to locate, the loss behind the fusion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vla import stages
from vla.demos.merging import merge
from vla.demos.recorder import RecordTask, record
from vla.demos.schema import open_demos
from vla.errors import UserError
from vla.experts.scripted import ExpertConfig
from vla.policies.asked import target_of
from vla.policies.asking import Asker, training_wordings
from vla.policies.batch import Batch
from vla.policies.grammar import MEANINGS, Meaning, meaning_of
from vla.policies.located import LOCATED, located_numbers
from vla.policies.network import Locates, model_architecture
from vla.sim.config import EnvConfig, Scene
from vla.sim.env import Simulator
from vla.sim.table import TableCube, TableLayout
from vla.training.demonstrations import Demonstrations
from vla.training.recipes import RECIPES

LAYOUT = TableLayout(
    (
        TableCube("cube", "red", -0.05, -0.08, 0.0),
        TableCube("cube2", "green", 0.05, 0.0, 0.0),
        TableCube("cube3", "red", 0.0, 0.08, 0.0),
    )
)
EMBEDDING = torch.randn(384, generator=torch.Generator().manual_seed(0))
loader: Any = stages.dataset_loader()


@pytest.fixture(scope="module")
def cubes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of two scenes with two cubes each: of either cube, and of doing nothing."""
    folder = tmp_path_factory.mktemp("cubes")
    env = EnvConfig(scene=Scene("cubes", (2,)))
    sim = Simulator(env)
    parts = []
    for seed in (0, 6):
        parts.append(folder / f"{seed}.hdf5")
        task = RecordTask(parts[-1], None, (seed,), 200, ExpertConfig(noise_std=0), demos_per_seed=3)
        assert record(sim, task) == []
    sim.close()
    attributes = {"env_args": env.to_env_args(), "collection": json.dumps([]), "rejected": json.dumps([])}
    merge(parts, folder / "cubes.hdf5", attributes)
    return folder / "cubes.hdf5"


def _batch(path: Path, locates: Locates) -> Batch:
    with open_demos(path) as file:
        names = list(file["data"])
    dataset = loader.LiftDataset(path, names, 20, 1, 1, image=RECIPES["language"].image, locates=locates)
    batch: Batch = loader.collate([dataset[index] for index in range(len(dataset))])
    return batch


def _losses(batch: Batch, **config: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    image = replace(RECIPES["language"].image, size_px=32)
    network: Any = model_architecture().VLA(
        model_architecture().ModelConfig(image=image, observation_horizon=1, text_dim=384, **config)
    )
    images = torch.rand(len(batch.frames), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prediction, auxiliary = network(images, batch.windows, EMBEDDING.expand(len(batch.windows), -1))
    return network, model_architecture().compute_losses(prediction, auxiliary, batch, RECIPES["language"])


def test_a_cube_is_located_by_all_that_can_be_said_of_it() -> None:
    numbers = dict(zip(LOCATED, located_numbers(LAYOUT), strict=True))
    assert numbers[Meaning("colour", "green")] == 1
    assert numbers[Meaning("colour", "red")] is None  # there are two
    assert numbers[Meaning("colour", "blue")] is None
    assert numbers[Meaning("place", place="left")] == 0
    assert numbers[Meaning("colour and place", "red", "right")] == 2
    assert not any(meaning.held_out for meaning in LOCATED)


def test_training_draws_other_wordings_of_the_same_meaning() -> None:
    texts = training_wordings(8)
    meanings = [meaning_of(text) for text in texts]
    assert set(meanings) == {meaning for meaning in MEANINGS if not meaning.held_out}
    assert max(meanings.count(meaning) for meaning in MEANINGS) == 8
    assert {str(meaning) for meaning in meanings} <= set(texts)
    assert training_wordings(8) == texts
    assert training_wordings(0) == []
    asker = Asker(texts)
    drawn = [asker.again("Lift the green cube", LAYOUT, 1) for _ in range(40)]
    assert {meaning_of(text) for text in drawn} == {Meaning("colour", "green"), Meaning("place", place="farthest")}
    assert len(set(drawn)) > 4
    idle = {meaning_of(asker.again("Do nothing", LAYOUT, None)) for _ in range(400)}
    assert Meaning("nothing") in idle
    assert Meaning("colour", "blue") in idle  # no cube is blue
    assert asker.again("Pick up the thing", LAYOUT, 1) == "Pick up the thing"
    asker.begin(7)
    first = [asker.ask(LAYOUT) for _ in range(20)]
    asker.begin(7)
    assert [asker.ask(LAYOUT) for _ in range(20)] == first
    assert len({meaning_of(one.instruction) for one in first}) > 5
    assert all(one.instruction in texts and target_of(one.instruction, LAYOUT) == one.target for one in first)


@pytest.mark.slow
def test_the_auxiliary_heads_learn_where_the_cubes_are(cubes_file: Path) -> None:
    every, target, named = _batch(cubes_file, "every"), _batch(cubes_file, "target"), _batch(cubes_file, "named")
    assert every.present is not None
    assert target.present is not None
    assert 0 < int(target.present.sum()) < len(target.present)  # some demonstrations are of doing nothing
    # In these scenes of two colours, the target is one of the located cubes, at the same place in both.
    assert torch.equal(target.present[:, 0], named.named[:, 3] > 0)
    for row in target.present[:, 0].nonzero().flatten().tolist():
        offset = target.positions[row, :3]
        assert torch.equal(offset, named.named[row, :3])
        located = every.positions[row, :-1].view(len(LOCATED), 3)[every.present[row]]
        assert bool((located == offset).all(dim=1).any())
    assert named.positions.shape[1] == 1


@pytest.mark.slow
def test_absent_cubes_and_idle_instructions_count_nowhere(cubes_file: Path) -> None:
    batch = _batch(cubes_file, "both")
    config = {"located_cubes": len(LOCATED), "locates_named": True, "language_in_vision": "film"}
    network, losses = _losses(batch, **config)
    assert batch.present is not None
    absent = ~batch.present.repeat_interleave(3, dim=1)
    garbled = batch.positions.clone()
    garbled[:, :-1][absent] = 7.0
    named = batch.named.clone()
    named[named[:, 3] == 0, :3] = 7.0
    _, other = _losses(batch._replace(positions=garbled, named=named), **config)
    assert float(losses.total.detach()) == float(other.total.detach())
    losses.total.backward()
    without = {name for name, value in network.named_parameters() if value.grad is None}
    assert not without
    _, before_only = _losses(batch, located_cubes=len(LOCATED), language_in_vision="film")
    assert float(losses.auxiliary.detach()) > float(before_only.auxiliary.detach())


@pytest.mark.slow
def test_lifts_demonstrations_have_no_other_cubes_to_locate(demo_file: Path, cubes_file: Path) -> None:
    with pytest.raises(UserError, match=r"holds the scene lift.*--scene cubes"):
        _batch(demo_file, "every")
    assert _batch(demo_file, "target").present is None
    chosen = Demonstrations.select(cubes_file, None, None)
    assert len(chosen.names["valid"]) == len(chosen.names["train"]) == 3  # one of the two scenes each
    assert "Pick up the cube" not in chosen.instructions
