"""How a script starts, and how it ends: a mistake or a fault is reported in one line, with an exit code."""

from __future__ import annotations

import contextlib
import errno
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
_MACHINE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The disk or the quota is full, the disk is broken, or the system is out of file handles or memory."""


class UserError(Exception):
    """A mistake that the user can mend. The message says what is wrong, what was found, and which command mends it."""


class MachineError(Exception):
    """A fault of the machine that ends the run: a full GPU, a dead server, a simulator that cannot start.

    What was finished is kept; the message says what happened and how the run continues. It is not a fault of a single
    episode: that episode is INVALID, and the run continues.
    """


def is_machine_error(error: OSError) -> bool:
    """Whether the machine failed; other OSErrors are about paths and permissions, which a user can mend."""
    return error.errno in _MACHINE_ERRNOS or isinstance(error, ConnectionError)


def describe_error(error: BaseException) -> str:
    """Type and message of an exception, in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def run_script(
    main: Callable[[Options], None],
    options: type[Options],
    doc: str | None,
    on_interrupt: str = "run the same command again; it starts over",
    together: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Parse the command line into `options`, run `main`, and exit.

    Exit codes: 0 done; 2 a user's mistake, 3 a fault of the machine, 130 interrupted, each with one line on stderr.

    Args:
        main: the script's work.
        options: a dataclass; its fields become the command line's options, their docstrings the help.
        doc: the script's docstring, shown above the options in the help.
        on_interrupt: how to continue after Ctrl-C; a message within the KeyboardInterrupt takes its place.
        together: context of all of this, for a script that runs in several processes at once: it decides which of them
            reports an error (`vla.training.distributed.end_together`).
    """
    try:
        with together():
            main(_parse(options, doc or ""))
    except UserError as error:
        _fail(str(error))
    except MachineError as fault:
        _fail(str(fault), EXIT_MACHINE_FAULT)
    except BrokenProcessPool:
        message = "a worker process died (out of memory?); run the same command again with fewer --workers"
        _fail(message, EXIT_MACHINE_FAULT)
    except OSError as error:
        _fail(" ".join(str(error).split()), EXIT_MACHINE_FAULT if is_machine_error(error) else EXIT_USER_ERROR)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {str(interrupt) or on_interrupt}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _fail(message: str, exit_code: int = EXIT_USER_ERROR) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _parse(options: type[Options], doc: str) -> Options:
    """Parse the command line with tyro; its boxed error messages become one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(options, description=doc)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        untitled = re.sub(r"(?m)^╭.*$", "", captured.getvalue())  # the text in the box says it again, with details
        text = " ".join(re.sub(r"[^\x20-\x7e]", " ", untitled).split()).replace(" For full", "; for full")
        raise UserError(text or "the options could not be read; see --help") from None
