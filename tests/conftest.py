"""Fixtures of all tests: a real simulator, an expert episode, demonstrations; and how the tests run the scripts."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vla.demos.merging import merge
from vla.demos.recorder import RecordTask, record
from vla.errors import UserError
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.judging.verdict import Judge
from vla.policies.instructions import instruction_for
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.sim.rollout import Step, rollout

ROOT = Path(__file__).parent.parent
SPARE_BYTES = 1024**3
"""Address space that a test of files from anybody may take beyond what the process has."""


@pytest.fixture(scope="session", autouse=True)
def _restore_ctrl_c() -> None:
    """Let the scripts under test receive SIGINT: they would inherit that it is ignored, as a shell without job control
    sets it for its background processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """Imports a module of benchmarks/, whose modules find each other as scripts do."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def sim() -> Iterator[Simulator]:
    simulator = Simulator()
    yield simulator
    simulator.close()


@pytest.fixture(scope="session")
def expert_episode(sim: Simulator) -> tuple[list[Step], Judge]:
    """An expert episode without noise, and its verdict."""
    judge = Judge()
    expert = ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0))
    steps = list(rollout(sim, expert, "Pick up the cube", 3, 200, judge))
    return steps, judge


@pytest.fixture(scope="session")
def demo_file(sim: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three demonstrations, written as the collection writes it."""
    folder = tmp_path_factory.mktemp("demos")
    parts = []
    for index in range(3):
        task = RecordTask(folder / f"{index}.hdf5", instruction_for(index), (index, index + 100), 200, ExpertConfig())
        record(sim, task)
        parts.append(task.part)
    output = folder / "demos.hdf5"
    attributes = {"env_args": EnvConfig().to_env_args(), "collection": json.dumps([]), "rejected": json.dumps([])}
    merge(parts, output, attributes)
    return output


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `1_collect_demos.py` ran: three demonstrations, and what it printed in collect.txt."""
    folder = tmp_path_factory.mktemp("pipeline")
    arguments = ("--num-episodes", "3", "--video-episodes", "2", "--workers", "2")
    done = run_script(ROOT / "1_collect_demos.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "collect.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def confined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a bomb fail in these tests rather than fill the machine, and let nothing be fetched."""

    def refuse(*_: object) -> None:
        pytest.fail("a file made us connect to somewhere")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say below pytest's own last line that the browser tests were left out: a count of skipped tests hides it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    if any("test_browser" in report.nodeid for report in skipped):
        print("NOT RUN: the page's browser tests, for want of Chromium; `make test-web` installs one and runs them")


def run_script(
    *arguments: str | Path, cwd: Path = ROOT, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts as a user would; `variables` are added to its environment.

    A script that simulates has one worker unless the test says otherwise: other tests need the other cores.
    """
    command = [sys.executable, *(str(argument) for argument in arguments)]
    if Path(command[1]).name in ("1_collect_demos.py", "5_evaluate.py") and "--workers" not in command:
        command += ["--workers", "1"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=env, check=False)


def assert_user_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and exactly one line on stderr that says what is wrong."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def assert_refused(read: Callable[[Path], object], path: Path, words: str) -> None:
    """Reading a file ends in one line that names it, says `words` and which command mends it; nothing in it ran."""
    with pytest.raises(UserError) as refused:
        read(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    assert words in message
    assert "python " in message  # the command that mends it
    assert len(message) < 1000
    assert not (path.parent / "executed").exists()


def wait_for(met: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until `met` returns True; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"nothing happened for {seconds} s"
        time.sleep(0.02)
