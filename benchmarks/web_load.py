"""The page under load: how soon it is there, how fluently it shows, and what many visitors at once do to it.

Reads the checkpoint. Writes the table into docs/results.

    python benchmarks/web_load.py --clients 20 --minutes 5
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client  # type: ignore[import-untyped]
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.page import Page, asked, served  # noqa: E402 (the package stands beside this folder)
from vla.env import TEST_SEEDS  # noqa: E402
from vla.errors import run_script  # noqa: E402
from vla.files import default_checkpoint, write_text  # noqa: E402
from vla.stats import markdown_table  # noqa: E402

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
    output: Path = Path("docs/results/web_load.json")
    """Result file; the table stands beside it, with the suffix .md."""


def main(options: LoadOptions) -> None:
    checkpoint = str(default_checkpoint().resolve())
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--checkpoint", checkpoint) as page:
        result = {"ready_s": page.ready_s, **_alone(page, options), **_crowd(page, options)}
        write_text(options.output, json.dumps(result, indent=1))
        table = markdown_table(("of the page", "measured"), _rows(result))
        write_text(options.output.with_suffix(".md"), table + "\n")
        print(table)


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


def _crowd(page: Page, options: LoadOptions) -> dict[str, Any]:
    """Many visitors at once, each asking again as soon as it is answered or refused."""
    end = time.monotonic() + 60 * options.minutes
    counts = Counter({"answered": 0})
    lock = threading.Lock()

    def visit(index: int) -> None:
        visitor = page.client()
        while time.monotonic() < end:
            try:
                if index % 2:
                    visitor.predict(*asked(GREETING, "expert", index, 20), api_name="/simulate")
                else:
                    visitor.predict(index, api_name="/first_image")
                kind = "answered"
            except Exception as error:  # whatever a client may raise; it is counted and shown
                kind = f"{type(error).__name__}: {str(error)[:80]}"
                time.sleep(1)
            with lock:
                counts[kind] += 1

    threads = [threading.Thread(target=visit, args=(index,)) for index in range(options.clients)]
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
    return {"clients": options.clients, "minutes": options.minutes, "answers": dict(counts), "memory_mb": memory}


def _driver(visitor: Client) -> str:
    """The checkpoint that the page offers first."""
    inputs = visitor.view_api(return_format="dict")["named_endpoints"]["/simulate"]["parameters"]
    return next(str(each["parameter_default"]) for each in inputs if each["parameter_name"] == "driver")


def _memory_mb(page: Page) -> float:
    """Resident memory of the page's process and of its simulators."""
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (page.pid, *page.simulators())]
    return sum(pages) * 4096 / 1e6


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    memory = result["memory_mb"]
    answers = dict(result["answers"])
    settled = memory[len(memory) // 5 :]
    return [
        ("from the command to the first answer", f"{result['ready_s']:.1f} s"),
        ("from the click to the first frame, median", f"{np.median(result['first_frame_s']):.2f} s"),
        ("frames per second while an episode streams, median", f"{np.median(result['frames_per_s']):.1f}"),
        (
            f"{result['clients']} visitors at once for {result['minutes']:g} minutes",
            f"{answers.pop('answered')} answered",
        ),
        ("not answered", ", ".join(f"{kind} ({count})" for kind, count in answers.items()) or "none"),
        ("resident memory after a fifth of the time", f"{settled[0]:.0f} MB"),
        ("at the end", f"{settled[-1]:.0f} MB"),
        ("at most", f"{max(memory):.0f} MB"),
    ]


if __name__ == "__main__":
    run_script(main, LoadOptions, __doc__)
