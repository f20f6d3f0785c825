"""The page's temporary files: they lie in a folder of their own, are limited in age and size, and go when it ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MAX_AGE_S = 3600.0
"""Age at which a file is deleted."""
MAX_MB = 300
"""Size of all files together; beyond it the oldest are deleted."""
SWEEP_S = 30.0
"""Time between two sweeps."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for all temporary files of this process and of Gradio; it is deleted at the end.

    Gradio itself deletes only files that it knows as answers, not those of a broken upload.
    """
    with tempfile.TemporaryDirectory(prefix="lift_vla_", ignore_cleanup_errors=True) as name:
        # Two folders, because Gradio copies a file only if it does not yet lie in its own folder.
        served, made = Path(name, "served"), Path(name, "made")
        served.mkdir()
        made.mkdir()
        os.environ["GRADIO_TEMP_DIR"], tempfile.tempdir = str(served), str(made)
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = None


class Sweeper:
    """A thread that deletes old files of a folder, and the oldest if all together are too large, until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Files that lie in the folder now, such as the page's examples, are never deleted."""
        self._folder = folder
        self._kept = set(_files(folder))
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Delete nothing more."""
        self._closed.set()

    def sweep(self, max_age_s: float = MAX_AGE_S, max_bytes: int = MAX_MB * 1_000_000) -> None:
        """Delete what is too old or too much now."""
        found = []
        for path in set(_files(self._folder)) - self._kept:
            with contextlib.suppress(OSError):  # the page has deleted it meanwhile
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total_bytes, now = 0, time.time()
        for written, size, path in sorted(found, reverse=True):  # the newest first
            total_bytes += size
            if now - written > max_age_s or total_bytes > max_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _run(self) -> None:
        while not self._closed.wait(SWEEP_S):
            self.sweep()


def _files(folder: Path) -> Iterator[Path]:
    # Unlike Path.rglob, os.walk passes over folders that vanish while it looks at them.
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)
