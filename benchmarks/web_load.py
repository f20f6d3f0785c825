"""The page under load: how soon it starts, how fluently it streams, and how it serves many visitors at once.

Reads the checkpoint. Collects three demonstrations and evaluates two episodes first, for the visitors to look at.
Writes a result file; `benchmarks/tables.py` writes the documents' table from it.

    python benchmarks/web_load.py --clients 22 --minutes 5
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client  # type: ignore[import-untyped]
from playwright.sync_api import sync_playwright
from scripts import ROOT
from tqdm import tqdm
from web_habits import HABITS, HOSTILE, INSTRUCTION, act
from web_visitors import ANSWER_S, OUTCOMES, Tally, Visitor

from tests.conftest import run_script as run_stage
from tests.page import Page, episode_inputs, find_chromium, served
from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.files import default_checkpoint, write_text
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS

SAMPLE_S = 5.0
"""Time between two measurements of the memory."""


@dataclass(frozen=True)
class LoadOptions:
    """Options of the benchmark."""

    episodes: int = 5
    """Episodes that one visitor runs alone, for the time to the first frame and the frame rate."""
    clients: int = 2 * len(HABITS)
    """Visitors at once; they share the habits in turn."""
    minutes: float = 5.0
    """How long they keep asking."""
    max_mb_per_minute: float = 10.0
    """Growth of the memory in the second half of the time above which the benchmark fails. In the first half, caches
    fill: first images, embeddings, and those of the allocator in each thread."""
    output: Path = Path("docs/results/web_load.json")
    """Result file."""


def main(options: LoadOptions) -> None:
    checkpoint = str(default_checkpoint().resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder)
        with served(folder, "--checkpoint", checkpoint) as page:
            result = {
                "machine": machine_facts(),
                "cores": os.cpu_count(),
                "ready_s": page.ready_s,
                "episode_s": _first_episode_s(page),
                **_one_visitor(page, options),
                "click_s": _clicks(page, options),
                **_many_visitors(page, options),
            }
    write_text(options.output, json.dumps(result, indent=1) + "\n")
    print(load_table(result))
    if result["memory_mb_per_minute"] > options.max_mb_per_minute:
        raise UserError(
            f"memory grew by {result['memory_mb_per_minute']:.1f} MB a minute, at most {options.max_mb_per_minute:g} "
            "are allowed; look at memory_mb in the result file"
        )


def _prepare(folder: Path) -> None:
    """Record demonstrations and an evaluation in the folder that the page is started in."""
    for arguments in (
        ("1_collect_demos.py", "--num-episodes", "3", "--video-episodes", "0"),
        ("5_evaluate.py", "--policy", "expert", "--num-episodes", "2"),
    ):
        print(f"preparing: {' '.join(arguments)}", flush=True)
        done = run_stage(ROOT / arguments[0], *arguments[1:], cwd=folder)
        if done.returncode:
            raise UserError(f"{arguments[0]} failed: {done.stderr.strip()}")


def _first_episode_s(page: Page) -> float:
    """Ask for an episode as soon as the page answers; returns the seconds from the command to its first frame."""
    begin = time.monotonic()
    visitor = page.client()
    job = visitor.submit(*episode_inputs(INSTRUCTION, _first_driver(visitor), max_steps=20), api_name="/simulate")
    frame_s = next(time.monotonic() for output in job if "step" in output[4])
    job.result()
    return page.ready_s + frame_s - begin


def _one_visitor(page: Page, options: LoadOptions) -> dict[str, Any]:
    """Run one episode after the other."""
    visitor = page.client()
    driver = _first_driver(visitor)
    first_frame_s, frames_per_s, decision_ms = [], [], []
    for seed in tqdm(range(options.episodes), unit="episode", desc="one visitor"):
        begin = time.monotonic()
        job = visitor.submit(*episode_inputs(INSTRUCTION, driver, TEST_SEEDS.start + seed), api_name="/simulate")
        frames: list[float] = []
        for output in job:
            if "step" in output[4]:
                frames.append(time.monotonic())
        first_frame_s.append(frames[0] - begin)
        frames_per_s.append((len(frames) - 1) / (frames[-1] - frames[0]))
        decision_ms += output[4]["inference_ms"]
    return {"first_frame_s": first_frame_s, "frames_per_s": frames_per_s, "decision_ms": decision_ms}


def _clicks(page: Page, options: LoadOptions) -> list[float]:
    """Measure the seconds from the click on Run to the first frame in a browser; empty if there is no browser."""
    chromium = find_chromium()
    if chromium is None:
        return []
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
    return times


def _many_visitors(page: Page, options: LoadOptions) -> dict[str, Any]:
    """Let all visitors ask at once, again as soon as they are answered."""
    end = time.monotonic() + 60 * options.minutes
    tally = Tally()
    driver = _first_driver(page.client())
    threads = []
    for number in range(options.clients):
        visitor, habit = Visitor(page, number, driver, tally), HABITS[number % len(HABITS)]
        threads.append(threading.Thread(target=act, args=(visitor, habit, end), daemon=True))
    for thread in threads:
        thread.start()
    memory: list[float] = []
    with tqdm(total=round(60 * options.minutes), unit="s", desc=f"{options.clients} visitors") as bar:
        while time.monotonic() < end:
            memory.append(_memory_mb(page))
            time.sleep(SAMPLE_S)
            bar.update(round(SAMPLE_S))
    for thread in threads:
        thread.join(timeout=ANSWER_S)
    second_half = memory[len(memory) // 2 :]
    minutes = np.arange(len(second_half)) * SAMPLE_S / 60
    growth = float(np.polyfit(minutes, second_half, 1)[0]) if len(second_half) > 1 else 0.0
    return {
        "clients": options.clients,
        "minutes": options.minutes,
        **tally.content(),
        "memory_mb": memory,
        "memory_mb_per_minute": growth,
    }


def _first_driver(visitor: Client) -> str:
    """Return the checkpoint that the page offers first."""
    inputs = visitor.view_api(return_format="dict", print_info=False)["named_endpoints"]["/simulate"]["parameters"]
    return next(str(each["parameter_default"]) for each in inputs if each["parameter_name"] == "driver")


def _memory_mb(page: Page) -> float:
    """Return the resident memory of the page's process and of its simulators."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (page.pid, *page.simulators())]
    return sum(pages) * 4096 / 1e6


