"""Files that are either whole or absent, locks on what a run writes, and the paths of the checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

from vla.errors import UserError
from vla.shards import Shard

BEST = Path("checkpoints/best_model.pth")
"""Checkpoint that training writes."""
BEST_LANGUAGE = Path("checkpoints/language/best_model.pth")
"""Checkpoint that `make demo-language` writes."""
SHIPPED = Path("checkpoints/lift.pth")
"""Checkpoint of the reference policy, which comes with the repository."""
SHIPPED_LANGUAGE = Path("checkpoints/language.pth")
"""Checkpoint of the policy of several cubes, which does what the instruction says."""
FileVersion = tuple[int, int]
_ABANDONED_S = 3600
"""A temporary file that was not written to for so long belongs to no living writer."""
_SHARD_PATIENCE_S = 1.0
"""Other shards hold the lock of the whole for a moment while they start."""
_TEMPORARY = re.compile(r"\.(?P<stem>.*)\.tmp-[0-9a-f]{12}(?P<suffix>\..*)?", re.DOTALL)


def default_checkpoint(language: bool = False) -> Path:
    """The user's own policy, or the shipped one where there is none yet; `language`: one of several cubes."""
    own, shipped = (BEST_LANGUAGE, SHIPPED_LANGUAGE) if language else (BEST, SHIPPED)
    return shipped if shipped.exists() and not own.exists() else own


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it is synced and renamed to `path` on success, and removed on failure.

    Every writer has a temporary name of its own, so that two writers of one path never mix their contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp-{uuid.uuid4().hex[:12]}{path.suffix}")  # writers read the suffix
    try:
        yield temporary
        with open(temporary, "rb+") as written:  # Windows syncs writable handles only
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield the path of a folder that is not there yet; what was made of it becomes `path` on success.

    Raises:
        UserError: there is something at `path` already.
    """
    if path.exists():
        raise UserError(f"{path} is there already, and nothing is overwritten; name a new folder with --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `atomic_path` is writing, or that a killed process left behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


@contextlib.contextmanager
def run_lock(output: Path, is_file: bool = False, shard: Shard | None = None) -> Iterator[None]:
    """Reserve a folder, or a file, for this run; removes what killed runs left half-written there.

    Shards of one run work beside each other, but neither beside the run that joins them nor beside themselves.

    Only temporary files older than an hour are removed: a program with a lock of another name, such as the collection
    of demonstrations, may be writing into the same folder, and would fail without its temporary file.

    The operating system releases the lock when the process ends, however it ends. Subfolders are not reserved.

    Args:
        output: the folder or the file that this run writes; made where it does not exist.
        is_file: `output` is a file: the other files of its folder stay free.
        shard: the shard that this run works on; None: the whole.

    Raises:
        UserError: another run holds the lock.
    """
    folder = output.parent if is_file else output
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / (f".{output.name}.lock" if is_file else ".lock")
    with contextlib.ExitStack() as held:
        if shard is None:
            held.enter_context(_lock(whole, output))
            for path in folder.glob(f"{whole.name}.shard-*"):
                with _lock(path, output):
                    path.unlink(missing_ok=True)
        else:
            held.enter_context(_lock(whole.with_name(f"{whole.name}.shard-{shard.number}-of-{shard.count}"), output))
            with _lock(whole, output, _SHARD_PATIENCE_S):
                pass
        _remove_abandoned(folder, output if is_file else None)
        yield


@contextlib.contextmanager
def _lock(path: Path, output: Path, patience_s: float = 0) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=patience_s)
    except filelock.Timeout:
        raise UserError(
            f"another run is writing to {output} (it holds the lock {lock.lock_file}); "
            "wait until it ends, or name another output"
        ) from None
    except NotImplementedError:  # some network file systems
        print(
            f"WARNING: {path.parent} cannot be locked; make sure that no other run writes to {output}", file=sys.stderr
        )
    try:
        yield
    finally:
        lock.release()


def _remove_abandoned(folder: Path, output: Path | None) -> None:
    """Remove old temporary files from a folder, or only those of `output`."""
    for path in folder.iterdir():
        leftover = _TEMPORARY.fullmatch(path.name)
        if leftover and (
            output is None or (leftover["stem"], leftover["suffix"] or "") == (output.stem, output.suffix)
        ):
            with contextlib.suppress(FileNotFoundError):  # its writer has finished meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_version(path: Path) -> FileVersion:
    """Return a file's modification time in nanoseconds and its size in bytes; zeros if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
