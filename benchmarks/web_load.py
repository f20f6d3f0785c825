"""The page under load: how soon it is there, how fluently it shows, and what many visitors at once do to it.

Reads the checkpoint. Writes the table into docs/results.

    python benchmarks/web_load.py --clients 20 --minutes 5
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from playwright.sync_api import sync_playwright
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.page import Page, asked, served  # noqa: E402 (the package stands beside this folder)
from vla.errors import UserError, run_script  # noqa: E402
from vla.files import default_checkpoint, write_text  # noqa: E402
from vla.markdown import markdown_table  # noqa: E402
from vla.sim.config import TEST_SEEDS  # noqa: E402

SAMPLE_S = 5.0
GREETING = "Pick up the cube"


@dataclass(frozen=True)
class LoadOptions:
    """Options of the benchmark."""

    episodes: int = 5
    """Episodes that one visitor runs alone, for the time to the first frame and the frame rate."""
    clients: int = 20
    """Visitors at once."""
    minutes: float = 5.0
    """How long they keep on asking."""
    max_mb_per_minute: float = 10.0
    """Growth of the memory in the second half of the time, beyond which the benchmark fails. In the first, caches fill
    (first pictures, sentences, the allocator's own for each thread)."""
    output: Path = Path("docs/results/web_load.json")
    """Result file; the table stands beside it, with the suffix .md."""


def main(options: LoadOptions) -> None:
    checkpoint = str(default_checkpoint().resolve())
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--checkpoint", checkpoint) as page:
        measured = {**_alone(page, options), **_click(page, options), **_crowd(page, options)}
        result = {"cores": os.cpu_count(), "ready_s": page.ready_s, **measured}
        write_text(options.output, json.dumps(result, indent=1))
        table = markdown_table(("of the page", "measured"), _rows(result))
        write_text(options.output.with_suffix(".md"), table + "\n")
        print(table)
    if result["memory_mb_per_minute"] > options.max_mb_per_minute:
        raise UserError(
            f"memory grew by {result['memory_mb_per_minute']:.1f} MB a minute, at most {options.max_mb_per_minute:g} "
            "are allowed; look at memory_mb in the result file"
        )


def _alone(page: Page, options: LoadOptions) -> dict[str, Any]:
    """One visitor, one episode after the other."""
    visitor = page.client()
    driver = _driver(visitor)
    first, rates = [], []
    for seed in tqdm(range(options.episodes), unit="episode", desc="alone"):
        begin = time.monotonic()
        job = visitor.submit(*asked(GREETING, driver, TEST_SEEDS.start + seed), api_name="/simulate")
        frames: list[float] = []
        for output in job:
            if "step" in output[4]:
                frames.append(time.monotonic())
        first.append(frames[0] - begin)
        rates.append((len(frames) - 1) / (frames[-1] - frames[0]))
    return {"first_frame_s": first, "frames_per_s": rates}


def _click(page: Page, options: LoadOptions) -> dict[str, Any]:
    """From the click on Run to the first frame, in a browser where there is one."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return {"click_s": []}
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(options.episodes):
            tab = browser.new_page()
            tab.goto(page.url)
            run = tab.get_by_role("button", name="Run", exact=True)
            run.wait_for()
            tab.wait_for_timeout(2000)
            begin = time.monotonic()
            run.click()
            tab.locator(".live-view img").wait_for()
            times.append(time.monotonic() - begin)
            tab.get_by_role("button", name="Stop", exact=True).click()
            tab.locator("#verdict .verdict").wait_for()
            tab.close()
    return {"click_s": times}


def _crowd(page: Page, options: LoadOptions) -> dict[str, Any]:
    """Many visitors at once, each of one habit, and asking again as soon as it is answered or refused."""
    end = time.monotonic() + 60 * options.minutes
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    driver = _driver(page.client())

    def visit(habit: Callable[[Client, Page, str], None]) -> None:
        visitor = page.client()
        while time.monotonic() < end:
            try:
                habit(visitor, page, driver)
                kind = "answered"
            except Exception as error:  # whatever a client may raise; it is counted and shown
                kind = f"{type(error).__name__}: {str(error)[:80]}"
                time.sleep(1)
            with lock:
                counts[f"{habit.__name__.strip('_')}: {kind}"] += 1

    habits = [HABITS[index % len(HABITS)] for index in range(options.clients)]
    threads = [threading.Thread(target=visit, args=(habit,), daemon=True) for habit in habits]
    for thread in threads:
        thread.start()
    memory: list[float] = []
    with tqdm(total=round(60 * options.minutes), unit="s", desc=f"{options.clients} at once") as bar:
        while time.monotonic() < end:
            memory.append(_memory_mb(page))
            time.sleep(SAMPLE_S)
            bar.update(round(SAMPLE_S))
    for thread in threads:
        thread.join(timeout=120)
    settled = memory[len(memory) // 2 :]
    minutes = np.arange(len(settled)) * SAMPLE_S / 60
    slope = float(np.polyfit(minutes, settled, 1)[0]) if len(settled) > 1 else 0.0
    facts = {"answers": dict(sorted(counts.items())), "memory_mb": memory, "memory_mb_per_minute": slope}
    return {"clients": options.clients, "minutes": options.minutes, **facts}


def _episode(visitor: Client, _page: Page, driver: str) -> None:
    visitor.predict(*asked(GREETING, driver, _seed(), 20), api_name="/simulate")


def _first_image(visitor: Client, _page: Page, _driver: str) -> None:
    visitor.predict(_seed(), api_name="/first_image")


def _prediction(visitor: Client, _page: Page, driver: str) -> None:
    picture = handle_file(str(ROOT / "docs/examples/above.png"))
    visitor.predict(picture, f"Raise the cube, {time.time():.0f}", driver, api_name="/predict_actions")


def _comparison(visitor: Client, _page: Page, driver: str) -> None:
    visitor.predict(GREETING, driver, GREETING, "expert", _seed(), 20, api_name="/compare")


def _talk(visitor: Client, _page: Page, driver: str) -> None:
    job = visitor.submit(*asked(GREETING, driver, 7, 400), api_name="/simulate")
    limit = time.monotonic() + 120
    while len(job.outputs()) < 3 and not job.done() and time.monotonic() < limit:
        time.sleep(0.1)
    if not job.done():
        visitor.predict("Grab it", api_name="/tell")
        visitor.predict(api_name="/push")
        visitor.predict(api_name="/stop")
    job.result(timeout=120)


def _page_load(visitor: Client, page: Page, _driver: str) -> None:
    for path in ("/", "/config", "/theme.css"):
        page.send(urllib.request.Request(page.url + path))


def _hostile(_visitor: Client, page: Page, _driver: str) -> None:
    answers = [
        page.post("/gradio_api/upload", b"x" * 12_000_000, "multipart/form-data; boundary=x"),
        page.post("/gradio_api/queue/join", b"[" * 5000),
        page.call("simulate", *asked("x" * 10_000, "nobody")),
    ]
    if not all(answer.startswith(("4", "closed")) for answer in answers):
        raise RuntimeError(f"not refused: {[answer[:60] for answer in answers]}")
    time.sleep(1)


def _leaver(_visitor: Client, page: Page, driver: str) -> None:
    """Asks for an episode, and never looks at it, or turns away after a moment."""
    body = json.dumps({"data": asked(GREETING, driver, 5, 400)}).encode()
    request = urllib.request.Request(f"{page.url}/gradio_api/call/simulate", body, {"Content-Type": "application/json"})
    answer = page.send(request)
    if not answer.startswith('{"event_id"'):
        raise RuntimeError(answer[:80])
    if time.time() % 2 < 1:
        stream = urllib.request.urlopen(f"{page.url}/gradio_api/call/simulate/{json.loads(answer)['event_id']}")
        stream.read(1000)
        stream.close()
    time.sleep(20)


def _seed() -> int:
    return int(time.monotonic() * 10) % TEST_SEEDS.stop


HABITS: tuple[Callable[[Client, Page, str], None], ...] = (
    _episode,
    _prediction,
    _talk,
    _page_load,
    _comparison,
    _hostile,
    _first_image,
    _leaver,
)


def _driver(visitor: Client) -> str:
    """The checkpoint that the page offers first."""
    inputs = visitor.view_api(return_format="dict", print_info=False)["named_endpoints"]["/simulate"]["parameters"]
    return next(str(each["parameter_default"]) for each in inputs if each["parameter_name"] == "driver")


def _memory_mb(page: Page) -> float:
    """Resident memory of the page's process and of its simulators."""
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (page.pid, *page.simulators())]
    return sum(pages) * 4096 / 1e6


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    memory, answers = result["memory_mb"], result["answers"]
    answered = sum(count for kind, count in answers.items() if kind.endswith(": answered"))
    others = [f"{kind} ({count})" for kind, count in answers.items() if not kind.endswith(": answered")]
    clicks = f"{np.median(result['click_s']):.2f} s" if result["click_s"] else "no browser here"
    return [
        ("CPU cores", str(result["cores"])),
        ("from the command to the first answer", f"{result['ready_s']:.1f} s"),
        ("from the click to the first frame in a browser, median", clicks),
        ("from the request to the first frame, median", f"{np.median(result['first_frame_s']):.2f} s"),
        ("frames per second while an episode streams, median", f"{np.median(result['frames_per_s']):.1f}"),
        (f"{result['clients']} visitors at once for {result['minutes']:g} minutes", f"{answered} answered"),
        ("not answered", ", ".join(others).replace("|", "/") or "none"),
        ("resident memory at the beginning (three processes, shared libraries thrice)", f"{memory[0]:.0f} MB"),
        ("after half of the time", f"{memory[len(memory) // 2]:.0f} MB"),
        ("at the end", f"{memory[-1]:.0f} MB"),
        ("at most", f"{max(memory):.0f} MB"),
        ("growth in the second half", f"{result['memory_mb_per_minute']:.1f} MB a minute"),
    ]


if __name__ == "__main__":
    run_script(main, LoadOptions, __doc__)
