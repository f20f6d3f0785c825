"""The parts behind the page, in this process: pictures, policies, the simulator's process, past results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from vla import stages
from vla.errors import UserError
from vla.evaluation.episode import EvalTask, episode_result
from vla.judging.verdict import Judge
from vla.policies.actor import ControlConfig, PolicyActor
from vla.policies.checkpoint import load_policy
from vla.policies.preprocess import ImageSpec, prepare
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import POSITION_SCALE_M, EnvConfig, Placement
from vla.sim.env import Simulator
from vla.sim.rollout import Step
from vla.web import browse, image, live_view, simulator_process, table
from vla.web.image import read_square
from vla.web.live_episode import Mailboxes, Message
from vla.web.policies import Policies, Policy, RecentEmbeddings
from vla.web.simulator_process import Interference, SimulatorProcess
from vla.web.simulator_server import _Stage
from vla.web.temporary_files import Sweeper

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


def _policy(tmp_path: Path) -> Policy:
    """An untrained network, as the page would have loaded it."""
    architecture = stages.model_architecture()
    torch.manual_seed(0)
    model, language = architecture.VLA(architecture.ModelConfig(image=ImageSpec(size_px=64))).eval(), torch.randn(512)
    identity = {"pretrained": False, "why": "test", "source": "untrained"}
    embeddings = InstructionEmbeddings({INSTRUCTION: language}, identity, "none")
    return Policy(tmp_path / "random.pth", model, embeddings, torch.device("cpu"), {})


def test_one_picture_fills_the_whole_buffer(tmp_path: Path) -> None:
    policy = _policy(tmp_path)
    config, language = policy.model.config, policy.embeddings[INSTRUCTION]
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        feature = policy.model.encode(prepare(torch.from_numpy(picture)[None], config.image))
        history = feature.expand(config.observation_horizon, -1)[None]
        expected = policy.model.decode(history, language[None]).actions()[0]
    chunk = policy.chunk(picture, INSTRUCTION)
    assert chunk.shape == (config.chunk_size, 7)
    np.testing.assert_allclose(chunk, expected.numpy(), atol=1e-5)


def test_a_policy_hears_another_instruction(tmp_path: Path) -> None:
    policy = _policy(tmp_path)
    actor = PolicyActor(policy.model, policy.embeddings, policy.device)
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    actor.reset(INSTRUCTION, seed=0)
    actor.select_action_from_image(picture)
    before = actor.action_chunk
    actor.set_instruction(torch.randn(512))
    actor.select_action_from_image(picture)
    assert np.abs(before - actor.action_chunk).max() > 1e-4


def test_a_policy_looks_at_the_cube_and_knows_a_strange_picture(sim: Simulator) -> None:
    """Of the shipped policy: hiding the cube changes its action more than hiding the empty table."""
    policy = Policy.load(ROOT / "checkpoints/lift.pth", "none")
    views = image.Views(ROOT / "docs/examples")
    observation = sim.reset(2_999_000)
    heat = image.where_it_looks(policy, observation.image, INSTRUCTION)
    cube = np.append(observation.evidence.cube_pos, 1.0) @ sim.camera_matrix().T
    column, row = (int(224 * value / cube[2]) for value in cube[:2])
    assert heat[row, column] > 4 * heat[140, 60]  # the empty table
    assert heat[200:, :].max() == 0  # not part of what it is shown
    assert views.familiar_share(observation.image) > image.FAMILIAR_SHARE
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert views.familiar_share(noise) < 0.1
    assert views.strangeness(policy, noise) > 1 > views.strangeness(policy, observation.image)
    assert "far from what the policy was trained on" in image.about(0.01, 1.8, known=False)


def test_the_camera_matrix_finds_the_cube(sim: Simulator) -> None:
    sim.placement = Placement(0.1, -0.08, 20.0)
    observation = sim.reset(7)
    sim.placement = None
    np.testing.assert_allclose(observation.evidence.cube_pos[:2], [0.1, -0.08], atol=1e-3)
    path = live_view.planned_path(observation.evidence.cube_pos, np.zeros((10, 7)), sim.camera_matrix())
    column, row = (int(224 * value) for value in path[0])
    red = observation.image.astype(int)[..., 0] - observation.image[..., 1]
    assert red[row, column] > 50
    assert red[row, (column + 60) % 224] < 50


def test_a_click_on_the_table_is_where_the_cube_is_drawn() -> None:
    x_m, y_m = table.clicked(250, 90)
    picture = np.asarray(table.draw_table(Placement(x_m, y_m))).astype(int)
    rows, columns = np.nonzero(picture[..., 0] - picture[..., 1] > 60)
    assert abs(columns.mean() - 250) < 2
    assert abs(rows.mean() - 90) < 2


def test_only_known_checkpoints_are_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_text("nothing")
    policies = Policies(tmp_path / "best_model.pth", "none")
    assert "broken.pth" in policies.names()
    for name, found in (("../broken.pth", "no checkpoint of that name"), ("broken.pth", "not a whole checkpoint")):
        with pytest.raises(UserError, match=found):
            policies[name]


def test_the_table_is_empty_where_nobody_knows_where_the_cube_lies() -> None:
    picture = np.asarray(table.draw_table(None)).astype(int)
    assert (picture[..., 0] - picture[..., 1]).max() < 60


def test_a_damaged_checkpoint_does_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "best_model.pth").write_text("nothing")
    shutil.copy(ROOT / "checkpoints/lift.pth", tmp_path / "other.pth")
    policies = Policies(tmp_path / "best_model.pth", "none")
    first = policies.first()
    assert first is not None
    assert first.path.name == "other.pth"
    assert "not a whole checkpoint" in policies.broken["best_model.pth"]


def test_a_checkpoint_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    shutil.copy(ROOT / "checkpoints/lift.pth", path)
    policies, device = Policies(path, "none"), torch.device("cpu")
    before, in_worker = policies["policy.pth"], load_policy(path, device)[0]
    assert policies["policy.pth"] is before
    assert load_policy(path, device)[0] is in_worker
    os.utime(path, ns=(1, 1))
    assert policies["policy.pth"] is not before
    assert load_policy(path, device)[0] is not in_worker


def test_wordings_are_not_kept_for_ever() -> None:
    known = {"language": {"texts": [INSTRUCTION], "embeddings": [torch.zeros(512)]}, "text_identity": {}}
    embeddings: Any = RecentEmbeddings(known, "none")
    embeddings._encoder = lambda texts: torch.ones(1, 512)
    for number in range(2 * RecentEmbeddings.KEPT):
        assert embeddings[f"wording {number}"].sum() == 512
    assert "wording 0" not in embeddings
    assert f"wording {2 * RecentEmbeddings.KEPT - 1}" in embeddings
    assert embeddings[INSTRUCTION].sum() == 0


def test_what_a_policy_is_told_in_mid_episode_reaches_its_network(sim: Simulator) -> None:
    """The simulator's side: the next decision is made from the new instruction's embedding."""
    checkpoint = ROOT / "checkpoints/lift.pth"
    language = load_policy(checkpoint, torch.device("cpu"))[1]["language"]["embeddings"]
    stage: Any = _Stage(sim)
    first, other = language[0].numpy(), np.ones(512, dtype=np.float32)
    stage.begin(EvalTask("checkpoint", checkpoint, first, 5, INSTRUCTION, 10, ControlConfig(), None), None)
    heard = []
    network, decode = stage._actor._model, stage._actor._model.decode

    def spied(features: Any, words: Any) -> Any:
        heard.append(words[0].numpy().copy())
        return decode(features, words)

    network.decode = spied
    try:
        for interference in (Interference(), Interference(embedding=other), Interference()):
            stage.step(interference)
    finally:
        del network.decode
    for got, expected in zip(heard, (first, other, other), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    running = SimulatorProcess(EnvConfig())
    yield running
    running.close()


def _task(seed: int = 1) -> EvalTask:
    return EvalTask("zero", Path(), np.zeros(0), seed, INSTRUCTION, 10, ControlConfig(), None)


def test_a_step_moves_its_own_episode_only(process: SimulatorProcess) -> None:
    first = process.begin(_task())
    process.step(first.number, Interference())
    second = process.begin(_task())
    with pytest.raises(UserError, match="another episode has begun"):
        process.step(first.number, Interference())
    process.step(second.number, Interference())
    process.view(3)
    with pytest.raises(UserError, match="another episode has begun"):
        process.step(second.number, Interference())


def test_a_simulator_that_died_while_nobody_asked_is_nobodys_concern(process: SimulatorProcess) -> None:
    process.view(1)
    assert process.ready
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process._process.join()
    assert not process.ready
    assert process.view(1).image.shape == (224, 224, 3)


def test_a_simulator_that_hangs_is_ended(process: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = process.begin(_task())
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(simulator_process, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match="did not answer; it is being started again"):
        process.step(begun.number, Interference())
    assert process.pid != pid


def test_messages_reach_their_own_episode_only() -> None:
    mail = Mailboxes()
    first = mail.open("visitor", "zero")
    second = mail.open("visitor", "zero")
    mail.close("visitor", first)  # the first one ends late
    assert mail.find("visitor") is second
    assert all(second.put(Message("push")) for _ in range(second.CAPACITY))
    assert not second.put(Message("push"))
    assert second.put(Message("stop"))
    assert len(second.take()) == second.CAPACITY + 1
    assert second.take() == []


def test_old_temporary_files_go_and_the_pages_own_stay(tmp_path: Path) -> None:
    def write(name: str, age_s: float) -> Path:
        path = tmp_path / name
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    own = write("example", 9000)
    sweeper = Sweeper(tmp_path)
    old, newer, newest = write("old", 5000), write("newer", 50), write("newest", 5)
    sweeper.sweep(max_age_s=3600)
    assert [path.exists() for path in (own, old, newer, newest)] == [True, False, True, True]
    sweeper.sweep(max_bytes=1500)
    assert [path.exists() for path in (own, newer, newest)] == [True, False, True]
    sweeper.close()


def test_the_curves_show_what_the_verdict_asks_for(expert_episode: tuple[list[Step], Judge]) -> None:
    steps, judge = expert_episode
    limits, evidence = judge.limits, [step.outcome.evidence for step in steps]
    figure = live_view.curves_figure(evidence, [False] * (len(steps) - 5) + [True] * 5)
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
    assert np.asarray(live_view.curves(evidence, [False] * len(steps))).std() > 5


def test_the_plan_is_drawn_along_the_path(sim: Simulator) -> None:
    observation, camera = sim.reset(7), sim.camera_matrix()
    gripper = observation.evidence.gripper_pos
    chunk = np.zeros((10, 7), dtype=np.float32)
    chunk[:, 1], chunk[:, -1] = 1.0, [-1] * 5 + [1] * 5
    plain = np.asarray(image.draw_plan(observation.image, 0 * chunk, gripper, camera)).astype(int)
    drawn = np.asarray(image.draw_plan(observation.image, chunk, gripper, camera)).astype(int)
    for u, v in live_view.planned_path(gripper, chunk, camera)[2:]:
        column, row = int(448 * u), int(448 * v)
        assert np.abs(drawn[row, column] - (255, 214, 10)).max() < 12
    changed = np.abs(drawn - plain).max(axis=-1)[:448] > 8
    assert 0.001 < changed.mean() < 0.05
    opens, closes = drawn[448 + 30, 90], drawn[448 + 30, 430]
    assert opens[2] < closes[2]  # grey, then blue
    assert image.table(chunk)[9] == [10, 0, 1, 0, 0, 0, 0, 1]


def test_the_heat_is_bright_where_it_matters() -> None:
    picture, heat = np.full((224, 224, 3), 90, np.uint8), np.zeros((224, 224))
    heat[50:70, 100:120] = 1
    drawn = np.asarray(image.draw_heat(picture, heat)).astype(int).sum(axis=-1)
    assert drawn[120, 220] > drawn[300, 50] + 150


def _evaluation(folder: Path, steps: list[Step], judge: Judge, version: int = 2, **more: Any) -> Path:
    first = steps[0].observation.evidence
    result = asdict(episode_result(steps, judge, INSTRUCTION, 3, 0.0, first, None))
    del result["inference_ms"]
    failed = {**result, "success": False, "seed": 4, "failed": "lifted", "verdict": "FAILURE: it fell"}
    options = {"every_instruction": False, "instruction": INSTRUCTION, "blind": False, "seed": 3, "num_episodes": 2}
    content = {
        "results_version": version,
        "policy": "checkpoints/mine.pth",
        "weights": "untrained",
        "options": options,
        "versions": {"mujoco": "3"},
        "episodes": [{**result, "video": None}, {**failed, "video": "elsewhere/episode_4.mp4"}],
        **more,
    }
    folder.mkdir()
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    (folder / "episode_4.mp4").write_bytes(b"video")
    return path


def test_past_evaluations_are_shown_or_it_is_said_why_not(
    tmp_path: Path, expert_episode: tuple[list[Step], Judge]
) -> None:
    good = _evaluation(tmp_path / "good", *expert_episode)
    os.utime(_evaluation(tmp_path / "older", *expert_episode, version=1, episodes=[{"seed": 1}]), (1, 1))
    os.utime(_evaluation(tmp_path / "bare", *expert_episode, options={}), (1, 1))
    shown = browse.find_evaluations(tmp_path)
    assert next(iter(shown)) == str(good)
    assert not any("older" in name or "bare" in name for name in shown)
    hidden = browse.hidden_evaluations(tmp_path)
    assert f"`{tmp_path / 'older/results.json'}`: damaged, or of another version" in hidden
    assert "bare/results.json" in hidden
    found = browse.latest_evaluation(tmp_path)
    assert found is not None
    assert found.path == good
    assert [episode.seed for episode in found.episodes] == [4, 3]  # failures first
    assert found.videos == [tmp_path / "good/episode_4.mp4", None]
    assert "checkpoints/mine.pth" in browse.about_evaluation(found)