def load_table(result: dict[str, Any]) -> str:
    """Return the tables of a result file: the page's speed and memory, and the visitors' requests by kind."""
    memory = result["memory_mb"]
    clicks = f"{np.median(result['click_s']):.2f} s" if result["click_s"] else "no browser here"
    measured = [
        ("CPU", f"{result['machine']['cpu']}, {result['cores']} cores"),
        ("from the command to the first answer", f"{result['ready_s']:.1f} s"),
        ("from the command to the first frame of an episode that is asked for at once", f"{result['episode_s']:.1f} s"),
        ("from the click to the first frame in a browser, median", clicks),
        ("from the request to the first frame, median", f"{np.median(result['first_frame_s']):.2f} s"),
        ("frames per second while an episode streams, median", f"{np.median(result['frames_per_s']):.1f}"),
        (
            "a decision while an episode streams, median and 95%",
            " and ".join(f"{ms:.1f} ms" for ms in np.percentile(result["decision_ms"], (50, 95))),
        ),
        ("resident memory when the visitors come (three processes, shared libraries thrice)", f"{memory[0]:.0f} MB"),
        ("after half of the time", f"{memory[len(memory) // 2]:.0f} MB"),
        ("at the end", f"{memory[-1]:.0f} MB"),
        ("at most", f"{max(memory):.0f} MB"),
        ("growth in the second half", f"{result['memory_mb_per_minute']:.1f} MB a minute"),
    ]
    title = f"requests of {result['clients']} visitors at once in {result['minutes']:g} minutes"
    head = (title, *OUTCOMES, "answer, median", "answer, longest")
    tables = [markdown_table(("of the page", "measured"), measured), markdown_table(head, _request_rows(result))]
    words = [
        f"- {each['kind']}, {each['outcome']} {each['requests']} times: {each['words']}"
        for each in result["words"]
        if each["kind"] != HOSTILE
    ]
    return "\n\n".join([*tables, "\n".join(words)]).strip()


def _request_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for kind, counts in result["requests"].items():
        times = [counts["answer_s_median"], counts["answer_s_most"]]
        rows.append(
            (
                kind,
                *(str(counts[outcome]) for outcome in OUTCOMES),
                *("-" if seconds is None else f"{seconds:.1f} s" for seconds in times),
            )
        )
    return rows


if __name__ == "__main__":
    run_script(main, LoadOptions, __doc__)
