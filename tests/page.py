"""Runs the web page as a command, for the tests of its API, for those in a browser, and for the benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
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
from typing import Any

from gradio_client import Client  # type: ignore[import-untyped]

from tests.conftest import ROOT
from vla.web.episode_runner import NO_PERTURBATION

START_S = 90.0
"""Longest time that the page may take to start."""
ANSWER_S = 90.0
"""Longest time that an answer may take."""


@dataclass(frozen=True)
class Page:
    """The running page."""

    url: str
    log: Path
    """File with the command's output."""
    pid: int
    ready_s: float
    """Time from the command to the first answer."""

    def client(self) -> Client:
        """Return a new visitor."""
        return Client(self.url, verbose=False, analytics_enabled=False, download_files=str(self.log.parent))

    def call(self, endpoint: str, *data: Any) -> str:
        """Call an endpoint; returns the streamed answer as text, or status and text of an HTTP error."""
        return self.post(f"/gradio_api/call/{endpoint}", json.dumps({"data": data}).encode())

    def post(self, path: str, body: bytes, kind: str = "application/json") -> str:
        """Send any body; returns the answer or, if that names an event to wait for, what the event streams."""
        answer = self.send(urllib.request.Request(self.url + path, body, {"Content-Type": kind}))
        event = re.fullmatch(r'{"event_id":"(\w+)"}', answer)
        return self.send(urllib.request.Request(f"{self.url}{path}/{event[1]}")) if event else answer

    def send(self, request: urllib.request.Request) -> str:
        """Return the text of an answer, whatever its status."""
        try:
            return urllib.request.urlopen(request, timeout=ANSWER_S).read(5_000_000).decode(errors="replace")
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode(errors='replace')}"
        except (urllib.error.URLError, ConnectionError) as error:
            return f"closed {error}"

    def temporary_files(self) -> list[Path]:
        """Return the page's temporary files."""
        return [path for path in (self.log.parent / "tmp").rglob("*") if path.is_file()]

    def simulators(self) -> list[int]:
        """Return the PIDs of the page's simulators."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def episode_inputs(
    instruction: str,
    driver: Any,
    seed: float = 2_000_000,
    max_steps: int = 200,
    placement: tuple[bool, float, float, float] = (False, 0, 0, 0),
    perturbation: str = NO_PERTURBATION,
) -> list[Any]:
    """Return the inputs of the endpoint `/simulate`; `placement` is by_hand, x_cm, y_cm, yaw_deg."""
    return [instruction, driver, seed, max_steps, *placement, perturbation]


def find_chromium() -> str | None:
    """Return the path of an installed Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def show_tab(tab: Any, name: str) -> None:
    """Open one of the page's tabs in a browser's tab; on a phone, some are behind a menu."""
    button = tab.get_by_role("tab", name=name, exact=True)
    if not button.is_visible():
        tab.locator(".overflow-menu > button").click()
        button = tab.locator(".overflow-dropdown").get_by_text(name, exact=True)
    button.click()


@contextlib.contextmanager
def served(folder: Path, *arguments: str, end: signal.Signals = signal.SIGINT) -> Iterator[Page]:
    """Run the page in `folder` on a free port, and end it with the signal `end`.

    Checks that it ends without an error, leaves no temporary file, and printed no traceback of its own code. (Gradio
    prints tracebacks for inputs that its components refuse.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "page.log"
    command = [sys.executable, str(ROOT / "web_interface.py"), "--port", str(port), *arguments]
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # torch makes it wherever it is imported, and leaves it
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield Page(url, log, process.pid, time.monotonic() - start)
        process.send_signal(end)
        assert process.wait(timeout=60) == 0
        assert list(temporary.iterdir()) == []
        assert not re.search(r'File ".*/vla/', log.read_text()), log.read_text()
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"the page did not start: {log.read_text()}")
