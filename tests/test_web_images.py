"""The page's pictures: uploads, the answers to a single image, the table from above, the curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from vla.errors import UserError
from vla.judging.verdict import Judge
from vla.policies.actor import PolicyActor
from vla.policies.network import model_architecture
from vla.policies.preprocess import prepare
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import POSITION_SCALE_M, Placement
from vla.sim.env import Simulator
from vla.sim.rollout import Step
from vla.web import image_answers, live_view, table_view
from vla.web.curves import curves_figure, draw_curves
from vla.web.known_views import KnownViews, Viewpoint
from vla.web.loaded_policy import LoadedPolicy, TextEncoders
from vla.web.uploads import read_square

INSTRUCTION = "Pick up the cube"


def test_the_planned_path_is_as_long_as_the_arm_goes(expert_episode: tuple[list[Step], Judge]) -> None:
    steps, _ = expert_episode
    moved = np.concatenate(
        [step.outcome.evidence.gripper_pos - step.observation.evidence.gripper_pos for step in steps]
    )
    commanded = POSITION_SCALE_M * np.concatenate([np.clip(step.decision.action[:3], -1, 1) for step in steps])
    share = float(moved @ commanded / (commanded @ commanded))  # regression through the origin
    assert share == pytest.approx(live_view.REACHED_SHARE, abs=0.03)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_uploads_become_centred_squares(tmp_path: Path, mode: str) -> None:
    picture = np.zeros((100, 300, 3), dtype=np.uint8)
    picture[:, 100:200] = 255  # the central square
    Image.fromarray(picture).convert(mode).save(tmp_path / "wide.png")
    square = read_square(tmp_path / "wide.png")
    assert square.shape == (224, 224, 3)
    assert square.dtype == np.uint8
    assert square[:, 2:-2].min() == 255


def test_damaged_exif_data_do_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "exif.png", exif=b"Exif\0\0II*\0")
    assert read_square(tmp_path / "exif.png").shape == (224, 224, 3)


def test_unreadable_uploads_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    Image.new("RGB", (64, 64), "red").save(tmp_path / "other.tiff")
    Image.new("1", (8000, 8000)).save(tmp_path / "bomb.png")
    for name, found in (("cut.png", "not an image"), ("other.tiff", "not an image"), ("bomb.png", "8000 x 8000")):
        with pytest.raises(UserError, match=found):
            read_square(tmp_path / name)


def _untrained_policy(tmp_path: Path) -> LoadedPolicy:
    architecture = model_architecture()
    torch.manual_seed(0)
    config = architecture.ModelConfig.from_dict({"image": {"size_px": 64}})
    network = architecture.VLA(config)
    network.eval()
    identity = {"pretrained": False, "why": "test", "source": "untrained"}
    embeddings = InstructionEmbeddings({INSTRUCTION: torch.randn(512)}, identity, "none")
    return LoadedPolicy(tmp_path / "random.pth", network, embeddings, torch.device("cpu"), {})


def test_one_image_fills_the_whole_buffer(tmp_path: Path) -> None:
    policy = _untrained_policy(tmp_path)
    config, language = policy.network.config, policy.embeddings[INSTRUCTION]
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        feature = policy.network.encode(prepare(torch.from_numpy(image)[None], config.image))
        history = feature.expand(config.observation_horizon, -1)[None]
        expected = policy.network.decode(history, language[None]).actions()[0]
    chunk = policy.action_chunk(image, INSTRUCTION, np.zeros(3))
    assert chunk.shape == (config.chunk_size, 7)
    np.testing.assert_allclose(chunk, expected.numpy(), atol=1e-5)


def test_another_instruction_changes_the_action_chunk(tmp_path: Path) -> None:
    policy = _untrained_policy(tmp_path)
    actor = PolicyActor(policy.network, policy.embeddings, policy.device)
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    actor.reset(INSTRUCTION, seed=0)
    actor.select_action_from_image(image)
    before = actor.action_chunk
    actor.set_instruction(torch.randn(512))
    actor.select_action_from_image(image)
    assert np.abs(before - actor.action_chunk).max() > 1e-4


@pytest.mark.slow
def test_the_shipped_policy_looks_at_the_cube_and_notices_a_strange_image(sim: Simulator) -> None:
    """Hiding the cube changes its action more than hiding the empty table."""
    policy = LoadedPolicy.load(ROOT / "checkpoints/lift.pth", TextEncoders("none"))
    views = KnownViews(ROOT / "docs/examples")
    obs = sim.reset(2_999_000)
    (heat,) = policy.where_it_looks(obs.image, [INSTRUCTION], obs.eef_pos)
    cube = np.append(obs.evidence.cube_pos, 1.0) @ sim.camera_matrix().T
    column, row = (int(224 * value / cube[2]) for value in cube[:2])
    assert heat[row, column] > 4 * heat[140, 60]  # the empty table
    assert heat[200:, :].max() == 0  # the network does not see this part
    assert views.familiar_share(obs.image) > image_answers.FAMILIAR_SHARE
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert views.familiar_share(noise) < 0.1
    assert views.strangeness(policy, noise) > 1 > views.strangeness(policy, obs.image)
    assert "far from what the policy was trained on" in image_answers.note(0.01, 1.8, viewpoint_known=False)


def test_the_camera_matrix_finds_the_cube(sim: Simulator) -> None:
    sim.placement = Placement(0.1, -0.08, 20.0)
    obs = sim.reset(7)
    sim.placement = None
    np.testing.assert_allclose(obs.evidence.cube_pos[:2], [0.1, -0.08], atol=1e-3)
    path = live_view.planned_path(obs.evidence.cube_pos, np.zeros((10, 7)), sim.camera_matrix())
    column, row = (int(224 * value) for value in path[0])
    red = obs.image.astype(int)[..., 0] - obs.image[..., 1]
    assert red[row, column] > 50
    assert red[row, (column + 60) % 224] < 50


def test_the_plan_is_drawn_along_the_path(sim: Simulator) -> None:
    obs = sim.reset(7)
    viewpoint = Viewpoint(obs.eef_pos, sim.camera_matrix())
    chunk = np.zeros((10, 7), dtype=np.float32)
    chunk[:, 1], chunk[:, -1] = 1.0, [-1] * 5 + [1] * 5
    plain = np.asarray(image_answers.draw_plan(obs.image, 0 * chunk, viewpoint)).astype(int)
    drawn = np.asarray(image_answers.draw_plan(obs.image, chunk, viewpoint)).astype(int)
    for u, v in live_view.planned_path(viewpoint.eef_pos, chunk, viewpoint.camera_matrix)[2:]:
        column, row = int(448 * u), int(448 * v)
        assert np.abs(drawn[row, column] - (255, 214, 10)).max() < 12
    changed = np.abs(drawn - plain).max(axis=-1)[:448] > 8
    assert 0.001 < changed.mean() < 0.05
    opens, closes = drawn[448 + 30, 90], drawn[448 + 30, 430]
    assert opens[2] < closes[2]  # grey, then blue
    assert image_answers.action_rows(chunk)[9] == [10, 0, 1, 0, 0, 0, 0, 1]


def test_the_heat_map_is_bright_where_it_matters() -> None:
    image, heat = np.full((224, 224, 3), 90, np.uint8), np.zeros((224, 224))
    heat[50:70, 100:120] = 1
    drawn = np.asarray(image_answers.draw_heat(image, heat)).astype(int).sum(axis=-1)
    assert drawn[120, 220] > drawn[300, 50] + 150


def test_a_click_on_the_table_is_where_the_cube_is_drawn() -> None:
    x_m, y_m = table_view.position_of_click(250, 90)
    picture = np.asarray(table_view.draw_table(Placement(x_m, y_m))).astype(int)
    rows, columns = np.nonzero(picture[..., 0] - picture[..., 1] > 60)
    assert abs(columns.mean() - 250) < 2
    assert abs(rows.mean() - 90) < 2


def test_the_table_is_empty_if_the_cube_is_at_an_unknown_place() -> None:
    picture = np.asarray(table_view.draw_table(None)).astype(int)
    assert (picture[..., 0] - picture[..., 1]).max() < 60


def test_the_curves_show_what_the_verdict_asks_for(expert_episode: tuple[list[Step], Judge]) -> None:
    steps, judge = expert_episode
    limits, evidence = judge.limits, [step.outcome.evidence for step in steps]
    figure = curves_figure(evidence, [False] * (len(steps) - 5) + [True] * 5)
    height, opening, force, slip, spin = figure.axes
    for panel, threshold in (
        (height, 100 * limits.min_height_m),
        (force, limits.min_squeeze_n),
        (slip, 100 * limits.max_slip_speed_mps),
        (spin, limits.max_slip_spin_radps),
    ):
        assert any(np.allclose(line.get_ydata(), threshold) for line in panel.lines), panel.get_ylabel()
    np.testing.assert_allclose(height.lines[0].get_ydata(), [100 * each.height_m for each in evidence])
    assert height.lines[0].get_xdata()[-1] == pytest.approx(len(steps) / 20)
    labels = [text.get_text() for text in opening.get_legend().get_texts()]
    assert labels == ["finger opening (mm)", "fits the cube"]
    assert np.asarray(draw_curves(evidence, [False] * len(steps))).std() > 5
