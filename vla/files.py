"""Files that are either whole or absent, and where the checkpoints are."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

BEST = Path("checkpoints/best_model.pth")
"""What training writes."""
SHIPPED = Path("checkpoints/lift.pth")
"""The reference policy that comes with the repository."""


def default_checkpoint() -> Path:
    """The user's own policy, or the shipped one where there is none yet."""
    return SHIPPED if SHIPPED.exists() and not BEST.exists() else BEST


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced and takes `path`'s place, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")  # some writers go by the suffix
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
