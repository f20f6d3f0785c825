"""The web page as a command, driven through its API."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from gradio_client import handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from PIL import Image

from tests.conftest import ROOT, assert_user_error, run_script
from tests.page import ANSWER_S, Page, episode_inputs, served
from vla.files import SHIPPED
from vla.web.waiting_lines import EPISODES

pytestmark = pytest.mark.slow

INSTRUCTION = "Pick up the cube"
_JSON = {"Content-Type": "application/json"}
SHORT = 25
"""Control steps of an episode that need not succeed."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page in a folder without a checkpoint."""
    with served(tmp_path_factory.mktemp("web"), "--checkpoint", "missing.pth") as running:
        yield running


def test_page_says_what_is_missing_and_how_to_get_it(page: Page) -> None:
    log = page.log.read_text()
    assert "only the scripted expert can run" in log
    assert "no checkpoint at missing.pth; train one with: make train" in log


def test_episode_streams_and_ends_with_both_verdicts(page: Page) -> None:
    job = page.client().submit(*episode_inputs(INSTRUCTION, "expert", max_steps=SHORT), api_name="/simulate")
    view, verdict, curves, video, facts = job.result(timeout=ANSWER_S)
    assert re.search(
        r"step <b>25</b> of 25 .* phase <b>(grasp|lift)</b> · reached <b>(approached|touched|grasped)</b>", view
    )
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


def test_stop_ends_the_episode_and_a_push_reaches_it(page: Page) -> None:
    visitor = page.client()
    job = visitor.submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(job, 3)
    before = job.outputs()[-1][4]["cube_pos_m"]
    with pytest.raises(AppError, match="zero follows no instruction; run a checkpoint"):
        visitor.predict("Grab it", api_name="/set_instruction")
    visitor.predict(api_name="/push")
    _wait_for_steps(job, len(job.outputs()) + 15)
    after = job.outputs()[-1][4]["cube_pos_m"]
    visitor.predict(api_name="/stop")
    *_, video, facts = job.result(timeout=ANSWER_S)
    assert facts["stopped_by_hand"]
    assert facts["instruction"] == INSTRUCTION
    assert facts["instruction_changes"] == []
    assert np.linalg.norm(np.subtract(before, after)) > 0.01
    assert len(imageio.mimread(video, memtest=False)) == facts["steps"] < 400


def test_the_api_is_the_documented_one(page: Page) -> None:
    """Endpoints by name, and what they ask for."""
    documented = re.findall(r"^\| `/(\w+)` \|", (ROOT / "docs/page.md").read_text(), re.MULTILINE)
    offered = page.client().view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(offered) == sorted(f"/{name}" for name in documented)
    for endpoint in ("/simulate", "/compare"):
        assert all(each["parameter_has_default"] for each in offered[endpoint]["parameters"])


def test_messages_without_an_episode_are_refused(page: Page) -> None:
    visitor = page.client()
    for endpoint, data in (("/push", ()), ("/set_instruction", ("Grab it",)), ("/stop", ())):
        with pytest.raises(AppError, match="no episode of yours is running"):
            visitor.predict(*data, api_name=endpoint)


def test_stop_takes_a_waiting_episode_out_of_the_line(page: Page) -> None:
    first, second = page.client(), page.client()
    running = first.submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(running, 3)
    waiting = second.submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    time.sleep(1)
    second.predict(api_name="/stop")
    with pytest.raises(AppError, match="stopped while it waited"):
        waiting.result(timeout=10)
    assert not running.done()
    first.predict(api_name="/stop")
    running.result(timeout=ANSWER_S)


def test_a_first_image_waits_for_no_episode(page: Page) -> None:
    page.client().predict(4, api_name="/first_image")  # the second simulator may still be starting
    visitor = page.client()
    job = visitor.submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(job, 3)
    page.client().predict(6, api_name="/first_image")
    assert not job.done()
    visitor.predict(api_name="/stop")
    assert job.result(timeout=ANSWER_S)[4]["steps"] < 400


