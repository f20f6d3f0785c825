"""Where the decoded frames of a training are kept: on the GPU, in memory, or in a file, whichever has the room.

A frame in the file of demonstrations cannot be read alone: it takes the decoding of the sixteen frames of its chunk. So
all are decoded once, cut to the region that the network sees, and read again in every epoch.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from vla.errors import UserError

SHARE_OF_FREE = 0.5
"""Share of the free memory of the machine, or of the GPU, that frames may take."""
SMALL_MACHINE_BYTES = 4 * 10**9
"""Assumed to be free where the system does not say."""
DISK_MARGIN_BYTES = 10**9
"""Room on the disk that is left free, for checkpoints."""


class Frames(ABC):
    """Frames of one shape, which are appended once and read in any order."""

    where: ClassVar[str]
    """Words for the place."""

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        """Make room for `capacity` frames, (R, R, 3) uint8 each."""
        self.capacity, self.shape = capacity, tuple(shape)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the frames that were appended."""
        return self._count * frame_bytes(self.shape)

    def append(self, frames: Tensor) -> int:
        """Append (n, R, R, 3) uint8; returns the number of the first one.

        Raises:
            UserError: they have another shape than the others.
            ValueError: there is no room left.
        """
        if frames.shape[1:] != self.shape:
            raise UserError(
                f"pictures of different sizes, {tuple(frames.shape[1:])} and {self.shape}, cannot be trained on "
                "together; leave out those of one size with --exclude"
            )
        first, self._count = self._count, self._count + len(frames)
        if self._count > self.capacity:
            raise ValueError(f"there is room for {self.capacity} frames")
        self._write(first, frames)
        return first

    @abstractmethod
    def _write(self, first: int, frames: Tensor) -> None:
        """Keep frames from number `first` on."""

    @abstractmethod
    def read(self, first: int, end: int) -> Tensor:
        """Return the frames from number `first` up to `end`, without it: (end - first, R, R, 3) uint8."""


class FramesInMemory(Frames):
    """Frames in one tensor, in memory or on a GPU; what is read is a view of it."""

    where = "in memory"

    def __init__(self, capacity: int, shape: tuple[int, ...], device: torch.device | None = None) -> None:
        """`device` None is the CPU."""
        super().__init__(capacity, shape)
        self._frames = torch.empty((capacity, *shape), dtype=torch.uint8, device=device)

    def _write(self, first: int, frames: Tensor) -> None:
        self._frames[first : first + len(frames)] = frames.to(self._frames.device)

    def read(self, first: int, end: int) -> Tensor:
        """Return the frames from number `first` up to `end`, without it, on the device that they are on."""
        return self._frames[first:end]


class FramesOnGpu(FramesInMemory):
    """Frames in the memory of a GPU: a batch is put together there."""

    where = "on the GPU"


class FramesInFile(Frames):
    """Frames in a temporary file without a name, which is gone when the process ends, however it ends."""

    where = "in a temporary file, for want of memory"

    def __init__(self, capacity: int, shape: tuple[int, ...], folder: Path) -> None:
        """The file takes room in `folder`, which exists."""
        super().__init__(capacity, shape)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (open as long as this object)

    def _write(self, first: int, frames: Tensor) -> None:
        self._file.seek(first * frame_bytes(self.shape))
        left = frames.contiguous().numpy().reshape(-1).data
        while left:  # one call writes 2 GB at most
            left = left[self._file.write(left) :]

    def read(self, first: int, end: int) -> Tensor:
        """Return a copy of the frames from number `first` up to `end`, without it."""
        frames = torch.empty((end - first, *self.shape), dtype=torch.uint8)
        self._file.seek(first * frame_bytes(self.shape))
        if self._file.readinto(frames.numpy().data) != frames.nbytes:
            raise ValueError(f"frames {first} to {end} were never appended")
        return frames


def make_frames(
    capacity: int, shape: tuple[int, ...], device: torch.device, folder: Path, memory_gb: float | None
) -> Frames:
    """Choose the fastest place with room for `capacity` frames.

    Args:
        capacity: number of frames.
        shape: of each.
        device: of the training.
        folder: where a temporary file may lie.
        memory_gb: memory for frames, in GB, on the GPU and in the machine; None: half of what is free in each.

    Raises:
        UserError: not even the disk has the room.
    """
    needed = capacity * frame_bytes(shape)
    given = None if memory_gb is None else int(memory_gb * 1e9)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed <= (SHARE_OF_FREE * free if given is None else min(given, free)):
            return FramesOnGpu(capacity, shape, device)
    memory = SHARE_OF_FREE * free_memory_bytes() if given is None else given
    if needed <= memory:
        return FramesInMemory(capacity, shape)
    on_disk = shutil.disk_usage(folder).free - DISK_MARGIN_BYTES
    if needed > on_disk:
        raise UserError(
            f"{capacity:,} frames take {needed / 1e9:.1f} GB; memory has room for {memory / 1e9:.1f} GB of them, and "
            f"{folder} for {max(0, on_disk) / 1e9:.1f} GB; train on fewer demonstrations (--num-demos)"
        )
    return FramesInFile(capacity, shape, folder)


def frame_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of one frame of uint8."""
    return int(torch.Size(shape).numel())


def free_memory_bytes() -> int:
    """Memory that a process can still take, as Linux and its control group say; elsewhere, a small machine's."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return SMALL_MACHINE_BYTES
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # there is no such group, or it sets no limit
        return free
    return min(free, limit)
