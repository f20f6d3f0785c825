"""The visitors of `web_load.py`: how they send requests, and how each request ended.

Every visitor has a network address of its own (127.0.0.2 and following), because the page bounds what may wait from
one address.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from tests.page import Page
from vla.sim.config import TEST_SEEDS

ANSWER_S = 180.0
"""Longest time that a visitor waits for an answer."""
PATIENCE_S = 1.0
"""Time after which a refused visitor asks again."""

Outcome = Literal["answered", "refused", "abandoned", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "refused", "abandoned", "failed")


class RefusedError(Exception):
    """The page did not accept a request; the message is the page's."""


class Tally:
    """How the requests of all visitors ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Counter[Outcome]] = defaultdict(Counter)
        self._answer_s: dict[str, list[float]] = defaultdict(list)
        self._words: Counter[tuple[Outcome, str, str]] = Counter()

    def add(self, kind: str, outcome: Outcome, seconds: float, words: str = "") -> None:
        """Count one request; `words` are the page's answer to one that was refused, or the error of one that failed."""
        with self._lock:
            self._outcomes[kind][outcome] += 1
            if outcome == "answered":
                self._answer_s[kind].append(seconds)
            if words:
                self._words[outcome, kind, words] += 1

    def content(self) -> dict[str, Any]:
        """Return the counts by kind and outcome, and by words, for the result file."""
        requests: dict[str, dict[str, float | None]] = {}
        for kind, outcomes in sorted(self._outcomes.items()):
            times = self._answer_s[kind]
            requests[kind] = {
                **{str(outcome): outcomes[outcome] for outcome in OUTCOMES},
                "answer_s_median": float(np.median(times)) if times else None,
                "answer_s_most": max(times, default=None),
            }
        words = [
            {"outcome": outcome, "kind": kind, "words": words, "requests": count}
            for (outcome, kind, words), count in sorted(self._words.items())
        ]
        return {"requests": requests, "words": words}


class Visitor:
    """One visitor, who asks for one thing after the other."""

    def __init__(self, page: Page, number: int, driver: str, tally: Tally) -> None:
        self.driver = driver
        """The checkpoint that the page offers first."""
        self._page = page
        self._address = f"127.0.0.{number + 2}"
        self._tally = tally
        self._asked = 0

    def seed(self) -> int:
        """Return a test seed that this visitor has not used yet."""
        self._asked += 1
        return TEST_SEEDS.start + 1000 * int(self._address.rpartition(".")[2]) + self._asked

    def ask(self, kind: str, endpoint: str, data: list[Any]) -> None:
        """Call an endpoint, wait for its answer, and count how it ended."""
        self.count(kind, lambda: self.wait(endpoint, self.join(endpoint, data)))

    def count(self, kind: str, request: Callable[[], object], ended: Outcome = "answered") -> None:
        """Make a request and count how it ended: as `ended`, unless it is refused or fails."""
        begin = time.monotonic()
        try:
            request()
        except RefusedError as refusal:
            self._tally.add(kind, "refused", time.monotonic() - begin, str(refusal))
            time.sleep(PATIENCE_S)
        except Exception as error:  # counted and shown, whatever it is
            self._tally.add(kind, "failed", time.monotonic() - begin, f"{type(error).__name__}: {str(error)[:100]}")
            time.sleep(PATIENCE_S)
        else:
            self._tally.add(kind, ended, time.monotonic() - begin)

    def join(self, endpoint: str, data: list[Any], session: str | None = None) -> str:
        """Send a request; returns the event to wait for.

        Gradio streams the answers to all requests of one session together, so each has a session of its own unless
        one is given.

        Raises:
            RefusedError: the page did not accept it.
        """
        body = json.dumps({"data": data, "session_hash": session or uuid.uuid4().hex}).encode()
        answer = self.send("POST", f"/gradio_api/call/{endpoint}", body)
        return str(json.loads(answer)["event_id"])

    def wait(self, endpoint: str, event: str) -> None:
        """Read the whole answer.

        Raises:
            RuntimeError: it ended with an error.
        """
        for _ in self.outputs(endpoint, event):
            pass

    def outputs(self, endpoint: str, event: str, answers: int = 1) -> Iterator[str]:
        """Yield every output of a stream, as JSON text, until that many answers in it are complete.

        Raises:
            RuntimeError: the answer ended with an error, or did not end.
        """
        connection = self._connect()
        try:
            connection.request("GET", f"/gradio_api/call/{endpoint}/{event}")
            response = connection.getresponse()
            name, complete = "", 0
            for line in map(bytes.decode, response):
                if line.startswith("event: "):
                    name = line.removeprefix("event: ").strip()
                elif line.startswith("data: ") and name == "error":
                    raise RuntimeError(line.removeprefix("data: ").strip())
                elif line.startswith("data: ") and name in ("generating", "complete"):
                    yield line.removeprefix("data: ")
                    complete += name == "complete"
                    if complete == answers:
                        return
            raise RuntimeError("the answer broke off")
        finally:
            connection.close()

    def send(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """Send any request and return the answer's body.

        Raises:
            RefusedError: the status is not 200.
        """
        connection = self._connect()
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RefusedError(f"{response.status} {_detail(answer)}")
        return answer

    def upload(self, content: bytes) -> dict[str, Any]:
        """Upload an image; returns it as the input of an endpoint."""
        head = b'--limit\r\nContent-Disposition: form-data; name="files"; filename="image.png"\r\n\r\n'
        body = head + content + b"\r\n--limit--\r\n"
        answer = self.send("POST", "/gradio_api/upload", body, "multipart/form-data; boundary=limit")
        return {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}

    def _connect(self) -> http.client.HTTPConnection:
        host = self._page.url.removeprefix("http://")
        return http.client.HTTPConnection(host, timeout=ANSWER_S, source_address=(self._address, 0))


def _detail(answer: bytes) -> str:
    """Return the words of a refusal."""
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:100]
