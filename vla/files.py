"""Files that are either whole or absent, locks on what a run writes, and where the checkpoints are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

from vla.errors import UserError

BEST = Path("checkpoints/best_model.pth")
"""What training writes."""
SHIPPED = Path("checkpoints/lift.pth")
"""The reference policy that comes with the repository."""
_TEMPORARY = ".tmp-"


def default_checkpoint() -> Path:
    """The user's own policy, or the shipped one where there is none yet."""
    return SHIPPED if SHIPPED.exists() and not BEST.exists() else BEST


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced and takes `path`'s place, on failure it is removed.

    Every writer has a temporary name of its own, so that two writers of one path never mix their contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{_TEMPORARY}{uuid.uuid4().hex[:12]}{path.suffix}")  # the suffix matters
    try:
        yield temporary
        with open(temporary, "rb+") as written:  # Windows syncs writable handles only
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `atomic_path` is writing, or that a killed process left behind."""
    return path.name.startswith(".") and _TEMPORARY in path.name


@contextlib.contextmanager
def run_lock(output: Path) -> Iterator[None]:
    """Keep `output`, a folder or a file, for this run alone; what killed runs left half-written there is removed.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
        UserError: another run is writing there.
    """
    is_file = bool(output.suffix)
    folder = output.parent if is_file else output
    folder.mkdir(parents=True, exist_ok=True)
    name = f".{output.name}.lock" if is_file else ".lock"
    lock = filelock.FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"another run is writing to {output} (it holds {folder / name}); wait until it ends, or name another output"
        ) from None
    try:
        pattern = f".{output.stem}{_TEMPORARY}*" if is_file else f".*{_TEMPORARY}*"
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


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
