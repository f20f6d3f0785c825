"""The page where instructions decide: what they ask for, who can drive in which scene, what was heard and looked at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import ROOT
from tests.language_policy import ENV, SEED, write_language_policy
from vla.policies.asked import target_of
from vla.policies.instructions import INSTRUCTIONS
from vla.policies.network import Prediction
from vla.policies.occlusion import occlusion_maps
from vla.policies.preprocess import ImageSpec
from vla.sim.config import EnvConfig, Scene
from vla.sim.table import TableCube, TableLayout, table_layout
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.checks import PageError
from vla.web.goals import goal_of, lift_note
from vla.web.loaded_policy import LoadedPolicy, TextEncoders
from vla.web.scene_handlers import NO_CUBES, SceneHandlers
from vla.web.suggestions import first_instructions, named_cubes

SHIPPED = ROOT / "checkpoints/lift.pth"
FREE_TEXT = "Make the table tidy"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "language.pth"
    write_language_policy(path)
    return path


def _table(*colours: str) -> TableLayout:
    """Cubes from left to right, each 5 cm farther from the robot than the one before."""
    return TableLayout(
        tuple(TableCube(f"cube{index}", colour, 0.05 * index, 0.1 * index, 0.0) for index, colour in enumerate(colours))
    )


# What an instruction asks for


@pytest.mark.parametrize(
    ("instruction", "target", "asks_for"),
    [
        ("Lift the green cube", 1, "the green cube"),
        ("please HOIST the lime block.", 1, "the green cube"),
        ("Lift the cube on the left", 0, "the red cube"),
        ("Lift the cube that is not red", 1, "the green cube"),
        ("Do nothing", None, "nothing is to be moved"),
        ("Lift the purple cube", None, "nothing: no cube here is purple"),
        ("Lift the blue cube", None, "nothing: no cube here is blue"),
    ],
)
def test_an_instruction_asks_for_a_cube_or_for_none(instruction: str, target: int | None, asks_for: str) -> None:
    goal = goal_of(instruction, _table("red", "green"), follows=True)
    assert (goal.target, goal.asks_for, goal.no_verdict) == (target, asks_for, None)


@pytest.mark.parametrize(
    ("instruction", "why"),
    [(FREE_TEXT, "is no instruction of the scene cubes"), ("Lift the red cube", "is ambiguous: there are 2")],
)
def test_no_verdict_is_given_where_nobody_can_say_what_is_meant(instruction: str, why: str) -> None:
    goal = goal_of(instruction, _table("red", "green", "red"), follows=True)
    assert goal.target is None
    assert why in (goal.no_verdict or "")
    assert "\n" not in (goal.no_verdict or "")


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ("Lift the green cube", "the green cube"),
        ("hoist the crimson block!", None),
        ("Pick up the cube on the left", "the cube on the left"),
        ("Do nothing", "Do nothing"),
        ("Grab the lime thing over there", "lime"),
        ("Don’t touch it", "don't"),
        ("Shove the right one", "right"),
        ("Lift it right now", None),
        *((text, None) for text in INSTRUCTIONS),
    ],
)
def test_a_note_names_what_is_not_in_the_scene_lift(instruction: str, named: str | None) -> None:
    note = lift_note(instruction, follows=True)
    if named is None:
        assert note is None
    else:
        assert note is not None
        assert note.endswith(f"the verdict is about the red cube, not about “{named}”.")
    assert goal_of(instruction, TableLayout(()), follows=True).target == 0


@pytest.mark.parametrize("same_colour_share", [0.0, 1.0])
def test_each_button_names_its_own_cube(same_colour_share: float) -> None:
    scene = Scene("cubes", same_colour_share=same_colour_share)
    for seed in range(SEED, SEED + 200):
        layout = table_layout(scene, seed)
        named = named_cubes(layout)
        assert [target_of(cube.instruction, layout) for cube in named] == list(range(len(layout.cubes)))
        assert all(cube.colour in cube.label for cube in named)
        one, other = first_instructions(layout)
        assert target_of(one, layout) != target_of(other, layout)


# Who can drive in which scene


def test_the_scene_of_several_cubes_needs_a_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without the shipped policies
    (tmp_path / "lift.pth").symlink_to(SHIPPED)
    choices = CheckpointChoices(tmp_path / "lift.pth", "none")
    scene = SceneHandlers(choices)
    assert not any(driver.startswith("cubes:") for driver in choices.drivers())
    assert scene.hint() == NO_CUBES
    assert "make demo-language" in NO_CUBES
    (tmp_path / "language.pth").symlink_to(checkpoint)
    assert scene.hint() == ""
    assert [name for _, name in scene.scenes()] == ["lift", "cubes"]
    assert scene.policies("cubes") == ["language.pth"]
    assert scene.drivers("lift")[:2] == ["lift.pth", "expert"]
    assert scene.drivers("cubes")[:2] == ["language.pth", "cubes:expert"]
    assert choices.env("cubes:expert") == choices.env("language.pth") == ENV
    assert choices.env("expert") == choices.env("lift.pth") == EnvConfig()


def test_what_can_be_clicked_follows_driver_and_seed(checkpoint: Path) -> None:
    scene = SceneHandlers(CheckpointChoices(checkpoint, "none"))
    layout = table_layout(ENV.scene, SEED)
    buttons = scene.cube_buttons(checkpoint.name, SEED)
    assert [button.get("value") for button in buttons] == ["the red cube", "the green cube", None, None]
    assert [button["visible"] for button in buttons] == [True, True, False, False]
    assert target_of(scene.instruction_of_button(1, checkpoint.name, SEED), layout) == 1
    with pytest.raises(PageError, match="the table has just changed"):
        scene.instruction_of_button(2, checkpoint.name, SEED)
    assert "Do nothing" in scene.examples(checkpoint.name, SEED)
    assert scene.examples("expert", SEED) == list(INSTRUCTIONS)
    assert "asks for <b>the green cube</b>" in scene.asks("Lift the green cube", checkpoint.name, SEED)
    assert "No verdict can be given" in scene.asks("<b>hello</b>", checkpoint.name, SEED)
    assert "<b>hello" not in scene.asks("<b>hello</b>", checkpoint.name, SEED)
    assert scene.asks("Lift the red cube", "expert", SEED) == ""


def test_the_page_says_what_the_policy_heard(checkpoint: Path) -> None:
    policy = LoadedPolicy.load(checkpoint, TextEncoders("none"))
    heard = policy.heard("Lift the green cube")
    assert heard.wording == "Lift the green cube"
    assert heard.similarity == pytest.approx(1, abs=1e-5)


# Where it looks


class _Attentive:
    """Its first action is the brightness of the left half of the image, or of the right one, as it is told."""

    config: Any = SimpleNamespace(image=ImageSpec(size_px=48), observation_horizon=2, encodes_language=False)

    def encode(self, images: Tensor, proprioception: Tensor | None = None, language: Tensor | None = None) -> Tensor:
        half = images.shape[-1] // 2
        return torch.stack([images[..., :half].mean(dim=(1, 2, 3)), images[..., half:].mean(dim=(1, 2, 3))], dim=-1)

    def decode(self, features: Tensor, language: Tensor) -> Prediction:
        chosen = (features[:, -1] * language).sum(dim=-1)
        return Prediction((0.1 * chosen)[:, None, None].expand(-1, 3, 6), torch.zeros(len(features), 3))


class _AttentiveInVision(_Attentive):
    """The same, but the instruction decides what is encoded, as with FiLM."""

    config: Any = SimpleNamespace(image=ImageSpec(size_px=48), observation_horizon=2, encodes_language=True)

    def encode(self, images: Tensor, proprioception: Tensor | None = None, language: Tensor | None = None) -> Tensor:
        assert language is not None
        return super().encode(images) * language


@pytest.mark.parametrize("network", [_Attentive(), _AttentiveInVision()])
def test_the_map_of_each_instruction_shows_what_it_makes_the_policy_look_at(network: Any) -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[40:50, 10:20] = image[40:50, 70:80] = 255
    left, right = occlusion_maps(network, image, torch.eye(2))
    for told, column, other in ((left, 15, 75), (right, 75, 15)):
        assert told[45, column] > 0.7 * told.max() > 0
        assert told[45, other] < 0.2 * told.max()
    alone = occlusion_maps(network, image, torch.eye(2)[:1])
    np.testing.assert_array_equal(alone[0], left)
