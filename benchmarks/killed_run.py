"""Runs that `kills.py` kills: when, and what is counted of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from kill_kinds import Kind, lasting_files, unreadable
from scripts import ROOT
from tqdm import tqdm

from vla.errors import UserError
from vla.files import is_temporary

MOST_WRITINGS = 6
"""A start is killed after so many writings or before."""
LOOK_EVERY_S = 0.001
PATIENCE_S = 600
"""A start that writes nothing for so long has hung."""
DEATH_S = 10
"""Longest wait for the end of a killed group: where nobody asks how a process died, it stays in its group."""


@dataclass
class Tally:
    """What was counted in the runs of a kind."""

    kills: int = 0
    early: int = 0
    """Kills at which the run had acknowledged nothing yet."""
    while_writing: int = 0
    """Kills that left a half-written temporary file."""
    acknowledged: int = 0
    """Items that were safe, or said to be, before a kill."""
    lost: int = 0
    """Items of these that were gone or changed after a later kill or at the run's end."""
    unreadable: int = 0
    """Files that could not be read after a kill."""
    finished: int = 0
    """Runs that ended by themselves."""
    differing: int = 0
    """Runs of these that left something else than the run that was never killed."""
    refused: int = 0
    """Runs that could not be continued."""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """What was lost, unreadable, different or refused."""


@dataclass(frozen=True)
class Timeline:
    """When a run that is not killed writes."""

    first_s: float
    """Seconds to the first writing."""
    interval_s: float
    """Mean seconds from one writing to the next."""
    writings: int

    def draw(self, rng: np.random.Generator) -> tuple[int, float]:
        """A random moment: writings to wait for, and seconds to wait afterwards."""
        writings = int(rng.integers(min(self.writings, MOST_WRITINGS) + 1))
        if writings == 0:
            return 0, rng.uniform(0, self.first_s)
        soon = rng.random() < 0.5
        return writings, 10 ** rng.uniform(-4, -1) if soon else rng.uniform(0, self.interval_s)


def kill_runs(kind: Kind, folder: Path, kills: int, seed: int, bar: tqdm) -> Tally:
    """Kill runs of a kind that many times, and let the last one end; ends before that when a run cannot go on.

    Raises:
        UserError: the run that is not killed failed, or a start hangs.
    """
    began, tally, rng = time.monotonic(), Tally(), np.random.default_rng(seed)
    whole = folder / "whole"
    timeline = _run_whole(kind, whole)
    expected = kind.outcome(whole), lasting_files(whole)
    for number in itertools.count(1):
        run = KilledRun(kind, folder / f"run_{number}", tally)
        while not run.ended:
            if run.start(timeline.draw(rng) if tally.kills < kills else None):
                bar.update()
        run.close(expected)
        if tally.kills == kills or tally.refused:
            break
    tally.seconds = time.monotonic() - began
    return tally


def _run_whole(kind: Kind, folder: Path) -> Timeline:
    """Run a kind to its end."""
    kind.begin(folder)
    began = time.monotonic()
    with _started(kind, folder) as process:
        times = [time.monotonic() - began for _ in _writings(process, folder)]
    if process.returncode:
        raise UserError(f"a run that was not killed ended with {process.returncode}; see {_log(folder)}")
    seconds = time.monotonic() - began
    first_s = times[0] if times else seconds
    return Timeline(first_s, (seconds - first_s) / max(1, len(times)), len(times))


