"""Temporary files of the page: in a folder of their own, of limited age and size, and gone when the page ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MAX_AGE_S = 3600.0
MAX_MB = 300
"""Of all of them; beyond it the oldest go first."""
SWEEP_S = 30.0


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for all that this process writes from now on and that Gradio keeps, deleted with all of it at the end.

    What Gradio itself deletes are the files that it knows to be answers: not what came with a broken upload.
    """
    with tempfile.TemporaryDirectory(prefix="lift_vla_", ignore_cleanup_errors=True) as name:
        served, made = (
            Path(name, "served"),
            Path(name, "made"),
        )  # apart: Gradio copies only what is not yet among its own
        served.mkdir()
        made.mkdir()
        os.environ["GRADIO_TEMP_DIR"], tempfile.tempdir = str(served), str(made)
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = None


class Sweeper:
    """Deletes what has grown old in a folder, and the oldest where it has grown too large, until it is closed."""

    def __init__(self, folder: Path) -> None:
        """What is in the folder now (the page's own examples) stays."""
        self._folder = folder
        self._own = set(_files(folder))
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Delete nothing more."""
        self._closed.set()

    def sweep(self, max_age_s: float = MAX_AGE_S, max_bytes: int = MAX_MB * 1_000_000) -> None:
        """Delete what is too much now."""
        found = []
        for path in set(_files(self._folder)) - self._own:
            with contextlib.suppress(FileNotFoundError):  # its writer was faster
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total, now = 0, time.time()
        for written, size, path in sorted(found, reverse=True):  # the newest first
            total += size
            if now - written > max_age_s or total > max_bytes:
                path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closed.wait(SWEEP_S):
            self.sweep()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
