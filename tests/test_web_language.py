"""The page where instructions decide: what they ask for, what was heard, the verdict on the latest, and both scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gradio_client import handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from torch import Tensor

from tests.conftest import ROOT
from tests.page import ANSWER_S, Page, episode_inputs, served
from vla.evaluation.task import EvalTask
from vla.judging.bystanders import WRONG_OBJECT, CubeStates
from vla.judging.verdict import Judge
from vla.policies.actor import ControlConfig
from vla.policies.asked import target_of
from vla.policies.checkpoint import save_checkpoint
from vla.policies.grammar import MEANINGS, wordings
from vla.policies.instructions import INSTRUCTIONS
from vla.policies.network import Prediction, model_architecture
from vla.policies.occlusion import occlusion_maps
from vla.policies.preprocess import ImageSpec
from vla.sim.config import EnvConfig, Scene, installed_versions
from vla.sim.env import Simulator
from vla.sim.table import TableCube, TableLayout, table_layout
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.checks import PageError
from vla.web.goals import Said, goal_of, lift_note
from vla.web.live_episode import LiveEpisode
from vla.web.loaded_policy import LoadedPolicy, TextEncoders
from vla.web.messages import EpisodeRequest, Intervention, Retarget, StepRequest
from vla.web.obedience import Obedience
from vla.web.scene_handlers import NO_CUBES, SceneHandlers
from vla.web.simulator_server import SimulatorServer
from vla.web.suggestions import first_instructions, named_cubes

ENV = EnvConfig(scene=Scene("cubes", counts=(2,)))
SEED = 2_000_003
SHIPPED = ROOT / "checkpoints/lift.pth"
FREE_TEXT = "Make the table tidy"
SHORT = 20
"""Control steps of an episode that need not succeed."""


def _table(*colours: str) -> TableLayout:
    """Cubes from left to right, each 5 cm farther from the robot than the one before."""
    return TableLayout(
        tuple(TableCube(f"cube{index}", colour, 0.05 * index, 0.1 * index, 0.0) for index, colour in enumerate(colours))
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two cubes with an untrained network; its embeddings are random, one for each meaning."""
    path = tmp_path_factory.mktemp("policy") / "language.pth"
    torch.manual_seed(0)
    architecture = model_architecture()
    config = architecture.ModelConfig.from_dict({"image": {"size_px": 64}})
    network = architecture.VLA(config)
    spoken = [text for meaning in MEANINGS for text in wordings(meaning, "training")[:2]]
    embeddings = torch.randn(len(MEANINGS), 512).repeat_interleave(2, dim=0) + 0.1 * torch.randn(len(spoken), 512)
    network.fit_language(embeddings)
    untrained = {"source": "untrained", "pretrained": False, "why": "test", "seed": 0}
    save_checkpoint(
        path,
        {
            "model_config": config.to_dict(),
            "model": network.state_dict(),
            "vision_identity": untrained,
            "text_identity": untrained,
            "language": {"texts": spoken, "embeddings": embeddings},
            "env_args": ENV.to_env_args(),
            "versions": installed_versions(),
            "training": {"identity": {"seed": 0, "data_sha256": "0" * 64}, "epoch": 0, "step": 0, "score_text": "none"},
        },
    )
    return path


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


def test_the_scene_of_several_cubes_needs_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "lift.pth").symlink_to(SHIPPED)
    choices = CheckpointChoices(tmp_path / "lift.pth", "none")
    scene = SceneHandlers(choices, "lift.pth")
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
    scene = SceneHandlers(CheckpointChoices(checkpoint, "none"), checkpoint.name)
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


# The verdict on the latest instruction


def _step(before: list[float], after: list[float]) -> Any:
    """A step that begins and ends with the cubes at these heights."""

    def cubes(heights: list[float]) -> CubeStates:
        pos = np.array([[0.0, 0.0, height] for height in heights])
        return CubeStates(pos, np.array(heights), np.zeros(len(heights), dtype=bool))

    return SimpleNamespace(
        observation=SimpleNamespace(cubes=cubes(before)), outcome=SimpleNamespace(cubes=cubes(after))
    )


def test_a_cube_in_the_air_when_another_is_named_is_no_wrong_object_until_it_is_lifted_again() -> None:
    layout = _table("red", "green")
    obedience = Obedience(begin=50)
    obedience.add(_step([0.1, 0.0], [0.09, 0.0]))
    obedience.add(_step([0.09, 0.0], [0.0, 0.0]))
    assert obedience.verdict(Judge(), 1, layout).failed == "lifted"  # never lifted, and nothing worse
    obedience.add(_step([0.0, 0.0], [0.1, 0.0]))
    verdict = obedience.verdict(Judge(), 1, layout)
    assert verdict.failed == WRONG_OBJECT
    assert verdict.words == "FAILURE: wrong object: the red cube was lifted at step 53 instead of the green cube"


