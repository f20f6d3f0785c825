"""The web page as a command, driven through its API; its single-image side in this process."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gradio_client import handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from PIL import Image

from tests.conftest import ROOT, assert_user_error, run_script
from tests.page import ANSWER_S, Page, asked, served
from vla import stages
from vla.env import Placement, Simulator
from vla.errors import UserError
from vla.policy import PolicyActor
from vla.preprocess import ImageSpec, prepare
from vla.text import InstructionEmbeddings
from vla.web import image, live, table
from vla.web.image import read_square
from vla.web.policies import Policies, Policy

INSTRUCTION = "Pick up the cube"
SHORT = 25
"""Control steps of an episode that need not end well."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page without a checkpoint of its own, so far."""
    with served(tmp_path_factory.mktemp("web"), "--checkpoint", "missing.pth") as running:
        yield running


def test_page_says_what_is_missing_and_how_to_get_it(page: Page) -> None:
    log = page.log.read_text()
    assert "only the scripted expert can run" in log
    assert "no checkpoint at missing.pth; train one with: make train" in log


def test_episode_streams_and_ends_with_both_verdicts(page: Page) -> None:
    job = page.client().submit(*asked(INSTRUCTION, "expert", max_steps=SHORT), api_name="/simulate")
    view, verdict, curves, video, facts = job.result(timeout=ANSWER_S)
    assert re.search(r"step <b>25</b> of 25 .* phase <b>(grasp|lift)</b>", view)
    assert '<li class="never"' in view
    assert "FAILURE: it was never true that the cube&#39;s lowest point is more than 8 cm above" in verdict
    assert "The episode took 25 steps" in verdict
    assert "The report would have claimed: <b>success</b>" in verdict
    assert Image.open(curves).size[0] > 600
    assert len(imageio.mimread(video, memtest=False)) == SHORT
    assert facts["success"] is False
    assert facts["failed"] == "lifted"
    assert facts["reported_success"] is True
    streamed = [output[4] for output in job.outputs()]
    assert [facts["step"] for facts in streamed if "step" in facts] == list(range(1, SHORT + 1))


def test_stop_ends_the_episode_and_messages_reach_it(page: Page) -> None:
    visitor = page.client()
    job = visitor.submit(*asked(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(job, 3)
    before = job.outputs()[-1][4]["cube_pos_m"]
    visitor.predict("Grab it", api_name="/tell")
    visitor.predict(api_name="/push")
    _wait_for_steps(job, len(job.outputs()) + 15)
    after = job.outputs()[-1][4]["cube_pos_m"]
    visitor.predict(api_name="/stop")
    *_, video, facts = job.result(timeout=ANSWER_S)
    assert facts["stopped_by_hand"]
    assert facts["instruction"] == INSTRUCTION
    assert facts["told"][0][1] == "Grab it"
    assert np.linalg.norm(np.subtract(before, after)) > 0.01
    assert len(imageio.mimread(video, memtest=False)) == facts["steps"] < 400


def test_messages_to_nobody_are_refused(page: Page) -> None:
    visitor = page.client()
    for endpoint, data in (("/push", ()), ("/tell", ("Grab it",)), ("/stop", ())):
        with pytest.raises(AppError, match="no episode of yours is running"):
            visitor.predict(*data, api_name=endpoint)


def test_the_cube_lies_where_it_was_put(page: Page) -> None:
    inputs = asked(INSTRUCTION, "zero", max_steps=20, placement=(True, 8.0, -6.0, 30.0))
    *_, facts = page.client().predict(*inputs, api_name="/simulate")
    assert (facts["cube_x_m"], facts["cube_y_m"]) == pytest.approx((0.08, -0.06), abs=1e-3)
    assert facts["cube_yaw_deg"] == pytest.approx(30, abs=0.5)


def test_two_run_beside_each_other(page: Page) -> None:
    drivers = ("a", "expert", "b", "zero", 2_000_000, SHORT)
    *_, facts = page.client().predict(*drivers, api_name="/compare")
    assert [facts[side]["driver"] for side in "ab"] == ["expert", "zero"]
    assert facts["a"]["path_m"] > 0.1 > facts["b"]["path_m"]


def test_a_dead_simulator_is_told_and_started_again(page: Page) -> None:
    visitor = page.client()
    job = visitor.submit(*asked(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(job, 3)
    for simulator in page.simulators():
        os.kill(simulator, signal.SIGKILL)
    with pytest.raises(AppError, match=r"simulator's process died; it is being started again"):
        job.result(timeout=ANSWER_S)
    *_, facts = visitor.predict(*asked(INSTRUCTION, "zero", max_steps=20), api_name="/simulate")
    assert facts["steps"] == 20


@pytest.mark.parametrize(
    ("instruction", "seed", "found"),
    [
        ("   ", 1, "the instruction is empty"),
        ("x" * 201, 1, "201 characters, at most 200"),
        (INSTRUCTION, 3_000_000, "from 0 to 2999999, got 3000000"),
    ],
)
def test_wrong_inputs_are_told(page: Page, instruction: str, seed: int, found: str) -> None:
    with pytest.raises(AppError, match=found):
        page.client().predict(*asked(instruction, "expert", seed), api_name="/simulate")


def test_single_image_needs_a_checkpoint(page: Page) -> None:
    visitor = page.client()
    first = visitor.predict(5, api_name="/first_image")
    assert Image.open(first).size == (224, 224)
    with pytest.raises(AppError, match=r"no checkpoint at .*missing\.pth; train one with: make train"):
        visitor.predict(handle_file(first), INSTRUCTION, "lift.pth", api_name="/predict_actions")


def test_single_image_refuses_what_is_no_image(page: Page, tmp_path: Path) -> None:
    fake = tmp_path / "fake.png"
    fake.write_text("not a picture")
    with pytest.raises(AppError, match="not an image that can be read"):
        page.client().predict(handle_file(str(fake)), INSTRUCTION, "lift.pth", api_name="/predict_actions")


def test_single_image_reads_uploads_only(page: Page, tmp_path: Path) -> None:
    """A hand-made request that names a file of the server."""
    private = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(private)
    answer = page.call("predict_actions", {"path": str(private)}, INSTRUCTION, "lift.pth")
    assert "only an uploaded image is read" in answer


def test_wrong_port_is_told_in_one_line() -> None:
    result = run_script(ROOT / "web_interface.py", "--port", "70000")
    assert_user_error(result, "--port must be from 1 to 65535, got 70000")


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
    actor.act_on_image(picture)
    before = actor.chunk
    actor.hear(torch.randn(512))
    actor.act_on_image(picture)
    assert np.abs(before - actor.chunk).max() > 1e-4


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
    path = live.planned_path(observation.evidence.cube_pos, np.zeros((10, 7)), sim.camera_matrix())
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


def _wait_for_steps(job: object, count: int) -> None:
    end = time.monotonic() + ANSWER_S
    while len(job.outputs()) < count and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.02)
