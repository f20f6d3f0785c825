"""Tells whether a file has changed since it was read."""

from __future__ import annotations

from pathlib import Path

FileVersion = tuple[int, int]


def file_version(path: Path) -> FileVersion:
    """Return a file's modification time in nanoseconds and its size in bytes; zeros if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
