"""What everything costs, in one run: each part beside the least that it can cost, and beside the way to begin with.

All is measured in one process and in turn, so that ratios hold on a machine that slows down on the way. *Limit* is what
cannot be avoided: bare `mj_step`, drawing a scene that is set up, a bare ResNet18, a copy in memory. *Naive* is how one
would begin: robosuite's own observation loop with hard resets, ten frames encoded for every decision, float32 in the
usual layout, frames decoded when they are needed. What needs no limit or has no such way has none.

The scripts' start, their peak memory and the page's start are measured in processes of their own. Writes the result
file and a picture beside it. Times mean something only on a machine that does nothing else.

    python benchmarks/bench.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_net
import scripts
import torch
from bench_clock import WAYS, spread, time_parts
from bench_sim import simulator_parts

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.files import atomic_path, write_text
from vla.markdown import markdown_table
from vla.policies.devices import uses_bfloat16

EPISODES = "an episode"
"""Begin of the names of the parts whose rate is shown, too."""
PAGE_PATIENCE_S = 120
TRAININGS = 3
"""Trainings whose steps are timed."""
LAUNCHER = """
import os, sys
silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and prints the peak memory of its largest process in kB. It is small itself: the kernel counts the
memory of whoever starts a process as that process's own, and this benchmark has torch loaded."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of the benchmark."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations, for the training."""
    repetitions: int = 7
    """Repetitions, of which the median and the quartiles are shown."""
    threads: int = 1
    """Threads of torch."""
    training_steps: int = 40
    """Steps of each training."""
    compiled: bool = True
    """Also compile a bare ResNet18 for training, which takes about a minute."""
    output: Path = Path("docs/results/bench.json")
    """Result file."""
    plot: Path = Path("docs/performance.png")
    """Picture of it."""

    def __post_init__(self) -> None:
        if min(self.repetitions, self.threads, self.training_steps) < 1:
            raise UserError("--repetitions, --threads and --training-steps must be at least 1")


def main(options: BenchOptions) -> None:
    starts, page_s = _script_starts(options.repetitions), _page_start_s()
    torch.set_num_threads(options.threads)
    policy = bench_net.shipped_actor()
    limit = bench_net.bare_decision(1, torch.channels_last)
    naive = bench_net.bare_decision(bench_net.HISTORY, torch.contiguous_format)
    with simulator_parts(policy, limit, naive) as parts:
        measured = time_parts([*parts, bench_net.decision_part(limit, naive)], options.repetitions)
    bfloat16 = uses_bfloat16("auto", torch.device("cpu"))
    with bench_net.training_parts(options.data, bfloat16, options.compiled) as parts:
        measured |= time_parts(parts, options.repetitions)
    steps_ms = [bench_net.train_steps(options.data, options.training_steps) for _ in range(TRAININGS)]
    measured[bench_net.TRAINING_STEP] |= {"ours": spread(steps_ms)}
    content = {
        "bench_version": 1,
        "parts": measured,
        "starts": starts,
        "page_s": page_s,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "machine": machine_facts(),
        "versions": run_versions(),
    }
    write_text(options.output, json.dumps(content, indent=1))
    draw(content, options.plot)
    print(f"{bench_table(content)}\n\n{starts_table(content)}")


def _script_starts(repetitions: int) -> dict[str, Any]:
    """Seconds and peak memory of the shortest command of each script, and of importing torch alone."""
    commands = {
        "import torch": ["-c", "import torch"],
        "1_collect_demos.py --help": ["1_collect_demos.py", "--help"],
        "5_evaluate.py --help": ["5_evaluate.py", "--help"],
        "5_evaluate.py, one episode": [
            *("5_evaluate.py", "--checkpoint", "checkpoints/lift.pth", "--num-episodes", "1", "--workers", "1"),
            *("--no-videos", "--output-dir", "OUTPUT"),
        ],
    }
    starts = {}
    for name, arguments in commands.items():
        times, peaks = [], []
        for _ in range(min(3, repetitions)):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, *(folder if word == "OUTPUT" else word for word in arguments)]
                begin = time.perf_counter()
                launched = subprocess.run(
                    [sys.executable, "-S", "-c", LAUNCHER, *command],
                    cwd=scripts.ROOT,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if launched.returncode:
                    raise UserError(f"{' '.join(command[1:])} failed; run it to see why")
            times.append(1e3 * (time.perf_counter() - begin))
            peaks.append(int(launched.stdout) / 1000)
        starts[name] = {**spread(times), "peak_mb": max(peaks)}
    return starts


def _page_start_s() -> float:
    """Seconds from the command to the page's first answer."""
    port = 7967
    command = [sys.executable, "web_interface.py", "--port", str(port)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() < begin + PAGE_PATIENCE_S:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5):
                    return time.perf_counter() - begin
            except OSError:
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    raise UserError(f"web_interface.py --port {port} did not answer within {PAGE_PATIENCE_S} s; run it to see why")


def bench_table(content: dict[str, Any]) -> str:
    """A row for each part: milliseconds of each way, and how they compare, as Markdown."""
    rows = []
    for name, ways in content["parts"].items():
        ours = ways["ours"]["median_ms"]
        rate = f" ({60_000 / ours:.0f}/min)" if name.startswith(EPISODES) else ""
        limit, naive = (ways[way]["median_ms"] if way in ways else None for way in WAYS[1:])
        rows.append(
            (
                name,
                _milliseconds(ways["ours"]) + rate,
                _milliseconds(ways.get("limit")),
                _milliseconds(ways.get("naive")),
                "" if limit is None else f"{ours / limit:.1f}",
                "" if naive is None else f"{naive / ours:.1f}",
            )
        )
    head = ("part", "ours, ms [quartiles]", "limit", "naive", "ours / limit", "naive / ours")
    return markdown_table(head, rows)


def starts_table(content: dict[str, Any]) -> str:
    """Time and peak memory of each command, as Markdown."""
    rows = [
        (f"`{name}`", f"{each['median_ms'] / 1000:.1f} s", f"{each['peak_mb']:,.0f} MB")
        for name, each in content["starts"].items()
    ]
    rows.append(("`web_interface.py`, until it answers", f"{content['page_s']:.1f} s", ""))
    return markdown_table(("command", "time", "peak memory of its largest process"), rows)


def _milliseconds(way: dict[str, float] | None) -> str:
    if way is None:
        return ""
    digits = 3 if way["median_ms"] < 1 else 1
    return f"{way['median_ms']:.{digits}f} [{way['low_ms']:.{digits}f}, {way['high_ms']:.{digits}f}]"


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw the ways of each part that has several, relative to ours."""
    from matplotlib.figure import Figure  # half a second that the other commands need not wait

    parts = {name: ways for name, ways in content["parts"].items() if len(ways) > 1}
    figure = Figure(figsize=(8, 0.6 * len(parts) + 1), layout="constrained")
    axes = figure.subplots()
    for offset, (way, colour) in enumerate(zip(WAYS, ("#3b82c4", "#2a9d5c", "#d97706"), strict=True)):
        rows = [(row, ways) for row, ways in enumerate(parts.values()) if way in ways]
        axes.barh(
            [row + 0.27 * (offset - 1) for row, _ in rows],
            [ways[way]["median_ms"] / ways["ours"]["median_ms"] for _, ways in rows],
            height=0.25,
            color=colour,
            label=way,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.axvline(1, color="#8a8f98", linewidth=0.8)
    axes.set_xlabel("time, relative to ours")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_script(main, BenchOptions, __doc__, "run the same command again")
