"""A user's mistake, told in one line, and the one way in which a script starts."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import NoReturn, TypeVar

import tyro

Options = TypeVar("Options")

EXIT_USER_ERROR = 2
EXIT_MACHINE_FAULT = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake that the user can mend: what is wrong, what was found, which command mends it."""


class MachineError(Exception):
    """A fault of the machine, such as a full GPU, a dead server or a simulator that cannot begin: the run stops.

    Nothing that was finished is lost; the message says what happened and how the run continues. A fault of one
    episode is something else: that episode is INVALID, and the run goes on.
    """


def run_script(
    main: Callable[[Options], None],
    options: type[Options],
    doc: str | None,
    on_interrupt: str = "run the same command again; it starts over",
) -> None:
    """Parse the command line into `options`, run `main`, and exit.

    `on_interrupt` says how to go on after Ctrl-C, unless the KeyboardInterrupt brings words of its own.

    Exit codes: 0 done, 2 a user's mistake, 3 a fault of the machine (both: one line on stderr, no traceback),
    130 interrupted.
    """
    try:
        main(_parse(options, doc or ""))
    except UserError as error:
        _fail(str(error))
    except MachineError as fault:
        _fail(str(fault), EXIT_MACHINE_FAULT)
    except BrokenProcessPool:
        _fail("a worker process died (out of memory?); run the same command again with fewer --workers")
    except OSError as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {str(interrupt) or on_interrupt}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _fail(message: str, exit_code: int = EXIT_USER_ERROR) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _parse(options: type[Options], doc: str) -> Options:
    """tyro's parsing, with its boxed error messages folded into one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(options, description=doc)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = " ".join(re.sub(r"[^\x20-\x7e]|─|│", " ", captured.getvalue()).split())
        raise UserError(text or "the options could not be read; see --help") from None
