"""The web page as a command, driven through its API without a checkpoint; its policy side in this process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from PIL import Image

from tests.conftest import ROOT, assert_user_error, run_script
from vla import stages
from vla.preprocess import ImageSpec, prepare
from vla.text import InstructionEmbeddings
from vla.web_worker import Policy, read_square

START_S = 60.0
EPISODE_S = 60.0
INSTRUCTION = "Pick up the cube"


@dataclass(frozen=True)
class Page:
    """The running page."""

    url: str
    missing: Path
    """The checkpoint that it was told of and did not find."""
    log: Path
    """What the command has printed."""

    def client(self) -> Client:
        """A new visitor."""
        return Client(self.url, verbose=False, analytics_enabled=False, download_files=str(self.log.parent))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page on a free port, without a checkpoint; interrupted at the end as a user would."""
    folder = tmp_path_factory.mktemp("web")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = Page(f"http://127.0.0.1:{port}", folder / "missing.pth", folder / "page.log")
    command = [sys.executable, str(ROOT / "web_interface.py"), "--checkpoint", str(served.missing), "--port", str(port)]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(folder / "gradio")}
    with served.log.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        _wait_until_ready(served, process)
        yield served
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in served.log.read_text()
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(served: Page, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(served.url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the page did not start: {served.log.read_text()}")


def test_page_says_what_is_missing_and_how_to_get_it(page: Page) -> None:
    log = page.log.read_text()
    assert "only the scripted expert can run" in log
    assert f"no checkpoint at {page.missing}; train one with: make train" in log


def test_episode_streams_and_ends_with_both_verdicts(page: Page) -> None:
    job = page.client().submit(INSTRUCTION, "expert", 2_000_000, 25, api_name="/simulate")
    frame, progress, verdict, video = job.result(timeout=EPISODE_S)
    assert re.search(r"Step \*\*24\*\*, phase \*\*(grasp|lift)\*\*", progress)
    assert "not yet: the cube's lowest point is more than 8 cm above the table" in progress
    assert verdict.startswith("### FAILURE: it was never true that the cube's lowest point is more than 8 cm above")
    assert "The episode took 25 steps" in verdict
    assert "The report would have claimed: **success**" in verdict
    assert Image.open(frame).size == (800, 448)
    assert len(imageio.mimread(video, memtest=False)) == 25
    streamed = [output[1] for output in job.outputs()]
    assert sum("Step **2**" in text for text in streamed) == 1
    assert len(streamed) >= 13


def test_stop_ends_the_episode(page: Page) -> None:
    visitor = page.client()
    job = visitor.submit(INSTRUCTION, "expert", 2_000_000, 200, api_name="/simulate")
    end = time.monotonic() + EPISODE_S
    while len(job.outputs()) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    visitor.predict(api_name="/stop")
    *_, verdict, video = job.result(timeout=EPISODE_S)
    assert "Stopped by hand after" in verdict
    assert len(imageio.mimread(video, memtest=False)) < 50


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
        page.client().predict(instruction, "expert", seed, 25, api_name="/simulate")


def test_single_image_needs_a_checkpoint(page: Page) -> None:
    visitor = page.client()
    first = visitor.predict(5, api_name="/first_image")
    assert Image.open(first).size == (224, 224)
    with pytest.raises(AppError, match=r"no checkpoint at .*missing\.pth; train one with: make train"):
        visitor.predict(handle_file(first), INSTRUCTION, api_name="/predict_actions")


def test_single_image_refuses_what_is_no_image(page: Page, tmp_path: Path) -> None:
    fake = tmp_path / "fake.png"
    fake.write_text("not a picture")
    with pytest.raises(AppError, match="not an image that can be read"):
        page.client().predict(handle_file(str(fake)), INSTRUCTION, api_name="/predict_actions")


def test_single_image_reads_uploads_only(page: Page, tmp_path: Path) -> None:
    """A hand-made request that names a file of the server."""
    private = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(private)
    body = json.dumps({"data": [{"path": str(private)}, INSTRUCTION]}).encode()
    url = f"{page.url}/gradio_api/call/predict_actions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=20))["event_id"]
    answer = urllib.request.urlopen(f"{url}/{event}", timeout=20).read().decode()
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


def test_unreadable_uploads_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(gr.Error, match="not an image that can be read"):
        read_square(tmp_path / "cut.png")


def test_one_picture_fills_the_whole_buffer() -> None:
    architecture = stages.model_architecture()
    config = architecture.ModelConfig(image=ImageSpec(size_px=64))
    torch.manual_seed(0)
    model, language = architecture.VLA(config).eval(), torch.randn(512)
    identity = {"pretrained": False, "why": "test", "source": "untrained"}
    policy = Policy(model, InstructionEmbeddings({INSTRUCTION: language}, identity, "none"), torch.device("cpu"))
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        feature = model.encode(prepare(torch.from_numpy(picture)[None], config.image))
        expected = model.decode(feature.expand(config.observation_horizon, -1)[None], language[None]).actions()[0]
    chunk = policy.chunk(picture, INSTRUCTION)
    assert chunk.shape == (config.chunk_size, 7)
    np.testing.assert_allclose(chunk, expected.numpy(), atol=1e-5)