class _Run(NamedTuple):
    """Runs episodes of the expert in a simulator of two cubes, as the page does."""

    server: SimulatorServer

    def __call__(
        self, instruction: str, steps: int = 200, told: dict[int, str] | None = None, target: int | None = -1
    ) -> LiveEpisode:
        """`told` has other instructions by step; `target` leads the expert to another cube than the named one."""
        layout = table_layout(ENV.scene, SEED)
        goal = goal_of(instruction, layout, follows=False)
        led = goal.target if target == -1 else target
        task = EvalTask("expert", Path(), np.zeros(0), SEED, instruction, steps, ControlConfig(), None, target=led)
        episode = LiveEpisode(Said(instruction, goal), "cubes:expert", ENV, task, None, layout=layout)
        self.server.answer(EpisodeRequest(task))
        while True:
            intervention = Intervention()
            if told and len(episode.steps) in told:
                text = told.pop(len(episode.steps))
                episode.tell(Said(text, goal_of(text, layout, follows=False)))
                intervention = Intervention(retarget=Retarget(episode.said.goal.target))
            answer: Any = self.server.answer(StepRequest(intervention))
            if isinstance(answer, Judge):
                episode.judge = answer
                return episode
            episode.add(answer)


@pytest.fixture(scope="module")
def run() -> _Run:
    return _Run(SimulatorServer(Simulator(ENV, render_images=False)))


def test_the_verdict_names_the_cube_that_was_asked_for(run: _Run) -> None:
    episode = run("Lift the green cube")
    assert "target: <b>the green cube</b>" in episode.html()
    assert "<h3>Truly lifted</h3>" in episode.verdict_html()
    assert "Asked for: <b>the green cube</b>" in episode.verdict_html()
    facts = episode.summary()
    assert (facts["success"], facts["asks_for"], facts["target"]) == (True, "the green cube", 1)


def test_lifting_another_cube_is_a_wrong_object(run: _Run) -> None:
    episode = run("Lift the green cube", target=0)
    words = "wrong object: the red cube was lifted at step"
    assert words in episode.html()
    assert "<h3>Wrong object <small>failed: wrong object</small></h3>" in episode.verdict_html()
    facts = episode.summary()
    assert (facts["success"], facts["failed"], facts["failure_kind"]) == (False, "wrong_object", "wrong_object")


def test_no_verdict_is_invented_for_an_instruction_that_nobody_understands(run: _Run) -> None:
    episode = run(FREE_TEXT, steps=5)
    assert "No verdict: " in episode.html()
    assert "<h3>No verdict</h3>" in episode.verdict_html()
    facts = episode.summary()
    assert facts["success"] is None
    assert facts["verdict"].startswith("NO VERDICT: ")
    assert episode.curves() is None


def test_an_instruction_to_do_nothing_is_obeyed_by_doing_nothing(run: _Run) -> None:
    still = run("Do nothing", steps=10)
    assert "<h3>Rightly left alone</h3>" in still.verdict_html()
    assert 'class="conditions"' not in still.html()
    moved = run("Lift the purple cube", steps=60, target=0)
    assert "<h3>Not left alone <small>failed: not still</small></h3>" in moved.verdict_html()
    assert "nothing was to be moved, but the red cube moved by" in moved.html()


def test_told_another_cube_on_the_way_the_verdict_is_about_that_one(run: _Run) -> None:
    episode = run("Lift the green cube", told={8: "Lift the red cube"})
    assert episode.summary()["success"], episode.summary()["verdict"]
    assert episode.summary()["target"] == 0
    assert episode.instruction_changes == [(8, "Lift the red cube")]
    assert episode.obedience.words(0, episode.layout).endswith("lifted: the red cube")
    assert [view.judge.steps for view in episode.steps] == list(range(1, len(episode.steps) + 1))


@pytest.mark.slow
def test_a_cube_that_was_lifted_before_another_was_named_does_not_spoil_the_verdict(run: _Run) -> None:
    heights_m = [view.step.outcome.cubes.height_m[1] for view in run("Lift the green cube").steps]
    up = next(index for index, height_m in enumerate(heights_m) if height_m > 0.09)
    episode = run("Lift the green cube", steps=300, told={up + 1: "Lift the red cube"})
    verdict = episode.verdict()
    assert verdict is not None
    assert verdict.success, verdict.words


