"""Files are whole or absent, whoever else writes them; one run at a time writes to an output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vla.errors import UserError
from vla.files import (
    BEST,
    BEST_LANGUAGE,
    SHIPPED,
    SHIPPED_LANGUAGE,
    atomic_path,
    default_checkpoint,
    is_temporary,
    run_lock,
    write_text,
)

SLOW_WRITER = """
import sys
from pathlib import Path
from vla.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary, open(temporary, "w") as file:
    file.write("a" * 500)
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()
    file.write("a" * 500)
"""
HOLDER = """
import sys
from pathlib import Path
from vla.files import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _start(program: str, path: Path, first_line: str) -> subprocess.Popen[str]:
    """Start a Python program on `path`, and wait for the line that it prints before it waits for one on stdin."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{first_line}\n"
    return process


def _two_hours_ago(path: Path) -> None:
    """Date the last modification of a file back."""
    then = time.time() - 7200
    os.utime(path, (then, then))


def test_two_processes_that_write_one_path_never_mix_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    slow = _start(SLOW_WRITER, path, "half")
    write_text(path, "b" * 700)  # while the other process is half-way through its own version
    assert path.read_text() == "b" * 700
    _, errors = slow.communicate("go on\n", timeout=60)
    assert slow.returncode == 0, errors
    assert path.read_text() == "a" * 1000  # the last one to finish
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_writer_fails_stays_as_it_was(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            assert is_temporary(temporary)
            raise ZeroDivisionError

    path = tmp_path / "results.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_policy_of_ones_own_goes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for language, own, shipped in ((False, BEST, SHIPPED), (True, BEST_LANGUAGE, SHIPPED_LANGUAGE)):
        assert default_checkpoint(language) == own  # the one to train, where there is none
        for path in (shipped, own):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            assert default_checkpoint(language) == path


def test_the_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with (
            pytest.raises(UserError, match=r"another run is writing to .*name another output") as refused,
            run_lock(tmp_path),
        ):
            pass
        assert "\n" not in str(refused.value)
        with run_lock(tmp_path / "other"):  # another folder
            pass
        with run_lock(tmp_path / "demos.hdf5", is_file=True):  # and a file have locks of their own
            pass
    with run_lock(tmp_path):  # released
        pass


def test_a_killed_run_leaves_no_lock_and_no_half_written_file(tmp_path: Path) -> None:
    holder, writer = _start(HOLDER, tmp_path, "held"), _start(SLOW_WRITER, tmp_path / "last.pth", "half")
    with pytest.raises(UserError, match="another run"), run_lock(tmp_path):
        pass
    for process in (holder, writer):
        process.kill()
        process.communicate(timeout=60)
    (leftover,) = tmp_path.glob(".last*")
    assert is_temporary(leftover)
    _two_hours_ago(leftover)
    with run_lock(tmp_path):
        assert not leftover.exists()


def test_a_file_that_another_program_is_writing_stays(tmp_path: Path) -> None:
    writer = _start(SLOW_WRITER, tmp_path / "video.mp4", "half")
    with run_lock(tmp_path):
        pass
    _, errors = writer.communicate("go on\n", timeout=60)
    assert writer.returncode == 0, errors
    assert (tmp_path / "video.mp4").read_text() == "a" * 1000


def test_only_what_atomic_path_left_behind_is_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("notes.tmp", ".notes.tmp-old", ".demos.tmp-0123456789ab.png", ".env")]
    leftover = tmp_path / ".demos.tmp-0123456789ab.hdf5"
    for path in (*kept, leftover):
        path.write_text("")
        _two_hours_ago(path)
    with run_lock(tmp_path / "demos.hdf5", is_file=True):
        assert not leftover.exists()
    assert all(path.exists() for path in kept)