class KilledRun:
    """A run that is killed again and again, until it ends by itself."""

    def __init__(self, kind: Kind, folder: Path, tally: Tally) -> None:
        """Prepare a run in `folder`, which is not there yet; its counts are added to `tally`."""
        self._kind, self._folder, self._tally = kind, folder, tally
        self._known: dict[int, str] = {}
        """Items on the disk when the last start had ended."""
        self._acknowledged: set[int] = set()
        """Items that were safe, or said to be, before a kill."""
        self._faults: list[str] = []
        self.ended = False
        """Whether nothing is left to do, or the files cannot be read."""
        kind.begin(folder)

    def start(self, moment: tuple[int, float] | None) -> bool:
        """Start the command, and kill it at a moment (see `Timeline`); None: never. Returns whether it was killed."""
        if self._kind.command(self._folder) is None:
            self.ended = True
            return False
        left_before, printed_before = _temporaries(self._folder), _printed(self._folder)
        with _started(self._kind, self._folder) as process:
            writings = _writings(process, self._folder)
            for _ in writings if moment is None else itertools.islice(writings, moment[0]):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if moment is None else moment[1])
        killed = process.returncode == -signal.SIGKILL
        if killed:
            self._tally.kills += 1
            self._tally.while_writing += bool(_temporaries(self._folder) - left_before)
        else:
            self.ended = True
            if process.returncode:
                self._tally.refused += 1
                self._note(f"it ended with {process.returncode}; see {_log(self._folder)}")
        self._check(_printed(self._folder)[len(printed_before) :], killed)
        return killed

    def _check(self, printed: str, killed: bool) -> None:
        """Read all files, and look for what was acknowledged."""
        broken = unreadable(self._folder)
        if broken:
            self._tally.unreadable += len(broken)
            self._note(*broken)
            self.ended = True
            return
        items, first = self._kind.items(self._folder), self._kind.first
        said = max(map(int, re.findall(self._kind.says, printed, re.MULTILINE)), default=0)
        announced = range(first, first + said)
        lost = [
            n for n in sorted({*self._known, *announced}) if n not in items or self._known.get(n, items[n]) != items[n]
        ]
        self._tally.lost += len(lost)
        self._note(*(f"item {number} is {'changed' if number in items else 'gone'}" for number in lost))
        self._known = items
        if killed:
            self._acknowledged |= {number for number in (*items, *announced) if number >= first}
            self._tally.early += not self._acknowledged

    def close(self, expected: tuple[dict[str, str], list[str]]) -> None:
        """Compare what the run has left with this of the run that was not killed; remove it if it is without fault."""
        self._tally.acknowledged += len(self._acknowledged)
        if not self._faults:
            self._tally.finished += 1
            outcome, files = self._kind.outcome(self._folder), lasting_files(self._folder)
            names = sorted(name for name in {*outcome, *expected[0]} if outcome.get(name) != expected[0].get(name))
            names += sorted({*files} ^ {*expected[1]})
            if names:
                self._tally.differing += 1
                self._note(f"{len(names)} differ from the run that was not killed, such as {names[0]}")
        if self._faults:
            self._tally.faults += self._faults
        else:
            shutil.rmtree(self._folder)
            _log(self._folder).unlink()

    def _note(self, *faults: str) -> None:
        self._faults += [f"{self._folder}: {fault}" for fault in faults]


@contextlib.contextmanager
def _started(kind: Kind, folder: Path) -> Iterator[subprocess.Popen]:
    """Start the command in a process group of its own; whatever is left of that is killed when the context ends."""
    script, *arguments = kind.command(folder) or []
    with open(_log(folder), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        patient_until = time.monotonic() + DEATH_S
        with contextlib.suppress(ProcessLookupError):  # raised when no process of the group is left
            while time.monotonic() < patient_until:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                time.sleep(LOOK_EVERY_S)


def _writings(process: subprocess.Popen, folder: Path) -> Iterator[None]:
    """Yield once for each temporary file that appears in a run's folder, until the process ends.

    Raises:
        UserError: none appears for a long time.
    """
    seen, since = _temporaries(folder), time.monotonic()
    while process.poll() is None:
        new = _temporaries(folder) - seen
        for _ in new:
            yield
            since = time.monotonic()
        seen |= new
        if time.monotonic() - since > PATIENCE_S:
            raise UserError(f"a start wrote nothing for {PATIENCE_S} s; see {_log(folder)}")
        time.sleep(LOOK_EVERY_S)


def _temporaries(folder: Path) -> set[str]:
    return {name for _, _, names in os.walk(folder) for name in names if is_temporary(Path(name))}


def _log(folder: Path) -> Path:
    """Where the output of a run is written, beside its folder."""
    return folder.with_name(f"{folder.name}.log")


def _printed(folder: Path) -> str:
    log = _log(folder)
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
