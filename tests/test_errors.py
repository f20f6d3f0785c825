"""How a script ends: exit codes, and one line on stderr."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import pytest

from vla.errors import MachineError, UserError, run_script


@dataclass(frozen=True)
class _NoOptions:
    """A script without options."""


def _fill_the_disk() -> None:
    with open("/dev/full", "w", buffering=1) as full:
        full.write("one line\n")


def _read_what_is_not_there() -> None:
    Path("none.txt").read_text()


def _raise(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "exit_code", "words"),
    [
        (_raise(UserError("--seed -1 is no seed")), 2, "error: --seed -1 is no seed"),
        (_read_what_is_not_there, 2, "none.txt"),
        (_raise(MachineError("the GPU is full")), 3, "error: the GPU is full"),
        (_raise(OSError(errno.EDQUOT, "Disk quota exceeded")), 3, "Disk quota exceeded"),
        (_fill_the_disk, 3, "No space left on device"),
        (_raise(BrokenProcessPool()), 3, "a worker process died"),
        (_raise(KeyboardInterrupt()), 130, "interrupted: run it again"),
        (_raise(KeyboardInterrupt("the same command continues")), 130, "interrupted: the same command continues"),
    ],
)
def test_exit_codes_tell_a_mistake_from_a_fault_of_the_machine(
    work: Callable[[], None],
    exit_code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(lambda _: work(), _NoOptions, "A script.", on_interrupt="run it again")
    assert ended.value.code == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense", "1"], "error: Unrecognized options: --nonsense; for full helptext, run script --help\n"),
        (["stray"], "error: Unrecognized arguments: stray; for full helptext, run script --help\n"),
    ],
)
def test_a_wrong_option_is_named_once(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_script(lambda _: None, _NoOptions, "A script.")
    assert (stop.value.code, capsys.readouterr().err) == (2, words)