def test_an_episode_that_nobody_watches_ends(page: Page) -> None:
    """One client never fetches the answer, another one closes the connection after a moment."""
    begin = time.monotonic()
    page.client().predict(*episode_inputs(INSTRUCTION, "zero", max_steps=40), api_name="/simulate")
    a_step_s = (time.monotonic() - begin) / 40
    body = json.dumps({"data": episode_inputs(INSTRUCTION, "zero", max_steps=400)}).encode()
    request = urllib.request.Request(f"{page.url}/gradio_api/call/simulate", body, _JSON)
    begin = time.monotonic()
    _, second = page.send(request), page.send(request)
    event = json.loads(second)["event_id"]
    with urllib.request.urlopen(f"{request.full_url}/{event}", timeout=ANSWER_S) as stream:
        stream.read(1000)
    *_, facts = page.client().predict(*episode_inputs(INSTRUCTION, "zero", max_steps=20), api_name="/simulate")
    assert facts["steps"] == 20
    assert time.monotonic() - begin < 0.6 * 2 * 400 * a_step_s


def test_one_address_does_not_fill_the_line(page: Page) -> None:
    visitors = [page.client() for _ in range(2)]
    running = visitors[0].submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(running, 3)
    body = json.dumps({"data": episode_inputs(INSTRUCTION, "zero", max_steps=20), "session_hash": "many"}).encode()
    request = urllib.request.Request(f"{page.url}/gradio_api/call/simulate", body, _JSON)
    answers = [page.send(request) for _ in range(EPISODES.max_of_one_address + 1)]
    assert all(answer.startswith('{"event_id"') for answer in answers[:-1]), answers
    assert re.match("400 .*12 episodes from your network address are waiting", answers[-1]), answers[-1]
    stop = urllib.request.Request(
        f"{page.url}/gradio_api/call/stop", json.dumps({"data": [], "session_hash": "many"}).encode(), _JSON
    )
    page.send(stop)
    time.sleep(1)
    assert page.send(request).startswith('{"event_id"')
    visitors[0].predict(api_name="/stop")
    running.result(timeout=ANSWER_S)


def test_the_cube_lies_where_it_was_put(page: Page) -> None:
    inputs = episode_inputs(INSTRUCTION, "zero", max_steps=20, placement=(True, 8.0, -6.0, 30.0))
    *_, facts = page.client().predict(*inputs, api_name="/simulate")
    assert (facts["cube_x_m"], facts["cube_y_m"]) == pytest.approx((0.08, -0.06), abs=1e-3)
    assert facts["cube_yaw_deg"] == pytest.approx(30, abs=0.5)


def test_two_run_beside_each_other(page: Page) -> None:
    drivers = ("a", "expert", "b", "zero", 2_000_000, SHORT)
    *_, facts = page.client().predict(*drivers, api_name="/compare")
    assert [facts[side]["driver"] for side in "ab"] == ["expert", "zero"]
    assert facts["a"]["path_m"] > 0.1 > facts["b"]["path_m"]


def test_a_dead_simulator_is_reported_and_started_again(page: Page) -> None:
    visitor = page.client()
    job = visitor.submit(*episode_inputs(INSTRUCTION, "zero", max_steps=400), api_name="/simulate")
    _wait_for_steps(job, 3)
    for simulator in page.simulators():
        os.kill(simulator, signal.SIGKILL)
    with pytest.raises(AppError, match=r"simulator's process died; it is being started again"):
        job.result(timeout=ANSWER_S)
    *_, facts = visitor.predict(*episode_inputs(INSTRUCTION, "zero", max_steps=20), api_name="/simulate")
    assert facts["steps"] == 20


@pytest.mark.parametrize(
    ("instruction", "seed", "found"),
    [
        ("   ", 1, "the instruction is empty"),
        ("x" * 201, 1, "201 characters, at most 200"),
        (INSTRUCTION, 3_000_000, "from 0 to 2999999, got 3000000"),
    ],
)
def test_wrong_inputs_are_explained(page: Page, instruction: str, seed: int, found: str) -> None:
    with pytest.raises(AppError, match=found):
        page.client().predict(*episode_inputs(instruction, "expert", seed), api_name="/simulate")


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
    """A hand-made request names a file of the server."""
    private = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(private)
    answer = page.call("predict_actions", {"path": str(private)}, INSTRUCTION, "lift.pth")
    assert "only an uploaded image is read" in answer


def test_a_wrong_port_is_explained_in_one_line() -> None:
    result = run_script(ROOT / "web_interface.py", "--port", "70000")
    assert_user_error(result, "--port must be from 1 to 65535, got 70000")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_as_soon_as_it_is_shown(end: signal.Signals, tmp_path: Path) -> None:
    """While it loads the policy; `served` checks how it ends."""
    with served(tmp_path / "page", "--checkpoint", str(ROOT / SHIPPED), end=end):
        pass


def _wait_for_steps(job: object, count: int) -> None:
    end = time.monotonic() + ANSWER_S
    while len(job.outputs()) < count and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.02)
