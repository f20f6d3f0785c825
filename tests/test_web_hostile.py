"""Requests that no browser would send: nothing leaks from the server, nothing crashes, and the page still answers."""

from __future__ import annotations

import io
import json
import re
import signal
import struct
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.page import Page, episode_inputs, served
from vla.web.waiting_lines import PREDICTIONS

pytestmark = pytest.mark.slow

SECRET = "this line must never leave the server"
GOOD = "Pick up the cube"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of the shipped policy, in a folder with a secret."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.txt").write_text(SECRET)
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    with served(folder, "--checkpoint", str(ROOT / "checkpoints/lift.pth"), end=signal.SIGTERM) as running:
        yield running


def _upload(page: Page, name: str, content: bytes) -> str:
    lines = [
        b"--frontier",
        f'Content-Disposition: form-data; name="files"; filename="{name}"'.encode(),
        b"Content-Type: image/png",
        b"",
        content,
        b"--frontier--",
        b"",
    ]
    return page.post("/gradio_api/upload", b"\r\n".join(lines), "multipart/form-data; boundary=frontier")


def _form(parts: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Return the body of a form and its content type; each part is (header after `form-data; `, content)."""
    lines = [
        line
        for head, content in parts
        for line in (b"--f", f"Content-Disposition: form-data; {head}".encode(), b"", content)
    ]
    return b"\r\n".join([*lines, b"--f--", b""]), "multipart/form-data; boundary=f"


def _predict(page: Page, content: bytes, name: str = "picture.png") -> str:
    uploaded = _upload(page, name, content)
    try:
        path = json.loads(uploaded)[0]
    except ValueError:
        return uploaded
    return page.call("predict_actions", {"path": path, "meta": {"_type": "gradio.FileData"}}, GOOD, "lift.pth")


def _png(width: int, height: int) -> bytes:
    """Return a PNG whose header states this size, and whose body holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _picture(kind: str, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format=kind)
    return buffer.getvalue()


PATHS = [
    "/gradio_api/file=secret.txt",
    "/gradio_api/file=./secret.txt",
    "/gradio_api/file=../../../../../../../../etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=/proc/self/environ",
    "/gradio_api/file=%2e%2e%2fsecret.txt",
    "/gradio_api/file=gradio/../secret.txt",
    f"/gradio_api/file={ROOT / 'web_interface.py'}",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=http://127.0.0.1:1/",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/gradio_api/stream/../../secret.txt",
    "/static/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2fetc%2fpasswd",
    "/theme.css/../secret.txt",
    "/svelte/../../secret.txt",
    "/..%5c..%5csecret.txt",
    "/%00",
]

BODIES: list[tuple[str, bytes]] = [
    ("/gradio_api/call/simulate", b""),
    ("/gradio_api/call/simulate", b"{"),
    ("/gradio_api/call/simulate", b"\xff\xfe\x00"),
    ("/gradio_api/call/simulate", b"[]"),
    ("/gradio_api/call/simulate", b'{"data": {}}'),
    ("/gradio_api/call/simulate", b'{"data": []}'),
    ("/gradio_api/call/simulate", b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("/gradio_api/call/nothing", b'{"data": []}'),
    ("/gradio_api/queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "x"}'),
    ("/gradio_api/queue/join", b'{"data": [], "fn_index": -1, "session_hash": "../../x"}'),
    ("/gradio_api/run/predict", b'{"data": ["x"]}'),
    ("/gradio_api/run/first_image", b'{"data": [1]}'),
    ("/gradio_api/call/simulate", b" " * 300_000 + b'{"data": []}'),
    ("/gradio_api/component_server", b'{"data": "x", "component_id": 1, "fn_name": "__init__", "session_hash": "x"}'),
]

CALLS: list[tuple[str, list[Any], str]] = [
    ("simulate", episode_inputs("x" * 1_000_000, "expert"), "413"),
    ("simulate", episode_inputs("x" * 10_000, "expert"), "10000 characters"),
    ("simulate", episode_inputs("\0" * 10, "expert"), "not plain text"),
    ("simulate", episode_inputs(GOOD, "../../secret.txt"), "not in the list"),
    ("simulate", episode_inputs(GOOD, "../secret.pth"), "not in the list"),
    ("simulate", episode_inputs(GOOD, "expert", max_steps=10**9), "400"),
    ("simulate", episode_inputs(GOOD, "expert", max_steps=-1), "less than minimum value"),
    ("simulate", episode_inputs(GOOD, "expert", seed=-1), "from 0 to"),
    ("simulate", episode_inputs(GOOD, "expert", seed=1e300), "from 0 to"),
    ("simulate", episode_inputs(GOOD, "expert", placement=(True, 1e9, 0, 0)), "greater than maximum value"),
    ("simulate", episode_inputs(GOOD, "expert", perturbation="__class__"), "not in the list"),
    ("simulate", episode_inputs(GOOD, None), "drives"),
    ("simulate", episode_inputs(GOOD, ["expert"]), "drives"),
    ("simulate", [None, None, None, None, None, None, None, None, None], "Could not preprocess"),
    ("simulate", [{}, [], "x", "y", "z", {}, [], "", 7], "Could not preprocess"),
    ("compare", [GOOD, "expert", GOOD, "nobody", 1, 20], "not in the list"),
    ("first_image", ["x"], "Could not preprocess"),
    ("evaluation", ["../../secret.txt"], "not in the list"),
    ("evaluation", ["/etc/passwd"], "not in the list"),
    ("evaluated_episode", ["secret.txt", 1, "x"], "not in the list"),
    ("demonstration", ["../../secret"], "no demonstrations at"),
    ("predict_actions", [{"path": "/etc/passwd"}, GOOD, "lift.pth"], "only an uploaded image is read"),
    ("predict_actions", [{"path": "secret.png"}, GOOD, "lift.pth"], "only an uploaded image is read"),
    ("predict_actions", [{"url": "http://127.0.0.1:1/x.png"}, GOOD, "lift.pth"], "no image yet"),
    ("predict_actions", [{"path": ["a"]}, GOOD, "lift.pth"], "validation error"),
    ("predict_actions", ["data:image/png;base64,AAAA", GOOD, "lift.pth"], "validation error"),
    ("predict_actions", [{"path": "x"}, {"a": 1}, ["lift.pth"]], "only an uploaded image is read"),
    ("evaluation", [["a"]], "not in the list"),
    ("set_instruction", ["x" * 1_000_000], "413"),
    ("set_instruction", ["x" * 10_000], "characters"),
]

UPLOADS: list[tuple[str, bytes, str]] = [
    ("bomb.png", _png(60_000, 60_000), "pixels|DecompressionBomb"),
    ("wide.png", _png(2_000_000, 30), "pixels"),
    ("cut.png", _picture("PNG")[:40], "not an image"),
    ("text.png", b"<svg onload=alert(1)>", "not an image"),
    ("movie.gif", _picture("GIF", mode="P"), "not an image"),
    ("scan.tiff", _picture("TIFF"), "not an image"),
    ("large.png", b"\0" * 11_000_000, "413 "),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_a_file_of_the_server(page: Page, path: str) -> None:
    _leaks_nothing(page.send(urllib.request.Request(page.url + path)))


def _ids(cases: list[Any]) -> list[str]:
    """Return short names; a case itself can be very long."""
    return [f"{index}-{str(case[0])[:60]}" for index, case in enumerate(cases)]


@pytest.mark.parametrize(("path", "body"), BODIES, ids=_ids(BODIES))
def test_malformed_bodies_are_refused(page: Page, path: str, body: bytes) -> None:
    answer = page.post(path, body)
    _leaks_nothing(answer)
    assert "event: error" in answer or re.match(r"4\d\d |closed ", answer), answer[:300]


@pytest.mark.parametrize(("endpoint", "data", "words"), CALLS, ids=_ids(CALLS))
def test_hostile_inputs_are_refused(page: Page, endpoint: str, data: list[Any], words: str) -> None:
    answer = page.call(endpoint, *data)
    _leaks_nothing(answer)
    assert "event: error" in answer or re.match(r"4\d\d ", answer), answer[:300]
    assert words in answer


FORMS = {
    "one field without a file": [('name="files"', b"x" * 11_000_000)],
    "many files": [(f'name="files"; filename="{index}.png"', b"x" * 600_000) for index in range(20)],
    "files under another name": [('name="other"; filename="a.png"', b"x" * 6_000_000)] * 2,
}


@pytest.mark.parametrize("parts", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_is_limited_whatever_it_is_made_of(
    page: Page, parts: list[tuple[str, bytes]], announced: bool
) -> None:
    body, kind = _form(parts)
    request = urllib.request.Request(
        page.url + "/gradio_api/upload", body if announced else iter([body]), {"Content-Type": kind}
    )
    assert re.match("413 this request is too long|closed ", answer := page.send(request)), answer[:300]


@pytest.mark.parametrize("path", ["/gradio_api/call/upload", "/gradio_api/queue/join/upload", "/gradio_api/upload/"])
def test_no_other_request_may_be_as_long_as_an_upload(page: Page, path: str) -> None:
    assert re.match("413 |closed ", answer := page.post(path, b'{"data": ["' + b"x" * 1_000_000 + b'"]}')), answer[:300]


def test_forgotten_uploads_are_deleted_at_the_end(page: Page) -> None:
    """Gradio forgets files that come under another name; `served` checks that they are gone when the page has ended."""
    before = len(page.temporary_files())
    body, kind = _form([('name="other"; filename="a.png"', b"x" * 1000)])
    page.post("/gradio_api/upload", body, kind)
    assert len(page.temporary_files()) == before + 1


@pytest.mark.parametrize(("name", "content", "words"), UPLOADS, ids=_ids(UPLOADS))
def test_hostile_uploads_are_refused(page: Page, name: str, content: bytes, words: str) -> None:
    answer = _predict(page, content, name)
    _leaks_nothing(answer)
    assert any(word in answer for word in words.split("|")), answer[:300]


@pytest.mark.parametrize(
    "name", ["../../../secret.txt", "/etc/secret.txt", "x" * 5000 + ".png"], ids=["up", "root", "long"]
)
def test_an_upload_goes_where_the_page_puts_it(page: Page, name: str) -> None:
    answer = _upload(page, name, _picture("PNG"))
    if not answer.startswith("4"):
        assert Path(json.loads(answer)[0]).is_relative_to(page.log.parent / "tmp")
    assert (page.log.parent / "secret.txt").read_text() == SECRET
    assert not Path("/etc/secret.txt").exists()


def test_one_address_does_not_fill_the_line_of_predictions(page: Page) -> None:
    """Sixty requests at once, of which a few may wait; another request is answered meanwhile."""
    uploaded = json.loads(_upload(page, "picture.png", (ROOT / "docs/examples/above.png").read_bytes()))[0]
    data = [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}, GOOD, "lift.pth"]
    body = json.dumps({"data": data, "session_hash": "greedy"}).encode()
    request = urllib.request.Request(
        f"{page.url}/gradio_api/call/predict_actions", body, {"Content-Type": "application/json"}
    )
    with ThreadPoolExecutor(max_workers=30) as threads:
        answers = list(threads.map(page.send, [request] * 60))
    words = f"{PREDICTIONS.max_of_one_address} predictions from your network address are waiting"
    accepted = [json.loads(answer)["event_id"] for answer in answers if answer.startswith('{"event_id"')]
    refused = [answer for answer in answers if words in answer]
    assert len(accepted) + len(refused) == 60, answers
    assert PREDICTIONS.max_of_one_address <= len(accepted) <= 2 * PREDICTIONS.max_of_one_address  # some were answered
    assert "event: complete" in page.call("first_image", 2_000_000)
    for event in accepted:
        page.post(
            "/gradio_api/cancel", json.dumps({"session_hash": "greedy", "fn_index": 0, "event_id": event}).encode()
        )


def test_afterwards_it_still_works(page: Page) -> None:
    answer = page.call("simulate", *episode_inputs(GOOD, "expert", max_steps=20))
    assert "event: complete" in answer
    assert "event: complete" in _predict(page, (ROOT / "docs/examples/above.png").read_bytes())


def _leaks_nothing(answer: str) -> None:
    assert SECRET not in answer
    assert "root:" not in answer
    assert "PATH=" not in answer
    assert "def main(" not in answer
    assert "Traceback" not in answer
    assert "class WebOptions" not in answer
