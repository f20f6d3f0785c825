"""`benchmarks/kills.py` finds what a careless script loses, and nothing in a careful one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

SCRIPT = """
import os, sys, time, uuid
from pathlib import Path

for number in range(4):
    path, how = Path(f"{number}.json"), sys.argv[1]
    if path.exists():
        continue
    if how == "says too early":
        print(f"item {number + 1}", flush=True)
    temporary = Path(f".{number}.tmp-{uuid.uuid4().hex[:12]}.json")
    temporary.write_text("[")
    if how == "tears":
        time.sleep(0.02)
        os.replace(temporary, path)
    written = path if how == "tears" else temporary
    time.sleep(0.1)
    written.write_text("[1]")
    if how != "tears":
        os.replace(temporary, path)
    if how == "forgets" and number == 2:
        Path("0.json").unlink(missing_ok=True)
    if how != "says too early":
        print(f"item {number + 1}", flush=True)
"""


class Toy:
    """A kind of run that writes small files, carelessly in some way."""

    says = r"^item (\d+)"
    first = 0

    def __init__(self, script: Path, how: str) -> None:
        self._script, self._how = script, how

    def begin(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    def command(self, folder: Path) -> list[str]:
        return [str(self._script), self._how]

    def items(self, folder: Path) -> dict[int, str]:
        return {int(path.stem): path.read_text() for path in folder.glob("[0-9].json")}

    def outcome(self, folder: Path) -> dict[str, str]:
        return {str(number): json.dumps(json.loads(text)) for number, text in self.items(folder).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "found"),
    [("is careful", None), ("says too early", "lost"), ("forgets", "lost"), ("tears", "unreadable")],
)
def test_kills_find_what_is_lost(how: str, found: str | None, benchmarks: Any, tmp_path: Path) -> None:
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "runs"
    tally = benchmarks("killed_run").kill_runs(Toy(script, how), folder, 8, 0, tqdm(disable=True))
    assert tally.kills == 8
    assert tally.acknowledged >= 1
    assert tally.while_writing >= 1
    counts = {name: getattr(tally, name) for name in ("lost", "unreadable", "differing", "refused")}
    if found is None:
        assert not any(counts.values()), tally.faults
        assert tally.finished >= 1
        assert {path.name for path in folder.iterdir()} == {"whole", "whole.log"}
    else:
        assert counts[found] >= 1
        assert tally.faults