def test_a_cube_that_is_named_in_the_air_must_first_lie_on_the_table(run: _Run) -> None:
    """Held up by the gripper when it is named, it is held for a second, and that is no lift."""
    held = [view for view in run("Lift the green cube").steps if all(view.judge.now.values())]
    judge = Judge()
    judge.start(held[0].step.outcome.evidence, on_the_way=True)
    for view in held[1:]:
        judge.update(view.step.outcome.evidence)
    assert len(held) > judge.limits.hold_steps
    assert judge.invalid_reason is None
    assert not judge.success
    assert not judge.ever["carried"]


# The page as a command


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Page]:
    """The page with a policy of each scene; that of one red cube comes first."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "lift.pth").symlink_to(SHIPPED)
    (folder / "language.pth").symlink_to(checkpoint)
    with served(folder, "--checkpoint", "lift.pth") as running:
        yield running


@pytest.mark.slow
def test_both_scenes_are_served_and_the_drivers_scene_is_shown(page: Page) -> None:
    *_, facts = page.client().predict(*episode_inputs("Lift the green cube", "expert", SEED), api_name="/simulate")
    assert (facts["success"], facts["cube_colours"]) == (True, ["red"])
    _, verdict, *_, facts = page.client().predict(
        *episode_inputs("Lift the red cube", "cubes:expert", SEED), api_name="/simulate"
    )
    assert (facts["success"], facts["cube_colours"]) == (True, ["red", "green"])
    assert "Asked for: <b>the red cube</b>" in verdict
    view, verdict, *_, facts = page.client().predict(
        *episode_inputs("Lift the green cube", "lift.pth", SEED, SHORT), api_name="/simulate"
    )
    for html in (view, verdict):
        assert "This policy knows one red cube and lifts it whatever is said" in html
    assert facts["note"].endswith("not about “the green cube”.")


@pytest.mark.slow
def test_two_instructions_from_the_same_seed_run_side_by_side(page: Page) -> None:
    inputs = ("Lift the red cube", "cubes:expert", "Lift the green cube", "cubes:expert", SEED, 200)
    *_, facts = page.client().predict(*inputs, api_name="/compare")
    assert [facts[side]["success"] for side in "ab"] == [True, True]
    assert [facts[side]["cubes_lifted"] for side in "ab"] == [[0], [1]]


@pytest.mark.slow
def test_a_running_episode_is_told_another_target(page: Page) -> None:
    visitor = page.client()
    inputs = episode_inputs("Lift the red cube", "cubes:expert", SEED, 300)
    job = visitor.submit(*inputs, api_name="/simulate")
    while not any("step" in output[4] for output in job.outputs()):
        assert not job.done()
    visitor.predict("Lift the green cube", api_name="/set_instruction")
    *_, facts = job.result(timeout=ANSWER_S)
    assert facts["success"], facts["verdict"]
    assert (facts["asks_for"], facts["instruction_changes"][0][1]) == ("the green cube", "Lift the green cube")


@pytest.mark.slow
def test_a_policy_of_several_cubes_is_heard_and_judged(page: Page) -> None:
    view, verdict, *_, facts = page.client().predict(
        *episode_inputs("Lift the green cube", "language.pth", SEED, SHORT), api_name="/simulate"
    )
    assert "heard: “Lift the green cube”, a wording of its training" in view
    assert re.search(r"<h3>(Not lifted|Wrong object)", verdict)
    assert (facts["heard"], facts["heard_similarity"]) == ("Lift the green cube", 1)
    by_hand = episode_inputs("Lift the green cube", "language.pth", SEED, SHORT, (True, 1, 1, 0))
    with pytest.raises(AppError, match="the seed places them all; give no place by hand"):
        page.client().predict(*by_hand, api_name="/simulate")


@pytest.mark.slow
def test_where_it_looks_is_compared_for_two_instructions(page: Page) -> None:
    visitor = page.client()
    image = handle_file(visitor.predict(SEED, "language.pth", api_name="/first_image_of"))
    said = ("Lift the green cube", "Lift the red cube", "language.pth")
    *maps, note = visitor.predict(image, *said, api_name="/compare_looks")
    assert len(maps) == 2
    assert "Between the two instructions, the commanded motion of the hand differs by" in note
    *_, note = visitor.predict(image, said[0], said[2], api_name="/predict_actions")
    assert "The policy heard: “Lift the green cube”, a wording of its training." in note
    with pytest.raises(AppError, match="the instruction is empty"):
        visitor.predict(image, said[0], " ", said[2], api_name="/compare_looks")
