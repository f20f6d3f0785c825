"""What the visitors of `web_load.py` do: each has one of these habits and keeps to it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from scripts import ROOT
from web_visitors import Visitor

from tests.page import episode_inputs
from vla.sim.config import TEST_SEEDS

INSTRUCTION = "Pick up the cube"
BURST = 15
"""Predictions that an impatient visitor asks for at once."""
HOSTILE = "hostile requests"
"""Kind of the requests that the page must refuse."""
EXAMPLE = ROOT / "docs/examples/above.png"


def load_page(visitor: Visitor) -> None:
    """Fetch what a browser fetches first."""
    for path in ("/", "/config", "/theme.css"):
        visitor.count("files of the page", lambda path=path: visitor.send("GET", path))  # type: ignore[misc]


def run_episode(visitor: Visitor) -> None:
    """Watch an episode to its end."""
    visitor.ask("episodes of 20 steps", "simulate", episode_inputs(INSTRUCTION, visitor.driver, visitor.seed(), 20))


def steer_episode(visitor: Visitor) -> None:
    """Change the instruction during an episode, push the cube, and stop."""

    def steer() -> None:
        session = uuid.uuid4().hex
        inputs = episode_inputs(INSTRUCTION, visitor.driver, visitor.seed(), 400)
        event = visitor.join("simulate", inputs, session)
        for number, _ in enumerate(visitor.outputs("simulate", event, answers=4)):
            if number == 3:
                visitor.join("set_instruction", [f"Grab it, {visitor.seed()}"], session)
                visitor.join("push", [], session)
                visitor.join("stop", [], session)

    visitor.count("episodes with another instruction, a push and a stop", steer)


def leave_episode(visitor: Visitor) -> None:
    """Ask for an episode and turn away, at once or after the first output."""

    def leave() -> None:
        event = visitor.join("simulate", episode_inputs(INSTRUCTION, visitor.driver, visitor.seed(), 400))
        if time.time() % 2 < 1:
            next(visitor.outputs("simulate", event))

    visitor.count("episodes left by their visitor", leave, ended="abandoned")
    time.sleep(20)


def compare(visitor: Visitor) -> None:
    """Compare the policy with the expert."""
    data = [INSTRUCTION, visitor.driver, INSTRUCTION, "expert", visitor.seed(), 20]
    visitor.ask("comparisons of 20 steps", "compare", data)


def predict(visitor: Visitor) -> None:
    """Upload an image and have its actions predicted, for an instruction that was never used."""
    instruction = f"Raise the cube, {visitor.seed()}"

    def upload_and_predict() -> None:
        image = visitor.upload(EXAMPLE.read_bytes())
        visitor.wait("predict_actions", visitor.join("predict_actions", [image, instruction, visitor.driver]))

    visitor.count("predictions", upload_and_predict)


def predict_in_bursts(visitor: Visitor) -> None:
    """Ask for many predictions at once, of which the page accepts some."""
    data = [visitor.upload(EXAMPLE.read_bytes()), INSTRUCTION, visitor.driver]
    kind = f"predictions, {BURST} asked for at once"
    threads = [
        threading.Thread(target=visitor.ask, args=(kind, "predict_actions", data), daemon=True) for _ in range(BURST)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def show_evaluation(visitor: Visitor) -> None:
    """Look at an evaluation, then at its first episode with its video."""
    visitor.ask("tables of an evaluation", "evaluation", ["videos/results.json"])
    data = ["videos/results.json", TEST_SEEDS.start, INSTRUCTION]
    visitor.ask("evaluated episodes with video", "evaluated_episode", data)


def show_demonstration(visitor: Visitor) -> None:
    """Look at a demonstration, for which the page draws curves and a video."""
    visitor.ask("demonstrations with video", "demonstration", ["demo_0"])


def show_first_image(visitor: Visitor) -> None:
    """Look at the first image of a seed."""
    visitor.ask("first images", "first_image", [visitor.seed()])


def attack(visitor: Visitor) -> None:
    """Send requests that the page must refuse."""
    requests: list[Callable[[], object]] = [
        lambda: visitor.send("POST", "/gradio_api/upload", b"x" * 12_000_000, "multipart/form-data; boundary=x"),
        lambda: visitor.send("POST", "/gradio_api/queue/join", b"[" * 5000),
        lambda: visitor.join("simulate", episode_inputs("x" * 10_000, "nobody")),
    ]
    for request in requests:
        visitor.count(HOSTILE, request)


HABITS: tuple[Callable[[Visitor], None], ...] = (
    run_episode,
    predict,
    steer_episode,
    compare,
    show_demonstration,
    show_evaluation,
    predict_in_bursts,
    leave_episode,
    show_first_image,
    load_page,
    attack,
)
"""All habits, in the order in which the visitors take them."""


def act(visitor: Visitor, habit: Callable[[Visitor], None], end: float) -> None:
    """Follow one habit until the time `end`, by the monotonic clock."""
    while time.monotonic() < end:
        habit(visitor)
